"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class DropPath(nn.Module):
    """Drop a residual branch for whole samples, with probability ``p`` and in training only.

    The branches that stay are divided by ``1 - p`` (Huang et al., "Deep Networks with Stochastic Depth", 2016).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch [B, ...], zero for the samples that are dropped."""
        if not self.training or self.p == 0:
            return branch
        return branch * F.dropout(branch.new_ones(len(branch), *[1] * (branch.dim() - 1)), self.p)
