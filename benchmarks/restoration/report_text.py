"""The report of finished runs as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.estimates import Estimate

from . import paper
from .claims import Finding
from .finished import ORDER, Arena

Row = Mapping[str, Any]


def markdown(
    found: Sequence[Arena],
    findings: Sequence[Finding],
    tables: Mapping[int, Sequence[Row]],
    controls: Mapping[str, Sequence[Row]],
    left_out: Mapping[str, str],
    pictures: Mapping[str, Sequence[str]],
) -> str:
    """Lay out the report.

    Args:
        found: The arenas.
        findings: What they say of the claims.
        tables: The rows of each of the paper's tables.
        controls: The rows of the methods of each arena.
        left_out: Why runs were left out, by folder.
        pictures: The names of the pictures of each arena.
    """
    parts = ["# The paper's experiments, and those here", *_preface(left_out), "## The runs", _runs_table(found)]
    parts += ["## The paper's claims", _tally(findings), _claims_table(findings), _claims_notes()]
    parts += ["## The paper's tables", "Average PSNR in dB."]
    for number, of in paper.TABLES.items():
        parts += [f"### Table {number}: {of.title}", _lay_out(map(_paper_cells, tables[number]))]
        parts += [of.note] if of.note else []
    parts += ["## Controls", _controls_note()]
    for arena in found:
        parts += [f"### {arena.label}: {arena.where()}", _lay_out(map(_control_cells, controls[arena.label]))]
        gains = [_gain_cells(row) for row in controls[arena.label] if row.get("gain")]
        parts += ["Less equal weights, and what Art has over each:", _lay_out(gains)] if gains else []
        absent = [name for name in ORDER if name not in arena.methods]
        parts += [f"Not run: {', '.join(absent)}."] if absent else []
    parts += ["## Curves and pictures", "As in Figure 2 (losses and weights) and Figures 3 to 5 of the paper."]
    for arena in found:
        parts += [f"### {arena.label}: {arena.where()}, seed {arena.shown_seed}"]
        parts += [f"![{name}]({name})" for name in pictures[arena.label]]
    parts += ["## Slips of the paper", "\n".join(f"- {slip}" for slip in paper.SLIPS)]
    return "\n\n".join(parts) + "\n"


def _preface(left_out: Mapping[str, str]) -> list[str]:
    text = (
        'Rows marked "paper" are the paper\'s numbers; those marked "here" are of the runs below, at the scale that '
        "they name. ± is the 95% t interval of the mean over the seeds; one seed has none. Differences are paired: "
        "between runs with the same seed."
    )
    lines = "\n".join(f"- `{folder}` {why}" for folder, why in left_out.items())
    return [text, *([f"Left out:\n\n{lines}"] if lines else [])]


def _runs_table(found: Sequence[Arena]) -> str:
    return _lay_out(
        {
            "runs": arena.label,
            "setting": arena.config["setting"],
            "trained": arena.where(),
            "batch, patch": f"{arena.config['batch']}, {arena.config['patch']}",
            "recipe": arena.config["recipe"],
            "weightings": len(arena.methods),
            "seeds": ", ".join(map(str, sorted({seed for _, seed in arena.runs}))),
            "parameters": f"{arena.config['parameters']:,}",
            "machine": _machine(arena),
        }
        for arena in found
    )


def _machine(arena: Arena) -> str:
    machines = [run.config["machine"] for run in arena.runs.values()]
    names = [machine["processor"] if machine["device"] == "cpu" else machine["device"] for machine in machines]
    return ", ".join(dict.fromkeys(names))


def _tally(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.holds for finding in findings if finding.set_up == "the paper's")
    verdicts = ("yes", "no", "not decided by these runs", "not run")
    return f"In the paper's set-ups: {', '.join(f'{counts[verdict]} {verdict}' for verdict in verdicts)}."


def _claims_table(findings: Sequence[Finding]) -> str:
    rows = []
    for finding in findings:
        arena = finding.arena
        lines = []
        for (higher, lower, result), of in zip(finding.results, finding.claim.comparisons, strict=False):
            unit = " dB" if of.quantity == "psnr" else " in the spread of log(last / first loss)"
            value = result.text(sign=True) + unit if result.seeds else "not run with a common seed"
            lines.append(f"{higher} less {lower}: {value}")
        seeds = max((len(result.seeds) for _, _, result in finding.results), default=0)
        where = f"{arena.label}: {arena.where()}, {seeds} seed{'s' * (seeds != 1)}" if arena else "-"
        rows.append(
            {
                "claim": finding.claim.text,
                "paper": finding.claim.paper,
                "here": "; ".join(lines) or "-",
                "runs": where + ("; another set-up than the paper's" if finding.set_up == "another" else ""),
                "holds here?": f"**{finding.holds}**",
            }
        )
    return _lay_out(rows)


def _claims_notes() -> str:
    return (
        '- "yes" and "no" want each interval on one side of what is claimed; a claim of several comparisons holds '
        "where all hold, and does not where one is reversed. Intervals are not widened for the number of comparisons.\n"
        "- The spread of a run is the standard deviation over the tasks of log(last / first loss): the mean loss of "
        "the last tenth of the steps in which the task is present, over that of the first twentieth; of "
        "sequential training, in its last stage. It is 0 where all decrease at one rate."
    )


def _controls_note() -> str:
    return (
        "PSNR in dB. Every weighting is on the same means of each task's losses, with weights that sum to 1. "
        "A gain of Art over equal weights is due to its adapting only as far as it also beats weights fixed at Art's "
        "average over time and random softmax weights (`rlw`)."
    )


def _paper_cells(row: Row) -> dict[str, str]:
    if row["source"] == "paper":
        source = "paper"
    else:
        seeds = len(row["psnr"].seeds)
        source = (
            f"here ({row['runs']}), {row['model']} at {row['scale']} scale, {row['steps']} steps, {seeds} "
            f"seed{'s' * (seeds != 1)}"
        )
        source += f", `{row['weighting']}`"
    return {
        "row": row["row"],
        "source": source,
        "PSNR": _number(row["psnr"]),
        "less equal weights": _number(row["gain"], sign=True),
        "by task or test set": _by_task(row["by_task"]),
    }


def _control_cells(row: Row) -> dict[str, str]:
    return {
        "weighting": row["weighting"],
        **{task: _number(of) for task, of in row["by_task"].items()},
        "average": _number(row["psnr"]),
        "seeds": str(len(row["psnr"].seeds)) if isinstance(row["psnr"], Estimate) else "-",
    }


def _gain_cells(row: Row) -> dict[str, str]:
    return {
        "weighting": row["weighting"],
        **{task: of.text(sign=True) for task, of in row["gain_by_task"].items()},
        "average": row["gain"].text(sign=True),
        "Art less it": _number(row["art_less_it"], sign=True),
        "seeds in common": str(len(row["gain"].seeds)),
    }


def _number(value: Estimate | float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    return value.text(sign) if isinstance(value, Estimate) else f"{value:{'+' if sign else ''}.2f}"


def _by_task(values: Mapping[str, Estimate | float] | None) -> str:
    cells = {task: of.rounded() if isinstance(of, Estimate) else f"{of:.2f}" for task, of in (values or {}).items()}
    return ", ".join(f"{task} {cell}" for task, cell in cells.items()) or "-"


def _lay_out(rows: Iterable[Mapping[str, Any]]) -> str:
    return str(pd.DataFrame(list(rows)).to_markdown(index=False, disable_numparse=True))
