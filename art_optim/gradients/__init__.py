"""Methods that look at the gradients of the tasks: one file a method.

:class:`~art_optim.gradients.aggregation.JacobianAggregation` needs torchjd: import it from
``art_optim.gradients.aggregation``.
"""

from .base import GradientWeighting
from .gradnorm import GradNorm

__all__ = ["GradNorm", "GradientWeighting"]
