"""The code in README.md, CONTRIBUTING.md and the recipes runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from art_optim.weighting import available, create, registry
from benchmarks import method_table
from benchmarks.compare import report

from .weighting.test_properties import NUM_TASKS, STEPS, history, run

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _registry_of_its_own(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def execute(name: str) -> dict:
    namespace = {"__name__": "documentation"}
    for block in blocks(name):
        exec(compile(block, name, "exec"), namespace)
    return namespace


def test_the_readme_runs():
    assert len(blocks("README.md")) >= 4
    execute("README.md")


@pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized",
    "ignore:Using backward\\(\\) with create_graph=True",
    "ignore:This overload of",
    "ignore:The .grad attribute of a Tensor",
)
def test_the_recipes_run_and_name_every_example():
    page = (ROOT / "examples/README.md").read_text()
    execute("examples/README.md")
    named = set(re.findall(r"^\| `(\w+)\.py` \|", page, re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__", "problem"}


def test_the_table_of_methods_is_that_of_the_registry():
    """Else: python -m benchmarks.method_table --write."""
    assert f"{method_table.BEGIN}{method_table.table()}\n{method_table.END}" in (ROOT / "README.md").read_text()


def test_what_the_table_of_methods_says():
    rows = {name: method_table.describe(name, create(name)) for name in available() if name != "fixed"}
    papers = {name: rows[name]["paper"] for name in ("equal", "relobralo", "stch")}
    assert papers == {"equal": "", "relobralo": "Bischof and Kraus, 2021", "stch": "Lin et al., ICML 2024"}
    assert [rows[name]["learned"] for name in ("famo", "gradnorm", "art", "rlw")] == ["yes", "yes", "no", "no"]
    assert [rows[name]["weights sum to"] for name in ("art", "dwa", "si")] == ["1", "K", "free"]


def test_the_table_of_methods_is_written_between_its_comments(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{method_table.BEGIN}old\n{method_table.END}\nafter\n")
    monkeypatch.setattr(method_table, "README", page)
    method_table.main(["--write"])
    assert page.read_text() == f"before\n{method_table.BEGIN}{method_table.table()}\n{method_table.END}\nafter\n"


def test_the_pages_of_the_comparison_are_those_of_their_results():
    folder = ROOT / "benchmarks/results/compare"
    every = report.read(folder)
    assert report.overall(every) == (folder / report.OVERALL).read_text()
    assert report.summary(every) in (ROOT / "README.md").read_text()
    for results in every:
        assert report.page(results) == (folder / report.slug(results["problem"]) / report.PAGE).read_text()
        assert results["command"].startswith("python -m benchmarks.compare")
        assert all(results[key] for key in ("machine", "versions", "seeds"))


def test_the_table_of_the_all_reduce_is_that_of_its_results():
    assert (ROOT / "benchmarks/results/scaling/table.md").read_text().strip() in (ROOT / "README.md").read_text()


def test_the_tables_of_the_cost_of_a_step_are_those_of_their_results():
    page = (ROOT / "README.md").read_text()
    ratios = (ROOT / "benchmarks/results/overhead/art/table.md").read_text().partition("\n# Each")[0]
    tables = [part for part in ratios.split("\n\n") if part.startswith("|")]
    assert len(tables) == 5
    assert all(table in page for table in tables[:2])
    columns = [_rows(table) for table in tables[1:]]  # of the networks: their column of 7 tasks is one of another table
    rows = _rows(page.partition("Steps of 7 tasks")[2].partition("`torchjd UW`")[0])
    for method in columns[0].keys() - {"method", "plain"}:
        assert rows[method] == [column[method][0] for column in columns]


def _rows(table: str) -> dict[str, list[str]]:
    """The cells of a table by the first of their row."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_the_worked_example_is_a_weighting_like_any_other():
    execute("CONTRIBUTING.md")
    assert "inverse" in available()
    weights, _ = run(create("inverse"), *history())
    assert weights.shape == (STEPS, NUM_TASKS)
    losses, present = history()
    expected = present.sum(0) / losses.where(present, 0).sum(0)
    torch.testing.assert_close(weights[-1], expected.where(present[-1], 0))
