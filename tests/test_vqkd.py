"""VQ-KD against MMPretrain's quantiser, and the statements of the paper about codes, codebook and teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.codes import assign, averaged
from jssl.method import Time
from jssl.methods.vqkd import VQKD
from jssl.nets.conv import convnet
from jssl.nets.net import apply_net
from jssl.nets.vit import ViT
from jssl.transforms import unit
from tests import oracles

NET = ViT(16, 1, 2, patch=4, pool="mean")
SMALL = VQKD(NET, teacher_fields=(("dim", 24), ("heads", 3)), vocabulary=12, dim=4, depth=1, rows=40)
VIEWS = {"image": np.random.RandomState(0).randn(5, 1, 16, 16, 3).astype(np.float32)}
KEY = jax.random.key(1)
START = Time(0, 100, 10.0)


def test_the_quantiser_is_mmpretrains():
    """Codes, straight-through, commitment, gradient and the codebook's step. Theirs are maps [B, C, h, w]."""
    manifest, tensors = oracles.load("beitv2_vqkd")
    z, probe = (np.moveaxis(tensors[f"in.{name}"], 1, -1).astype(np.float32) for name in ("z", "probe"))
    codebook = tensors["in.codebook"]

    def loss(z):
        z = unit(z)
        codes = assign(z, codebook)
        v = jnp.asarray(codebook, jnp.float32)[codes]
        quantised = z + jax.lax.stop_gradient(v - z)
        commitment = manifest["hyper"]["beta"] * jnp.square(z - v).mean()
        return commitment + jnp.mean(quantised * probe), (z, codes, quantised, commitment)

    (value, (unit_z, codes, quantised, commitment)), grad = jax.value_and_grad(loss, has_aux=True)(z)
    np.testing.assert_array_equal(codes.ravel(), tensors["out.indices"])
    np.testing.assert_allclose(quantised, np.moveaxis(tensors["out.zq"], 1, -1), atol=1e-6)
    np.testing.assert_allclose(commitment, tensors["out.vq_loss"], rtol=1e-5)
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, np.moveaxis(tensors["grad.z"], 1, -1), atol=1e-7)
    found, counts = averaged(jnp.asarray(codebook, jnp.float32), unit_z, codes, manifest["hyper"]["decay"])
    np.testing.assert_allclose(found, tensors["out.codebook_after"], atol=1e-6)
    np.testing.assert_allclose((1 - manifest["hyper"]["decay"]) * counts, tensors["out.cluster_size_after"], atol=1e-6)


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


def test_the_loss_is_the_distance_to_the_teachers_tokens_and_to_the_codes(state):
    params, carry = state
    value, (_, out) = jax.jit(SMALL.loss)(params, carry, VIEWS, KEY, START)
    x, nets = VIEWS["image"][:, 0], SMALL.nets(24)
    t = apply_net(SMALL.frozen, carry["frozen"]["params"], {}, x)[1]["tokens"]
    tokens = apply_net(NET, params["encoder"], {}, x)[1]["tokens"]
    z = apply_net(nets["projector"], params["projector"], {}, tokens)[0]
    v = carry["codebook"][assign(z, carry["codebook"])]
    decoded = apply_net(nets["decoder"], params["decoder"], {}, v.reshape(5, 4, 4, 4))[1]["tokens"]
    o = np.asarray(apply_net(nets["head"], params["head"], {}, decoded)[0])
    cosines = np.sum(o * t, -1) / np.linalg.norm(o, axis=-1) / np.linalg.norm(t, axis=-1)
    np.testing.assert_allclose(value, 1 - cosines.mean() + np.square(z - v).mean(), rtol=1e-5)
    np.testing.assert_allclose(out["metrics"]["cosine"], cosines.mean(), rtol=1e-4)


def test_the_encoder_learns_through_the_codes(state):
    """Without the commitment, all that reaches the encoder has gone through the decoder."""
    params, carry = state
    method = dataclasses.replace(SMALL, beta=0.0)
    grads = jax.jit(jax.grad(lambda p: method.loss(p, carry, VIEWS, KEY, START)[0]))(params)
    assert np.abs(grads["encoder"]["block0"]["fc1"]["kernel"]).max() > 1e-7
    assert np.abs(grads["projector"]["dense1"]["kernel"]).max() > 1e-7


def test_neither_codebook_nor_teacher_gets_a_gradient(state):
    params, carry = state
    grads = jax.jit(jax.grad(lambda c: SMALL.loss(params, c, VIEWS, KEY, START)[0]))(carry)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(grads["frozen"]))
    _, (after, _) = jax.jit(SMALL.loss)(params, carry, VIEWS, KEY, START)
    for old, new in zip(jax.tree.leaves(carry["frozen"]), jax.tree.leaves(after["frozen"]), strict=True):
        np.testing.assert_array_equal(old, new)


def test_codes_in_use_move_towards_what_they_stand_for_and_others_stay(state):
    params, carry = state
    _, (after, _) = jax.jit(SMALL.loss)(params, carry, VIEWS, KEY, START)
    used = np.asarray(after["usage"]) > 0
    assert 0 < used.sum() < 12
    moved = np.abs(after["codebook"] - carry["codebook"]).max(-1)
    assert (moved[used] > 1e-6).all()
    assert (moved[~used] < 1e-6).all()
    np.testing.assert_allclose(np.linalg.norm(after["codebook"], axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(after["usage"].sum(), 0.01 * 5 * 16, rtol=1e-5)


def test_the_codebook_starts_at_the_k_means_of_the_data_and_only_once(state):
    params, carry = state
    images = np.random.RandomState(1).randn(40, 16, 16, 3).astype(np.float32)
    batches = lambda: (
        {"image": images[i : i + 8], "index": np.arange(i, i + 8, dtype=np.int32)} for i in range(0, 40, 8)
    )
    same, found = SMALL.refresh(params, carry, batches(), KEY)
    assert same is params
    z = np.concatenate([np.asarray(vectors(params, x["image"])) for x in batches()])  # [40, 16, D]
    of_row = z[np.arange(40), np.arange(40) % 16]  # one patch of each image
    before, after = (np.max(of_row @ np.asarray(c["codebook"]).T, 1).mean() for c in (carry, found))
    assert after > max(before, 0.9)
    _, again = SMALL.refresh(params, {**found, "usage": jnp.ones(12)}, batches(), KEY)
    np.testing.assert_array_equal(again["codebook"], found["codebook"])
    few = dataclasses.replace(SMALL, vocabulary=64)
    _, kept = few.refresh(params, {**carry, "codebook": jnp.ones((64, 4))}, batches(), KEY)
    assert (kept["codebook"] == 1).all()


def vectors(params, x):
    tokens = apply_net(NET, params["encoder"], {}, x)[1]["tokens"]
    return apply_net(SMALL.projector, params["projector"], {}, tokens)[0]


def test_a_convolutional_teacher_gives_the_vectors_of_its_map():
    teacher = {"teacher": "jssl.nets.conv:convnet", "teacher_fields": (("widths", (8, 12, 20)),)}
    method = dataclasses.replace(SMALL, **teacher)
    params, carry = jax.jit(method.init)(jax.random.key(0), VIEWS)
    assert "stats" in carry["frozen"]
    assert params["head"]["dense1"]["kernel"].shape[-1] == 20
    value, _ = jax.jit(method.loss)(params, carry, VIEWS, KEY, START)
    assert np.isfinite(value)


def test_what_cannot_be_is_one_line():
    with pytest.raises(ValueError, match="VQKD gives patches codes: encoder ConvNet, expected a ViT"):
        VQKD(convnet())
    other = dataclasses.replace(SMALL, teacher_fields=(("patch", 8),))
    with pytest.raises(ValueError, match="the teacher makes 4 tokens of an image, the encoder 16; expected as many"):
        jax.eval_shape(other.init, jax.random.key(0), VIEWS)
