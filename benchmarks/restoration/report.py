"""The report of finished runs: the paper's tables beside theirs, controls, claims, curves and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.estimates import Estimate, estimate

from . import paper
from .claims import difference, judge
from .figures import plot_histories, plot_images
from .finished import AVERAGE, REFERENCE, Arena, arenas, read
from .report_pictures import draw_crops, draw_curves
from .report_text import markdown

__all__ = ["control_rows", "paper_rows", "plot_histories", "plot_images", "table", "write"]


def table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> pd.DataFrame:
    """Lay out ``scores[run][task]["psnr" or "ssim"]`` as a row a task and their average, and a column a run."""
    cells = []
    for metric, pattern in (("psnr", "{:.2f} dB"), ("ssim", "{:.3f}")):
        frame = pd.DataFrame({run: {task: score[metric] for task, score in of.items()} for run, of in scores.items()})
        frame.loc["average"] = frame.mean()
        cells.append(frame.map(pattern.format))
    of_psnr, of_ssim = cells
    return of_psnr + ", " + of_ssim


def write(folders: Iterable[Path], output: Path) -> str:
    """Write ``report.md``, ``report.json`` and the pictures of the runs that folders are or hold; return the Markdown.

    Raises:
        ValueError: The folders hold no finished, evaluated run, or runs that do not compare.
    """
    runs, left_out = read(folders)
    found = arenas(runs)
    findings = judge(found)
    output.mkdir(parents=True, exist_ok=True)
    tables = {number: list(paper_rows(of, found)) for number, of in paper.TABLES.items()}
    controls = {arena.label: list(control_rows(arena)) for arena in found}
    pictures = {arena.label: [*draw_curves(arena, output), *draw_crops(arena, output)] for arena in found}
    results = {
        "runs": [_record(arena) for arena in found],
        "left_out": left_out,
        "claims": [finding.record() for finding in findings],
        "tables": {
            number: {"title": paper.TABLES[number].title, "rows": _plain(rows)} for number, rows in tables.items()
        },
        "controls": {label: _plain(rows) for label, rows in controls.items()},
        "slips": list(paper.SLIPS),
        "pictures": pictures,
    }
    (output / "report.json").write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    text = markdown(found, findings, tables, controls, left_out, pictures)
    (output / "report.md").write_text(text)
    return text


def paper_rows(of: paper.Table, found: Sequence[Arena]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table of the paper, each followed by those of its counterparts here."""
    psnrs = {row.label: row.psnr for row in of.rows}
    for row in of.rows:
        gain = round(row.psnr - psnrs[row.baseline], 2) if row.baseline else None
        yield {"row": row.label, "source": "paper", "psnr": row.psnr, "gain": gain, "by_task": row.by_test_set}
        for arena in found:
            config = arena.config
            is_row = config["setting"] == of.setting and config["schedule"] == row.schedule
            if not is_row or config["model"] not in row.models:
                continue
            for method in row.weightings:
                if method in arena.methods:
                    yield {
                        "row": row.label,
                        "source": "here",
                        "runs": arena.label,
                        "model": config["model"],
                        "scale": config["scale"],
                        "steps": config["steps"],
                        "weighting": method,
                        **_values(arena, method),
                    }


def control_rows(arena: Arena) -> Iterator[dict[str, Any]]:
    """Yield a row a method of the arena, and one for the degraded input."""
    run = next(iter(arena.runs.values()))
    of_input = run.psnr("input")
    yield {"weighting": "degraded input", "psnr": of_input.pop(AVERAGE), "by_task": of_input}
    for method in arena.methods:
        yield {"weighting": method, **_values(arena, method)}


def _values(arena: Arena, method: str) -> dict[str, Any]:
    psnr = {name: estimate(arena.psnr.loc[method][name]) for name in arena.psnr}
    gain = _less(arena, method, REFERENCE)
    return {
        "psnr": psnr.pop(AVERAGE),
        "by_task": psnr,
        "gain": gain.pop(AVERAGE, None),
        "gain_by_task": gain,
        "art_less_it": _less(arena, "art", method).get(AVERAGE),
    }


def _less(arena: Arena, method: str, other: str) -> dict[str, Estimate]:
    """Return what one method has over another, by task and on average; nothing if it is itself or was not run."""
    if method == other or not {method, other} <= set(arena.methods):
        return {}
    return {name: difference(arena.psnr[name], method, other) for name in arena.psnr}


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, Estimate):
        return value.record()
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_plain(of) for of in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _record(arena: Arena) -> dict[str, Any]:
    shared = {key: arena.config.get(key) for key in ("setting", "model", "scale", "schedule", "recipe", "steps")}
    shared |= {key: arena.config.get(key) for key in ("batch", "patch", "parameters", "machine", "versions")}
    metrics = next(iter(arena.runs.values())).scores.get("metrics")
    psnr = [{"weighting": method, "seed": seed, **run.psnr()} for (method, seed), run in arena.runs.items()]
    return {
        "runs": arena.label,
        **shared,
        "data": arena.config["data"]["digest"],
        "metrics": metrics,
        "psnr": _plain(psnr),
    }
