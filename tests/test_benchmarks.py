"""The benchmarks run, and write tables that say what they measured."""

import json
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import big_graph, collapse, graph_speed, graphs, quality, references, results, speed, visible
from jssl import config as configs
from jssl.evals import tuned
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


def test_speed_explains_every_methods_step(tmp_path, monkeypatch):
    found = configs.experiments()
    monkeypatch.setattr(configs, "experiments", lambda *_: {"simclr": found["simclr"]})
    speed.main(
        ["--all-methods", "--variant", "tiny", "--seconds", "0.05", "--repeats", "1", "--out", str(tmp_path)]
        + ["--set", "mesh.data=8"]
    )
    [file] = tmp_path.glob("speed-methods-*.json")
    [row] = json.loads(file.read_text())["rows"]
    assert row["method"] == "simclr"
    shares = row["GFLOP/image"] * row["step"] / (1000 * row["encoder TFLOP/s"])
    assert row["% explained"] == pytest.approx(100 * shares)
    assert 0 < row["% views"] < 100


def test_flops_are_those_of_the_network():
    """Two convolutions and two dense layers, forward, and backward twice as many; made-up images of 16 x 16 x 1."""
    bench = speed.Bench(configs.load("simclr:tiny", {"mesh.data": 8}))
    convolutions = 16 * 16 * 9 * 1 * 8 + 8 * 8 * 9 * 8 * 16
    heads = 16 * 16 + 16 * 8
    least = 2 * 2 * 2 * (convolutions + heads)  # views, forward and the weights' gradient, multiply and add
    assert least < bench.flops() < 10 * least


@pytest.mark.parametrize(
    ("method", "hidden"),
    [pytest.param("mae", ["1.56 %", "75 %"], marks=pytest.mark.slow), ("ijepa", ["0 %", "66.7 %"])],
)
def test_an_encoder_that_sees_few_patches_does_less(method, hidden, tmp_path):
    visible.main(
        ["--configs", f"{method}:tiny", "--batch", "16", "--seconds", "0.02", "--repeats", "1"]
        + ["--set", "encoder.patch=2", "--out", str(tmp_path)]
    )
    [file] = tmp_path.glob("visible-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["hidden"] for row in rows] == hidden * 2
    fewer = {row["part"]: row["times fewer FLOPs"] for row in rows[1::2]}  # with those hidden
    assert 3 < fewer["encoder"] < 7
    assert 1 < fewer["whole step"] < 3


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


ANSWERS = """#!{python}
import json, sys
print(json.dumps(dict(versions=dict(torch_geometric="9.8"))), flush=True)
print(*sys.argv[1:], sep="\\n", file=open("{said}", "w"))
for turn, spec in enumerate(sys.stdin):
    print(json.dumps({{"1 thread": 70 + turn, "2 threads": 60 + turn, "2 threads, compiled": 50 + turn}}), flush=True)
"""


def test_graph_speed_takes_turns_with_torch_geometric(tmp_path, capfd):
    sizes = np.arange(80) % 4 + 5
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    edges = np.concatenate(
        [first + np.stack([np.arange(n), (np.arange(n) + 1) % n], 1) for first, n in zip(offsets, sizes)]
    )
    np.savez(tmp_path / "rings.npz", edges=edges, node_offsets=offsets, node_label=np.arange(offsets[-1]) % 3)
    fake = tmp_path / "python"
    fake.write_text(ANSWERS.format(python=sys.executable, said=tmp_path / "said"))
    fake.chmod(0o755)
    call = ["--methods", "dgi:tiny,graphcl:tiny", "--seconds", "0.01", "--rounds", "3", "--out", str(tmp_path)]
    graph_speed.main([*call, "--data", f"tiny=npz:{tmp_path}/rings.npz", "--torch", str(fake)])
    rows = json.loads((tmp_path / "graph-speed.json").read_text())["rows"]
    assert [(row["method"], row["torch_geometric"], row["compiled"]) for row in rows] == [
        ("dgi", 62, 52),  # the second of the turns 0, 2 and 4
        ("graphcl", 63, 53),
    ]
    assert all(row["ours"] * row["times ours"] == pytest.approx(row["torch_geometric"]) for row in rows)
    assert all(0 < row["ours"] < 10 for row in rows)
    assert f"graphcl:tiny={tmp_path}/rings.npz" in (tmp_path / "said").read_text().splitlines()
    text = (tmp_path / "graph-speed.md").read_text()
    for said in "torch_geometric 9.8", "2 threads 60 to 64", "Median of 3 rounds":
        assert said in text

    call[1] = "dgi:tiny"
    graph_speed.main([*call, "--data", f"tiny=npz:{tmp_path}/rings.npz"])
    assert json.loads((tmp_path / "graph-speed.json").read_text())["rows"][0]["torch_geometric"] is None
    with pytest.raises(SystemExit, match=r"--torch: the source of dgi:tiny is digits, expected --data tiny=npz:FILE"):
        graph_speed.main([*call, "--data", "digits", "--torch", str(fake)])
    fake.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SystemExit, match=r"pyg\.py ended with 3"):
        graph_speed.main([*call, "--data", f"npz:{tmp_path}/rings.npz", "--torch", str(fake)])


def test_an_epoch_is_as_many_steps_as_the_data_have_batches(monkeypatch):
    bench = speed.Bench(configs.load("graphcl:tiny"))
    monkeypatch.setattr(bench, "step", lambda **_: 128.0)
    assert graph_speed.epoch(bench, 1) == 2  # 256 graphs at 128 a second


def fail(*_):
    raise RuntimeError("trains again")


def test_quality_trains_scores_says_how_and_keeps_what_it_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "DRAWS", 2)
    call = ["--methods", "simclr", "--variant", "tiny", "--steps", "4", "--name", "quality-tiny", "--k", "50"]
    call += ["--data", "folder:elsewhere", "--data", "tiny=digits@[:400]", "--set", "eval.probe_lr=0.5"]
    call += ["--finetune", "simclr", "--workdir", str(tmp_path / "runs"), "--out", str(tmp_path)]
    quality.main(call)
    text = (tmp_path / "quality-tiny.md").read_text()
    assert ", grid [" not in text  # each run's own figures are no part of the protocol
    [row] = json.loads((tmp_path / "quality-tiny.json").read_text())["rows"]
    assert row["epochs"] == pytest.approx(4 * 64 / 400, abs=0.05)
    assert (row["steps"], row["data"]) == (4, "digits (tiny)")
    few = ("1 % fine-tuned", "1 % from scratch")
    for column in "k-NN", "k-NN untrained", "linear", "linear untrained", "online probe", *few:
        mean, spread = (float(number) for number in row[column].split(" ± "))
        assert 0 <= spread < 5 + 10 * (column in few)
        assert (20 if column.startswith(("k-NN", "linear")) else 2) < mean <= 100
    for said in "k 50", "temperature 0.07", "digits@[:400]", "digits@test", "Trained, tiny: at commit":
        assert said in text

    monkeypatch.setattr(quality, "run", fail)
    quality.main(call)
    assert json.loads((tmp_path / "quality-tiny.json").read_text())["rows"] == [row]
    quality.main([*call, "--temperature", "0.2"])  # another question
    assert "failed: RuntimeError: trains again" in (tmp_path / "quality-tiny.md").read_text()


def test_a_reference_is_the_band_of_its_seeds(tmp_path, monkeypatch):
    def train(config, workdir):
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps({"config": configs.plain(config), "commit": "abc"}))
        rows = [{"step": step, "loss": config.seed + step} for step in (1, 2)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return workdir

    monkeypatch.setattr(references, "train", train)
    folders = ["--folder", str(tmp_path / "out"), "--workdir", str(tmp_path / "runs")]
    references.main(["--configs", "dgi:tiny", "--seeds", "3,5", *folders])
    made = json.loads((tmp_path / "out" / "dgi-tiny.json").read_text())
    assert (made["method"], made["variant"], made["seeds"], made["commit"]) == ("dgi", "tiny", [3, 5], "abc")
    assert made["curves"] == {"loss": {"steps": [1, 2], "low": [4, 5], "high": [6, 7]}}


def test_a_method_that_fails_loses_no_other(tmp_path, monkeypatch):
    def run(spec, seed, workdir, asked):
        if spec == "byol:tiny":
            raise ValueError("no such thing\nand more")
        workdir.mkdir(parents=True)
        return scored(0.5, asked["data"])

    monkeypatch.setattr(quality, "run", run)
    quality.main(
        ["--methods", "all", "--variant", "tiny,demo", "--data", "tiny=digits", "--data", "npz:some/where.npz"]
        + ["--name", "two", "--workdir", str(tmp_path), "--out", str(tmp_path)]
    )
    written = json.loads((tmp_path / "two.json").read_text())
    rows = {(row["method"], row["data"]): row for row in written["rows"]}
    methods = list(configs.experiments("image"))
    assert len(rows) == 2 * len(methods)
    assert {row["method"] for row in written["rows"][: len(methods)]} == set(methods)
    assert rows["byol", "tiny"]["k-NN"] == "failed"
    assert rows["byol", "where (demo)"]["k-NN"] == rows["mae", "digits (tiny)"]["k-NN"] == "50.0 ± 1.0"
    assert "online probe" not in rows["byol", "tiny"]
    assert "byol on tiny failed: ValueError: no such thing" in written["notes"]


def test_the_table_of_graphs_goes_on_with_the_runs_that_there_are(tmp_path, monkeypatch):
    asked = [
        "--methods",
        "dgi:cora,graphcl:mutag",
        "--data",
        "cora=knn:digits@test",
        "--set",
        "train.epochs=2.0",
        "--set",
        "encoder.dims=(8,)",
    ]
    asked += ["--data", "mutag=pixels:digits@test[:200]", "--runs", "2", "--runs", "graphcl:mutag=1"]
    asked += ["--workdir", str(tmp_path / "runs"), "--out", str(tmp_path)]
    graphs.main(asked)
    rows = {row["method"]: row for row in json.loads((tmp_path / "graphs.json").read_text())["rows"]}
    assert [(row["runs"], row["seeds"]) for row in rows.values()] == [(2, "0-1"), (1, "0")]
    assert (rows["dgi"]["epochs"], rows["dgi"]["published"]) == (2, "82.3 ± 0.6")
    assert "±" in rows["dgi"]["accuracy"]
    assert float(rows["graphcl"]["accuracy"]) > 20
    monkeypatch.setattr(graphs, "train", None)  # nothing is trained again
    graphs.main(asked)
    table = json.loads((tmp_path / "graphs.json").read_text())
    assert {row["method"]: row for row in table["rows"]} == rows

    graphs.main([*asked, "--methods", "graphcl:mutag", "--runs", "0"])  # the table is of all runs
    again = json.loads((tmp_path / "graphs.json").read_text())
    assert (again["rows"], again["notes"]) == (table["rows"], table["notes"])


def test_seeds_that_follow_each_other_are_a_range():
    assert graphs.seeds([{"seed": seed} for seed in (3, 0, 1, 2, 7, 9, 10)]) == "0-3, 7, 9-10"


def scored(mean, source="digits", **more):
    titles = ("k-NN", "k-NN untrained", "linear", "linear untrained")
    train = {"steps": 100, "per_epoch": 50.0, "batch_size": 8}
    config = {"encoder": {"name": "a:b"}, "train": train, "dtype": "float32"}
    config["data"] = {"source": source, "eval_source": f"{source}@test"}
    scores = {title: {"mean": mean, "stderr": 0.01} for title in titles}
    made = {"config": config, "commit": "c0ffee", "minutes": 1.0}
    return {**made, "settings": {"k-NN": "k 20"}, "scores": scores, **more}


def test_seeds_are_averaged():
    row = quality.row("simclr", "demo", [scored(0.7), scored(0.8, minutes=2.0)])
    assert (row["k-NN"], row["epochs"], row["minutes"]) == ("75.0 ± 7.1", 2.0, 1.5)


@pytest.mark.parametrize(
    ("source", "name"),
    [("digits", "digits"), ("tfds:fashion_mnist@train[:10000]", "fashion_mnist"), ("npz:.data/cifar10.npz", "cifar10")],
)
def test_data_sets_have_short_names(source, name):
    assert quality.name_of({"data": {"source": source}}) == name


def test_a_shorter_run_warms_up_in_proportion():
    config, _ = fill(configs.load("simclr:cifar10_200"), held(50_000, 32), [CPU])
    whole = config.train.steps
    quality.shorten(config, whole / 10)
    assert config.train.steps == whole // 10
    assert config.optim.warmup == pytest.approx(1.0, rel=1e-3)


def test_table_aligns_numbers_and_leaves_gaps():
    lines = results.markdown([{"name": "a", "speed": 12345.6}, {"name": "bc", "speed": None}]).splitlines()
    assert lines == ["| name |  speed |", "| ---- | -----: |", "| a    | 12,346 |", "| bc   |      - |"]


def test_collapse_is_drawn_and_told(tmp_path):
    collapse.main(
        ["--methods", "byol", "--variant", "tiny", "--steps", "8", "--every", "4", "--workdir", str(tmp_path / "runs")]
        + ["--out", str(tmp_path), "--picture", str(tmp_path / "collapse.svg")]
    )
    rows = json.loads((tmp_path / "collapse.json").read_text())["rows"]
    assert [row["trained"] for row in rows] == ["with stop-gradient", "without stop-gradient"]
    assert rows[0]["k-NN untrained"] == rows[1]["k-NN untrained"] > 20
    assert all(row["k-NN"] > 20 and row["health/std"] > 0 for row in rows)
    svg = ElementTree.parse(tmp_path / "collapse.svg").getroot()
    lines = svg.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert [len(line.get("points").split()) for line in lines] == [3, 3, 2, 2]  # k-NN from step 0 on, then the spread


def test_the_first_warning_is_marked():
    points = [{"step": 0, "knn": 0.8}, {"step": 5, "knn": 0.5, "health/std": 0.01, "warning": "collapse: one; try"}]
    row = collapse.row("byol", "without predictor", points)
    assert (row["first warning"], row["says"], row["k-NN"]) == (5, "collapse: one", 50.0)
    svg = collapse.picture({("byol", "with predictor"): points[:1] * 2, ("byol", "without predictor"): points})
    assert svg.count("step 5: a warning") == 2  # in both measures


@pytest.mark.parametrize("method", collapse.CASES)
def test_what_keeps_a_method_from_collapsing_can_be_switched_off(method):
    _, off, both = collapse.CASES[method]
    before = configs.load(f"{method}:demo", both)
    after = configs.load(f"{method}:demo", both | off)
    assert len(configs.difference(configs.plain(before), configs.plain(after))) == len(off)


def test_a_large_graph_is_trained_on_watched_and_judged(tmp_path):
    big_graph.main(
        ["--nodes", "400", "--edges", "3000", "--communities", "4", "--steps", "4", "--judged", "200", "--dims", "8,8"]
        + ["--workers", "0", "--set", "train.batch_size=32", "--workdir", str(tmp_path), "--out", str(tmp_path)]
    )
    written = json.loads((tmp_path / "big-graph.json").read_text())
    [row] = written["rows"]
    assert row["examples/s"] > 0
    assert row["loading"] > 100
    assert 100 < row["own"] <= row["training"]
    assert "400 sampled graphs of" in written["notes"][0]
    assert str(tmp_path) not in json.dumps(written)  # a table is read elsewhere
    assert all(name in written["notes"][3] for name in ("raw features: k-NN", "trained: k-NN", "untrained: k-NN"))
