from __future__ import annotations

import re
import signal

import pytest

from benchmarks.restoration.__main__ import main
from benchmarks.restoration.commands import report

TRAIN = ["--setting", "multiple", "--model", "srresnet", "--data", "here", "--output", "there"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "/nowhere", "--output", "there"], "report: /nowhere is no run and holds none; give folders"),
        (["evaluate", "/nowhere"], "evaluate: /nowhere has no run.json"),
        (["train", *TRAIN, "--recipe", "none"], "train: recipe 'none' is not known"),
        (["train", *TRAIN, "--data", "/nowhere"], "train: there is no folder /nowhere; give that of the data set"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.match(message, error)


def test_an_output_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "runs"):
        assert main(["photos", "--unpacked", str(tmp_path), "--output", str(output)]) == 2
        assert "is a file or lies below one; give a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--steps", "0"), ("--seed", "-1"), ("--seed", str(2**63)), ("--workers", "-1"), ("--batch", "4.5")]
)
def test_a_count_that_is_none_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["train", *TRAIN, *option])
    assert f"argument {option[0]}: {option[1]!r} is no count; give a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_command_quietly(number, monkeypatch, capsys):
    monkeypatch.setattr(report.report, "write", lambda *given: signal.raise_signal(number))
    assert main(["report", "runs", "--output", "there"]) == 130
    assert capsys.readouterr().err == "report: interrupted\n"
