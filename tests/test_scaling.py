"""The cost of the all-reduce: what the script leaves behind, and its model against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest

from benchmarks import scaling


def test_the_model_by_hand():
    assert scaling.modelled(2, 250, latency=10, bandwidth=1) == pytest.approx(2 * (10 + 1))
    assert scaling.modelled(1024, 14, latency=5, bandwidth=10) == pytest.approx(20 * (5 + 0.0056))


def test_it_leaves_a_table_and_results(tmp_path, capsys):
    assert scaling.main(["--processes", "2", "--rounds", "10", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    times = results["measured"]["2"]
    assert {*times} == {*(f"{tasks} tasks" for tasks in scaling.TASKS), "gradients"}
    assert all(0 < of["low"] <= of["median"] <= of["high"] for of in times.values())
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:6]] == [
        "2, measured",
        "8, model",
        "64, model",
        "1024, model",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "1"], "--processes: '1' is refused; give a whole number, at least 2"),
        (["--rounds", "9"], "--rounds: '9' is refused; give a whole number, at least 10"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        scaling.main(arguments)
    assert message in capsys.readouterr().err
