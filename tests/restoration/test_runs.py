"""A run's folder: whole files, identities that are compared, the network that is loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.restoration import models, runs

CONFIG = {"model": "srresnet", "scale": "tiny", "finished": True}


@pytest.fixture
def folder(tmp_path):
    runs.write_json(tmp_path / runs.CONFIG, CONFIG)
    checkpoint = {
        "run": {"seed": 0, "data": {"digest": "a"}},
        "network": models.create("srresnet", "tiny").state_dict(),
    }
    torch.save(checkpoint, tmp_path / runs.CHECKPOINT)
    return tmp_path


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    runs.write(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        runs.write(path, fail)
    assert path.read_bytes() == b"old"
    runs.write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(tmp_path / "file.json", {"psnr": float("inf")})
    assert not (tmp_path / "file.json").exists()


def test_resuming_another_run_names_all_that_differs(folder):
    device = torch.device("cpu")
    assert runs.resume(folder, {"seed": 0, "data": {"digest": "a"}}, device) is not None
    with pytest.raises(ValueError, match=r"seed is 0 there and 1 here; data.digest is 'a' there and 'b' here; give"):
        runs.resume(folder, {"seed": 1, "data": {"digest": "b"}}, device)
    with pytest.raises(ValueError, match="steps is None there and 5 here"):
        runs.resume(folder, {"seed": 0, "steps": 5, "data": {"digest": "a"}}, device)
    assert runs.resume(folder / "empty", {}, device) is None


def test_a_run_has_the_network_of_its_checkpoint(folder):
    network = runs.load(folder).network()
    saved = torch.load(folder / runs.CHECKPOINT, weights_only=True)["network"]
    assert not network.training
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


def test_a_run_with_averaged_parameters_has_the_average(folder):
    checkpoint = torch.load(folder / runs.CHECKPOINT, weights_only=True)
    average = {name: value + 1 for name, value in checkpoint["network"].items()}
    torch.save({**checkpoint, "average": average}, folder / runs.CHECKPOINT)
    network = runs.load(folder).network()
    assert all(torch.equal(value, average[name]) for name, value in network.state_dict().items())


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no run\.json"):
        runs.load(tmp_path)
    runs.write_json(tmp_path / runs.CONFIG, CONFIG)
    with pytest.raises(ValueError, match=r"has no checkpoint\.pt"):
        runs.load(tmp_path)


def test_a_damaged_file_is_named(folder):
    checkpoint = folder / runs.CHECKPOINT
    whole = checkpoint.read_bytes()
    for damaged in (b"", b"text", whole[:-100], whole[: len(whole) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is no whole checkpoint; restore or remove it"):
            runs.load(folder).network()
    (folder / runs.CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is no JSON"):
        runs.finished(folder)


@pytest.mark.parametrize("device", ["cuda:7", "no-device", "meta"])
def test_a_device_that_is_not_here_is_refused(folder, device):
    with pytest.raises(ValueError, match=f"device is '{device}', which is not here .* give cpu"):
        runs.load(folder, device)


def test_a_run_is_finished_when_it_says_so(folder):
    assert runs.finished(folder)
    (folder / runs.CONFIG).write_text(json.dumps({**CONFIG, "finished": False}))
    assert not runs.finished(folder)
    assert not runs.finished(folder / "empty")


def test_the_history_is_read_as_arrays(folder):
    np.savez(folder / runs.HISTORY, steps=np.arange(3))
    assert runs.load(folder).history()["steps"].tolist() == [0, 1, 2]
