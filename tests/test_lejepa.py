"""SIGReg against its definition, and the statements of LeJEPA: no heuristics, and no collapse."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.method import Time
from jssl.methods.lejepa import LeJEPA, sigreg
from jssl.nets.mlp import MLP
from tests.collapse import judged

SMALL = LeJEPA(MLP(10, 10), hidden=12, dim=5, slices=7)


def by_hand(x, directions, knots, t_max):
    """Algorithm 1 in complex numbers, float64. x: [N, D] -> []."""
    a = directions / np.linalg.norm(directions, axis=0)
    t = np.linspace(-t_max, t_max, knots)
    empirical = np.exp(1j * t * (x @ a)[..., None]).mean(0)  # [S, T]
    error = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
    return np.mean(np.trapezoid(error, t, axis=1)) * len(x)


@pytest.mark.parametrize("n, d, slices, knots, t_max", [(8, 3, 5, 17, 5.0), (64, 16, 9, 16, 3.0), (2, 1, 1, 5, 1.0)])
def test_sigreg_is_its_definition(n, d, slices, knots, t_max):
    rs = np.random.RandomState(0)
    z, directions = rs.randn(n, 2, d) * 2 + 1, rs.randn(d, slices)
    found = jax.jit(sigreg, static_argnums=(2, 3))(z, directions, knots, t_max)
    expected = [by_hand(z[:, v], directions, knots, t_max) for v in (0, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_sigreg_of_a_gaussian_is_small_and_of_all_else_larger():
    rs = np.random.RandomState(1)
    normal, directions = rs.randn(4096, 1, 8).astype(np.float32), rs.randn(8, 64)
    found = jax.jit(lambda z: sigreg(z, directions)[0])
    least = found(normal)
    assert least < 2  # its mean under the Gaussian does not depend on N
    for other in normal * 0.5, normal * 2, normal + 1, np.sign(normal), normal * [0.0] + normal[..., :1], 0 * normal:
        assert found(other) > 10 * least


def test_bfloat16_embeddings_cost_their_own_rounding_and_no_more():
    rs = np.random.RandomState(2)
    z, directions = jnp.asarray(rs.randn(32, 2, 8), jnp.bfloat16), rs.randn(8, 16)
    found = jax.jit(lambda z: sigreg(z, directions))
    np.testing.assert_allclose(found(z), found(z.astype(jnp.float32)), rtol=1e-6)


@functools.cache
def crops():
    rs = np.random.RandomState(0)
    return {"image": rs.randn(8, 2, 6).astype(np.float32), "local": rs.randn(8, 3, 6).astype(np.float32)}


def test_every_view_is_drawn_to_the_mean_of_the_large_ones():
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), crops())
    value, (_, out) = jax.jit(lambda *s: SMALL.loss(*s, crops(), jax.random.key(1), Time(0, 9, 1.0)))(params, carry)
    z = np.asarray(out["embedding"])
    assert z.shape == (8, 5, 5)
    prediction = np.mean((z - z[:, :2].mean(1, keepdims=True)) ** 2)
    np.testing.assert_allclose(out["metrics"]["prediction"], prediction, rtol=1e-5)
    np.testing.assert_allclose(value, 0.05 * out["metrics"]["sigreg"] + 0.95 * prediction, rtol=1e-5)


def test_nothing_pulls_on_all_views_at_once():
    """No stop-gradient on the mean either: moving all embeddings alike moves it too, and the prediction stays."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), crops())
    alone = dataclasses.replace(SMALL, lam=0.0)
    run = lambda params: alone.loss(params, carry, crops(), jax.random.key(1), Time(0, 9, 1.0))[0]
    last = jax.jit(jax.grad(run))(params)["projector"]["dense2"]
    np.testing.assert_allclose(last["bias"], 0, atol=1e-6)
    assert np.abs(last["kernel"]).max() > 1e-3


def test_sigreg_is_of_every_view_along_directions_drawn_anew_at_each_step():
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), crops())

    @functools.partial(jax.jit, static_argnums=0)
    def measured(method, views, seed):
        out = method.loss(params, carry, views, jax.random.key(seed), Time(0, 9, 1.0))[1][1]
        return out["metrics"]["sigreg"]

    found = measured(SMALL, crops(), 1)
    assert np.abs(found - measured(SMALL, crops(), 2)) > 1e-4
    for size, x in crops().items():
        assert np.abs(found - measured(SMALL, {**crops(), size: x**2}, 1)) > 1e-4
    for fields in {"knots": 5}, {"t_max": 2.0}:
        assert np.abs(found - measured(dataclasses.replace(SMALL, **fields), crops(), 1)) > 1e-4


def test_a_gradient_flows_through_every_view():
    """No stop-gradient: moving any crop moves the loss's gradient with respect to that crop."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), crops())
    grads = jax.jit(jax.grad(lambda v: SMALL.loss(params, carry, v, jax.random.key(1), Time(0, 9, 1.0))[0]))(crops())
    for crop in grads.values():
        assert np.abs(np.asarray(crop)).max(axis=(0, 2)).all()


def test_collapse_is_caught_without_the_regulariser_and_there_is_none_with_it():
    adam = {"optim__name": "adamw", "optim__lr": 0.03}
    assert judged("lejepa", 200, **adam)[0] is None
    assert "collapse" in judged("lejepa", 200, method__lam=0.0, **adam)[0]


def test_hyper_parameters_are_the_papers():
    fields = {field.name: field.default for field in dataclasses.fields(LeJEPA)}
    assert (fields["lam"], fields["slices"], fields["knots"], fields["t_max"]) == (0.05, 1024, 17, 5.0)
