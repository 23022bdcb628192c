"""Barlow Twins against lightly's figures, and the statements of the paper about its cross-correlation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl.method import Time
from jssl.methods.barlow_twins import BarlowTwins, cross_correlation, distance_from_identity
from jssl.optim import optimizer
from tests import oracles
from tests.trajectories import BACKBONE, assert_statistics, close, sgd, train, weights

SMALL = BarlowTwins(BACKBONE, hidden=12, dim=6)
VIEWS = np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)


@jax.jit
def objective(z_a, z_b, redundancy=5e-3):
    on, off = distance_from_identity(cross_correlation(z_a, z_b))
    return on + redundancy * off


def by_hand(z_a, z_b):
    """Eq. 2 as numpy has it, float64."""
    d = z_a.shape[1]
    return np.corrcoef(np.float64(z_a).T, np.float64(z_b).T)[:d, d:]


def test_training_is_lightlys():
    """Five steps of SGD: losses, weights and batch norm. Theirs has a bias in the last layer; no loss depends on it."""
    manifest, tensors = oracles.load("train_barlow")
    params, start = weights(tensors, "model.")
    del params["projector"]["dense2"]["bias"]
    values, state = train(SMALL, sgd(manifest["hyper"]), params, {"stats": start}, tensors["in.x"])
    close(values, tensors["out.losses"])
    params, stats = weights(tensors, "out.final.")
    del params["projector"]["dense2"]["bias"]
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=10, n=8)


def test_loss_and_gradient_are_lightlys():
    manifest, tensors = oracles.load("barlow")
    value, grads = jax.jit(jax.value_and_grad(objective, (0, 1)))(tensors["in.za"], tensors["in.zb"])
    close(value, manifest["scalars"]["loss"])
    close(value, manifest["other_implementations_same_inputs"]["solo barlow_loss_func(scale_loss=1)"])
    for grad, name in zip(grads, "ab"):
        close(grad, tensors[f"grad.z{name}"])


@pytest.mark.parametrize("n, d", [(4, 2), (64, 32), (256, 5)])
def test_cross_correlation_is_numpys(n, d):
    rs = np.random.RandomState(n)
    z_a = 3 * rs.randn(n, d).astype(np.float32) + 5
    z_b = z_a + rs.randn(n, d).astype(np.float32)
    c = jax.jit(cross_correlation)(z_a, z_b)
    np.testing.assert_allclose(c, by_hand(z_a, z_b), atol=1e-4)
    on, off = jax.jit(distance_from_identity)(c)
    np.testing.assert_allclose(on, np.sum((1 - np.diag(c)) ** 2), rtol=1e-5)
    np.testing.assert_allclose(off, np.sum(np.square(c)) - np.sum(np.diag(c) ** 2), rtol=1e-4, atol=1e-5)


def test_scale_and_offset_of_components_do_not_matter():
    rs = np.random.RandomState(2)
    z_a, z_b = rs.randn(2, 32, 6).astype(np.float32)
    np.testing.assert_allclose(objective(z_a * 7 + 2, z_b - 3), objective(z_a, z_b), rtol=1e-4)


def test_decorrelated_twins_have_no_loss_and_collapsed_ones_that_of_their_dimension():
    twins, _ = np.linalg.qr(np.random.RandomState(3).randn(64, 7))
    z = np.linalg.qr(twins - twins.mean(0))[0].astype(np.float32) * 8
    np.testing.assert_allclose(objective(z, z), 0, atol=1e-5)
    np.testing.assert_allclose(objective(np.ones_like(z), np.ones_like(z)), 7, rtol=1e-6)
    copied = np.repeat(z[:, :1], 7, 1)  # one component, said seven times
    np.testing.assert_allclose(objective(copied, copied), 5e-3 * 7 * 6, rtol=1e-3)


def test_loss_survives_bfloat16_and_a_dead_component():
    rs = np.random.RandomState(4)
    z_a, z_b = (jnp.asarray(rs.randn(64, 8), jnp.bfloat16).at[:, 0].set(0) for _ in range(2))
    value, grad = jax.jit(jax.value_and_grad(objective))(z_a, z_b)
    np.testing.assert_allclose(value, objective(z_a.astype(jnp.float32), z_b.astype(jnp.float32)), rtol=1e-6)
    assert np.isfinite(grad.astype(np.float32)).all()


def test_loss_is_that_of_the_embeddings_times_its_scale():
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), {"image": VIEWS})
    run = jax.jit(
        lambda method: method.loss(params, carry, {"image": VIEWS}, jax.random.key(1), Time(0, 9, 1.0)),
        static_argnums=0,
    )
    value, (_, out) = run(SMALL)
    z = out["embedding"]
    assert z.shape == (8, 2, 6)
    assert out["features"].shape == (8, 2, 10)
    np.testing.assert_allclose(value, objective(z[:, 0], z[:, 1]), rtol=1e-5)
    np.testing.assert_allclose(value, out["metrics"]["invariance"] + 5e-3 * out["metrics"]["redundancy"], rtol=1e-5)
    tenth, _ = run(BarlowTwins(BACKBONE, hidden=12, dim=6, scale=0.1))
    np.testing.assert_allclose(tenth, 0.1 * value, rtol=1e-5)


def test_biases_and_norms_of_imagenet_have_their_own_rate_and_neither_decay_nor_trust_ratio():
    optim = configs.load("barlow_twins:imagenet").optim
    ones = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4), "scale": jnp.ones(4)}
    params = {"encoder": {"dense": ones}}
    tx = optimizer(optim, lambda step: 0.2, steps=10)
    moved, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    moved = moved["encoder"]["dense"]
    np.testing.assert_allclose(moved["bias"], -0.0048, rtol=1e-5)
    np.testing.assert_allclose(moved["scale"], -0.0048, rtol=1e-5)
    np.testing.assert_allclose(moved["kernel"], -0.2 * 1e-3, rtol=1e-4)  # |p| / |g| is 1
