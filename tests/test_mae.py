"""MAE against mmpretrain's, lightly's and transformers', and what its encoder and its loss may see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.masking import mask_by_noise
from jssl.method import Time
from jssl.methods import mae
from jssl.methods.mae import MAE, reconstruction
from jssl.nets.conv import convnet
from jssl.nets.decoder import Decoder
from jssl.nets.vit import ViT, patchify, unpatchify
from tests import oracles
from tests.oracles import make_torch
from tests.test_vit import HF, learned, torch_params
from tests.torch_weights import nhwc

SMALL = MAE(ViT(16, 1, 2, patch=4, positions="sincos"), decoder_dim=8, decoder_depth=1, decoder_heads=2)
IMAGES = np.random.RandomState(0).randn(4, 16, 16, 3).astype(np.float32)
RNG = jax.random.key(1)
START = Time(0, 100, 10.0)


def of_patch(patch, norm_pix=True):
    return MAE(ViT(16, 1, 2, patch=patch), norm_pix=norm_pix)


@pytest.fixture(scope="module")
def run():
    """images [N, H, W, C] -> (loss, embedding), by the same weights and the same mask."""
    params, _ = jax.jit(SMALL.init)(jax.random.key(0), {"image": IMAGES[:, None]})

    @jax.jit
    def run(images):
        loss, (_, out) = SMALL.loss(params, {}, {"image": images[:, None]}, RNG, START)
        return loss, out["embedding"]

    return run


@pytest.fixture(scope="module")
def hidden():
    """bool [N, L], the mask of `run`."""
    return np.asarray(SMALL.mask(jax.random.split(RNG)[0], IMAGES).hidden)


def changed(images, where, patch=4):
    """The images with other pixels in the patches `where` [N, L]."""
    patches = np.array(patchify(images, patch))
    patches[where] += np.random.RandomState(1).randn(*patches[where].shape)
    return np.asarray(unpatchify(patches, patch))


@pytest.mark.parametrize("name", ["mae_pixel_loss", "mae_pixel_loss_norm"])
def test_target_loss_and_gradient_are_mmpretrains(name):
    manifest, tensors = oracles.load(name)
    method = of_patch(manifest["hyper"]["patch_size"], manifest["hyper"]["norm_pix"])
    target = method.target(nhwc(tensors["in.image"]))
    np.testing.assert_allclose(target, tensors["out.target"], rtol=1e-5, atol=1e-5)
    loss, grad = jax.value_and_grad(reconstruction)(tensors["in.pred"], target, tensors["in.mask"])
    np.testing.assert_allclose(loss, manifest["scalars"]["loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, tensors["grad.pred"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("i", range(len(make_torch.PIXELS)), ids=[str(case) for case in make_torch.PIXELS])
def test_loss_is_lightlys_at_any_shape(i):
    manifest, tensors = oracles.load("torch_losses")
    *_, patch, _, norm = make_torch.PIXELS[i]
    images, pixels, hidden = make_torch.pixel_inputs(*make_torch.PIXELS[i])
    loss, grad = jax.value_and_grad(reconstruction)(pixels, of_patch(patch, norm).target(images), hidden)
    expected = tensors[f"grad.pixels.{i}"]
    np.testing.assert_allclose(loss, manifest["losses"][f"pixels.{i}"], rtol=1e-6)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_whole_method_is_transformers(monkeypatch):
    """Mask, encoder, decoder, normalised pixels and loss, and its gradient with respect to every pixel and weight."""
    manifest, tensors = oracles.load("hf_vit_mae_normpix")
    method = MAE(ViT(24, 2, 4, patch=4, mlp=48, eps=1e-12))  # the fixed positions are read from its table
    # Theirs differ from the paper's code in these: eps, the decoder's MLP, a table of the decoder left at zero.
    monkeypatch.setattr(MAE, "decoder", lambda *_: Decoder(16, 2, 2, 48, mlp=32, eps=1e-12))
    monkeypatch.setattr(
        "jssl.nets.decoder.sincos_positions", lambda height, width, dim: np.zeros((height * width, dim), np.float32)
    )
    monkeypatch.setattr(mae, "random_mask", lambda *_: mask_by_noise(tensors["in.noise"], 4))

    encoder, decoder = (torch_params(tensors, HF, part) for part in ("vit", "decoder"))
    decoder.pop("decoder")
    params = {"encoder": learned(encoder), "decoder": decoder}
    loss = lambda params, x: method.loss(params, {}, {"image": x[:, None]}, RNG, START)[0]
    value, (by_weight, by_pixel) = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, nhwc(tensors["in.pixel_values"]))

    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-6)
    expected = nhwc(tensors["grad.pixel_values"])
    np.testing.assert_allclose(by_pixel, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    norms = {
        "decoder.mask_token": by_weight["decoder"]["mask"],
        "decoder.decoder_embed.weight": by_weight["decoder"]["embed"]["kernel"],
        "vit.embeddings.patch_embeddings.projection.weight": by_weight["encoder"]["patch"]["kernel"],
        "vit.encoder.layer.1.intermediate.dense.weight": by_weight["encoder"]["block1"]["fc1"]["kernel"],
        "vit.embeddings.cls_token": by_weight["encoder"]["cls"],
    }
    for name, grad in norms.items():
        np.testing.assert_allclose(np.linalg.norm(grad), manifest["param_grad_l2"][name], rtol=1e-5, err_msg=name)


def test_hidden_patches_never_reach_the_encoder(run, hidden):
    loss, embedding = run(IMAGES)
    other_loss, other = run(changed(IMAGES, hidden))
    np.testing.assert_array_equal(embedding, other)
    assert np.abs(loss - other_loss) > 1e-3
    assert (np.abs(embedding - run(changed(IMAGES, ~hidden))[1]).max((1, 2)) > 1e-3).all()


def test_loss_is_over_hidden_patches_alone(hidden):
    pixels, target = np.random.RandomState(2).randn(2, *hidden.shape, 48).astype(np.float32)
    visible = np.where(hidden[..., None], 0, 1e3).astype(np.float32)
    loss = jax.jit(reconstruction)
    np.testing.assert_array_equal(loss(pixels, target, hidden), loss(pixels + visible, target, hidden))
    np.testing.assert_array_equal(loss(pixels, target, hidden), loss(pixels, target - visible, hidden))
    np.testing.assert_allclose(loss(pixels, target, hidden), np.square(pixels - target)[hidden].mean(), rtol=1e-5)


def test_targets_have_mean_0_and_variance_1_within_the_patch_or_are_the_pixels():
    target = np.asarray(SMALL.target(5 + 3 * IMAGES))
    np.testing.assert_allclose(target.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(target.var(-1, ddof=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(of_patch(4, norm_pix=False).target(IMAGES), patchify(IMAGES, 4))


def test_a_patch_of_one_colour_has_a_finite_target_and_gradient():
    flat = jnp.ones((2, 16, 16, 3))
    np.testing.assert_array_equal(SMALL.target(flat), 0)
    assert np.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(SMALL.target(x) ** 2)))(flat)).all()


def test_images_may_be_oblong_and_the_encoder_without_a_class_token():
    encoder = ViT(16, 1, 2, patch=4, positions="sincos", pool="mean", class_token=False)
    method = MAE(encoder, decoder_dim=8, decoder_depth=1, decoder_heads=2)
    views = {"image": jnp.asarray(IMAGES[:, None, :8])}
    params, carry = jax.eval_shape(method.init, RNG, views)
    loss, (_, out) = jax.eval_shape(functools.partial(method.loss, time=START), params, carry, views, RNG)
    assert loss.shape == ()
    assert out["embedding"].shape == (4, 1, 16)


def test_features_are_of_the_whole_image():
    params, carry = jax.jit(SMALL.init)(RNG, {"image": IMAGES[:, None]})
    out = jax.jit(lambda x: SMALL.embed(params, carry, {"image": x}))(IMAGES)
    assert out["features"].shape == (4, 16)
    assert out["tokens"].shape == (4, 16, 16)


def test_an_encoder_without_patches_is_refused():
    with pytest.raises(ValueError, match="MAE hides patches: encoder ConvNet has none, expected a ViT"):
        MAE(convnet())
