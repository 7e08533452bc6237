"""Multi-task training by reweighting: wrap the optimizer, pass it the losses of all tasks."""

from . import gradients, weighting
from .gradients import GradientWeighting, GradNorm
from .losses import Losses, TaskLosses, per_task_mean
from .nonfinite import NonFinite
from .optimizer import TaskReweightedOptimizer
from .task_state import TaskState
from .weighting import (
    FAMO,
    SLAW,
    AnalyticalUncertainty,
    Art,
    ArtAblation,
    CoVWeighting,
    DynamicWeightAverage,
    EqualWeighting,
    FixedWeighting,
    GeometricLoss,
    ImpartialLoss,
    ImprovableGap,
    Normalization,
    RandomWeighting,
    ReLoBRaLo,
    ScaleInvariant,
    SmoothTchebycheff,
    SoftAdapt,
    UncertaintyWeighting,
    Weighting,
)

__version__ = "0.1.0"

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
    "GradNorm",
    "GradientWeighting",
    "ImpartialLoss",
    "ImprovableGap",
    "Losses",
    "NonFinite",
    "Normalization",
    "RandomWeighting",
    "ReLoBRaLo",
    "ScaleInvariant",
    "SmoothTchebycheff",
    "SoftAdapt",
    "TaskLosses",
    "TaskReweightedOptimizer",
    "TaskState",
    "UncertaintyWeighting",
    "Weighting",
    "gradients",
    "per_task_mean",
    "weighting",
]
