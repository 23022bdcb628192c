"""DINOv2's network against transformers' figures; its last phase at a larger size; its distillation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nets import vit
from jssl.nets.net import apply_net, init_net
from jssl.nets.vit import ViT
from tests import oracles
from tests.test_vit import HF, close, joined, learned, torch_params
from tests.torch_weights import nhwc

DINOV2 = {
    r"^embeddings\.(?=mask|register)": "",
    **HF,
    r"^register_tokens": "registers",
    r"^mask_token": "mask",
    r"layer_scale(\d)\.lambda1": r"scale\1",
    r"\.mlp\.": ".",
    r"weights_in": "fc1",
    r"weights_out": "fc2",
}
NETS = {
    "hf_dinov2": ViT(24, 2, 4, patch=4, mlp=48, layer_scale=1.0),
    "hf_dinov2_registers": ViT(24, 2, 4, patch=4, mlp=48, layer_scale=1.0, registers=4),
    "hf_dinov2_swiglu": ViT(24, 2, 4, patch=4, layer_scale=1.0, registers=4, ffn="swiglu"),
}
IMAGE = np.random.RandomState(0).randn(1, 16, 16, 3).astype(np.float32)


@pytest.mark.parametrize("name", NETS)
def test_tokens_and_input_gradient_are_transformers(name):
    """With some patches hidden; in float64 there."""
    _, tensors = oracles.load(name)
    net = NETS[name].clone(mask_token=True)
    params = learned(torch_params(tensors, DINOV2))
    params["mask"] = params["mask"].reshape(1, -1)
    hidden = tensors.get("in.bool_masked_pos", np.zeros((2, 16), bool))

    def loss(x):
        _, out, _ = apply_net(net, params, {}, x, hidden=hidden)
        tokens = jnp.concatenate(
            [out["cls"][:, None], *([out["registers"]] if net.registers else []), out["tokens"]], 1
        )
        return 0.5 * jnp.mean(tokens**2), out

    grad, out = jax.jit(jax.grad(loss, has_aux=True))(nhwc(tensors["in.pixel_values"]))
    close(joined(out), tensors["out.last_hidden_state"])
    np.testing.assert_allclose(grad, nhwc(tensors["grad.pixel_values"]), rtol=1e-4, atol=1e-7)


def test_the_giant_has_the_published_number_of_parameters():
    """Theirs has a position of the class token, and a table of 518 pixels."""
    manifest, _ = oracles.load("hf_dinov2_swiglu")
    net = vit.vit_giant2(layer_scale=1e-5, table=37)
    shapes = jax.eval_shape(lambda rng: init_net(net, rng, jnp.zeros((1, 224, 224, 3)))[0], jax.random.key(0))
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(shapes)) == manifest["scalars"]["giant"] - 1536


def test_the_width_of_swiglu_is_two_thirds_rounded_up_to_a_multiple_of_eight():
    for net, width in (ViT(24, 1, 4, patch=4, mlp=20, ffn="swiglu"), 16), (vit.vit_large(ffn="swiglu"), 2736):
        shapes = jax.eval_shape(lambda net=net: init_net(net, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))[0])
        assert shapes["block0"]["fc1"]["kernel"].shape == (net.dim, 2 * width)
        assert shapes["block0"]["fc2"]["kernel"].shape == (width, net.dim)


@pytest.mark.parametrize("uniform", [False, True])
def test_drop_path_rises_over_the_blocks_or_is_the_same_in_all(uniform):
    """Of one image many times over: each of a block's two branches is there or not, so up to four outcomes."""
    net = ViT(16, 3, 2, patch=8, drop_path=0.5, drop_path_uniform=uniform)
    images = np.repeat(IMAGE, 400, 0)
    params, _ = jax.jit(lambda rng: init_net(net, rng, IMAGE))(jax.random.key(0))
    run = jax.jit(lambda rng: apply_net(net, params, {}, images, train=True, rng=rng)[1]["layers"])
    first, *_, before, last = (np.asarray(layer).reshape(400, -1) for layer in run(jax.random.key(1)))
    _, counts = np.unique(first.round(4), axis=0, return_counts=True)
    assert len(counts) == (4 if uniform else 1)
    assert counts.max() < 140 if uniform else counts == 400
    assert np.mean((before == last).all(1)) == pytest.approx(0.25, abs=0.07)  # neither branch of the last block


def test_a_table_of_another_size_is_read_as_one_that_was_trained_there():
    """Initialised at 24 pixels with the 4 x 4 table of 16 pixels, whose weights then fit, and are resized."""
    small, large = ViT(16, 1, 2, patch=4), ViT(16, 1, 2, patch=4, table=4)
    images = np.random.RandomState(1).randn(2, 24, 24, 3).astype(np.float32)
    trained, _ = init_net(small, jax.random.key(0), IMAGE)
    fresh, _ = init_net(large, jax.random.key(1), images)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, trained)
    assert fresh["positions"].shape == (4, 4, 16)
    jax.tree.map(
        np.testing.assert_array_equal,
        apply_net(large, trained, {}, images)[0],
        apply_net(small, trained, {}, images)[0],
    )


def test_an_unknown_kind_of_feed_forward_is_refused():
    with pytest.raises(ValueError, match="ViT ffn is 'swiglufused', expected one of mlp, swiglu"):
        ViT(24, 1, 4, ffn="swiglufused")
