"""data2vec against torch's primitives and transformers' network, and what student and teacher may see."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.method import Time
from jssl.methods.data2vec import Data2Vec, smooth_l1
from jssl.nets.conv import convnet
from jssl.nets.net import apply_net
from jssl.nets.vit import ViT
from jssl.transforms import mean_over
from tests import oracles
from tests.test_mae import changed
from tests.test_vit import BEIT, beit_params, close
from tests.torch_weights import nhwc

SMALL = Data2Vec(ViT(16, 2, 2, patch=4), block=2, top=2)
IMAGES = np.random.RandomState(0).randn(4, 16, 16, 3).astype(np.float32)
RNG = jax.random.key(1)
START = Time(0, 100, 10.0)


@pytest.mark.parametrize("post_norm", [False, True])
def test_targets_are_torchs(post_norm):
    _, tensors = oracles.load("data2vec_target")
    targets = dataclasses.replace(SMALL, post_norm=post_norm).targets(tensors["in.layers"])
    name = "_renormed" if post_norm else ""
    close(targets, tensors[f"out.target_layernorm_recipe{name}"])


def test_smooth_l1_is_torchs():
    _, tensors = oracles.load("data2vec_target")
    y, hidden = tensors["out.target_layernorm_recipe"], tensors["in.mask"]
    loss = mean_over(smooth_l1(tensors["in.x"], y, 2.0).mean(-1), hidden)
    np.testing.assert_allclose(loss, tensors["out.smooth_l1_beta2_mean"], rtol=1e-5)


def test_every_block_of_the_network_is_transformers():
    _, tensors = oracles.load("hf_data2vec_vision")
    net = ViT(24, 3, 4, patch=4, mlp=48, eps=1e-12, positions="none", relative="shared", layer_scale=0.1)
    net = net.clone(mask_token=True)
    params = beit_params(tensors, BEIT)
    params["norm"] = {"scale": np.ones(24), "bias": np.zeros(24)}
    hidden = tensors["in.bool_masked_pos"].astype(bool)
    _, out, _ = apply_net(net, params, {}, nhwc(tensors["in.pixel_values"]), hidden=hidden)
    for i, layer in enumerate(out["layers"]):
        close(layer, tensors[f"out.hidden_states.{i + 1}"])


@pytest.fixture(scope="module")
def state():
    """(params, carry), the teacher moved away from the student."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), {"image": IMAGES[:, None]})
    return params, {"target": jax.tree.map(lambda x: 0.9 * x + 0.01, carry["target"])}


@pytest.fixture(scope="module")
def hidden():
    return np.asarray(SMALL.mask(jax.random.split(RNG)[0], IMAGES))


@pytest.fixture(scope="module")
def run(state):
    """images -> (loss, gradients of params and carry), by one mask."""
    loss = lambda params, carry, x: SMALL.loss(params, carry, {"image": x[:, None]}, RNG, START)[0]
    return functools.partial(jax.jit(jax.value_and_grad(loss, (0, 1))), *state)


def test_as_many_patches_are_hidden_as_asked(hidden):
    np.testing.assert_array_equal(hidden.sum(1), round(16 * 0.6))


def test_the_student_does_not_see_hidden_patches(state, hidden):
    params, _ = state
    tokens = jax.jit(lambda x: apply_net(SMALL.student, params["encoder"], {}, x, hidden=hidden)[1]["tokens"])
    np.testing.assert_array_equal(tokens(changed(IMAGES, hidden)), tokens(IMAGES))
    assert np.abs(tokens(changed(IMAGES, ~hidden)) - tokens(IMAGES)).max() > 1e-3


def test_the_teacher_sees_them(run, hidden):
    assert abs(run(changed(IMAGES, hidden))[0] - run(IMAGES)[0]) > 1e-4


def test_no_gradient_reaches_the_teacher_and_one_reaches_all_of_the_student(run):
    _, (params, carry) = run(IMAGES)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(carry))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(params))


def test_loss_is_over_hidden_patches_alone_of_the_top_blocks(state, run, hidden):
    params, carry = state
    images = {"image": IMAGES}
    _, out, _ = apply_net(SMALL.teacher, carry["target"], {}, images["image"])
    y = SMALL.targets([layer[:, 1:] for layer in out["layers"]])  # without the class token
    _, out, _ = apply_net(SMALL.student, params["encoder"], {}, images["image"], hidden=hidden)
    f, _, _ = apply_net(SMALL.head, params["head"], {}, out["tokens"])
    expected = smooth_l1(np.asarray(f)[hidden], np.asarray(y)[hidden], 2.0).mean()
    np.testing.assert_allclose(run(IMAGES)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("epochs, step, tau", [(0.0, 0, 0.9998), (5.0, 0, 0.999), (5.0, 25, 0.9994), (5.0, 90, 0.9998)])
def test_teacher_follows_the_student(state, epochs, step, tau):
    params, carry = state
    method = dataclasses.replace(SMALL, tau_start=0.999, tau_epochs=epochs)
    _, after = method.update(params, carry, Time(step, 100, 10.0))
    expected = jax.tree.map(lambda t, p: tau * t + (1 - tau) * p, carry["target"], params["encoder"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after["target"], expected)


def test_it_survives_bfloat16(state):
    half = dataclasses.replace(SMALL, encoder=SMALL.encoder.clone(dtype=jnp.bfloat16))
    losses = [
        jax.jit(lambda p, c, method=method: method.loss(p, c, {"image": IMAGES[:, None]}, RNG, START)[0])(*state)
        for method in (half, SMALL)
    ]
    np.testing.assert_allclose(*losses, rtol=2e-2)


def test_what_it_cannot_use_is_refused():
    with pytest.raises(ValueError, match="encoder ConvNet has no mask token, expected a ViT"):
        Data2Vec(convnet())
    with pytest.raises(ValueError, match=r"method.top=3: the encoder has 2 blocks, expected 1 to as many"):
        dataclasses.replace(SMALL, top=3)
