"""Masks over patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.masking import mask_by_noise, random_mask

masked = jax.jit(random_mask, static_argnums=(1, 2, 3))


@pytest.mark.parametrize("length, ratio, kept", [(196, 0.75, 49), (16, 0.6, 6), (10, 0.9, 1), (100, 0.9, 10)])
def test_the_share_that_is_hidden_is_exact_in_every_sample(length, ratio, kept):
    mask = jax.eval_shape(lambda rng: random_mask(rng, 3, length, ratio), jax.random.key(0))
    assert mask.keep.shape == (3, kept)
    assert mask.restore.shape == mask.hidden.shape == (3, length)
    if length < 20:
        np.testing.assert_array_equal(masked(jax.random.key(0), 3, length, ratio).hidden.sum(1), length - kept)


def test_every_position_and_every_pair_is_hidden_equally_often():
    n, length = 20_000, 8
    hidden = np.asarray(masked(jax.random.key(1), n, length, 0.75).hidden)
    np.testing.assert_allclose(hidden.mean(0), 0.75, atol=5 * np.sqrt(0.75 * 0.25 / n))
    together = (hidden.T.astype(float) @ hidden / n)[~np.eye(length, dtype=bool)]
    expected = 6 / 8 * 5 / 7
    np.testing.assert_allclose(together, expected, atol=5 * np.sqrt(expected * (1 - expected) / n))


def test_samples_and_keys_have_their_own_masks():
    first, other = (masked(jax.random.key(seed), 64, 48, 0.5) for seed in (0, 1))
    assert len(np.unique(first.hidden, axis=0)) == 64
    assert (first.hidden != other.hidden).any(1).mean() > 0.9
    np.testing.assert_array_equal(first.keep, masked(jax.random.key(0), 64, 48, 0.5).keep)


def test_keep_restore_and_hidden_agree():
    mask = masked(jax.random.key(2), 5, 12, 0.5)
    np.testing.assert_array_equal(np.sort(mask.restore, axis=1), np.tile(np.arange(12), (5, 1)))
    for keep, restore, hidden in zip(*(np.asarray(x) for x in mask)):
        np.testing.assert_array_equal(np.sort(keep), np.flatnonzero(~hidden))
        shuffled = np.concatenate([keep, np.full(6, -1)])
        np.testing.assert_array_equal(shuffled[restore], np.where(hidden, -1, np.arange(12)))


def test_the_smallest_noise_stays():
    mask = mask_by_noise(jnp.array([[0.5, 0.1, 0.9, 0.3]]), 2)
    np.testing.assert_array_equal(mask.keep, [[1, 3]])
    np.testing.assert_array_equal(mask.restore, [[2, 0, 3, 1]])
    np.testing.assert_array_equal(mask.hidden, [[True, False, True, False]])


@pytest.mark.parametrize("ratio", [0.0, 0.95, 1.0])
def test_a_mask_that_keeps_or_hides_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=r"a mask of .* keeps \d+ of 16 patches; expected") as error:
        random_mask(jax.random.key(0), 2, 16, ratio)
    assert "\n" not in str(error.value)
