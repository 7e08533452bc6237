"""How far a run is: a bar on a terminal, lines elsewhere, and TensorBoard's files where asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

if TYPE_CHECKING:
    from .training import Config

SECONDS = {True: 0.5, False: 15.0}
"""From one report to the next, on a terminal or not: the host waits for the device at these times alone."""


class Progress:
    """Reports on a run. Without a console, as on all ranks but the first, it is silent."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console
        self._bar: Bar | None = None
        self._writer: Any = None

    def say(self, text: str) -> None:
        """Print a line."""
        if self.console is not None:
            self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    @contextmanager
    def over(self, config: Config, done: int, output: Path, tensorboard: bool) -> Iterator[None]:
        """Report on the steps of a run, of which some are done, while the context lasts."""
        self.config, self._done, self._began, self._shown = config, done, time.perf_counter(), time.perf_counter()
        if self.console is None:
            yield
            return
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # optional

            self._writer = SummaryWriter(str(output / "tensorboard"), purge_step=done + 1)
        columns = (
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} images/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=False)),
        )
        try:
            if self.console.is_terminal:
                with Bar(*columns, console=self.console) as self._bar:
                    self._bar.add_task("", total=config.steps, completed=done, rate=0.0, status="")
                    yield
            else:
                yield
        finally:
            self._bar = None
            if self._writer is not None:
                self._writer.close()

    def due(self, step: int) -> bool:
        """Return whether it is time to show what happened."""
        if self.console is None:
            return False
        return step == self.config.steps or time.perf_counter() - self._shown >= SECONDS[self._bar is not None]

    def show(self, step: int, rows: np.ndarray, learning_rate: float) -> None:
        """Show the rows of the history since the last time, [R, 2K + 1]."""
        self._shown = time.perf_counter()
        if not len(rows):
            return
        rate = (step - self._done) * self.config.batch / (self._shown - self._began)
        text = status(self.config.tasks, rows)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, rate=rate, status=text)
        else:
            left = (self.config.steps - step) * self.config.batch / rate
            self.say(f"{step}/{self.config.steps}  {rate:.1f} images/s  {_duration(left)} left  {text}")
        if self._writer is not None:
            losses, weights, psnr = _means(rows, len(self.config.tasks))
            self._write("loss", losses, step)
            self._write("weight", weights, step)
            self._writer.add_scalar("psnr", psnr, step)
            self._writer.add_scalar("learning rate", learning_rate, step)

    def validated(self, step: int, psnr: Sequence[float]) -> None:
        """Show the PSNR of each task's test images."""
        text = "  ".join(f"{task} {value:.2f}" for task, value in zip(self.config.tasks, psnr, strict=True))
        self.say(f"test images after step {step}: {np.mean(psnr):.2f} dB  {text}")
        if self._writer is not None:
            self._write("test psnr", psnr, step)

    def _write(self, name: str, values: Sequence[float] | np.ndarray, step: int) -> None:
        for task, value in zip(self.config.tasks, values, strict=True):
            self._writer.add_scalar(f"{name}/{task}", value, step)


def status(tasks: Sequence[str], rows: np.ndarray) -> str:
    """Return the mean losses, weights and PSNR of some rows [R, 2K + 1] of the history, as a line."""
    losses, weights, psnr = _means(rows, len(tasks))
    named = (f"{task} {loss:.4f} x{weight:.2f}" for task, loss, weight in zip(tasks, losses, weights, strict=True))
    return "  ".join([f"{psnr:.2f} dB", *named])


def _means(rows: np.ndarray, num_tasks: int) -> tuple[np.ndarray, np.ndarray, float]:
    known = ~np.isnan(rows)
    means = np.where(known, rows, 0).sum(0) / np.maximum(known.sum(0), 1)
    means[~known.any(0)] = np.nan
    return means[:num_tasks], means[num_tasks:-1], float(means[-1])


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
