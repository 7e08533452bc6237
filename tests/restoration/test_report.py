from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks.estimates import Estimate, estimate
from benchmarks.methods import canonical
from benchmarks.restoration import figures, report
from benchmarks.restoration.__main__ import main
from benchmarks.restoration.claims import claims, judge
from benchmarks.restoration.finished import arenas, read, spread_of_rates
from benchmarks.restoration.paper import TABLES
from benchmarks.restoration.weighting_names import resolve

SEVEN = ["sr", "blur", "noise", "jpeg", "rain", "haze", "dark"]
INPUT = {"sr": 20.0, "blur": 21.0, "noise": 18.0, "jpeg": 25.0, "rain": 17.0, "haze": 14.0, "dark": 13.0, "snow": 16.0}
STEPS = 40


@pytest.fixture
def make(tmp_path):
    """Write a run's folder by hand: its PSNR is the input's plus a gain, the same for all tasks."""

    def write(weighting="equal", seed=0, gain=5.0, decay=None, name=None, **config):
        tasks = config.setdefault("tasks", SEVEN)
        folder = tmp_path / "runs" / (name or f"{len(list(tmp_path.glob('runs/*')))}")
        (folder / "pictures" / tasks[0]).mkdir(parents=True)
        standard = {
            **{"setting": "multiple", "model": "srresnet", "scale": "tiny", "interval": 1, "schedule": "mixed"},
            **{"steps": STEPS, "batch": 4, "patch": 32, "recipe": "srresnet", "optimizer": {"lr": 2e-4}, "loss": "l1"},
            **{"data": {"folder": "somewhere", "digest": "abc"}, "finished": True, "parameters": 1234567},
            "spans": [{"start": 0, "end": 10 * STEPS, "weighed": True}],
            "machine": {"processor": "a processor", "device": "cpu"},
        }
        config = {**standard, "weighting": weighting, "seed": seed, **config}
        (folder / "run.json").write_text(json.dumps(config))

        generator = np.random.default_rng([seed, *weighting.encode()])
        rates = np.linspace(1, 2 if decay is None else decay, len(tasks))
        steps = np.arange(STEPS)
        losses = 0.1 * np.exp(-np.outer(steps, rates) / STEPS).astype(np.float32)
        losses[3, 0] = np.nan
        weights = generator.dirichlet(np.full(len(tasks), 20), STEPS).astype(np.float32)
        np.savez(folder / "history.npz", steps=10 * steps, losses=losses, weights=weights, psnr=losses[:, 0])

        of_input = {task: {"psnr": INPUT[task], "ssim": 0.5, "images": 3} for task in tasks}
        restored = {task: {"psnr": INPUT[task] + gain, "ssim": 0.7, "images": 3} for task in tasks}
        scores = {"metrics": {"psnr": "8-bit RGB"}, "input": of_input, "restored": restored}
        (folder / "scores.json").write_text(json.dumps(scores))

        clean = np.repeat(np.linspace(0, 255, 64)[:, None], 48, 1)[..., None].repeat(3, -1)
        for kind, scale in (("clean", 0), ("degraded", 40), ("restored", 40 - 3 * gain)):
            noisy = clean + scale * generator.standard_normal(clean.shape)
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(folder / "pictures" / tasks[0] / f"photograph-{kind}.png")
        return folder

    return write


@pytest.fixture
def runs(make, tmp_path):
    """Equal weights, Art and the controls over three seeds; the seeds differ more than the weightings."""
    for seed, level in enumerate((4.0, 5.0, 6.0)):
        make("equal", seed, level, decay=4)
        art = make("art", seed, level + 1 + 0.01 * seed, decay=2)
        make(resolve(f"fixed-at:{art}"), seed, level + 0.9)
        make("rlw", seed, level - 0.1 * seed)
    return tmp_path / "runs"


def found(*folders):
    return arenas(read(folders)[0])


def finding(findings, text):
    return next(finding for finding in findings if finding.claim.text.startswith(text))


# -- estimates


def test_t_interval_of_the_mean():
    result = estimate(pd.Series([1.0, 2.0, 4.0], index=[0, 1, 2]))
    assert result.mean == pytest.approx(7 / 3)
    assert result.half_width == pytest.approx(4.30265 * math.sqrt(7 / 3 / 3), rel=1e-5)  # t of 2 degrees, .975


@pytest.mark.parametrize(
    ("mean", "half_width", "expected"),
    [
        (24.7312, 0.1234, "24.73 ± 0.12"),
        (24.7312, 1.234, "24.7 ± 1.2"),
        (24.7312, 12.34, "25 ± 12"),
        (24.7312, 0.0123, "24.731 ± 0.012"),
        (24.7312, 0.0, "24.73 ± 0.00"),
        (24.7312, math.nan, "24.73 (one seed)"),
    ],
)
def test_digits_are_those_of_the_interval(mean, half_width, expected):
    assert Estimate(mean, half_width, (0,)).text() == expected


# -- arenas


def test_runs_are_compared_only_with_their_like(make, tmp_path):
    make("equal", scale="tiny")
    make("art", scale="small")
    make("art", data={"digest": "other"})
    make("art:temperature=3.0", seed=1)
    groups = found(tmp_path / "runs")
    assert [(arena.label, arena.methods) for arena in groups] == [
        ("A", ["equal", "art"]),
        ("B", ["art"]),
        ("C", ["art"]),
    ]


def test_fixed_weights_are_named_after_the_run_that_they_average(runs):
    (arena,) = found(runs)
    assert arena.methods == ["equal", "art", "fixed at the average of art", "rlw"]
    assert arena.psnr.groupby("method").size().eq(3).all()


def test_fixed_weights_of_nobody_keep_their_name(make, tmp_path):
    make("art")
    fixed = "fixed:" + ",".join(f"{task}={index}" for index, task in enumerate(SEVEN))
    make(fixed)
    assert found(tmp_path / "runs")[0].methods == ["art", canonical(fixed)]


def test_intervals_are_methods_of_their_own(make, tmp_path):
    make("art")
    make("art", interval=8)
    assert found(tmp_path / "runs")[0].methods == ["art", "art, interval 8"]


def test_spread_of_rates():
    steps = np.arange(100)[:, None]
    even = np.exp(-steps / 50 * np.array([1.0, 1.0])) * np.array([0.1, 0.7])
    assert spread_of_rates(even) == pytest.approx(0, abs=1e-6)
    uneven = np.exp(-steps / 50 * np.array([1.0, 3.0]))
    late = np.concatenate([np.full((50, 2), np.nan), uneven])
    assert spread_of_rates(uneven) > 1
    assert spread_of_rates(late) == pytest.approx(spread_of_rates(uneven))


def test_spread_leaves_out_the_stages_that_no_method_weighs(make, tmp_path):
    before = {"start": 0, "end": 5 * STEPS, "weighed": False}
    make("art", spans=[before, {"start": 5 * STEPS, "end": 10 * STEPS, "weighed": True}])
    (arena,) = found(tmp_path / "runs")
    (run,) = arena.runs.values()
    steps, losses, _ = run.history()
    assert arena.spread.item() == pytest.approx(spread_of_rates(losses[steps > 5 * STEPS]))
    assert arena.spread.item() != pytest.approx(spread_of_rates(losses))


# -- claims


def test_a_gain_is_decided_by_its_paired_interval(runs):
    findings = judge(found(runs))
    gain = finding(findings, "SRResNet + Art beats SRResNet (")
    assert gain.holds == "yes"
    (higher, lower, difference), *_ = gain.results
    assert (higher, lower, difference.seeds) == ("art", "equal", (0, 1, 2))
    assert difference.mean == pytest.approx(1.01)
    assert difference.half_width < 0.05  # while the seeds are 1 dB apart
    even = finding(findings, "With Art the losses of the tasks decrease at more even rates")
    assert even.holds == "yes"
    assert even.results[0][2].mean > 0


@pytest.mark.parametrize(
    ("gains", "holds"),
    [
        ((1.0, 1.1, 0.9), "yes"),
        ((-1.0, -1.1, -0.9), "no"),
        ((1.0, -1.0, 0.1), "not decided by these runs"),
        ((1.0,), "not decided by these runs"),
        ((), "not run"),
    ],
)
def test_verdicts(make, tmp_path, gains, holds):
    make("equal", seed=9)
    for seed, gain in enumerate(gains):
        make("equal", seed)
        make("art", seed, 5 + gain)
    assert finding(judge(found(tmp_path / "runs")), "SRResNet + Art beats SRResNet (").holds == holds


def test_only_seeds_that_both_have_are_compared(make, tmp_path):
    for seed in (0, 1):
        make("equal", seed, 5)
        make("art", seed + 1, 6)
    result = finding(judge(found(tmp_path / "runs")), "SRResNet + Art beats SRResNet (").results[0][2]
    assert result.seeds == (1,)


@pytest.mark.parametrize(("drop", "holds"), [(8.0, "yes"), (1.0, "no")])
def test_a_collapse_is_more_than_a_loss(make, tmp_path, drop, holds):
    for seed in (0, 1):
        make("equal", seed, 5 + seed)
        make("art-ablation:rate=none,correction=ratio,guarded=false", seed, 5 - drop + 1.01 * seed)
    assert finding(judge(found(tmp_path / "runs")), "The raw ratio collapses").holds == holds


def test_a_claim_of_many_needs_them_all(make, tmp_path):
    def gains(**by_temperature):
        for tau, gain in by_temperature.items():
            for seed in (0, 1):
                make(f"art:temperature={tau.removeprefix('t')}", seed, gain + 0.001 * seed)
        return finding(judge(found(tmp_path / "runs")), "The temperature 3 is the best")

    partial = gains(t3=6, t1=5)
    assert partial.holds == "not decided by these runs"
    assert [bool(result.seeds) for *_, result in partial.results] == [False, True, False, False]
    assert gains(t7=5, t10=5).holds == "not decided by these runs"
    assert gains(**{"t0.1": 5.5}).holds == "yes"


def test_claims_in_another_set_up_are_marked(make, tmp_path):
    for seed in (0, 1):
        for weighting, gain in (("equal", 5), ("art-ablation:rate=raw,correction=none", 6)):
            make(weighting, seed, gain + 0.1 * seed, model="transweather")
    findings = [of for of in judge(found(tmp_path / "runs")) if of.claim.text.startswith("The local rate alone")]
    assert (findings[0].set_up, findings[0].holds) == ("the paper's", "not run")
    assert findings[1].set_up == "another"


def test_art_beyond_the_paper_is_judged_too(make, tmp_path):
    for seed in (0, 1):
        make("equal", seed, model="global-srresnet")
        make("art", seed, 4, model="global-srresnet")
    assert finding(judge(found(tmp_path / "runs")), "Art beats equal weights (global-srresnet").holds == "no"


def test_every_claim_is_reported(runs):
    texts = {finding.claim.text for finding in judge(found(runs))}
    assert texts == {claim.text for claim in claims()}
    for network in ("SRResNet", "SRResNet-S", "Uformer", "Uformer-S", "AirNet", "PromptIR", "TransWeather"):
        assert any(text.startswith(f"{network} + Art beats {network} ") for text in texts)


# -- the report


def test_the_report(runs, make, tmp_path, capsys):
    make("art", 0, 3, scale="small")
    make("equal", 5, finished=False, name="half")
    output = tmp_path / "report"
    assert main(["report", str(runs), "--output", str(output)]) == 0
    assert "TransWeather" in capsys.readouterr().out

    results = json.loads((output / "report.json").read_text(), parse_constant=pytest.fail)
    text = (output / "report.md").read_text()
    assert [len(results["tables"][str(number)]["rows"]) for number in (8, 9, 10)] == [2, 2, 4]  # the paper's alone
    for number in TABLES:
        assert f"### Table {number}:" in text

    both = [row for row in results["tables"]["1"]["rows"] if row["row"] == "both"]
    assert [(row["source"], row.get("scale")) for row in both] == [("paper", None), ("here", "tiny"), ("here", "small")]
    paper, tiny, small = both
    assert (paper["psnr"], paper["gain"]) == (30.05, 0.53)
    assert tiny["gain"]["mean"] == pytest.approx(1.01)
    assert tiny["psnr"]["seeds"] == [0, 1, 2]
    assert small["psnr"]["half_width"] is None
    assert small["gain"] is None  # at that scale nobody ran equal weights
    assert "here (B), srresnet at small scale, 40 steps, 1 seed" in text
    assert "one seed)" in text

    controls = {row["weighting"]: row for row in results["controls"]["A"]}
    assert list(controls) == ["degraded input", "equal", "art", "fixed at the average of art", "rlw"]
    assert controls["fixed at the average of art"]["gain"]["mean"] == pytest.approx(0.9)
    assert controls["fixed at the average of art"]["art_less_it"]["mean"] == pytest.approx(0.11)
    assert controls["rlw"]["gain_by_task"]["haze"]["mean"] == pytest.approx(-0.1)
    assert {"weighting": "art", "seed": 2}.items() <= results["runs"][0]["psnr"][5].items()
    assert "In the paper's set-ups: 2 yes, 0 no, 0 not decided by these runs, 16 not run." in text
    assert controls["degraded input"]["by_task"] == {task: INPUT[task] for task in SEVEN}
    assert "Not run: uncertainty." in text
    assert "1,234,567" in text
    assert "a processor" in text
    assert results["left_out"] == {"half": "is not finished: train goes on from its checkpoint"}
    assert "`half` is not finished" in text

    assert results["pictures"]["A"] == ["curves-A.png", "pictures-A-sr.jpg"]
    for name in [*results["pictures"]["A"], *results["pictures"]["B"]]:
        assert (output / name).stat().st_size < 1_500_000
        assert f"({name})" in text
    assert all(f"- {slip}" in text for slip in results["slips"])


def test_large_pictures_are_made_smaller(tmp_path, monkeypatch):
    noise = torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8)
    report.plot_images({"": {"noise": noise}}, tmp_path / "noise.png")
    size = (tmp_path / "noise.png").stat().st_size
    monkeypatch.setattr(figures, "LARGEST", size // 2)
    report.plot_images({"": {"noise": noise}}, tmp_path / "noise.png")
    assert 0 < (tmp_path / "noise.png").stat().st_size <= size // 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "scores.json").unlink(), "has no scores.json: evaluate it"),
        (lambda folder: (folder / "run.json").unlink(), "is no run and holds none"),
    ],
)
def test_refuses_what_is_no_finished_run(make, tmp_path, spoil, message):
    folder = make()
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        report.write([folder], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_refuses_two_runs_of_one_seed(make):
    with pytest.raises(ValueError, match=r"are both equal with seed 0; .* leave one out"):
        found(make(), make())
    folder = make(seed=1)
    assert len(found(folder, folder)[0].runs) == 1


def test_refuses_runs_that_were_evaluated_on_different_pictures(make):
    first, second = make(), make("art")
    scores = json.loads((second / "scores.json").read_text())
    scores["input"]["rain"]["psnr"] += 1
    (second / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(ValueError, match=r"different pictures: the input of rain has 17\.0 dB"):
        found(first, second)


def test_refuses_runs_that_were_evaluated_with_different_precision(make):
    first, second = make(), make("art")
    for folder, precision in ((first, "fp32"), (second, "bf16")):
        scores = json.loads((folder / "scores.json").read_text())
        (folder / "scores.json").write_text(json.dumps({**scores, "identity": {"precision": precision}}))
    with pytest.raises(ValueError, match=r"evaluated with the precision fp32 and bf16; .* evaluate them again"):
        found(first, second)


def test_a_psnr_that_is_null_stays_out_of_the_json(make, tmp_path):
    folder = make()
    scores = json.loads((folder / "scores.json").read_text())
    scores["restored"]["rain"]["psnr"] = None
    (folder / "scores.json").write_text(json.dumps(scores))
    report.write([folder], tmp_path / "report")
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text(), parse_constant=pytest.fail)["controls"]["A"][
        1:
    ]
    assert row["by_task"]["rain"] == {"mean": None, "half_width": None, "seeds": []}
