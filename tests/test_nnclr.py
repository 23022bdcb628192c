"""The statements of NNCLR about its support set and its positives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jssl.losses import info_nce
from jssl.method import Time
from jssl.methods.nnclr import NNCLR, nearest
from jssl.nets.mlp import MLP
from jssl.nets.net import apply_nets
from jssl.transforms import unit

SMALL = NNCLR(MLP(10, 10), hidden=12, dim=5, predictor_hidden=7, queue=20, temperature=0.3)
VIEWS = {"image": np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)}


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@functools.cache
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


@jax.jit
def loss(params, carry, views=VIEWS):
    return SMALL.loss(params, carry, views, jax.random.key(1), Time(0, 100, 10.0))


def test_support_set_begins_on_the_sphere():
    _, carry = state()
    close(np.linalg.norm(carry["queue"], axis=1), np.ones(20))


def test_nearest_is_the_row_of_the_queue_with_the_largest_cosine():
    rs = np.random.RandomState(1)
    z, queue = unit(rs.randn(6, 5)), unit(rs.randn(9, 5))
    expected = np.asarray(queue)[np.argmin(((np.asarray(z)[:, None] - np.asarray(queue)) ** 2).sum(-1), 1)]
    np.testing.assert_array_equal(nearest(z, queue), expected)


def by_hand(n, p, tau):
    """Cross-entropy of naming the neighbour's own prediction among those of the batch."""
    n, p = (np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (n, p))
    logits = n @ p.T / tau
    return np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))


def test_each_views_neighbour_is_the_positive_of_the_other_views_prediction():
    params, carry = state()
    value, (_, out) = loss(params, carry)
    z = np.asarray(out["embedding"])
    h = jnp.asarray(out["features"]).reshape(16, -1)
    stats = {name: carry["stats"][name] for name in ("projector", "predictor")}
    heads = {name: SMALL.nets[name] for name in stats}
    predictions, _ = apply_nets(heads, params, stats, h)
    p = np.asarray(predictions["predictor"]).reshape(8, 2, -1)
    n1, n2 = (np.asarray(nearest(z[:, v], carry["queue"])) for v in (0, 1))
    close(value, (by_hand(n1, p[:, 1], 0.3) + by_hand(n2, p[:, 0], 0.3)) / 2)


def test_both_views_predictions_are_learned_from():
    """The views swapped, the loss and its gradient are the same: neither half of the loss is held fixed."""
    params, carry = state()
    graded = jax.jit(jax.value_and_grad(lambda params, views: loss(params, carry, views)[0]))
    mirrored = {"image": VIEWS["image"][:, ::-1]}
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(near, graded(params, VIEWS), graded(params, mirrored))


def test_loss_uses_the_queue_of_before_the_push_which_takes_the_first_view():
    params, carry = state()
    value, (after, out) = loss(params, carry)
    np.testing.assert_array_equal(after["queue"][:8], out["embedding"][:, 0])
    np.testing.assert_array_equal(after["queue"][8:], carry["queue"][8:])
    assert int(after["pointer"]) == 8
    again, _ = loss(params, after)
    assert np.abs(value - again) > 1e-4


def test_no_gradient_reaches_the_neighbour_or_the_queue():
    params, carry = state()
    grads = jax.jit(jax.grad(lambda queue: loss(params, {**carry, "queue": queue})[0]))(carry["queue"])
    assert not np.any(grads)
    z = unit(np.random.RandomState(1).randn(6, 5))
    assert not np.any(jax.grad(lambda z: nearest(z, carry["queue"]).sum())(z))


def test_bfloat16_predictions_cost_their_own_rounding_and_no_more():
    rs = np.random.RandomState(2)
    n, p = (jnp.asarray(rs.randn(8, 5), jnp.bfloat16) for _ in range(2))
    half, exact = (jax.jit(info_nce)(a, b, 0.1) for a, b in ((n, p), (n.astype(np.float32), p.astype(np.float32))))
    close(half, exact)
