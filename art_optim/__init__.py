"""Multi-task training by reweighting: wrap the optimizer, pass it the losses of all tasks."""

from . import weighting
from .losses import TaskLosses, per_task_mean
from .optimizer import TaskReweightedOptimizer
from .task_state import TaskState
from .weighting import Art, EqualWeighting, FixedWeighting, Weighting

__version__ = "0.1.0"

__all__ = [
    "Art",
    "EqualWeighting",
    "FixedWeighting",
    "TaskLosses",
    "TaskReweightedOptimizer",
    "TaskState",
    "Weighting",
    "per_task_mean",
    "weighting",
]
