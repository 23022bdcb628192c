"""The benchmarks run, and write tables that say what they measured."""

import json

import pytest

from benchmarks import quality, results, speed
from jssl import config as configs
from jssl.experiment import fill
from tests.test_experiment import CPU, held


def test_speed_writes_every_figure_of_the_step(tmp_path):
    speed.main(
        ["--methods", "simclr", "--variant", "tiny", "--seconds", "0.05", "--repeats", "1", "--out", str(tmp_path)]
    )
    [file] = tmp_path.glob("speed-*.json")
    written = json.loads(file.read_text())
    [row] = written["rows"]
    assert (row["method"], row["batch"], row["precision"]) == ("simclr", 64, "float32")
    for figure in "step", "views", "data", "files", "GFLOP/image":
        assert row[figure] > 0
    assert row["step"] < row["views"]
    assert row["% of peak"] is None  # no data sheet for this CPU
    assert written["run"]["versions"]["jax"] in file.with_suffix(".md").read_text()


def test_flops_are_those_of_the_network():
    """Two convolutions and two dense layers, forward, and backward twice as many; made-up images of 16 x 16 x 1."""
    bench = speed.Bench(configs.load("simclr:tiny", {"mesh.data": 8}))
    convolutions = 16 * 16 * 9 * 1 * 8 + 8 * 8 * 9 * 8 * 16
    heads = 16 * 16 + 16 * 8
    least = 2 * 2 * 2 * (convolutions + heads)  # views, forward and the weights' gradient, multiply and add
    assert least < bench.flops() < 10 * least


def test_trace_is_written(tmp_path):
    speed.Bench(configs.load("simclr:tiny")).trace(tmp_path)
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-40GB", 312.0),
        ("TPU v5 lite", 197.0),
        ("TPU v5", 459.0),
        ("NVIDIA L40S", 362.0),
        ("cpu", None),
    ],
)
def test_peak_is_that_of_the_device(kind, peak):
    assert speed.peak_of(kind) == peak


def test_rate_counts_images_not_calls(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def go(calls):
        clock[0] += 0.5 * calls

    assert speed.rate(go, images=64, repeats=3, seconds=2.0) == pytest.approx(128)


def test_quality_trains_scores_and_says_how(tmp_path):
    quality.main(
        ["--methods", "simclr", "--variant", "tiny", "--steps", "4", "--name", "tiny", "--k", "50"]
        + ["--data", "digits@[:400]", "--workdir", str(tmp_path / "runs"), "--out", str(tmp_path)]
    )
    text = (tmp_path / "quality-tiny.md").read_text()
    [row] = json.loads((tmp_path / "quality-tiny.json").read_text())["rows"]
    assert row["epochs"] == pytest.approx(4 * 64 / 400, abs=0.05)
    for column in "k-NN", "k-NN untrained", "linear", "linear untrained":
        mean, spread = (float(number) for number in row[column].split(" ± "))
        assert 20 < mean <= 100
        assert 0 < spread < 5
    for said in "k 50", "temperature 0.07", "digits@[:400]", "digits@test", "commit":
        assert said in text


def test_seeds_are_averaged():
    score = lambda mean: {
        "scores": {(u, t): {"mean": mean, "stderr": 9.0} for u in ("", " untrained") for t in quality.TASKS}
    }
    train = {"steps": 100, "per_epoch": 50.0, "batch_size": 8}
    config = {"config": {"encoder": {"name": "a:b"}, "train": train, "dtype": "float32"}, "minutes": 1.0}
    row = quality.row("simclr", [score(0.7) | config, score(0.8) | config | {"minutes": 2.0}])
    assert (row["k-NN"], row["epochs"], row["minutes"]) == ("75.0 ± 7.1", 2.0, 1.5)


def test_a_shorter_run_warms_up_in_proportion():
    config, _ = fill(configs.load("simclr:cifar10_200"), held(50_000, 32), [CPU])
    whole = config.train.steps
    quality.shorten(config, whole / 10)
    assert config.train.steps == whole // 10
    assert config.optim.warmup == pytest.approx(1.0, rel=1e-3)


def test_table_aligns_numbers_and_leaves_gaps():
    lines = results.markdown([{"name": "a", "speed": 12345.6}, {"name": "bc", "speed": None}]).splitlines()
    assert lines == ["| name |  speed |", "| ---- | -----: |", "| a    | 12,346 |", "| bc   |      - |"]
