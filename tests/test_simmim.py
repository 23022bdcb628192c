"""SimMIM against mmpretrain's and transformers', and what its loss is taken over."""

import jax
import numpy as np
import pytest

from jssl.method import Time
from jssl.methods.simmim import SimMIM, reconstruction
from jssl.nets.conv import convnet
from jssl.nets.swin import Swin
from jssl.nets.vit import ViT
from tests import oracles
from tests.test_vit import HF, learned, torch_params
from tests.torch_weights import nhwc

SMALL = SimMIM(ViT(16, 1, 2, patch=4), mask_size=8)
IMAGES = np.random.RandomState(0).randn(4, 16, 16, 3).astype(np.float32)
START = Time(0, 100, 10.0)
SWIN = {
    r"^swin\.": "",
    r"^embeddings\.norm": "patch_norm",
    r"^embeddings\.patch_embeddings\.projection": "patch",
    r"^embeddings\.mask_token": "mask",
    r"encoder\.layers\.(\d)\.blocks\.(\d)": r"stage\1_block\2",
    r"encoder\.layers\.0\.downsample\.norm": "merge1_norm",
    r"encoder\.layers\.0\.downsample\.reduction": "merge1",
    r"attention\.self\.qkv": "qkv",
    r"\.attention\.self\.relative_position_bias_table": "_relative.table",
    r"attention\.output\.dense": "proj",
    r"intermediate\.dense": "fc1",
    r"output\.dense": "fc2",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"^layernorm": "norm",
}


def head(tensors, stride=4):
    """A 1 x 1 convolution and a pixel shuffle, [C, r, r], as our linear layer to [r, r, C]."""
    order = np.arange(stride**2 * 3).reshape(3, stride, stride).transpose(1, 2, 0).ravel()
    kernel = tensors["model.decoder.0.weight"][order, :, 0, 0].T
    return {"dense0": {"kernel": kernel, "bias": tensors["model.decoder.0.bias"][order]}}


def whole(monkeypatch, name, method, encoder):
    """Loss, its gradient with respect to every pixel, of the fixture's weights and mask."""
    manifest, tensors = oracles.load(name)
    monkeypatch.setattr(SimMIM, "mask", lambda *_: tensors["in.bool_masked_pos"].astype(bool))
    params = {"encoder": encoder(tensors), "head": head(tensors)}
    loss = lambda x: method.loss(params, {}, {"image": x[:, None]}, jax.random.key(0), START)[0]
    value, grad = jax.jit(jax.value_and_grad(loss))(nhwc(tensors["in.pixel_values"]))
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    expected = nhwc(tensors["grad.pixel_values"])
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


def test_the_whole_method_with_a_vit_is_transformers(monkeypatch):
    encoder = lambda tensors: learned(torch_params(tensors, HF | {r"^embeddings\.mask_token": "mask"}, "vit"))
    method = SimMIM(ViT(24, 2, 4, patch=4, mlp=48, eps=1e-12), mask_size=4)
    whole(monkeypatch, "hf_vit_simmim", method, encoder)


def swin_params(tensors):
    params = torch_params(tensors, SWIN, "swin")
    for name in list(params):
        if name.endswith("_relative"):
            params[name]["table"] = params[name]["table"].reshape(7, 7, -1)
    return params


def test_the_whole_method_with_a_swin_is_transformers(monkeypatch):
    whole(monkeypatch, "hf_swin_simmim", SimMIM(Swin(16, (2, 1), (2, 4), patch=2, window=4), mask_size=2), swin_params)


def test_loss_and_gradient_are_mmpretrains():
    manifest, tensors = oracles.load("simmim_loss")
    hidden = tensors["in.mask"].repeat(4, 1).repeat(4, 2)[..., None]
    target = nhwc(tensors["in.target"])
    loss, grad = jax.value_and_grad(reconstruction)(nhwc(tensors["in.pred"]), target, hidden)
    np.testing.assert_allclose(loss, manifest["scalars"]["loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, nhwc(tensors["grad.pred"]), rtol=1e-5, atol=1e-8)


@pytest.fixture(scope="module")
def run():
    """images [N, H, W, C] -> (loss, embedding, hidden pixels), by the same weights and the same mask."""
    params, _ = jax.jit(SMALL.init)(jax.random.key(0), {"image": IMAGES[:, None]})
    rng = jax.random.key(1)

    @jax.jit
    def run(images):
        loss, (_, out) = SMALL.loss(params, {}, {"image": images[:, None]}, rng, START)
        return loss, out["embedding"], SMALL.pixels(SMALL.mask(jax.random.split(rng)[0], images), images)

    return run


def test_hidden_pixels_never_reach_the_encoder_but_are_what_it_is_judged_by(run):
    loss, embedding, hidden = run(IMAGES)
    hidden = np.asarray(hidden)
    assert 0.5 < hidden.mean() < 0.8
    squares = hidden.reshape(4, 2, 8, 2, 8)
    assert (squares == squares[:, :, :1, :, :1]).all()
    other_loss, other, _ = run(IMAGES + 10 * hidden)
    np.testing.assert_array_equal(embedding, other)
    assert other_loss > loss + 5
    assert np.abs(run(IMAGES + ~hidden)[1] - embedding).max() > 1e-3


def test_samples_have_masks_of_their_own(run):
    hidden = np.asarray(jax.jit(lambda rng: SMALL.mask(rng, np.zeros((64, 16, 16, 3))))(jax.random.key(0)))
    assert len(np.unique(hidden, axis=0)) > 3


def test_loss_is_over_hidden_pixels_alone_also_in_bfloat16():
    x, pixels = np.random.RandomState(1).randn(2, 2, 8, 8, 3).astype(np.float32)
    hidden = np.random.RandomState(2).rand(2, 8, 8, 1) < 0.5
    expected = np.abs(x - pixels)[hidden[..., 0]].mean()
    np.testing.assert_allclose(reconstruction(pixels, x, hidden), expected, rtol=1e-5)
    rounded = reconstruction(jax.numpy.bfloat16(pixels).astype(np.float32), x, hidden)
    np.testing.assert_allclose(rounded, expected, rtol=1e-2)


def test_what_cannot_be_hidden_is_refused():
    with pytest.raises(ValueError, match="encoder ConvNet has no mask token, expected a ViT or a Swin"):
        SimMIM(convnet())
    with pytest.raises(ValueError, match=r"method.mask_size=30 is no multiple of the patch size 4; the nearest is 32"):
        SimMIM(ViT(16, 1, 2, patch=4), mask_size=30)
