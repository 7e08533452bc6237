"""The formula of a weighting as one program, compiled ahead of time."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .gradients import GradientWeighting
from .weighting import Weighting

Program: TypeAlias = Callable[[list[Tensor]], list[Tensor]]

OLDEST = "2.8"


class CompiledWeighing:
    """Calls a weighting as one program of AOTInductor: on the CPU one C++ kernel, on a GPU one or two of Triton.

    ``torch.compile`` selects the program that fits in Python at every call, which takes longer than the formula. Here
    a program belongs to a device, a number of tasks, and whether a mask of the present tasks is given; it is compiled
    when it is first needed. Under ``torch.compile`` the weighting itself is called and compiled with its surroundings;
    on the ``meta`` device it is called uncompiled.

    Args:
        weighting: A method that looks at losses only.

    Raises:
        ValueError: ``weighting`` looks at gradients.
        RuntimeError: torch is older than 2.8.

    Note:
        - Compiling takes some 30 s for the first program on a machine, some 10 s for the first of a later process and
          5 s for each other one (measured with two CPU cores). One thread compiles at a time; others wait.
        - Source and machine code stay in the cache of ``torch.compile``, some 2 MB a program: ``torchinductor_USER`` in
          the temporary directory, or where ``TORCHINDUCTOR_CACHE_DIR`` says. They can be deleted at any time.
        - A loaded program is unpacked into a directory of its own in the temporary directory (``aotinductor_*`` in
          recent releases), some 2 MB, which is deleted with the program. A process that is killed leaves it behind.
    """

    def __init__(self, weighting: Weighting) -> None:
        if isinstance(weighting, GradientWeighting):
            raise ValueError(
                f"compile is True, but {type(weighting).__name__} looks at gradients, whose backward passes are not "
                "compiled; leave it False"
            )
        if torch.__version__ < OLDEST:
            raise RuntimeError(
                f"compile is True, but torch is {torch.__version__}; install torch>={OLDEST}, or leave it False"
            )
        self.weighting = weighting
        self._programs: dict[tuple[torch.device, torch.Size, bool], Program] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.weighting,)  # programs belong to a process

    def __call__(self, losses: Tensor, present: Tensor | None, state: dict[str, Tensor]) -> Tensor:
        """Return the weights [K] float32, and advance ``state`` in place, as calling the weighting does.

        Raises:
            RuntimeError: The weighting does not compile here; nothing has changed then.
        """
        losses = losses.detach().contiguous()  # a program assumes contiguous inputs
        # Not `is_compiling`, which is also true while another thread exports. Exporting traces a subclass of Tensor.
        if torch.compiler.is_dynamo_compiling() or losses.is_meta or type(losses) is not Tensor:
            return self.weighting(losses, present, state)
        inputs = [losses, *state.values()] if present is None else [losses, present, *state.values()]
        layout = losses.device, losses.shape, present is None
        if layout not in self._programs:
            self._programs[layout] = _compile(_Formula(self.weighting, list(state), present is not None), inputs)
        return self._programs[layout](inputs)[0]


class _Formula(torch.nn.Module):
    """A weighting as a function of tensors: the losses, the mask of the present tasks if there is one, the state."""

    def __init__(self, weighting: Weighting, names: Sequence[str], masked: bool) -> None:
        super().__init__()
        self.weighting, self.names, self.masked = weighting, names, masked

    def forward(self, losses: Tensor, *others: Tensor) -> Tensor:
        present, state = (others[0], others[1:]) if self.masked else (None, others)
        return self.weighting(losses, present, dict(zip(self.names, state, strict=True)))


def _compile(formula: _Formula, inputs: Sequence[Tensor]) -> Program:
    # torch.compile holds this lock as well: exporting sets global state, and is not thread-safe.
    from torch._dynamo.convert_frame import compile_lock

    index = inputs[0].device.index
    try:
        with (
            compile_lock,
            warnings.catch_warnings(),
            torch.inference_mode(False),
            torch.no_grad(),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.simplefilter("ignore")
            exported = torch.export.export(formula, tuple(tensor.clone() for tensor in inputs))
            package = torch._inductor.aoti_compile_and_package(
                exported,
                package_path=str(Path(folder, "weighing.pt2")),
                # Precompiled headers take hundreds of megabytes, and as long to make as they save.
                inductor_configs={"aot_inductor.precompile_headers": False},
            )
            # Single-threaded: between the runs of several threads, the host would wait for the device.
            model = torch._inductor.aoti_load_package(
                package, run_single_threaded=True, device_index=-1 if index is None else index
            )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RuntimeError(
            f"compile is True, but {type(formula.weighting).__name__} does not compile here ({reason}); install a C++ "
            "compiler, Triton for a GPU, or leave it False"
        ) from error
    # Calling the model itself flattens the arguments in Python first, which takes longer than the formula.
    program: Program = model.loader.run
    return program
