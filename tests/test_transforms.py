"""Sinkhorn against lightly's, balanced together over devices and blocks; what a ring buffer holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.sharding import ROWS, make_mesh
from jssl.transforms import push, sinkhorn
from tests import oracles

SCORES = np.random.RandomState(0).uniform(-1, 1, (64, 10)).astype(np.float32)
codes = jax.jit(sinkhorn, static_argnames="iterations")


def by_hand(scores, epsilon, iterations):
    """The matrix itself, columns then rows, in float64."""
    q = np.exp(np.float64(scores) / epsilon)
    for _ in range(iterations):
        q /= q.sum(0)
        q /= q.sum(1, keepdims=True)
    return q


def test_codes_are_lightlys():
    manifest, tensors = oracles.load("swav")
    hyper = manifest["hyper"]
    ours = codes([tensors["in.high0"]], hyper["sinkhorn_epsilon"], iterations=hyper["sinkhorn_iterations"])
    np.testing.assert_allclose(ours[0], tensors["out.sinkhorn_high0"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_each_iteration_balances_prototypes_then_rows(iterations):
    ours = codes([SCORES], 0.3, iterations=iterations)[0]
    np.testing.assert_allclose(ours, by_hand(SCORES, 0.3, iterations), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(ours.sum(1), 1, rtol=1e-5)


def test_prototypes_have_equal_shares_when_converged():
    shares = codes([SCORES], 0.05, iterations=300)[0].sum(0)
    np.testing.assert_allclose(shares, len(SCORES) / SCORES.shape[1], rtol=1e-3)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6])
def test_a_tiny_epsilon_does_not_overflow(epsilon):
    """exp(1 / epsilon) is far beyond float32; the codes become hard assignments."""
    ours = np.asarray(codes([SCORES], epsilon)[0])
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours.sum(1), 1, rtol=1e-2)
    assert (ours.max(1) > 0.99).mean() > 0.95


def test_bfloat16_scores_are_balanced_in_float32():
    ours = codes([jnp.asarray(SCORES, jnp.bfloat16)])[0]
    assert ours.dtype == jnp.float32
    exact = codes([np.asarray(jnp.asarray(SCORES, jnp.bfloat16), np.float32)])[0]
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-7)


def test_blocks_are_balanced_as_if_joined():
    joined = codes([SCORES])[0]
    for cuts in [40], [10, 40]:
        np.testing.assert_allclose(np.concatenate(codes(np.split(SCORES, cuts))), joined, rtol=1e-4, atol=1e-7)


def test_a_block_of_weight_0_is_absent():
    batch, queue = SCORES[:40], SCORES[40:]
    alone, both = codes([batch])[0], codes([batch, queue])[0]
    np.testing.assert_allclose(codes([batch, queue], weights=[1.0, 0.0])[0], alone, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(codes([batch, queue], weights=[1.0, 1.0])[0], both, rtol=1e-5, atol=1e-7)
    assert np.abs(alone - both).max() > 0.01


def test_no_gradient_passes():
    grads = jax.grad(lambda x: jnp.sum(sinkhorn([x])[0] ** 2))(SCORES)
    assert not np.any(grads)


def test_eight_devices_balance_as_one_does():
    """The batch lies on all devices, the queue on each; sums over rows are all that they exchange."""
    batch, queue = SCORES[:40], SCORES[40:]
    mesh = make_mesh(8, 1)
    with jax.set_mesh(mesh):
        blocks = [jax.device_put(batch, NamedSharding(mesh, P(ROWS))), jax.device_put(queue, NamedSharding(mesh, P()))]
        program = jax.jit(sinkhorn, out_shardings=NamedSharding(mesh, P(ROWS))).lower(blocks).compile()
        many = program(blocks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), many, codes([batch, queue]))
    assert not any(kind in program.as_text() for kind in ("all-gather(", "all-to-all(", "collective-permute("))


@pytest.mark.parametrize("size", [8, 10, 16])
@pytest.mark.parametrize("n", [4, 8, 12, 40])
def test_queue_holds_the_last_rows_the_oldest_overwritten_first(n, size):
    """Also where batches do not divide the queue, and where one batch is more than the queue."""
    queue, pointer = jnp.full((size, 2), -1.0), jnp.int32(0)
    pushed = np.zeros((0, 2))
    for step in range(5):
        batch = (100 * step + np.arange(n))[:, None] * np.ones(2)
        queue, pointer = jax.jit(push)(queue, pointer, batch)
        pushed = np.concatenate([pushed, batch])
        kept = pushed[-size:]
        np.testing.assert_array_equal(np.sort(queue[queue[:, 0] >= 0], 0), kept)
        if len(pushed) >= size:  # the oldest lies where the next row goes
            np.testing.assert_array_equal(np.roll(queue, -int(pointer), 0), kept)


def test_queue_keeps_its_type_and_stops_the_gradient():
    rows = jnp.ones((4, 2), jnp.bfloat16)
    queue, pointer = push(jnp.zeros((8, 2)), jnp.int32(0), rows)
    assert (queue.dtype, pointer.dtype) == (jnp.float32, jnp.int32)
    assert not np.any(jax.grad(lambda rows: push(jnp.zeros((8, 2)), jnp.int32(0), rows)[0].sum())(jnp.ones((4, 2))))
