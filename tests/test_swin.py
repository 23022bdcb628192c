"""Swin against transformers', and what its windows see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nets.net import apply_net, init_net
from jssl.nets.swin import Swin, together

TINY = Swin(8, (2, 1), (2, 4), patch=2, window=4)
IMAGES = np.random.RandomState(0).randn(2, 16, 32, 3).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return init_net(TINY, jax.random.key(0), IMAGES)[0]


def run(net, params, x, **kw):
    return jax.jit(lambda params, x: apply_net(net, params, {}, x, **kw)[:2])(params, x)


def test_tokens_merge_and_features_are_their_mean(params):
    features, out = run(TINY, params, IMAGES)
    assert out["tokens"].shape == (2, 4 * 8, 16)
    assert [layer.shape for layer in out["layers"]] == [(2, 8, 16, 8), (2, 4, 8, 16)]
    np.testing.assert_allclose(features, out["tokens"].mean(1), rtol=1e-5, atol=1e-6)
    assert TINY.stride == 4


@pytest.mark.parametrize("depth, side", [(1, 8), (2, 16)])
def test_a_token_sees_its_window_and_by_the_shift_the_windows_beside_it(depth, side):
    net = Swin(8, (depth,), (2,), patch=2, window=4)
    params, _ = init_net(net, jax.random.key(1), IMAGES)
    token = lambda x: apply_net(net, params, {}, x)[1]["layers"][0][0, 5, 9]  # of the window of rows and columns 4, 8
    seen = np.abs(np.asarray(jax.jit(jax.grad(lambda x: jnp.sum(token(x) ** 2)))(IMAGES))).max(-1) > 0
    rows, columns = (slice(8, 16), slice(16, 24)) if depth == 1 else (slice(0, 16), slice(8, 24))
    assert seen[0, rows, columns].all()
    assert seen.sum() == side * side


def test_tokens_at_both_ends_of_the_image_do_not_see_each_other():
    mask = together(8, 8, 4, 2)
    assert mask.shape == (4, 16, 16)
    assert mask[0].all()  # the first window is whole
    last = mask[-1].reshape(4, 4, 4, 4)
    assert last[:2, :2, :2, :2].all()
    assert last[2:, 2:, 2:, 2:].all()
    assert not last[:2, :, 2:, :].any()
    assert not last[:, :2, :, 2:].any()
    np.testing.assert_array_equal(mask.sum((1, 2)), [256, 128, 128, 64])


def test_hidden_patches_are_the_mask_token_whatever_they_show(params):
    net = TINY.clone(mask_token=True)
    params, _ = init_net(net, jax.random.key(0), IMAGES)
    hidden = np.zeros((2, 8, 16), bool)
    hidden[:, 2:5, 3:7] = True
    changed = np.where(hidden.repeat(2, 1).repeat(2, 2)[..., None], 5.0, IMAGES).astype(np.float32)
    hidden = hidden.reshape(2, -1)
    first, other = (run(net, params, x, hidden=hidden)[0] for x in (IMAGES, changed))
    np.testing.assert_array_equal(first, other)
    assert np.abs(run(net, params, changed)[0] - run(net, params, IMAGES)[0]).max() > 1e-3
    with pytest.raises(ValueError, match="Swin has no mask token"):
        apply_net(TINY, params, {}, IMAGES, hidden=hidden)


def test_drop_path_leaves_out_whole_samples():
    net = Swin(8, (2,), (2,), patch=2, window=4, drop_path=0.9)
    params, _ = init_net(net, jax.random.key(0), IMAGES)
    x = np.tile(IMAGES[:1], (64, 1, 1, 1))
    features = jax.jit(lambda rng: apply_net(net, params, {}, x, train=True, rng=rng)[1]["layers"][0].reshape(64, -1))(
        jax.random.key(3)
    )
    assert 2 <= len(np.unique(np.asarray(features).round(4), axis=0)) <= 4  # the last block's two branches, in or out


@pytest.mark.parametrize(
    "net, side, match",
    [
        (TINY, 18, "image is 18 x 18, expected multiples of 4"),
        (Swin(8, (1,), (2,), patch=2, window=4), 12, "6 x 6 tokens cannot be cut into windows of 4"),
    ],
)
def test_images_that_do_not_fit_are_refused(net, side, match):
    with pytest.raises(ValueError, match=match):
        init_net(net, jax.random.key(0), jnp.zeros((1, side, side, 3)))


def test_stages_need_depths_and_heads():
    with pytest.raises(ValueError, match="Swin has 2 depths and 1 heads, expected one per stage"):
        Swin(8, (1, 1), (2,))
