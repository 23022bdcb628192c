"""The online probe learns beside a method, which does not notice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl import train as loop
from jssl.checkpoint import read_arrays
from jssl.encoder import Encoder
from jssl.experiment import prepare
from jssl.method import LABELS
from jssl.probe import Probed, accuracy, classify, own
from jssl.train import train
from jssl.writers import read_metrics
from tests import methods
from tests.contract import Trained, assert_close, assert_equal, assert_probe_changes_nothing, make_run

ON = 0.5  # eval.probe_lr


@functools.cache
def run(mesh=(1, 1)):
    """Four steps of SimCLR with a probe."""
    return Trained("simclr", mesh, **{"eval.probe_lr": ON})


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("byol", {"train.accumulate": 4}),
        ("simclr", {"optim.clip": 0.1, "optim.groups": ({"pattern": "bias$", "lr_scale": 2.0},)}),
    ],
    ids=["accumulating", "clipped, with groups"],
)
def test_the_method_moves_as_without_a_probe(name, overrides):
    """The contract has the same of every method, without clipping and accumulation."""
    assert_probe_changes_nothing(
        Trained(name, (1, 1), **overrides), Trained(name, (1, 1), **overrides, **{"eval.probe_lr": ON})
    )


def test_the_probe_learns_the_labels_of_the_rows():
    probed = run()
    assert_equal(probed.end.carry[LABELS], probed.run.source.labels)
    assert np.abs(probed.end.params["probe"]["kernel"]).max() > 0
    batch = {name: np.asarray(x) for name, x in probed.views.items()}
    loss = lambda state: probed.method.loss(state.params, state.carry, batch, jax.random.key(0), probed.experiment.time)
    before, after = (loss(state)[1][1] for state in (probed.start, probed.end))
    assert before["metrics"]["probe/loss"] == pytest.approx(np.log(10), rel=1e-5)
    assert after["metrics"]["probe/loss"] < before["metrics"]["probe/loss"]
    of_rows = jnp.asarray(probed.run.source.labels[batch["index"]])
    expected = classify(probed.end.params["probe"], after["features"], of_rows)
    np.testing.assert_allclose(
        [after["metrics"][f"probe/{name}"] for name in ("loss", "accuracy")], expected, rtol=1e-5
    )


def test_the_probe_is_what_a_linear_classifier_on_all_views_is():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(6, 2, 5)).astype(np.float32), np.array([0, 2, -1, 1, -1, 2])
    probe = {"kernel": rng.normal(size=(5, 3)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    logits = (x @ probe["kernel"] + probe["bias"])[labels >= 0].reshape(-1, 3).astype(np.float64)
    y = labels[labels >= 0].repeat(2)
    crosses = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), y]
    loss, right = classify(probe, jnp.asarray(x), jnp.asarray(labels))
    assert loss == pytest.approx(crosses.mean(), rel=1e-5)
    assert right == pytest.approx((logits.argmax(1) == y).mean())
    assert accuracy(probe, x[:, 0], labels) == pytest.approx((logits[::2].argmax(1) == y[::2]).mean())


def test_rows_without_a_label_do_not_count():
    probe = {"kernel": jnp.ones((5, 3)), "bias": jnp.zeros(3)}
    x, labels = jnp.ones((4, 2, 5)), jnp.full(4, -1)
    loss, grads = jax.value_and_grad(lambda probe: classify(probe, x, labels)[0])(probe)
    assert loss == 0
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads))
    assert classify(probe, x.astype(jnp.bfloat16), labels.at[0].set(1))[0].dtype == jnp.float32


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)], ids=["8 devices", "2 x 4, sharded parameters"])
def test_number_of_devices_changes_nothing(mesh):
    one, many = run(), run(mesh)
    assert_close(one.losses, many.losses)
    assert_close(one.end, many.end)
    budget = max(many.out["embedding"].size, max(x.size for x in jax.tree.leaves(many.state.params)))
    assert {kind for kind, _ in many.collectives()} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert all(size <= budget for kind, size in many.collectives() if kind == "all-gather")


def test_it_has_its_own_rate_and_no_decay_whatever_the_method_has():
    config = {"optim.name": "lars", "optim.weight_decay": 0.1, "optim.scale": "sqrt", "optim.lr": 3.0}
    tx = make_run("simclr", **config, **{"eval.probe_lr": 0.4, "train.batch_size": 64}).experiment.tx
    params = {"encoder": {"kernel": jnp.ones((3, 3))}, "probe": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
    grads = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["probe"]["kernel"], -0.4 * 64 / 256 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(updates["probe"]["bias"], -0.4 * 64 / 256 * 0.5, rtol=1e-6)


def test_a_run_shows_the_probe_exports_the_encoder_alone_and_resumes(tmp_path, monkeypatch):
    overrides = {"eval.probe_lr": ON, "log_every": 2, "eval.every": 4, "checkpoint.every": 4, "train.steps": 8}
    whole = train(configs.load("simclr:tiny", overrides), tmp_path / "whole")
    rows = read_metrics(tmp_path / "whole")
    assert all(0 <= row["probe/accuracy"] <= 1 and row["probe/loss"] > 0 for row in rows)
    assert "online probe on 10 classes" in (tmp_path / "whole" / "config.json").read_text()

    assert not [name for name in np.load(tmp_path / "whole" / "encoder" / "weights.npz") if "probe" in name]
    images = np.asarray(make_run("simclr").source.images[:4])
    assert Encoder(tmp_path / "whole")(images).shape == (4, whole.params["probe"]["kernel"].shape[0])

    class Interrupted(loop.Stop):
        def asked(self, call):
            return call == 3

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Stop", Interrupted)
        assert train(configs.load("simclr:tiny", overrides), tmp_path / "halves") is None
    train(configs.load("simclr:tiny", overrides), tmp_path / "halves")
    one, two = (read_arrays(tmp_path / name / "checkpoints" / "8" / "state") for name in ("whole", "halves"))
    assert_equal(one, two)


def test_refresh_and_update_are_the_methods_own():
    def states(**overrides):
        config, source = configs.complete(methods.config(**overrides)), make_run("simclr").source
        config, _ = loop.fill_config(config, source, jax.devices()[:1])
        mesh = loop.make_mesh(devices=jax.devices()[:1])
        with jax.set_mesh(mesh):
            made = loop.Run(config, source, mesh, None)
            return made, jax.device_get(made.refresh(made.begin(), 0))

    (_, alone), (made, probed) = states(), states(eval__probe_lr=ON)
    assert_equal(alone.params, own(probed.params))
    assert_equal(alone.carry, {name: x for name, x in probed.carry.items() if name != LABELS})
    assert_equal(probed.carry[LABELS], made.source.labels)
    method, time = made.experiment.method, made.experiment.time
    params, carry = method.update(probed.params, probed.carry, time)
    assert_equal((probed.params["probe"], probed.carry["updates"] + 1), (params["probe"], carry["updates"]))


def test_encoder_of_a_probed_run_starts_another(tmp_path):
    overrides = {"train.steps": 4, "eval.every": 0, "checkpoint.every": 4}
    train(configs.load("simclr:tiny", {**overrides, "eval.probe_lr": ON}), tmp_path / "one")
    taken = {"init_from.params/encoder": str(tmp_path / "one")}
    for probe_lr in 0.0, ON:
        config = configs.load("byol:tiny", {**overrides, **taken, "eval.probe_lr": probe_lr})
        assert train(config, tmp_path / f"other-{probe_lr}") is not None


def test_without_labels_there_is_no_probe():
    config = make_run("simclr", **{"eval.probe_lr": ON}).config
    source = make_run("simclr").source
    for labels in None, np.zeros(len(source), np.int32):
        source = data.Source(**{**vars(source), "labels": labels})
        assert not isinstance(prepare(config, source).method, Probed)


def test_a_method_with_a_probe_of_its_own_or_no_features_is_refused():
    class Other(methods.Clusters):
        def init(self, rng, views):
            params, carry = super().init(rng, views)
            return {**params, "probe": {}}, carry

    class Featureless(methods.Clusters):
        def loss(self, *args):
            loss, (carry, out) = super().loss(*args)
            return loss, (carry, {"metrics": out["metrics"]})

    views = {"image": jnp.zeros((2, 2, 4, 4, 1)), "index": jnp.zeros(2, jnp.int32)}
    for inner, message in (Other(None), "has a 'probe'"), (Featureless(None), "no features"):
        with pytest.raises(ValueError, match=message):
            Probed(inner, 10, 5).init(jax.random.key(0), views)
