"""Mixup, CutMix and random erasing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.augment import mix

N, SIZE = 256, 16
RNG = jax.random.key(0)
Y = jnp.eye(2)[jnp.arange(N) % 2]  # neighbours differ
LEVEL = jnp.float32(jnp.arange(N) % 2)
X = jnp.broadcast_to(LEVEL[:, None, None, None], (N, SIZE, SIZE, 3))  # images that are their class


def test_targets_mix_as_the_images_do():
    x, y = mix.mixup(RNG, X, Y, 0.8)
    np.testing.assert_allclose(x, jnp.broadcast_to(y[:, 1, None, None, None], x.shape), atol=1e-6)
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)


def test_lam_is_drawn_from_beta():
    _, y = mix.mixup(RNG, jnp.zeros((20_000, 1, 1, 1)), jnp.tile(jnp.eye(2), (10_000, 1)), 0.8)
    lam = y[jnp.arange(20_000), jnp.arange(20_000) % 2]
    assert float(lam.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(lam.var()) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.005)


def test_the_share_of_a_label_is_the_area_that_was_pasted():
    x, y = mix.cutmix(RNG, X, Y, 1.0)
    assert set(np.unique(x)) == {0.0, 1.0}  # pixels are of one image or of the other
    np.testing.assert_allclose(x.mean((1, 2, 3)), y[:, 1], atol=1e-6)
    own = y[jnp.arange(N), jnp.arange(N) % 2]
    assert float(own.min()) < 0.3
    assert float(own.max()) > 0.95


def test_what_is_pasted_is_one_rectangle_in_the_neighbours_place():
    noise = jax.random.normal(jax.random.key(1), X.shape)
    x, _ = mix.cutmix(RNG, noise, Y, 1.0)
    pasted = np.any(np.asarray(x != noise), -1)
    for mask, got, other in zip(pasted, x, mix.neighbour(noise)):
        rows, columns = mask.any(1), mask.any(0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns)
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1
        np.testing.assert_array_equal(got[mask], other[mask])


def test_either_is_mixup_or_cutmix_as_likely_and_each_alone_where_the_other_is_off():
    x, y = mix.either(RNG, X, Y, 0.8, 1.0)
    np.testing.assert_allclose(x.mean((1, 2, 3)), y[:, 1], atol=1e-6)
    blended = np.asarray(x.reshape(N, -1).std(1) < 1e-6) & np.asarray((y > 0).all(1))
    assert 0.35 < blended.mean() < 0.65
    assert set(np.unique(mix.either(RNG, X, Y, 0.0, 1.0)[0])) == {0.0, 1.0}
    assert np.asarray(mix.either(RNG, X, Y, 0.8, 0.0)[0].reshape(N, -1).std(1)).max() < 1e-6
    assert mix.either(RNG, X, Y, 0.0, 0.0)[0] is X


def test_a_sample_is_mixed_with_its_neighbour_and_back():
    np.testing.assert_array_equal(mix.neighbour(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
    with pytest.raises(ValueError, match="3 samples cannot be mixed in pairs"):
        mix.neighbour(jnp.arange(3))


def test_what_is_erased_is_filled_with_noise_and_the_rest_stays():
    x = mix.erase(RNG, jnp.full((2000, 32, 32, 1), 7.0), 0.25)
    erased = np.asarray(x != 7.0)[..., 0]
    some = erased.any((1, 2))
    assert some.mean() == pytest.approx(0.25, abs=0.04)
    filled = np.asarray(x)[..., 0][erased]
    assert filled.mean() == pytest.approx(0, abs=0.03)
    assert filled.std() == pytest.approx(1, abs=0.03)
    area = erased[some].mean((1, 2))
    assert 0.01 < area.min() < 0.04
    assert 0.28 < area.max() < 0.36
    for mask in erased[some][:50]:
        np.testing.assert_array_equal(mask, mask.any(1)[:, None] & mask.any(0))


def test_nothing_is_erased_at_probability_zero():
    np.testing.assert_array_equal(mix.erase(RNG, X, 0.0), X)
