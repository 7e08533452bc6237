"""Loss weightings: one file a method, losses in, weights out."""

from .art import Art
from .base import Weighting, available, create, register
from .equal import EqualWeighting
from .fixed import FixedWeighting

__all__ = ["Art", "EqualWeighting", "FixedWeighting", "Weighting", "available", "create", "register"]
