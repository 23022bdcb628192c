"""MoCo v3 against mmpretrain's figures, and the statements of the paper about its keys, heads and frozen patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl import health, watch
from jssl.encoder import Encoder, export
from jssl.method import Time
from jssl.methods.mocov3 import MoCoV3, contrast
from jssl.nets.net import apply_nets
from jssl.nets.vit import ViT, sincos_positions
from jssl.optim import optimizer
from jssl.sharding import path_of
from tests import oracles
from tests.contract import trained
from tests.test_experiments import built, count
from tests.trajectories import BACKBONE, close

SMALL = MoCoV3(BACKBONE, hidden=12, dim=5, temperature=0.5, m=0.9)
VIEWS = {"image": np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)}
START = Time(0, 100, 10.0)
graded = jax.jit(jax.value_and_grad(contrast, (0, 1)))


@pytest.fixture(scope="module")
def state():
    """(params, carry), the target moved away from the online network."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), VIEWS)
    return params, {**carry, "target": jax.tree.map(lambda x: 0.9 * x + 0.01, carry["target"])}


@jax.jit
def loss(params, carry, views=VIEWS):
    return SMALL.loss(params, carry, views, jax.random.key(1), START)


def test_loss_and_gradient_are_mmpretrains():
    manifest, tensors = oracles.load("mocov3")
    tau = manifest["hyper"]["temperature"]
    halves = [graded(tensors[f"in.q{i}"], tensors[f"in.k{3 - i}"], tau) for i in (1, 2)]
    np.testing.assert_allclose(sum(half for half, _ in halves), manifest["scalars"]["loss"], rtol=1e-6)
    for i in (1, 2):
        close(halves[i - 1][1][0], tensors[f"grad.q{i}"])


@pytest.mark.parametrize(("n", "d", "tau"), [(1, 4, 0.2), (7, 32, 0.07), (64, 256, 1.0)])
def test_loss_is_equation_1_times_two_tau_at_any_shape(n, d, tau):
    rng = np.random.RandomState(n)
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.randn(2, n, d))
    scores = np.exp(q @ k.T / tau)
    expected = 2 * tau * np.mean(-np.log(np.diag(scores) / scores.sum(1)))
    value, _ = graded(jnp.asarray(3 * q, jnp.float32), jnp.asarray(2 * k, jnp.float32), tau)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_loss_survives_bfloat16():
    q, k = np.random.RandomState(0).randn(2, 16, 256)
    value, (grad, _) = graded(jnp.asarray(q, jnp.bfloat16), jnp.asarray(k, jnp.bfloat16), 0.2)
    exact, _ = graded(*(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32) for x in (q, k)), 0.2)
    np.testing.assert_allclose(value, exact, rtol=1e-3)
    assert np.isfinite(grad.astype(np.float32)).all()


def test_no_gradient_reaches_keys_and_momentum_encoder(state):
    params, carry = state
    _, (to_q, to_k) = graded(*np.random.RandomState(0).randn(2, 4, 8).astype(np.float32), 0.2)
    assert np.any(to_q)
    assert not np.any(to_k)
    grads = jax.grad(lambda target: loss(params, {**carry, "target": target})[0])(carry["target"])
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_each_view_finds_the_key_of_the_other(state):
    """By hand, from the networks' outputs; swapping the views changes nothing."""
    params, carry = state
    value, (_, out) = loss(params, carry)
    q = out["embedding"]
    key = lambda v: apply_nets(SMALL.target, carry["target"], carry["target_stats"], VIEWS["image"][:, v])[0]
    k1, k2 = (key(v)["projector"] for v in (0, 1))
    np.testing.assert_allclose(value, contrast(q[:, 0], k2, 0.5) + contrast(q[:, 1], k1, 0.5), rtol=1e-5)
    again, (_, mirrored) = loss(params, carry, {"image": VIEWS["image"][:, ::-1]})
    np.testing.assert_allclose(value, again, rtol=1e-5)
    close(out["embedding"], mirrored["embedding"][:, ::-1])
    assert np.abs(value - loss(params, {**carry, "target": SMALL.of_target(params)})[0]) > 1e-4


def test_both_views_queries_are_learned_from(state):
    """The views swapped, the gradient is the same: neither half of the loss is held fixed."""
    params, carry = state
    grad = jax.jit(jax.grad(lambda params, views: loss(params, carry, views)[0]))
    mirrored = {"image": VIEWS["image"][:, ::-1]}
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(near, grad(params, VIEWS), grad(params, mirrored))


def test_momentum_encoder_is_an_average_without_the_predictor(state):
    params, carry = state
    stepped = jax.tree.map(lambda x: x - 0.1, params)
    kept, moved = SMALL.update(stepped, carry, START)
    jax.tree.map(np.testing.assert_array_equal, kept, stepped)
    expected = jax.tree.map(lambda t, p: 0.9 * t + 0.1 * p, carry["target"], SMALL.of_target(stepped))
    jax.tree.map(close, moved["target"], expected)
    assert set(moved["target"]) == {"encoder", "projector"}


def test_statistics_of_the_momentum_encoder_are_its_own_and_move(state):
    params, carry = state
    _, (after, _) = loss(params, carry)
    for name in ("stats", "target_stats"):
        assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(after[name]), jax.tree.leaves(carry[name])))
    online, target = after["stats"]["projector"]["norm0"], after["target_stats"]["projector"]["norm0"]
    assert np.abs(online["mean"] - target["mean"]).max() > 1e-4


def test_momentum_goes_from_its_start_to_one():
    method = MoCoV3(BACKBONE)
    values = np.array([method.momentum(Time(step, 100, 1.0)) for step in range(101)])
    np.testing.assert_allclose(values[[0, 50, 100]], [0.99, 0.995, 1.0], atol=1e-6)
    assert (np.diff(values) > -1e-7).all()


def test_heads_have_batch_norm_after_every_layer_and_no_bias(state):
    params, carry = state
    layers = {"projector": 3, "predictor": 2}
    for name, depth in layers.items():
        head = params[name]
        assert set(carry["stats"][name]) == {f"norm{i}" for i in range(depth)}
        assert all(set(head[f"dense{i}"]) == {"kernel"} for i in range(depth))
        assert f"norm{depth - 1}" not in head  # the last has neither scale nor bias
    out = loss(params, carry)[1][1]["embedding"]
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)


def test_collapse_has_the_loss_of_guessing(state):
    value, _ = loss(*state, {"image": np.ones_like(VIEWS["image"])})
    np.testing.assert_allclose(value, 2 * 2 * 0.5 * np.log(8), rtol=1e-4)


def test_features_come_before_the_projector_and_from_running_statistics(state):
    params, carry = state
    embed = jax.jit(lambda x: SMALL.embed(params, carry, {"image": x})["features"])
    close(embed(VIEWS["image"][:4, 0]), embed(VIEWS["image"][:, 0])[:4])
    assert embed(VIEWS["image"][:, 0]).shape == (8, 10)


def test_healthy_steps_raise_no_warning():
    assert not watch.findings([jax.device_get(jax.jit(health.measures)(trained("mocov3").out))])


def test_exported_vision_transformer_gives_the_features_of_training(tmp_path):
    """It has no batch statistics to export."""
    one = trained("mocov3")
    export(
        tmp_path, one.config, one.method, one.experiment.preprocess, one.state.params, one.state.carry, one.run.source
    )
    images, rows = one.run.source.images[:4], np.arange(4)
    np.testing.assert_allclose(Encoder(tmp_path)(images), one.embed(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["demo", "imagenet", "imagenet_vit_small", "folder"])
def test_patch_projection_stays_as_it_was_drawn_and_all_else_moves(variant):
    """Under the recipe's optimizer, decay included, over several steps."""
    optim = configs.load(f"mocov3:{variant}").optim
    optim.warmup = 0.0
    tx = optimizer(optim, lambda step: 0.1)
    method = MoCoV3(ViT(16, 1, 2, patch=4, positions="sincos"), hidden=8, dim=4)
    views = {"image": np.zeros((2, 2, 8, 8, 1), np.float32)}
    params, _ = jax.jit(method.init)(jax.random.key(0), views)
    start, opt = params, tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        updates, opt = tx.update(grads, opt, params)
        params = jax.tree.map(jnp.add, params, updates)
    pairs = zip(jax.tree_util.tree_leaves_with_path(start), jax.tree.leaves(params))
    still = {path_of(path) for (path, before), after in pairs if np.array_equal(before, after)}
    assert still == {"encoder/patch/kernel", "encoder/patch/bias"}


def test_positions_are_fixed_sines_and_cosines():
    for variant in ("demo", "imagenet", "imagenet_vit_small", "folder"):
        assert configs.load(f"mocov3:{variant}").encoder.positions == "sincos"
    assert "positions" not in built("mocov3", "imagenet")[2].params["encoder"]
    assert sincos_positions(14, 14, 768).shape == (196, 768)


def test_recipe_of_vision_transformers_is_the_authors():
    config, experiment, state = built("mocov3", "imagenet")
    optim, method = config.optim, experiment.method
    assert count(state.params["encoder"]) == 85_798_656 - 197 * 768  # ViT-B/16 without its table of positions
    assert (method.hidden, method.dim, method.depth, method.temperature, method.m) == (4096, 256, 3, 0.2, 0.99)
    assert (optim.name, optim.weight_decay, optim.decay_all) == ("adamw", 0.1, True)
    assert (config.train.batch_size, config.train.epochs, optim.warmup) == (4096, 300.0, 40.0)
    assert float(experiment.rate(round(40 * config.train.per_epoch))) == pytest.approx(2.4e-3, rel=1e-4)
    first, second = experiment.augment.distort[0]
    assert (first.blur, first.solarise, second.blur, second.solarise) == (1.0, 0.0, 0.1, 0.2)
    assert first.jitter == second.jitter == (0.4, 0.4, 0.2, 0.1)
    assert experiment.augment.crops[0].area == (0.08, 1.0)


def test_recipe_of_the_residual_network_is_the_authors():
    config, longer = (configs.load(f"mocov3:{name}") for name in ("imagenet_resnet50", "imagenet_resnet50_1000"))
    assert config.encoder.name.endswith(":resnet50")
    assert (config.method.depth, config.method.temperature, config.method.m) == (2, 1.0, 0.99)
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("lars", 0.3, 1e-6)
    assert (config.train.epochs, config.train.batch_size, config.optim.warmup) == (300.0, 4096, 10.0)
    assert config.augment.area == (0.2, 1.0)
    assert not config.optim.groups
    assert (longer.train.epochs, longer.optim.weight_decay, longer.method.m) == (1000.0, 1.5e-6, 0.996)
