"""The loop: what it logs, when it saves, how it stops."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from jssl import data
from jssl import train as loop
from jssl.augment.image import views_sheet
from jssl.checkpoint import Checkpoints, checkpoint_steps
from jssl.experiment import fill
from jssl.sharding import make_mesh
from jssl.train import Run, Stop, train
from jssl.watch import Diverged
from jssl.writers import read_metrics
from tests.contract import assert_close, assert_equal
from tests.methods import config


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))


def steps(workdir):
    return [row["step"] for row in read_metrics(workdir)]


def saved(workdir):
    return checkpoint_steps(workdir / "checkpoints")


def run_of(made):
    source = data.open_source(made.data.source)
    made, _ = fill(made, source)
    return Run(made, source, make_mesh(1, 1, jax.devices()[:1]), None)


def state_at(workdir, step, made):
    """The state that checkpoint `step` holds."""
    run = run_of(made)
    checkpoints = Checkpoints(workdir)
    state, _, why = checkpoints._read(step, run.shapes)
    assert why is None
    return state


def test_a_run_directory_holds_what_the_design_says(tmp_path, capsys):
    train(config(eval__every=4), tmp_path)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    expected = {"loss", "grad_norm", "param_norm", "lr", "examples_per_s", "data_wait", "health/std", "health/rankme"}
    assert all(expected <= row.keys() for row in rows)
    assert [row["step"] for row in rows if "knn" in row] == [4, 8]
    assert all(0 <= row["data_wait"] <= 1 and row["examples_per_s"] > 0 for row in rows)
    for name in "views.png", "encoder/config.json", "encoder/weights.npz", "encoder/untrained.npz", "tensorboard":
        assert (tmp_path / name).exists()

    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["config"]["train"]["steps"] == 8
    assert {"preflight", "versions", "commit", "command", "devices"} <= kept.keys()
    shown = capsys.readouterr().err
    assert all(line in shown for line in kept["preflight"])


def test_the_learning_rate_of_a_row_is_that_of_its_step(tmp_path):
    made = config(optim__warmup=2.0)
    train(made, tmp_path)
    rate = run_of(made).experiment.rate
    assert [row["lr"] for row in read_metrics(tmp_path)] == [float(rate(step - 1)) for step in (2, 4, 6, 8)]


def test_the_row_of_the_last_step_is_written_whatever_the_cadence(tmp_path):
    train(config(log_every=3, train__steps=8), tmp_path)
    assert steps(tmp_path) == [3, 6, 8]
    assert saved(tmp_path) == [8, 4]


def test_a_row_is_written_before_the_checkpoint_of_its_step(tmp_path, monkeypatch):
    """A run killed in between writes the row again; a checkpoint without its row would leave a gap."""
    seen = {}
    whole = Checkpoints.save

    def save(self, step, *args):
        seen[step] = steps(tmp_path)[-1]
        whole(self, step, *args)

    monkeypatch.setattr(Checkpoints, "save", save)
    train(config(), tmp_path)
    assert seen == {4: 4, 8: 8}


def test_the_best_checkpoint_is_that_of_the_best_knn(tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.5, 0.4])
    monkeypatch.setattr(Run, "knn", lambda self, state: next(scores))
    train(config(eval__every=2, checkpoint__every=2, checkpoint__keep=1), tmp_path)
    assert saved(tmp_path) == [8, 4]


def test_a_checkpoint_has_no_score_of_another_step(tmp_path, monkeypatch):
    scores = iter([0.9, 0.2])
    monkeypatch.setattr(Run, "knn", lambda self, state: next(scores))
    train(config(eval__every=4, checkpoint__every=2, checkpoint__keep=1), tmp_path)
    assert saved(tmp_path) == [8, 4]


def test_the_view_sheet_is_what_the_method_sees(tmp_path):
    made = config()
    train(made, tmp_path)
    run = run_of(made)
    with jax.set_mesh(run.mesh), run.feed.items(0, 1) as items:
        _, _, out = run.steps(run.init(run.rng_init), run.feed.held, next(items), run.rng)
    seen = np.asarray(out["features"])[:8].reshape(8, 2, 8, 8, 1)  # the method's features are its views
    sheet = views_sheet({"image": seen}, (0.5,), (0.5,)).squeeze()
    shown = np.asarray(Image.open(tmp_path / "views.png"))
    assert shown.shape == sheet.shape
    assert np.abs(shown.astype(int) - sheet).max() <= 1  # two programs round apart


def test_knn_reads_no_test_image(tmp_path, monkeypatch):
    opened, whole = [], data.open_source

    def open_source(spec, *args, **kw):
        opened.append(spec)
        return whole(spec, *args, **kw)

    monkeypatch.setattr(data, "open_source", open_source)
    train(config(eval__every=4, data__eval_source="digits@test"), tmp_path)
    assert opened == ["digits"]


def test_knn_divides_a_fixed_part_of_the_training_rows():
    source = data.open_source("digits")
    part, of, bank = loop.probe_rows(source, rows=100, seed=3)
    assert of == slice(None)
    assert (len(part), bank) == (100, 80)
    assert len(set(part.names)) == 100
    assert set(part.names) <= set(source.names)
    assert list(loop.probe_rows(source, rows=100, seed=3)[0].names) == list(part.names)


def test_without_labels_there_is_no_knn(tmp_path):
    images = data.open_source("digits").images[:128]
    np.savez(tmp_path / "images.npz", image=images)
    train(config(eval__every=4, data__source=f"npz:{tmp_path}/images.npz"), tmp_path / "run")
    assert all("knn" not in row for row in read_metrics(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run_and_loses_nothing(tmp_path):
    broken = config(method__breaks=6)
    with pytest.raises(Diverged) as error:
        train(broken, tmp_path)
    said = str(error.value)
    assert said.startswith("step 7: loss, gradient or parameters not finite (")
    for text in "loss=nan", "grad_norm=", "optim.lr", "optim.warmup", "optim.clip":
        assert text in said
    assert said.endswith("; the last good checkpoint is kept, that of step 4: `jssl export` makes an encoder of it")
    assert "\n" not in said
    assert saved(tmp_path) == [4]
    assert steps(tmp_path) == [2, 4, 6, 8]  # the last says why it ended
    train(config(train__steps=4, optim__end=1.0, method__breaks=6), tmp_path / "four")
    assert int(state_at(tmp_path, 4, broken).step) == 4

    with pytest.raises(Diverged, match="step 7"):  # the same command takes the checkpoint, and the same step
        train(broken, tmp_path)
    assert steps(tmp_path) == [2, 4, 6, 8]  # the last says why it ended


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    """A rate so high that the first update overflows, while the loss and the gradient before it are finite."""
    made = config(optim__name="sgd", optim__lr=3e38, optim__scale="none", checkpoint__every=1, log_every=1)
    with pytest.raises(Diverged, match=r"^step 1: .*loss=\d.*param_norm=(nan|inf)"):
        train(made, tmp_path)
    assert saved(tmp_path) == []


@pytest.mark.parametrize("path", ["log_every", "train.refresh_every", "eval.every", "checkpoint.every", "train.steps"])
def test_steps_per_call_divide_every_cadence_or_the_nearest_is_named(tmp_path, path):
    cadences = {"log_every": 4, "train__refresh_every": 8, "eval__every": 8, "checkpoint__every": 4, "train__steps": 16}
    made = config(train__steps_per_call=4, **{**cadences, path.replace(".", "__"): 15})
    with pytest.raises(ValueError, match=rf"steps_per_call=4 must divide {path}=15; the nearest that it does is 16"):
        train(made, tmp_path)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"train__batch_size": 2048}, "digits has 1297 images, fewer than one batch: train.batch_size=2048"),
        ({"train__batch_size": 60}, "train.batch_size=60 cannot be cut into 1 micro-batches on 8 devices"),
        ({"optim__warmup": 8.0}, "optim.warmup is 8 steps, but training has 8: the warm-up must be shorter"),
        (
            {"init_from": {"params/bodi": "x.npz"}},
            "x.npz is no run directory, exported encoder, .npz file or CLIP of transformers",
        ),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, overrides, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        train(config(**overrides), tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_collapse_is_a_warning_in_words_and_said_once(tmp_path, capsys):
    train(config(method__collapses=True), tmp_path)
    warned = [row.get("warning", "") for row in read_metrics(tmp_path)]
    assert warned[0].startswith("collapse: the embeddings are almost the same for every input")
    assert warned[1:] == ["", "", ""]
    assert capsys.readouterr().err.count("warning: collapse") == 1


def test_steps_per_call_change_no_row(tmp_path):
    for calls in 1, 2:
        train(config(train__steps_per_call=calls), tmp_path / str(calls))
    one, two = (read_metrics(tmp_path / calls) for calls in "12")
    assert [row["step"] for row in one] == [row["step"] for row in two]
    assert_close([row["loss"] for row in one], [row["loss"] for row in two])


def test_accumulation_is_one_step_of_the_optimizer_and_the_method(tmp_path):
    whole, cut = (train(config(train__accumulate=a), tmp_path / str(a)) for a in (1, 4))
    assert int(cut.carry["updates"]) == 8
    assert_close(whole.params, cut.params)  # this method's loss is a mean over rows


def test_refresh_sees_every_row_once_on_its_cadence(tmp_path):
    cadences = {"train__refresh_every": 3, "log_every": 3, "checkpoint__every": 3}
    state = train(config(**cadences, train__steps=9, eval__batch_size=100), tmp_path)
    assert (np.asarray(state.carry["refreshed"]) == 3).all()  # before steps 0, 3 and 6; 1297 is no multiple of 100
    refreshed = [int(state_at(tmp_path, step, config()).carry["refreshed"][0]) for step in saved(tmp_path)]
    assert dict(zip(saved(tmp_path), refreshed)) == {9: 3, 6: 2}  # checkpoint 6 holds the state from before the third


def test_refresh_is_given_what_embed_takes():
    run = run_of(config(eval__batch_size=500))
    with jax.set_mesh(run.mesh):
        given = list(run.every_batch())
    assert [len(batch["index"]) for batch in given] == [500] * 3
    index = np.concatenate([batch["index"] for batch in given])
    np.testing.assert_array_equal(index, [*range(1297), *[-1] * 203])
    images = np.concatenate([batch["image"] for batch in given])[:1297]
    np.testing.assert_allclose(images, run.experiment.preprocess({"image": run.source.images})["image"], atol=1e-6)


def test_refresh_before_the_first_step(tmp_path):
    state = train(config(train__refresh_every=100), tmp_path)
    assert (np.asarray(state.carry["refreshed"]) == 1).all()


def test_what_refresh_replaces_starts_with_fresh_optimizer_state_and_the_rest_keeps_its_own(tmp_path):
    run = run_of(config(train__refresh_every=4))
    with jax.set_mesh(run.mesh):
        state = run.init(run.rng_init)
        with run.feed.items(0, 1) as items:
            for _ in range(2):
                state, _, _ = run.steps(state, run.feed.held, next(items), run.rng)
            before = jax.device_get(state)
            state = run.refresh(state, 4)
            after = jax.device_get(state)
            run.steps(state, run.feed.held, next(items), run.rng)
    moments = lambda state: next(part for part in jax.tree.leaves(state.opt, is_leaf=is_adam) if is_adam(part))
    assert_equal(moments(after).mu["body"], moments(before).mu["body"])
    assert_equal(moments(after).nu["body"], moments(before).nu["body"])
    assert np.abs(moments(before).mu["head"]["kernel"]).max() > 0
    assert not np.asarray(moments(after).mu["head"]["kernel"]).any()
    assert not np.array_equal(after.params["head"]["kernel"], before.params["head"]["kernel"])
    assert_equal(after.params["body"], before.params["body"])
    assert run.steps._cache_size() == 1


def is_adam(part):
    return hasattr(part, "mu")


def test_a_run_with_refresh_resumes_bit_by_bit(tmp_path, monkeypatch):
    made = config(train__refresh_every=4, train__steps=12)
    whole = train(made, tmp_path / "whole")
    monkeypatch.setattr(Stop, "asked", lambda self, call: call == 4)  # at a refresh, which must then not be lost
    assert train(made, tmp_path / "cut") is None
    monkeypatch.undo()
    monkeypatch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
    assert_equal(whole, train(made, tmp_path / "cut"))


def test_frozen_weights_come_from_elsewhere_stay_and_are_stored_once(tmp_path, monkeypatch):
    kernel = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    np.savez(tmp_path / "teacher.npz", **{"net/kernel": kernel})
    made = config(method__teacher=True, init_from={"carry/frozen": f"{tmp_path}/teacher.npz#net"})
    whole = train(made, tmp_path / "whole")
    np.testing.assert_array_equal(whole.carry["frozen"]["kernel"], kernel)
    assert len(list((tmp_path / "whole" / "frozen").iterdir())) == 1

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self, call: call == 3)
        train(made, tmp_path / "cut")
    (tmp_path / "teacher.npz").unlink()  # what a run needs to go on, it has
    assert_equal(whole, train(made, tmp_path / "cut"))


def test_a_stopped_run_writes_no_row_of_its_own(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self, call: call == 3)
        assert train(config(), tmp_path) is None
    assert (steps(tmp_path), saved(tmp_path)) == ([2], [3])
    train(config(), tmp_path)
    assert steps(tmp_path) == [2, 4, 6, 8]


def test_a_run_that_was_stopped_between_two_dispatches_of_the_new_size_says_what_size_would_do(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self, call: call == 3)
        train(config(), tmp_path)
    with pytest.raises(ValueError, match=r"step 3, which train.steps_per_call=2 does not divide; the nearest .* is 1"):
        train(config(train__steps_per_call=2), tmp_path)


def test_the_first_ctrl_c_is_a_request_and_the_second_an_interrupt(capfd):
    before = signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        assert not stop.asked(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step" in capfd.readouterr().err


def test_steps_and_cadences_may_change_and_nothing_else(tmp_path):
    train(config(), tmp_path)
    with pytest.raises(ValueError, match=r"another config \(optim.lr: 0.01 -> 0.02; seed: 0 -> 1\); expected a new"):
        train(config(optim__lr=0.02, seed=1), tmp_path)
    longer = config(train__steps=12, log_every=4, checkpoint__every=6, eval__every=12, train__steps_per_call=2)
    assert int(train(longer, tmp_path).step) == 12
    assert steps(tmp_path) == [2, 4, 6, 8, 12]
    with pytest.raises(ValueError, match=r"is at step 12 already: expected train\.steps=12 or more"):
        train(config(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["train"]["steps"] == 12
