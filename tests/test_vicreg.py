"""VICReg against lightly's figures, and the statements of the paper about its three terms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.method import Time
from jssl.methods.vicreg import VICReg, distance, shared, spread_lacking
from tests import oracles
from tests.collapse import judged
from tests.trajectories import BACKBONE, assert_statistics, close, sgd, train, weights

SMALL = VICReg(BACKBONE, hidden=12, dim=6)
VIEWS = np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)


@jax.jit
def objective(z, z_prime, variance=25.0):
    v, c = (term(z) + term(z_prime) for term in (spread_lacking, shared))
    return 25 * distance(z, z_prime) + variance * v + c


def test_training_of_half_the_variance_is_lightlys():
    """Five steps of SGD: losses, weights and batch norm. Theirs halves the variance term, as the authors' code does;
    their last layer has a bias, which no term depends on."""
    manifest, tensors = oracles.load("train_vicreg")
    params, start = weights(tensors, "model.")
    del params["projector"]["dense2"]["bias"]
    method = dataclasses.replace(SMALL, variance=12.5)
    values, state = train(method, sgd(manifest["hyper"]), params, {"stats": start}, tensors["in.x"])
    close(values, tensors["out.losses"])
    params, stats = weights(tensors, "out.final.")
    del params["projector"]["dense2"]["bias"]
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=10, n=8)


def test_loss_is_solo_learns_and_with_half_the_variance_lightlys():
    manifest, tensors = oracles.load("vicreg")
    z = tensors["in.za"], tensors["in.zb"]
    close(objective(*z), manifest["other_implementations_same_inputs"]["solo (variance term NOT halved)"])
    value, grads = jax.jit(jax.value_and_grad(objective, (0, 1)))(*z, 12.5)
    close(value, manifest["scalars"]["loss"])
    for grad, name in zip(grads, "ab"):
        close(grad, tensors[f"grad.z{name}"])


@pytest.mark.parametrize("n, d", [(3, 2), (64, 32), (256, 5)])
def test_terms_are_their_definitions(n, d):
    rs = np.random.RandomState(n)
    z, other = (0.8 * rs.randn(n, d) + 4 for _ in range(2))
    covariance = np.cov(z.T)
    spread = np.sqrt(np.diag(covariance) + 1e-4)
    assert (spread < 1).any()
    off = covariance[~np.eye(d, dtype=bool)]
    z, other = z.astype(np.float32), other.astype(np.float32)
    np.testing.assert_allclose(jax.jit(spread_lacking)(z), np.maximum(1 - spread, 0).mean(), rtol=1e-4)
    np.testing.assert_allclose(jax.jit(shared)(z), np.sum(off**2) / d, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(distance)(z, other), np.mean((z - other) ** 2), rtol=1e-5)


def test_spread_is_asked_for_up_to_one_and_not_beyond():
    wide = 3 * np.random.RandomState(1).randn(64, 4).astype(np.float32)
    assert jax.jit(spread_lacking)(wide) == 0
    np.testing.assert_allclose(jax.jit(spread_lacking)(np.ones((64, 4), np.float32)), 1 - 1e-2, rtol=1e-5)


def test_loss_survives_bfloat16_and_constant_components():
    rs = np.random.RandomState(2)
    z, other = (jnp.asarray(rs.randn(64, 8), jnp.bfloat16).at[:, 0].set(0) for _ in range(2))
    value, grad = jax.jit(jax.value_and_grad(objective))(z, other)
    np.testing.assert_allclose(value, objective(z.astype(jnp.float32), other.astype(jnp.float32)), rtol=1e-5)
    assert np.isfinite(grad.astype(np.float32)).all()


def test_loss_is_the_weighted_sum_of_the_terms_that_it_reports():
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), {"image": VIEWS})
    method = dataclasses.replace(SMALL, invariance=2.0, variance=3.0, covariance=5.0)
    run = jax.jit(lambda: method.loss(params, carry, {"image": VIEWS}, jax.random.key(1), Time(0, 9, 1.0)))
    value, (_, out) = run()
    z, z_prime = out["embedding"][:, 0], out["embedding"][:, 1]
    assert z.shape == (8, 6)
    assert out["features"].shape == (8, 2, 10)
    terms = distance(z, z_prime), *(term(z) + term(z_prime) for term in (spread_lacking, shared))
    for name, term in zip(("invariance", "variance", "covariance"), terms, strict=True):
        np.testing.assert_allclose(out["metrics"][name], term, rtol=1e-5)
    np.testing.assert_allclose(value, 2 * terms[0] + 3 * terms[1] + 5 * terms[2], rtol=1e-5)


@pytest.mark.parametrize("ablation", [{}, {"method__variance": 0.0}], ids=str)
def test_it_collapses_without_the_variance_term(ablation):
    warning, _ = judged("vicreg", 100, method__depth=3, optim__lr=0.05, **ablation)
    assert bool(warning) == bool(ablation)
