from __future__ import annotations

import json
import time

import pytest

from benchmarks.restoration import data
from benchmarks.restoration.__main__ import main

TINY = ["--setting", "rain-haze-noise", "--scale", "tiny", "--batch", "4", "--patch", "16", "--workers", "0", "1"]


@pytest.fixture
def measure(prepared, tmp_path):
    def run(*options):
        output = tmp_path / "throughput"
        arguments = [*TINY, "--rounds", "2", "--seconds", "0.01", *options, "--output", str(output)]
        assert main(["throughput", "--data", str(prepared("rain-haze-noise")), *arguments]) == 0
        return output

    return run


def test_a_slow_loader_is_told_from_the_network(measure, monkeypatch, capsys):
    collate = data._collate

    def slow(samples):
        time.sleep(0.2)
        return collate(samples)

    monkeypatch.setattr(data, "_collate", slow)  # workers are forked, and have it, too
    output = measure()
    serial, beside = json.loads((output / "throughput.json").read_text())["images a second"]
    for rate in (*(serial[name] for name in ("loader", "network", "both")), beside["loader"], beside["both"]):
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
    assert serial["loader"]["median"] < 4 / 0.2
    assert serial["both"]["median"] < min(4 / 0.2, serial["network"]["median"])
    assert [len(serial[name]["rounds"]) for name in ("loader", "network", "both")] == [2, 2, 2]
    lines = (output / "throughput.md").read_text().splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["0", "1"]
    assert "images a second" in capsys.readouterr().out


def test_data_of_another_setting_are_refused(prepared, tmp_path, capsys):
    output = tmp_path / "throughput"
    options = ["--setting", "multiple", "--data", str(prepared("rain-haze-noise")), "--output", str(output)]
    assert main(["throughput", *options]) == 2
    assert capsys.readouterr().err.startswith("throughput: ")
    assert not output.exists()
