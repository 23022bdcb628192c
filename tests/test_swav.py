"""SwAV against lightly's figures, and the statements of the paper about its codes, queue and prototypes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl.losses import cross_crops
from jssl.method import Time
from jssl.methods.swav import SwAV, on_sphere
from jssl.optim import optimizer
from jssl.transforms import sinkhorn, unit
from tests import oracles
from tests.collapse import ADAMW, judged
from tests.crops import separately
from tests.trajectories import BACKBONE, assert_statistics, close, sgd, train, weights

SMALL = SwAV(BACKBONE, hidden=12, dim=5, prototypes=7)
QUEUED = dataclasses.replace(SMALL, queue_size=20, queue_start=2.0)
RANDOM = np.random.RandomState(0)
VIEWS = {"image": RANDOM.randn(8, 2, 6).astype(np.float32), "local": RANDOM.randn(8, 3, 6).astype(np.float32)}
START, LATE = Time(0, 100, 10.0), Time(20, 100, 10.0)  # epochs 0 and 2


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


@pytest.fixture(scope="module")
def queued(state):
    """The same networks, a full queue."""
    queue = unit(np.random.RandomState(1).randn(20, 2, 5))
    return state[0], {**state[1], "queue": queue, "pointer": jnp.int32(4)}


def loss(method, params, carry, views=VIEWS, time=START):
    return jax.jit(lambda: method.loss(params, carry, views, jax.random.key(1), time))()


def test_training_with_the_views_normalised_separately_is_lightlys(monkeypatch):
    """Losses, weights and batch norm of five steps; the manifest's prototypes have no bias."""
    monkeypatch.setattr("jssl.methods.swav.apply_crops", separately)
    monkeypatch.setattr("jssl.methods.swav.apply_views", separately)
    manifest, tensors = oracles.load("train_swav")
    c, final = (tensors.pop(f"{prefix}prototypes.weight") for prefix in ("model.", "out.final."))
    params, start = weights(tensors, "model.")
    params["prototypes"] = unit(c)  # theirs are normalised before each step, ours after it
    losses, state = train(SMALL, sgd(manifest["hyper"]), params, {"stats": start}, tensors["in.x"])

    close(losses, tensors["out.losses"])
    params, stats = weights(tensors, "out.final.")
    close(state.params.pop("prototypes"), unit(final))
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=10, n=8)


@pytest.mark.parametrize("views", [2, 5])
def test_loss_and_gradient_are_lightlys(views):
    """With the two large crops alone, and with three small ones."""
    manifest, tensors = oracles.load("swav")
    crops = ["high0", "high1", "low0", "low1", "low2"][:views]
    scores = np.stack([tensors[f"in.{name}"] for name in crops], 1)  # [8, V + L, 6]

    def predict(scores):
        q = SMALL.codes(scores[:, :2], None, {}, START)
        return cross_crops(q, jax.nn.log_softmax(scores / SMALL.tau))

    value, grad = jax.jit(jax.value_and_grad(predict))(scores)
    if views == 2:
        np.testing.assert_allclose(value, tensors["out.loss_two_views_only"][0], rtol=1e-5)
    else:
        np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
        np.testing.assert_allclose(grad, np.stack([tensors[f"grad.{name}"] for name in crops], 1), rtol=1e-4, atol=1e-6)


def test_codes_with_a_queue_are_lightlys():
    """Prototypes that are the axes make the queue's scores its entries."""
    _, tensors = oracles.load("swav")
    scores = np.stack([tensors[f"in.{name}"] for name in ("high0", "high1", "low0", "low1", "low2")], 1)
    carry = {"queue": np.stack([tensors["in.queue0"], tensors["in.queue1"]], 1)}
    q = dataclasses.replace(QUEUED, queue_size=10).codes(scores[:, :2], jnp.eye(6), carry, LATE)
    value = cross_crops(q, jax.nn.log_softmax(scores / SMALL.tau))
    np.testing.assert_allclose(value, tensors["out.loss_with_queue"][0], rtol=1e-5)


def test_every_crop_predicts_the_codes_of_the_other_large_crops(state):
    """By hand, from the embeddings that the loss returns."""
    params, carry = state
    value, (_, out) = loss(SMALL, params, carry)
    scores = out["embedding"] @ params["prototypes"].T
    assert out["embedding"].shape == (8, 5, 5)
    assert out["features"].shape == (8, 5, 10)
    terms = []
    for v in 0, 1:
        q = sinkhorn([scores[:, v]])[0]
        terms += [-jnp.sum(q * jax.nn.log_softmax(scores[:, w] / 0.1), 1).mean() for w in range(5) if w != v]
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-5)


def test_embeddings_and_prototypes_have_unit_length(state):
    params, carry = state
    np.testing.assert_allclose(np.linalg.norm(params["prototypes"], axis=1), 1, rtol=1e-5)
    value, (_, out) = loss(SMALL, params, carry)
    np.testing.assert_allclose(np.linalg.norm(out["embedding"], axis=-1), 1, rtol=1e-5)

    stepped = {**params, "prototypes": 3 * params["prototypes"]}
    np.testing.assert_allclose(loss(SMALL, stepped, carry)[0], value, rtol=1e-5)
    kept, same = SMALL.update(stepped, carry, START)
    close(kept["prototypes"], params["prototypes"])
    assert same is carry
    close(jax.grad(lambda c: on_sphere(c)[0].sum())(params["prototypes"])[0], np.ones(5))


def test_batch_norm_of_the_projector_sees_crops_of_all_sizes(state):
    params, carry = state
    _, (after, out) = loss(SMALL, params, carry)
    seen = (out["features"] @ params["projector"]["dense0"]["kernel"]).reshape(40, 12)
    close(after["stats"]["projector"]["norm0"]["mean"], 0.1 * seen.mean(0))
    close(after["stats"]["projector"]["norm0"]["var"], 0.9 + 0.1 * seen.var(0))


def test_codes_are_balanced_with_the_queue_of_before_this_batch(queued):
    """By hand, at an epsilon and a number of iterations of its own."""
    params, carry = queued
    method = dataclasses.replace(QUEUED, epsilon=0.3, iterations=1)
    value, (_, out) = loss(method, params, carry, time=LATE)
    scores, before = (x @ params["prototypes"].T for x in (out["embedding"], carry["queue"]))
    q = jnp.stack([sinkhorn([scores[:, v], before[:, v]], 0.3, 1)[0] for v in (0, 1)], 1)
    np.testing.assert_allclose(value, cross_crops(q, jax.nn.log_softmax(scores / 0.1)), rtol=1e-5)


def test_queue_takes_the_embeddings_of_each_large_crop(queued):
    params, carry = queued
    _, (after, out) = loss(QUEUED, params, carry)
    assert int(after["pointer"]) == 12
    close(after["queue"][4:12], out["embedding"][:, :2])
    np.testing.assert_array_equal(after["queue"][12:], carry["queue"][12:])


def test_queue_counts_from_its_epoch_on_once_it_is_full(queued):
    queue = queued[1]["queue"]
    for step, counts in (0, 0), (19, 0), (20, 1), (99, 1):
        assert QUEUED.queue_counts(queue, Time(step, 100, 10.0)) == counts
        assert QUEUED.queue_counts(queue.at[-1].set(0), Time(step, 100, 10.0)) == 0


def test_queue_that_does_not_count_changes_nothing(queued):
    params, carry = queued
    alone, early = (loss(method, params, carry)[0] for method in (SMALL, QUEUED))
    late = loss(QUEUED, params, carry, time=LATE)[0]
    np.testing.assert_allclose(early, alone, rtol=1e-6)
    assert np.abs(late - alone) > 1e-4


@pytest.mark.parametrize("variant, steps", [("imagenet", 313), ("cifar10", 390)])
def test_prototypes_alone_do_not_move_at_first(variant, steps):
    """The first epoch of ImageNet has 313 steps of 4096 images, as the authors' script says."""
    config = configs.load(f"swav:{variant}")
    unit_of_warmup = {"imagenet": 1_281_167 / 4096, "cifar10": 50_000 / 256}[variant]
    params = {"encoder": {"kernel": jnp.ones((2, 3))}, "prototypes": jnp.ones((4, 3))}
    tx = optimizer(config.optim, lambda step: 0.1, unit_of_warmup)
    update = jax.jit(tx.update)
    opt = tx.init(params)
    for step in range(steps + 2):
        updates, opt = update(jax.tree.map(lambda x: 0.1 * x, params), opt, params)
        assert np.any(updates["encoder"]["kernel"])
        assert np.any(updates["prototypes"]) == (step >= round(config.optim.groups[0]["frozen_until"] * unit_of_warmup))
    assert step == steps + 1
    assert np.any(updates["prototypes"])


def test_recipe_of_imagenet_is_the_papers():
    config = configs.load("swav:imagenet")
    assert (config.train.batch_size, config.train.epochs) == (4096, 800)
    assert (config.optim.name, config.optim.lr * 16, config.optim.weight_decay) == ("lars", 4.8, 1e-6)
    assert config.optim.lr * 16 * config.optim.end == pytest.approx(0.0048)
    method, views = config.method, config.augment
    assert (method.prototypes, method.dim, method.hidden, method.queue_size) == (3000, 128, 2048, 0)
    assert (method.tau, method.epsilon, method.iterations) == (0.1, 0.05, 3)
    assert (views.views, views.size, views.local_views, views.local_size) == (2, 224, 6, 96)
    assert (views.area, views.local_area) == ((0.14, 1.0), (0.05, 0.14))
    small = configs.load("swav:imagenet_256")
    assert (small.method.queue_size, small.method.queue_start, small.train.batch_size) == (3840, 15, 256)
    assert (small.optim.lr, small.optim.warmup) == (0.6, 0)


def test_bfloat16_encoder_gives_finite_and_close_figures(state):
    params, carry = state
    half = dataclasses.replace(SMALL, encoder=BACKBONE.clone(dtype=jnp.bfloat16))
    value, (after, out) = loss(half, params, carry)
    np.testing.assert_allclose(value, loss(SMALL, params, carry)[0], rtol=2e-2)
    assert out["embedding"].dtype == jnp.float32
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, out)))


def test_features_come_before_the_projector_and_from_running_statistics(state):
    params, carry = state
    embed = jax.jit(lambda x: SMALL.embed(params, carry, {"image": x})["features"])
    close(embed(VIEWS["image"][:4, 0]), embed(VIEWS["image"][:, 0])[:4])
    assert embed(VIEWS["image"][:, 0]).shape == (8, 10)


def test_without_sinkhorn_it_collapses_and_is_told():
    warning, metrics = judged("swav", 20, train__steps=200, **ADAMW)
    assert warning is None
    assert metrics["health/information"] > 0.5
    warning, metrics = judged("swav", 20, train__steps=200, **ADAMW, method__sinkhorn=False)
    assert warning.startswith("collapse")
    assert metrics["health/information"] < 0.05
