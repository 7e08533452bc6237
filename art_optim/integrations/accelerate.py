"""Accelerate, whose prepared optimizers step only after the last of the batches whose gradients are accumulated."""

from __future__ import annotations

import sys
from types import CodeType, FrameType


def require_every_batch() -> None:
    """Refuse losses from a prepared optimizer while gradients are accumulated: those of other batches would be lost.

    Raises:
        RuntimeError: The losses come from a prepared optimizer, and Accelerate accumulates gradients.
    """
    accelerate = sys.modules.get("accelerate.optimizer")
    if accelerate is None:
        return
    batches = accelerate.GradientState().num_steps
    if batches > 1 and _called_by(accelerate.AcceleratedOptimizer.step.__code__):
        raise RuntimeError(
            "losses are given to the step of a prepared optimizer, but Accelerate accumulates the gradients of "
            f"{batches} batches and hands over the losses of the last alone; for each batch call "
            "accelerator.backward(prepared.optimizer.combine(losses)), and then prepared.step()"
        )


def _called_by(code: CodeType) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
