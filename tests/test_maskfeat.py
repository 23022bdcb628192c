"""MaskFeat's histograms against MMPretrain's and scikit-image's, and what its encoder may see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.method import Time
from jssl.methods.maskfeat import MaskFeat, hog
from jssl.nets.conv import convnet
from jssl.nets.net import apply_net
from jssl.nets.vit import ViT
from tests import oracles
from tests.test_mae import changed

SMALL = MaskFeat(ViT(16, 2, 2, patch=8, pool="mean"), block=2, cell=4)
VIEWS = {"image": np.random.RandomState(0).randn(5, 1, 32, 32, 3).astype(np.float32)}
START = Time(0, 100, 10.0)
CENTRAL = ((0.0, 0.0, 0.0), (1.0, 0.0, -1.0), (0.0, 0.0, 0.0))


def test_histograms_are_mmpretrains():
    """Theirs are [B, C, bins, H / 8, W / 8]; a pixel on the edge of a bin may fall either way."""
    _, tensors = oracles.load("maskfeat_hog")
    found = jax.jit(hog)(jnp.moveaxis(tensors["in.image"], 1, -1))
    expected = np.moveaxis(tensors["out.hog"], (1, 2), (3, 4))
    apart = np.abs(found - expected).max(-1)
    assert np.mean(apart > 1e-5) < 0.02
    assert apart.max() < 0.2


def test_histograms_are_scikit_images():
    """With central differences, and away from the border, where it has none."""
    _, tensors = oracles.load("hog_skimage")
    found = jax.jit(lambda x: hog(x, kernel=CENTRAL))(tensors["in.image"][None, ..., None])[0, :, :, 0]
    apart = np.abs(found - tensors["out.hog"])[1:-1, 1:-1].max(-1)
    assert np.mean(apart > 1e-4) < 0.1  # a pixel on the edge of a bin may fall either way
    assert np.median(apart) < 1e-6


def test_a_histogram_has_the_direction_of_an_edge_and_no_contrast():
    """Stripes along rows vote for one bin, along columns for another; contrast and brightness change nothing."""
    stripes = jnp.sin(jnp.arange(16.0))[None, :, None, None] * jnp.ones((1, 1, 16, 1))
    rows, columns = (np.asarray(hog(x, cell=8)) for x in (stripes, stripes.swapaxes(1, 2)))
    assert (rows.argmax(-1) == rows.argmax(-1).ravel()[0]).all()
    assert rows.argmax(-1).ravel()[0] != columns.argmax(-1).ravel()[0]
    np.testing.assert_allclose(hog(5 * stripes + 3, cell=8), rows, atol=1e-5)
    assert not np.asarray(hog(jnp.ones((1, 16, 16, 1)))).any()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-5)


def test_the_window_weighs_the_middle_of_each_square():
    noise = np.random.RandomState(0).rand(1, 16, 16, 1).astype(np.float32)
    tiled = np.tile(noise, (1, 5, 5, 1))
    plain, weighed = (np.asarray(hog(tiled, cell=16, window=window)) for window in (0, 16))
    assert np.abs(plain - weighed).max() > 1e-3
    np.testing.assert_allclose(weighed[0, 1:4, 1:4], np.broadcast_to(weighed[0, 2, 2], (3, 3, 1, 9)), atol=1e-5)


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


def test_targets_are_the_histograms_of_each_patch():
    target = SMALL.target(VIEWS["image"][:, 0])
    cells = hog(VIEWS["image"][:, 0], 9, 4, 16)  # [N, 8, 8, 3, 9]
    assert target.shape == (5, 16, 4 * 27)
    np.testing.assert_array_equal(target[:, 6].reshape(5, 2, 2, 3, 9), cells[:, 2:4, 4:6])


def test_the_loss_is_of_hidden_patches_alone(state):
    params, _ = state
    key = jax.random.key(1)
    value, (_, out) = jax.jit(SMALL.loss)(params, {}, VIEWS, key, START)
    x = VIEWS["image"][:, 0]
    hidden = SMALL.mask(jax.random.split(key)[0], x)
    np.testing.assert_array_equal(hidden.sum(1), round(16 * 0.4))
    assert len(np.unique(hidden, axis=0)) > 1
    _, tokens, _ = apply_net(SMALL.masked, params["encoder"], {}, x, hidden=hidden)
    found, _, _ = apply_net(SMALL.head(3), params["head"], {}, tokens["tokens"])
    error = np.square(found - SMALL.target(x)).mean(-1)
    np.testing.assert_allclose(value, error[hidden].mean(), rtol=1e-5)
    assert out["features"].shape == (5, 1, 16)


def test_hidden_patches_never_reach_the_encoder(state):
    params, _ = state
    x = VIEWS["image"][:, 0]
    hidden = np.asarray(SMALL.mask(jax.random.key(3), x))
    other = changed(x, hidden, 8)
    run = jax.jit(lambda x: apply_net(SMALL.masked, params["encoder"], {}, x, hidden=hidden)[1]["tokens"])
    np.testing.assert_array_equal(run(x), run(other))
    assert np.abs(run(x) - run(changed(x, ~hidden, 8))).max() > 1e-3
    assert np.abs(SMALL.target(x) - SMALL.target(other)).max() > 1e-2


def test_what_cannot_be_is_one_line():
    for make, message in (
        (lambda: MaskFeat(convnet()), "MaskFeat hides patches: encoder ConvNet has no mask token, expected a ViT"),
        (lambda: dataclasses.replace(SMALL, cell=3), "method.cell=3 does not divide patches of 8 pixels"),
        (lambda: hog(np.zeros((1, 12, 16, 1))), "image is 12 x 16, expected multiples of a histogram's 8 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
