"""The claims of the paper, and whether runs bear them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from benchmarks.estimates import Estimate, estimate

from . import paper
from .finished import AVERAGE, Arena

Verdict = Literal["yes", "no", "not decided by these runs", "not run"]
COLLAPSE = 3.0  # dB


@dataclass(frozen=True)
class Comparison:
    """One quantity is higher with one weighting than with another, by more than ``margin``.

    ``higher`` and ``lower`` list the names of a weighting; the first that an arena has is compared.
    """

    higher: tuple[str, ...]
    lower: tuple[str, ...]
    margin: float = 0.0
    quantity: Literal["psnr", "spread"] = "psnr"


@dataclass(frozen=True)
class Claim:
    """A claim: all of its comparisons hold.

    Attributes:
        text: What is claimed.
        paper: The paper's numbers.
        comparisons: What must hold.
        setting: The paper's setting, None where its data are none of ours.
        models: The names of the paper's network.
        schedule: ``"mixed"`` or ``"sequential"``.
        elsewhere: Whether runs in another set-up than the paper's bear on it, too.
    """

    text: str
    paper: str
    comparisons: tuple[Comparison, ...]
    setting: str | None = "multiple"
    models: tuple[str, ...] = paper.MODELS["SRResNet"]
    schedule: str = "mixed"
    elsewhere: bool = True

    def is_set_up(self, arena: Arena) -> bool:
        """Whether the arena has the paper's setting, network and schedule, at whatever scale."""
        config = arena.config
        return (
            config["setting"] == self.setting and config["model"] in self.models and config["schedule"] == self.schedule
        )


@dataclass(frozen=True)
class Finding:
    """What the runs of one arena say of a claim; without an arena, that there are none.

    ``results`` has a line a comparison: the names of both weightings and the paired difference over the seeds.
    """

    claim: Claim
    holds: Verdict
    arena: Arena | None = None
    set_up: Literal["the paper's", "another"] = "the paper's"
    results: tuple[tuple[str, str, Estimate], ...] = ()

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        config = self.arena.config if self.arena else {}
        return {
            "claim": self.claim.text,
            "paper": self.claim.paper,
            "holds": self.holds,
            "set_up": self.set_up,
            "runs": self.arena.label if self.arena else None,
            "where": self.arena.where() if self.arena else None,
            "scale": config.get("scale"),
            "differences": [
                {"higher": higher, "lower": lower, "quantity": of.quantity, "margin": of.margin, **result.record()}
                for (higher, lower, result), of in zip(self.results, self.claim.comparisons, strict=False)
            ],
        }


def claims() -> list[Claim]:
    """Return the claims, those on the networks first."""
    return [*_networks(), *_parts(), *_shares(), *_temperature(), *_evenness()]


def judge(arenas: Sequence[Arena]) -> list[Finding]:
    """Return the findings on each claim; one without an arena where nothing was run that bears on it."""
    return [finding for claim in claims() for finding in _findings(claim, arenas)] + list(_beyond(arenas))


def difference(values: pd.Series, higher: str, lower: str) -> Estimate:
    """Estimate the difference of two methods over the seeds that both have, of values by method and seed."""
    return estimate(values.loc[higher] - values.loc[lower])


def _findings(claim: Claim, arenas: Sequence[Arena]) -> list[Finding]:
    found = []
    for arena in arenas:
        same = claim.is_set_up(arena)
        results = _results(claim, arena) if same or claim.elsewhere else None
        if results:
            found.append(Finding(claim, _verdict(claim, results), arena, "the paper's" if same else "another", results))
    found.sort(key=lambda finding: finding.set_up == "another")
    if not found or found[0].set_up == "another":
        found.insert(0, Finding(claim, "not run"))
    return found


def _results(claim: Claim, arena: Arena) -> tuple[tuple[str, str, Estimate], ...] | None:
    """Compare as the claim does; None where no comparison has both of its sides."""
    results = []
    for comparison in claim.comparisons:
        higher, lower = (
            next((name for name in names if name in arena.methods), names[0])
            for names in (comparison.higher, comparison.lower)
        )
        values = arena.spread if comparison.quantity == "spread" else arena.psnr[AVERAGE]
        both = higher in arena.methods and lower in arena.methods
        results.append(
            (higher, lower, difference(values, higher, lower) if both else Estimate(float("nan"), float("nan"), ()))
        )
    return tuple(results) if any(result.seeds for _, _, result in results) else None


def _verdict(claim: Claim, results: Sequence[tuple[str, str, Estimate]]) -> Verdict:
    margins = [comparison.margin for comparison in claim.comparisons]
    estimates = [result for _, _, result in results]
    # NaN, of one seed or of what was not run, decides nothing
    if any(of.mean + of.half_width < margin for of, margin in zip(estimates, margins, strict=True)):
        return "no"
    if all(of.mean - of.half_width > margin for of, margin in zip(estimates, margins, strict=True)):
        return "yes"
    return "not decided by these runs"


def _networks() -> Iterator[Claim]:
    for number in (6, 7, 8, 9, 10):
        table = paper.TABLES[number]
        psnr = {row.label: row.psnr for row in table.rows}
        for row in table.rows:
            if row.baseline:
                yield Claim(
                    f"{row.label} beats {row.baseline} (Table {number})",
                    f"{row.psnr:.2f} against {psnr[row.baseline]:.2f} dB",
                    (Comparison(row.weightings, paper.EQUAL),),
                    table.setting,
                    row.models,
                    row.schedule,
                    elsewhere=False,
                )


def _parts() -> Iterator[Claim]:
    raw, smoothed, ratio, quotient = paper.RAW_RATE, paper.SMOOTHED_RATE, paper.RAW_RATIO, paper.LOG_QUOTIENT
    yield Claim(
        "The local rate alone beats equal weights (Table 1)", "29.66 against 29.52 dB", (Comparison(raw, paper.EQUAL),)
    )
    yield Claim("Smoothing improves the local rate (Table 1)", "29.81 against 29.66 dB", (Comparison(smoothed, raw),))
    yield Claim(
        "The global correction alone beats equal weights (Table 1)",
        "29.71 against 29.52 dB",
        (Comparison(quotient, paper.EQUAL),),
    )
    yield Claim(
        "Rate and correction together beat either alone (Table 1)",
        "30.05 against 29.81 and 29.71 dB",
        (Comparison(paper.ART, smoothed), Comparison(paper.ART, quotient)),
    )
    yield Claim(
        f"The raw ratio collapses: it is more than {COLLAPSE:g} dB below equal weights (Table 1)",
        "14.77 against 29.52 dB",
        (Comparison(paper.EQUAL, ratio, COLLAPSE),),
    )


def _shares() -> Iterator[Claim]:
    none, *between, large = (row.weightings for row in paper.TABLES[3].rows)
    yield Claim(
        "Beta 0.001 and 0.01 beat 0 and 0.1 (Table 3)",
        "29.81 and 29.81 against 29.67 and 29.79 dB",
        tuple(Comparison(small, other) for small in between for other in (none, large)),
    )


def _temperature() -> Iterator[Claim]:
    rows = paper.TABLES[5].rows
    best = max(rows, key=lambda row: row.psnr)
    others = [row for row in rows if row is not best]
    yield Claim(
        f"The temperature {best.label.removeprefix('tau ')} is the best (Table 5)",
        f"{best.psnr:.2f} against {', '.join(f'{row.psnr:.2f}' for row in others)} dB",
        tuple(Comparison(best.weightings, row.weightings) for row in others),
    )


def _evenness() -> Iterator[Claim]:
    yield Claim(
        "With Art the losses of the tasks decrease at more even rates (Figure 2)",
        "curves",
        (Comparison(paper.EQUAL, paper.ART, quantity="spread"),),
    )


def _beyond(arenas: Sequence[Arena]) -> Iterator[Finding]:
    """Compare Art with equal weights in the set-ups that the paper has not."""
    networks = list(_networks())
    for arena in arenas:
        if not any(claim.is_set_up(arena) for claim in networks):
            config = arena.config
            claim = Claim(
                f"Art beats equal weights ({config['model']}, {config['setting']}, {config['schedule']})",
                "not in the paper",
                (Comparison(paper.ART, paper.EQUAL),),
            )
            results = _results(claim, arena)
            if results:
                yield Finding(claim, _verdict(claim, results), arena, "another", results)
