"""The table of methods in the README, from the registry.

python -m benchmarks.method_table           # print it
python -m benchmarks.method_table --write   # put it into README.md, between the two comments that say so
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import torch
from torchjd.aggregation import UPGrad

from art_optim.gradients.aggregation import JacobianAggregation
from art_optim.weighting import Weighting, available, create

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- python -m benchmarks.method_table -->\n\n", "\n<!-- end -->"
NUM_TASKS = 4
NEED_ARGUMENTS = {"fixed": {"weights": [0.1, 0.2, 0.3, 0.5]}}


def table() -> str:
    """Lay out the registered methods and, in the last line, what stands for TorchJD's aggregators."""
    methods = [(f"`{name}`", create(name, **NEED_ARGUMENTS.get(name, {}))) for name in available()]
    rows = [describe(name, weighting) for name, weighting in methods]
    rows.append(
        {
            **describe("", JacobianAggregation(UPGrad())),
            "paper": "any aggregator of TorchJD",
            "weights sum to": "as it says",
        }
    )
    return pd.DataFrame(rows).to_markdown(index=False)


def describe(name: str, weighting: Weighting) -> dict[str, str]:
    """Return one row."""
    return {
        "name": name,
        "class": f"`{type(weighting).__name__}`",
        "paper": paper(weighting),
        "extra cost": weighting.cost,
        "learned": "yes" if "exp_avg" in weighting.init(NUM_TASKS) else "no",
        "weights sum to": published_sum(weighting),
        "needs": weighting.needs,
    }


def paper(weighting: Weighting) -> str:
    """Return authors, venue and year, as the first sentence of the docstring has them."""
    first = " ".join((type(weighting).__doc__ or "").split("\n\n")[0].split())
    found = re.search(r"of (?P<authors>[\w\s]+?(?: et al\.)?), \".*?\" \((?P<venue>[^)]*\d{4})\)", first)
    return f"{found['authors']}, {found['venue']}" if found else ""


def published_sum(weighting: Weighting) -> str:
    """Return what the published weights sum to, as they do over some steps: 1, K, or no constant."""
    generator = torch.Generator().manual_seed(0)
    state, present = weighting.init(NUM_TASKS), torch.ones(NUM_TASKS, dtype=torch.bool)
    steps = torch.rand(8, NUM_TASKS, generator=generator) + 0.1
    sums = torch.stack([weighting(losses, present, state).sum() for losses in steps])
    constants = {"1": 1.0, "K": float(NUM_TASKS)}
    return next((name for name, value in constants.items() if (sums - value).abs().max() < 1e-4), "free")


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if "--write" in arguments:
        before, rest = README.read_text().split(BEGIN)
        after = rest[rest.index(END) :]
        README.write_text(f"{before}{BEGIN}{table()}\n{after}")
    print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
