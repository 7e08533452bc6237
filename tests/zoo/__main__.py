"""Compare every optimizer of four packages, wrapped and unwrapped: a table, ``runs/zoo/results.json``, an exit code."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import Counter
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from . import isolation, zoo

PACKAGES = {
    "torch.optim": "torch",
    "torch_optimizer": "torch-optimizer",
    "pytorch_optimizer": "pytorch-optimizer",
    "schedulefree": "schedulefree",
}
RESULTS = Path("runs/zoo/results.json")


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 120)
    warnings.simplefilter("ignore")
    isolation.preload([*PACKAGES])
    cases = [case for package in PACKAGES for case in zoo.cases(package)]
    with ThreadPool(os.cpu_count()) as pool:
        done = pool.imap(isolation.examine, cases)
        rows = [*track(done, "Training", total=len(cases), console=console, transient=True)]
    totals = Counter(row["verdict"] for row in rows)
    versions = {name: version(name) for name in PACKAGES.values()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"versions": versions, "totals": totals, "rows": rows}, indent=1) + "\n")

    table = Table("package", "optimizer", "wrapped against unwrapped", expand=True)
    table.add_column("seen in", ratio=1, no_wrap=True)
    for row in rows:
        color = "red" if not row["same"] else "green" if row["verdict"] != "not constructed" else "yellow"
        evidence = escape(" ".join(row["evidence"].split()))
        table.add_row(row["package"], row["optimizer"], f"[{color}]{row['verdict']}", evidence)
    console.print(table)
    console.print(*(f"{count:4} {verdict}" for verdict, count in totals.most_common()), sep="\n")
    console.print(f"{len(rows):4} in all, with " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    console.print(f"     {RESULTS}")
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
