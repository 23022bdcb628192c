"""`jssl doctor` on runs that are broken on purpose, one for each cause, and `jssl compare` on the same."""

import contextlib
import json
import shutil
import time

import jax
import numpy as np
import pytest

from jssl import compare, doctor
from jssl import config as configs
from jssl import train as loop
from jssl.feed import Feed
from jssl.log import Log
from jssl.sharding import make_mesh
from jssl.train import Stop, train
from jssl.watch import Ended
from tests.methods import config

STEPS = range(20, 201, 20)


def plain(name="simclr", **overrides):
    name = name if ":" in name else f"{name}:demo"
    return configs.plain(configs.load(name, {"train.steps": 200, "data.workers": 0, **overrides}))


def healthy():
    """Rows of a run that does well."""
    return [
        {
            "step": step,
            "loss": 4 - step / 100,
            "grad_norm": 1.0,
            "param_norm": 10.0,
            "health/std": 0.9,
            "health/rankme": 30.0,
            "health/features_std": 0.5,
            "health/features_rankme": 20.0,
            "data_wait": 0.01,
            "knn": 0.8 + step / 2000,
        }
        for step in STEPS
    ]


def recorded(folder, rows, made=None, checkpoints=(200, 100)):
    """A run directory as training leaves it, with these rows."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": made or plain()}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in checkpoints:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def reference(tmp_path_factory, monkeypatch):
    """The only curves of good runs: two of SimCLR."""
    folder = tmp_path_factory.mktemp("reference")
    runs = [[{**row, "loss": row["loss"] + more} for row in healthy()] for more in (0.0, 0.1)]
    band = {"config": plain(), "curves": compare.curves(runs), "seeds": [0, 1]}
    (folder / "simclr-demo.json").write_text(json.dumps(band))
    monkeypatch.setattr(compare, "folder", lambda: folder)
    return folder


def changed(**values):
    """The healthy rows, but for these: a value, or a function from the step's share of the run to one."""
    return [
        row | {name: value(row["step"] / 200) if callable(value) else value for name, value in values.items()}
        for row in healthy()
    ]


def test_a_healthy_run_has_nothing_wrong_and_what_was_looked_at_is_named(tmp_path):
    text, well = doctor.doctor(recorded(tmp_path, healthy()))
    assert well
    lines = text.splitlines()
    assert lines[0].endswith("SimCLR on digits, step 200 of 200")
    assert lines[1] == "nothing wrong found"
    for part in (
        "spread 0.9",
        "loss 2.2, below ln 511, of the other views in a batch = 6.24",
        "k-NN 0.9",
        "RankMe of features steady",
        "data wait 1%",
        "in the band of reference simclr-demo",
        "finished",
        "checkpoints of 200, 100",
    ):
        assert part in lines[2]


ILL = {
    "not finite": (changed(loss=lambda t: float(np.log(4 - t))) + [{"step": 220, "ended": "step 210: loss, gradient or "
                   "parameters not finite (loss=nan)"}], {}, "diverged: step 210: loss, gradient"),
    "collapsed": (changed(**{"health/std": lambda t: 0.9 - 0.89 * t}), {}, "collapse: the embeddings are almost"),
    "few dimensions": (changed(**{"health/rankme": 1.2}), {}, "dimensional collapse"),
    "teacher": (changed(**{"health/information": 0.0, "health/entropy": 1.0}), {}, "collapse: the teacher's"),
    "dead": (changed(**{"health/information": 1.0, "health/used": 0.001}), {}, "dead prototypes"),
    "chance": (changed(loss=6.237), {}, "stuck at chance: the loss is 6.237, and ln 511"),
    "start": ([{"step": 0, "knn": 0.8}, *changed(knn=0.7)], {}, "k-NN is below that of the starting weights: 70.0% at"),
    "k-NN": (changed(knn=lambda t: 0.9 if t < 0.5 else 0.7), {}, "k-NN falls: 70.0%, after 90.0% at step 20"),
    "rank": (changed(**{"health/features_rankme": lambda t: 40 - 35 * t}), {}, "the rank falls: RankMe of features is"),
    "data": (changed(data_wait=0.6), {}, "data-bound: the device waited for data 60% of the time"),
    "reference": (changed(loss=lambda t: 5 - t), {"optim.lr": 0.5}, "off the reference simclr-demo: loss is 4"),
    "unfinished": (healthy()[:5], {}, "not finished: step 100 of 200; the same command goes on from its checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", ILL)
def test_each_cause_is_named_first_where_a_run_is_broken_by_it(tmp_path, name):
    rows, overrides, words = ILL[name]
    text, well = doctor.doctor(recorded(tmp_path, rows, plain(**overrides)))
    assert not well
    assert text.splitlines()[1].startswith(f"1. {words}")


def test_what_differs_from_the_reference_is_said(tmp_path):
    text, _ = doctor.doctor(recorded(tmp_path, changed(loss=5.0), plain(**{"optim.lr": 0.5})))
    assert "its config differs in optim.lr: 0.01 -> 0.5" in text


@pytest.mark.parametrize(
    "name, fields, level",
    [
        ("moco", {"method.queue": 1000}, np.log(1001)),
        ("nnclr", {"train.batch_size": 128}, np.log(128)),
        ("mocov3", {"method.temperature": 0.2}, 0.8 * np.log(256)),
        ("simclr", {"train.accumulate": 2}, np.log(255)),
        ("simclr", {"method.decoupled": True}, np.log(510)),
        ("swav", {"method.prototypes": 50}, np.log(50)),
        ("dino", {"method.prototypes": 64}, np.log(64)),
        ("deepcluster", {"method.k": 32}, np.log(32)),
        ("simclr2", {"train.accumulate": 2}, np.log(255)),
        ("simclr2", {"method.memory": 1000}, np.log(1001)),
        ("cpc", {"method.ignore": 0, "train.batch_size": 64}, 2 * np.log(64 * 9)),
        ("dinov2", {"method.prototypes": 64}, np.log(64)),
        ("beit", {"method.tokenizer_fields": (("vocabulary", 32),)}, np.log(32)),
        ("beitv2", {"method.vocabulary": 32, "method.depth": 0}, np.log(32)),
        ("graphcl", {"train.batch_size": 32}, np.log(31)),
        ("dgi", {}, np.log(2)),
        ("grace:tiny", {"data.sample": "neighbours"}, np.log(127)),
        ("grace:cora", {}, None),
        ("mae", {}, None),
    ],
)
def test_chance_is_worked_out_from_the_config(name, fields, level):
    found = doctor.chance(plain(name, **fields))
    assert (found and found[0]) == (level and pytest.approx(level))


@pytest.mark.parametrize("name", ["simclr", "simclr decoupled", "moco", "nnclr", "mocov3", "ibot"])
def test_chance_is_what_the_loss_gives_where_all_embeddings_are_one(name):
    """Rounding aside, whatever the method's own constants."""
    from jssl.losses import cross_crops, info_nce, nt_xent
    from jssl.methods.mocov3 import contrast

    z, fields = np.ones((256, 2, 8), np.float32), {"method.queue": 300} if name == "moco" else {}
    made = plain(name.split()[0], **fields, **({"method.decoupled": True} if "decoupled" in name else {}))
    tau = made["method"].get("temperature")
    p = np.full((16, 2, made["method"].get("prototypes", 1)), 1.0) / made["method"].get("prototypes", 1)
    loss = {
        "simclr": lambda: nt_xent(z, tau),
        "simclr decoupled": lambda: nt_xent(z, tau, decoupled=True),
        "moco": lambda: info_nce(z[:, 0], z[:, 1], tau, np.full((300, 8), 8**-0.5, np.float32)),
        "nnclr": lambda: info_nce(z[:, 0], z[:, 1], tau),
        "mocov3": lambda: 2 * contrast(z[:, 0], z[:, 1], tau),
        "ibot": lambda: cross_crops(p, np.log(p)),
    }[name]()
    assert float(loss) == pytest.approx(doctor.chance(made)[0], rel=1e-4)


# Real runs, of a method that compiles in a second.


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))


def first(workdir):
    text, well = doctor.doctor(workdir)
    assert not well
    return text.splitlines()[1]


def test_a_run_with_a_loss_that_is_not_finite(tmp_path, one_device):
    with pytest.raises(Ended):
        train(config(method__breaks=6), tmp_path)
    assert first(tmp_path).startswith("1. diverged: step 7: loss, gradient or parameters not finite (loss=nan")


def test_a_run_at_a_rate_of_ten_thousand(tmp_path, one_device):
    train(config(optim__lr=1e4), tmp_path)
    said = first(tmp_path)
    assert said.startswith("1. diverged: the parameters' norm is")
    assert "(it is 10000.0)" in said


def test_a_run_that_collapsed_and_one_that_the_watchdog_ended_for_it(tmp_path, one_device):
    train(config(method__collapses=True), tmp_path / "warned")
    assert first(tmp_path / "warned").startswith("1. collapse: the embeddings are almost the same")
    with pytest.raises(Ended):
        train(config(method__collapses=True, watch__policy="stop", watch__patience=2), tmp_path / "ended")
    text, _ = doctor.doctor(tmp_path / "ended")
    assert "ended by the watchdog: step 4: collapse" in text
    assert "no checkpoints: checkpoint.every is 4" in text


def test_a_run_that_was_stopped_and_one_whose_checkpoints_are_gone(tmp_path, one_device, monkeypatch):
    # Steps of a millisecond wait for their data as long as the machine pleases, which here is not the matter.
    monkeypatch.setattr(Log, "waiting", lambda self: contextlib.nullcontext())
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self, call: call == 3)
        train(config(), tmp_path)
    assert first(tmp_path) == "1. not finished: step 2 of 8; the same command goes on from its checkpoint of step 3"
    train(config(), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    assert first(tmp_path).startswith("1. no checkpoints: checkpoint.every is 4")


def test_a_rate_that_grows_until_k_nn_and_rank_fall(tmp_path, one_device):
    """The limits of collapse, of which it is a case, are off."""
    growing = {"train__steps": 12, "optim__lr": 0.3, "optim__warmup": 11.0, "eval__every": 2, "eval__rows": 300}
    limits = {"watch__std": 0.0, "watch__rankme": 0.0, "watch__patience": 2, "watch__knn": 0.02}
    train(config(**growing, **limits, log_every=1, method__bare=True), tmp_path)
    text, _ = doctor.doctor(tmp_path)
    falls, sinks = text.splitlines()[1:3]
    assert falls.startswith("1. k-NN falls: ")
    assert sinks.startswith("2. the rank falls: RankMe is ")


def test_a_run_that_learns_too_slowly_leaves_the_band_of_a_good_one(tmp_path, one_device, reference):
    train(config(), tmp_path / "good")
    made, rows = compare.read_run(tmp_path / "good")
    (reference / "clusters.json").write_text(json.dumps({"config": made, "curves": compare.curves([rows])}))
    train(config(optim__lr=1e-5), tmp_path / "slow")
    said = first(tmp_path / "slow")
    assert said.startswith("1. off the reference clusters: loss is 1.3")
    assert said.endswith("its config differs in optim.lr: 0.01 -> 1e-05")


def test_a_run_whose_data_come_slowly(tmp_path, one_device, monkeypatch):
    indices = Feed._indices

    def slow(self, start):
        for batch in indices(self, start):
            time.sleep(0.05)
            yield batch

    monkeypatch.setattr(Feed, "_indices", slow)
    train(config(), tmp_path)
    assert first(tmp_path).startswith("1. data-bound: the device waited for data ")


@pytest.mark.slow
def test_a_temperature_that_makes_all_similarities_one_leaves_the_loss_at_chance(tmp_path, one_device):
    few = {"train.steps": 8, "checkpoint.every": 8, "log_every": 2, "eval.every": 0}
    train(configs.load("simclr:tiny", {**few, "method.temperature": 100.0}), tmp_path)
    assert first(tmp_path).startswith("1. stuck at chance: the loss is 4.84")


@pytest.mark.slow
def test_swav_without_what_balances_its_clusters_collapses(tmp_path, one_device, monkeypatch):
    monkeypatch.setattr(Stop, "asked", lambda self, call: call == 30)
    fields = {"optim.name": "adamw", "optim.lr": 0.04, "train.steps": 200, "log_every": 10, "eval.every": 0}
    broken = {"method.sinkhorn": False, "encoder.activation": "relu", "watch.used": 0.2}  # of ten prototypes two
    train(configs.load("swav:tiny", {**fields, **broken}), tmp_path)
    text, _ = doctor.doctor(tmp_path)
    assert "collapse: every input gets almost the same assignment" in text
    assert "dead prototypes: of those that could be in use in a batch, 90.0% name no input" in text
    assert "not finished: step 30 of 200" in text


def test_a_directory_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run directory: it has no config\.json"):
        doctor.doctor(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"config": plain()}))
    text, well = doctor.doctor(tmp_path)
    assert "no row was logged" in text
    assert not well


# Compare.


def test_a_run_inside_the_band_and_one_that_left_it(tmp_path):
    text, inside = compare.compare(recorded(tmp_path / "good", healthy()))
    assert inside
    assert "against simclr-demo, seeds 0, 1, by step" in text
    assert text.endswith("Inside the band of good runs.")
    bad = recorded(tmp_path / "bad", changed(knn=lambda t: 0.8 + 0.1 * t if t < 0.5 else 0.6))
    text, inside = compare.compare(bad)
    assert not inside
    assert "Left the band: k-NN is 60.0 % at step 200, where good runs have 87.0 % to 93.0 %; 6 of 10 points" in text
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "left, below" in rows["k-NN"]
    assert "| in" in rows["loss"]


def test_better_than_the_band_is_not_off_it_and_nan_is(tmp_path):
    better = changed(knn=0.99, loss=1.0, **{"health/rankme": 90.0})
    assert compare.compare(recorded(tmp_path / "a", better))[1]
    rows = healthy()
    rows[-1]["loss"] = "nan"
    assert not compare.compare(recorded(tmp_path / "b", rows))[1]


def test_a_run_of_another_length_is_compared_by_its_share_of_the_training(tmp_path):
    rows = [row | {"step": 2 * row["step"]} for row in healthy()]
    text, inside = compare.compare(recorded(tmp_path, rows, plain(**{"train.steps": 400})))
    assert inside
    assert "by share of the training" in text
    assert "The configs differ in train.steps: 200 -> 400." in text


@pytest.mark.parametrize("name", ["dinov2", "ibot"])
def test_of_references_of_one_method_the_one_with_the_nearest_config_counts(tmp_path, monkeypatch, name):
    monkeypatch.setattr(compare, "folder", lambda: tmp_path)
    for known in "dinov2", "ibot":
        (tmp_path / f"{known}-demo.json").write_text(json.dumps({"config": plain(known), "curves": {}}))
    assert compare.find(None, plain(name, **{"optim.lr": 0.5}))[0] == f"{name}-demo"


def test_another_run_or_file_or_name_is_a_reference_too(tmp_path, reference):
    run = recorded(tmp_path / "run", changed(loss=3.0))
    assert not compare.compare(run, recorded(tmp_path / "other", healthy()))[1]
    assert compare.compare(run, run)[1]
    assert compare.compare(run, "simclr:demo")[0] == compare.compare(run, reference / "simclr-demo.json")[0]
    with pytest.raises(FileNotFoundError, match=r"there is no reference 'simcl-demo'; did you mean simclr-demo\?"):
        compare.compare(run, "simcl-demo")
    made = plain("byol")
    with pytest.raises(FileNotFoundError, match="there is no reference of BYOL on digits; expected one of simclr-demo"):
        compare.compare(recorded(tmp_path / "byol", healthy(), made))
