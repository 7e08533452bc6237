"""Loss weightings: one file a method, losses in, weights out."""

from .art import Art
from .art_ablation import ArtAblation
from .base import Normalization, Weighting
from .cov import CoVWeighting
from .dwa import DynamicWeightAverage
from .equal import EqualWeighting
from .famo import FAMO
from .fixed import FixedWeighting
from .gls import GeometricLoss
from .igb import ImprovableGap
from .imtl_l import ImpartialLoss
from .registry import available, create, register
from .relobralo import ReLoBRaLo
from .rlw import RandomWeighting
from .si import ScaleInvariant
from .slaw import SLAW
from .softadapt import SoftAdapt
from .stch import SmoothTchebycheff
from .uncertainty import UncertaintyWeighting
from .uw_so import AnalyticalUncertainty

__all__ = [
    "FAMO",
    "SLAW",
    "AnalyticalUncertainty",
    "Art",
    "ArtAblation",
    "CoVWeighting",
    "DynamicWeightAverage",
    "EqualWeighting",
    "FixedWeighting",
    "GeometricLoss",
    "ImpartialLoss",
    "ImprovableGap",
    "Normalization",
    "RandomWeighting",
    "ReLoBRaLo",
    "ScaleInvariant",
    "SmoothTchebycheff",
    "SoftAdapt",
    "UncertaintyWeighting",
    "Weighting",
    "available",
    "create",
    "register",
]
