"""TiCo against lightly, and the statements of the paper about its memory and its momentum network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jssl.method import Time
from jssl.methods.tico import TiCo, tico
from jssl.nets.mlp import MLP
from jssl.nets.net import apply_nets
from jssl.transforms import unit
from tests import oracles

SMALL = TiCo(MLP(10, 10), hidden=12, dim=5)
VIEWS = {"image": np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)}
TIME = Time(0, 100, 10.0)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@functools.cache
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


@jax.jit
def loss(params, carry):
    return SMALL.loss(params, carry, VIEWS, jax.random.key(1), TIME)


def test_loss_and_gradient_are_lightlys():
    """The manifest says rho = 20; the figures are those of lightly's default, 8."""
    manifest, tensors = oracles.load("tico")
    start = jnp.zeros((16, 16))

    def value(za, zb):
        return tico(unit(za), unit(zb), start, 8.0, manifest["hyper"]["beta"])[0]

    found, grads = jax.jit(jax.value_and_grad(value, (0, 1)))(tensors["in.za"], tensors["in.zb"])
    close(found, manifest["scalars"]["loss"])
    close(grads[0], tensors["grad.za"])
    close(grads[1], tensors["grad.zb"])


def test_bfloat16_embeddings_cost_their_own_rounding_and_no_more():
    rs = np.random.RandomState(3)
    z1, z2 = (jnp.asarray(rs.randn(32, 16), jnp.bfloat16) for _ in range(2))
    half, exact = (
        jax.jit(tico, static_argnums=(3, 4))(unit(a), unit(b), jnp.eye(16) / 16, 20.0, 0.9)[0]
        for a, b in ((z1, z2), (z1.astype(np.float32), z2.astype(np.float32)))
    )
    close(half, exact)


def test_the_first_views_embedding_meets_the_momentum_networks_of_the_second():
    params, carry = state()
    target = jax.tree.map(lambda x: 0.9 * x + 0.01, carry["target"])
    carry = {**carry, "target": target, "covariance": jnp.eye(5) / 5}
    value, (_, out) = loss(params, carry)
    run = lambda params, v: unit(apply_nets(SMALL.nets, params, carry["stats"], VIEWS["image"][:, v])[0]["projector"])
    z1, z2 = run(params, 0), run(target, 1)
    close(out["embedding"], jnp.stack([z1, z2], 1))
    close(value, tico(z1, z2, carry["covariance"], 8.0, 0.9)[0])


def test_the_memory_is_a_running_covariance_of_the_first_views_embeddings():
    params, carry = state()
    _, (once, out) = loss(params, carry)
    z = np.asarray(out["embedding"][:, 0], np.float64)
    close(once["covariance"], 0.1 * z.T @ z / len(z))
    _, (twice, _) = loss(params, once)
    close(twice["covariance"], 0.9 * once["covariance"] + 0.1 * z.T @ z / len(z))


def test_no_gradient_reaches_the_momentum_network_or_the_memory():
    params, carry = state()
    held = {key: carry[key] for key in ("target", "covariance")}
    grads = jax.jit(jax.grad(lambda held: loss(params, {**carry, **held})[0]))(held)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_momentum_network_follows_the_online_network_ever_more_slowly():
    params, carry = state()
    stepped = jax.tree.map(lambda x: x - 0.1, params)
    _, moved = SMALL.update(stepped, carry, TIME)
    jax.tree.map(lambda t, old, p: close(t, 0.99 * old + 0.01 * p), moved["target"], carry["target"], stepped)
    _, last = SMALL.update(stepped, carry, TIME._replace(step=100))
    jax.tree.map(close, last["target"], carry["target"])


def test_one_direction_costs_more_than_many():
    """The covariance contrast of collapsed embeddings is D times that of even ones."""
    even, one = jnp.eye(4).repeat(4, 0), jnp.eye(4)[:1].repeat(16, 0)
    memory = lambda z: jnp.einsum("nd,ne->de", z, z) / len(z)
    contrast = [tico(z, z, memory(z), 1.0, 0.9)[0] for z in (even, one)]
    np.testing.assert_allclose(contrast, [0.25, 1.0], rtol=1e-5)
