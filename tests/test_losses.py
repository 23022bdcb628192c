"""The losses that methods share, against lightly's and mmpretrain's, and what they cost on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.losses import info_nce, nt_xent
from jssl.sharding import ROWS, make_mesh
from tests import oracles
from tests.oracles import make_torch

graded = jax.jit(jax.value_and_grad(nt_xent), static_argnums=2)
info_nce_graded = jax.jit(jax.value_and_grad(info_nce, (0, 1)))


def by_hand(z, temperature, decoupled=False):
    """Equation 1, one row at a time, in float64: z [N, V, D]. decoupled: without the row's own image below the line."""
    n, v, _ = z.shape
    z = z.astype(np.float64) / np.linalg.norm(z, axis=-1, keepdims=True)
    rows = [(i, j) for i in range(n) for j in range(v)]
    total = 0.0
    for i, j in rows:
        similarity = {(k, w): z[i, j] @ z[k, w] / temperature for k, w in rows if (k, w) != (i, j)}
        denominator = np.log(sum(np.exp(s) for (k, _), s in similarity.items() if not (decoupled and k == i)))
        total += np.mean([denominator - similarity[i, w] for w in range(v) if w != j])
    return total / len(rows)


def test_loss_and_gradient_are_lightlys():
    manifest, tensors = oracles.load("simclr_ntxent")
    z = np.stack([tensors["in.z0"], tensors["in.z1"]], 1)
    loss, grad = graded(z, manifest["hyper"]["temperature"])
    np.testing.assert_allclose(loss, manifest["scalars"]["loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, np.stack([tensors["grad.z0"], tensors["grad.z1"]], 1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("i", range(len(make_torch.NT_XENT)), ids=[str(case) for case in make_torch.NT_XENT])
def test_loss_and_gradient_are_lightlys_at_any_shape_and_temperature(i):
    manifest, tensors = oracles.load("torch_losses")
    n, d, temperature = make_torch.NT_XENT[i]
    loss, grad = graded(make_torch.inputs(n, 2, d, seed=0), temperature)
    expected = tensors[f"grad.nt_xent.{i}"]
    np.testing.assert_allclose(loss, manifest["losses"][f"nt_xent.{i}"], rtol=2e-6)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("i", range(len(make_torch.HALF)), ids=[str(case) for case in make_torch.HALF])
def test_bfloat16_features_cost_their_own_rounding_and_no_more(i):
    manifest, tensors = oracles.load("torch_losses")
    n, d, temperature = make_torch.HALF[i]
    loss, grad = graded(jnp.asarray(make_torch.inputs(n, 2, d, seed=0), jnp.bfloat16), temperature)
    expected = tensors[f"grad.nt_xent_bfloat16.{i}"]
    assert loss.dtype == jnp.float32
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, manifest["losses"][f"nt_xent_bfloat16.{i}"], rtol=2e-6)
    np.testing.assert_allclose(grad.astype(np.float32), expected, rtol=2**-8, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_identical_rows_give_the_loss_of_guessing_at_a_low_temperature(dtype):
    row = np.random.RandomState(0).randn(16)
    z = jnp.asarray(np.broadcast_to(row, (8, 2, 16)), dtype)
    loss, grad = graded(z, 0.05)
    np.testing.assert_allclose(loss, np.log(2 * 8 - 1), rtol=1e-5)
    np.testing.assert_allclose(grad.astype(np.float32), 0, atol=1e-5)


def test_zero_rows_leave_loss_and_gradient_finite():
    loss, grad = graded(jnp.zeros((4, 2, 8)), 0.05)
    np.testing.assert_allclose(loss, np.log(2 * 4 - 1), rtol=1e-6)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("views", [2, 3, 4])
def test_any_number_of_views_is_equation_1_averaged_over_the_positives(views):
    z = np.random.RandomState(views).randn(5, views, 7).astype(np.float32)
    np.testing.assert_allclose(graded(z, 0.3)[0], by_hand(z, 0.3), rtol=1e-6)


@pytest.mark.parametrize("views", [2, 3])
def test_decoupled_loss_has_other_images_alone_below_the_line(views):
    z = np.random.RandomState(views).randn(5, views, 7).astype(np.float32)
    np.testing.assert_allclose(graded(z, 0.3, True)[0], by_hand(z, 0.3, decoupled=True), rtol=1e-6)


def test_decoupled_loss_and_gradient_are_lightlys():
    manifest, tensors = oracles.load("dcl")
    loss, grad = graded(np.stack([tensors["in.z0"], tensors["in.z1"]], 1), manifest["hyper"]["temperature"], True)
    np.testing.assert_allclose(loss, manifest["scalars"]["loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, np.stack([tensors["grad.z0"], tensors["grad.z1"]], 1), rtol=1e-5, atol=1e-7)


def test_a_row_is_not_its_own_negative_and_the_positive_is_counted_once():
    """Two images at right angles, both views equal: one positive of similarity 1, two negatives of similarity 0."""
    z = jnp.stack([jnp.eye(2)] * 2, 1)
    np.testing.assert_allclose(graded(z, 0.5)[0], np.log(np.exp(2.0) + 2) - 2, rtol=1e-6)


def test_length_of_a_row_does_not_matter():
    z = np.random.RandomState(0).randn(6, 2, 8).astype(np.float32)
    scale = np.random.RandomState(1).uniform(0.1, 10, (6, 2, 1)).astype(np.float32)
    np.testing.assert_allclose(graded(z, 0.1)[0], graded(z * scale, 0.1)[0], rtol=1e-5)


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
def test_eight_devices_see_the_negatives_of_one(mesh):
    z = np.random.RandomState(0).randn(32, 2, 16).astype(np.float32)
    loss, grad = graded(z, 0.1)
    mesh = make_mesh(*mesh)
    with jax.set_mesh(mesh):
        sharded, sharded_grad = graded(jax.device_put(z, NamedSharding(mesh, P(ROWS))), 0.1)
    np.testing.assert_allclose(sharded, loss, rtol=1e-6)
    np.testing.assert_allclose(sharded_grad, grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("function", [nt_xent, jax.value_and_grad(nt_xent)], ids=["loss", "loss and gradient"])
def test_memory_of_a_batch_of_4096_is_its_logits_over_the_devices(function):
    """Compiled from shapes, never run: 2N x 2N logits over 8 devices, in at most 3 copies, and the embeddings."""
    n, d, devices = 4096, 128, 8
    mesh = make_mesh(devices)
    with jax.set_mesh(mesh):
        z = jax.ShapeDtypeStruct((n, 2, d), jnp.float32, sharding=NamedSharding(mesh, P(ROWS)))
        memory = jax.jit(function).lower(z, 0.1).compile().memory_analysis()
    logits, embeddings = (2 * n) ** 2 * 4 / devices, 2 * n * d * 4  # bytes on each device
    assert memory.temp_size_in_bytes <= 3 * logits + 2 * embeddings


def test_info_nce_with_a_queue_and_its_gradient_are_lightlys():
    """Of the first step's queue, before its keys come in; solo-learn's figure is the same."""
    manifest, tensors = oracles.load("moco_queue")
    q, k, queue = (tensors[f"in.{name}0"] for name in ("q", "k", "bank"))
    loss, (grad, _) = info_nce_graded(q, k, manifest["hyper"]["temperature"], queue)
    np.testing.assert_allclose(loss, tensors["out.loss0"], rtol=1e-6)
    np.testing.assert_allclose(loss, manifest["other_implementations_same_inputs"].popitem()[1], rtol=1e-6)
    np.testing.assert_allclose(grad, tensors["grad.q0"], rtol=1e-5, atol=1e-7)


def test_info_nce_over_the_keys_of_the_batch_and_its_gradient_are_mmpretrains():
    manifest, tensors = oracles.load("mocov3")
    tau = manifest["hyper"]["temperature"]
    halves = [info_nce_graded(tensors[f"in.q{i}"], tensors[f"in.k{3 - i}"], tau) for i in (1, 2)]
    np.testing.assert_allclose(2 * tau * sum(loss for loss, _ in halves), manifest["scalars"]["loss"], rtol=1e-6)
    for i, (_, (grad, _)) in enumerate(halves, start=1):
        np.testing.assert_allclose(2 * tau * grad, tensors[f"grad.q{i}"], rtol=1e-5, atol=1e-7)


def test_info_nce_counts_the_positive_once_beside_all_negatives():
    """A query at its key and at right angles to three others: from the batch, and from a queue without that key."""
    q = jnp.eye(4)
    expected = np.log(np.exp(2.0) + 3) - 2
    np.testing.assert_allclose(info_nce(q, q, 0.5), expected, rtol=1e-6)
    np.testing.assert_allclose(info_nce(q[:1], q[:1], 0.5, queue=q[1:]), expected, rtol=1e-6)


@pytest.mark.parametrize("queued", [False, True], ids=["batch", "queue"])
def test_info_nce_of_bfloat16_costs_its_rounding_and_no_more(queued):
    q, k, queue = (np.random.RandomState(seed).randn(32, 16).astype(np.float32) for seed in range(3))
    queue = queue / np.linalg.norm(queue, axis=1, keepdims=True) if queued else None
    exact, _ = info_nce_graded(q, k, 0.1, queue)
    loss, grads = info_nce_graded(jnp.asarray(q, jnp.bfloat16), jnp.asarray(k, jnp.bfloat16), 0.1, queue)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, exact, rtol=5e-3)
    assert all(np.isfinite(grad.astype(np.float32)).all() for grad in grads)


@pytest.mark.parametrize("queued", [False, True], ids=["batch", "queue"])
@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
def test_info_nce_on_eight_devices_sees_the_negatives_of_one(mesh, queued):
    q, k, queue = (np.random.RandomState(seed).randn(32, 16).astype(np.float32) for seed in range(3))
    queue = queue if queued else None
    loss, grads = info_nce_graded(q, k, 0.1, queue)
    mesh = make_mesh(*mesh)
    with jax.set_mesh(mesh):
        q, k = jax.device_put((q, k), NamedSharding(mesh, P(ROWS)))
        sharded, sharded_grads = info_nce_graded(q, k, 0.1, queue)
    np.testing.assert_allclose(sharded, loss, rtol=1e-6)
    for grad, expected in zip(sharded_grads, grads, strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)
