"""The formula of a weighting as one program, compiled ahead of time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

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
        if type(weighting).objective is not Weighting.objective:
            raise ValueError(
                f"compile is True, but {type(weighting).__name__} looks at gradients, whose backward passes are not "
                "compiled; leave it False"
            )
        self.weighting = weighting
        self._programs: dict[tuple[torch.device, int, bool], Program] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.weighting,)  # programs belong to a process

    def __call__(self, losses: Tensor, present: Tensor | None, state: dict[str, Tensor]) -> Tensor:
        """Return the weights [K] float32, and advance ``state`` in place, as calling the weighting does.

        Raises:
            RuntimeError: Nothing can be compiled here; nothing has changed then.
        """
        if losses.is_meta or torch.compiler.is_compiling():
            return self.weighting(losses, present, state)
        inputs = [losses.detach(), *state.values()] if present is None else [losses.detach(), present, *state.values()]
        layout = losses.device, len(losses), present is None
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


@torch.no_grad()
def _compile(formula: _Formula, inputs: Sequence[Tensor]) -> Program:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(formula, tuple(tensor.clone() for tensor in inputs))
            model = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(exported))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise RuntimeError(
            f"compile is True, but {type(formula.weighting).__name__} does not compile here ({reason}); install a C++ "
            "compiler, and Triton for a GPU, or leave it False"
        ) from error
    # Calling the model itself sorts the arguments in Python first, which takes longer than the formula.
    program: Program = model.loader.run
    return program
