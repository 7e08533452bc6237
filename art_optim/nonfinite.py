"""The rule behind ``nonfinite="skip"``: no step where the norm of the gradients is NaN or infinite."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

NonFinite = Literal["propagate", "skip"]
"""The rules for a step whose gradients are NaN or infinite."""

# The two calls of SAM and its kin, the steps that LOMO takes in its backward pass, the closures that GSAM keeps.
_PARTS_OF_A_STEP = re.compile(r"(?!get_)\w+_step|fused_backward|perturb_weights|set_closure")


class Skip(Exception):
    """Ends a step before the inner optimizer has changed anything."""


@torch.no_grad()
def require_finite_gradients(parameters: Iterable[Tensor]) -> None:
    """Wait for the norm of the gradients, and look at it.

    Raises:
        Skip: It is NaN or infinite.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    dense = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    dense = [gradient.float() if gradient.dtype.itemsize < 4 else gradient for gradient in dense]
    plain, sharded = ([g for g in dense if hasattr(g, "full_tensor") == kind] for kind in (False, True))
    norms = [torch.nn.utils.get_total_norm(some) for some in (plain, sharded)]
    # All of them before a look at one: where a rank gets its full tensor, so must the others.
    norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    if not all(norm.isfinite() for norm in norms):
        raise Skip


def bypasses_step(name: str) -> bool:
    """Return whether a method of this name moves parameters outside the optimizer's ``step``, going by known ones."""
    return _PARTS_OF_A_STEP.fullmatch(name) is not None
