"""The formula of a weighting as one program, compiled ahead of time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .gradients import GradientWeighting
from .weighting import Weighting

Program: TypeAlias = Callable[[list[Tensor]], list[Tensor]]


class CompiledWeighing:
    """Calls a weighting as one program of AOTInductor: on the CPU one C++ kernel, on a GPU one or two of Triton.

    ``torch.compile`` looks up at every call which of its programs fits, in Python, which takes longer than the formula.
    Here that is known: a program is for so many tasks on one device, with a mask of those present or without, and is
    compiled when it is first needed, in some seconds. What runs under ``torch.compile`` is compiled by that, and on the
    ``meta`` device nothing is.

    Args:
        weighting: A method that looks at nothing but losses.

    Raises:
        ValueError: It looks at gradients.
    """

    def __init__(self, weighting: Weighting) -> None:
        if isinstance(weighting, GradientWeighting):
            raise ValueError(
                f"compile is True, but {type(weighting).__name__} looks at gradients, whose backward passes are not "
                "compiled; leave it False"
            )
        self.weighting = weighting
        self._programs: dict[tuple[torch.device, torch.Size, bool], Program] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.weighting,)  # programs belong to a process

    def __call__(self, losses: Tensor, present: Tensor | None, state: dict[str, Tensor]) -> Tensor:
        """Return the weights [K] float32, and advance ``state`` in place, as calling the weighting does.

        Raises:
            RuntimeError: Nothing can be compiled here; nothing has changed then.
        """
        if losses.is_meta or torch.compiler.is_compiling():
            return self.weighting(losses, present, state)
        losses = losses.detach().contiguous()  # a program takes the strides for granted
        inputs = [losses, *state.values()] if present is None else [losses, present, *state.values()]
        layout = losses.device, losses.shape, present is None
        if layout not in self._programs:
            self._programs[layout] = _compile(_Formula(self.weighting, list(state), present is not None), inputs)
        return self._programs[layout](inputs)[0]


class _Formula(torch.nn.Module):
    """A weighting as a function of tensors alone: the losses, which are present if it is masked, the state."""

    def __init__(self, weighting: Weighting, names: Sequence[str], masked: bool) -> None:
        super().__init__()
        self.weighting, self.names, self.masked = weighting, names, masked

    def forward(self, losses: Tensor, *others: Tensor) -> Tensor:
        present, state = (others[0], others[1:]) if self.masked else (None, others)
        return self.weighting(losses, present, dict(zip(self.names, state, strict=True)))


def _compile(formula: _Formula, inputs: Sequence[Tensor]) -> Program:
    index = inputs[0].device.index
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(formula, tuple(tensor.clone() for tensor in inputs))
            # Single-threaded: between the runs of several threads, the host would wait for the device.
            model = torch._inductor.aoti_load_package(
                torch._inductor.aoti_compile_and_package(exported),
                run_single_threaded=True,
                device_index=-1 if index is None else index,
            )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RuntimeError(
            f"compile is True, but {type(formula.weighting).__name__} does not compile here ({reason}); install a C++ "
            "compiler, Triton for a GPU, a newer PyTorch, or leave it False"
        ) from error
    # Calling the model itself sorts the arguments in Python first, which takes longer than the formula.
    program: Program = model.loader.run
    return program
