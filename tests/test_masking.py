"""Masks over patches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.masking import block_mask, block_sizes, coarse_mask, mask_by_noise, multi_block_mask, random_mask

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


def test_squares_are_hidden_whole_and_as_many_as_asked():
    hidden = np.asarray(jax.jit(lambda rng: coarse_mask(rng, 200, (6, 8), 2, 0.6))(jax.random.key(0)))
    squares = hidden.reshape(200, 3, 2, 4, 2)
    assert (squares == squares[:, :, :1, :, :1]).all()
    np.testing.assert_array_equal(hidden.sum(1), 4 * 8)  # ceil(12 * 0.6) squares
    assert np.ptp(hidden.mean(0)) < 0.2
    cut = np.asarray(coarse_mask(jax.random.key(0), 50, (6, 8), 4, 0.5)).reshape(50, 6, 8)  # 2 of 2 x 2 squares
    assert set(cut.sum((1, 2))) == {16, 24, 32}
    with pytest.raises(ValueError, match="a mask of 0 hides 0 of 12 squares; expected some"):
        coarse_mask(jax.random.key(0), 1, (6, 8), 2, 0.0)


def holes(hidden):
    """Of masks bool [N, H, W]: the share of hidden patches without a hidden neighbour to the left or right, or above or
    below."""
    rows, columns = (hidden & ~(np.roll(hidden, 1, axis) | np.roll(hidden, -1, axis)) for axis in (1, 2))
    return (rows | columns).sum() / hidden.sum()


@pytest.mark.parametrize("grid, count, smallest", [((14, 14), 75, 16), ((4, 9), 14, 4), ((3, 2), 5, 16)])
def test_blocks_hide_exactly_as_many_patches_as_asked(grid, count, smallest):
    hidden = np.asarray(
        jax.jit(functools.partial(block_mask, grid=grid, smallest=smallest))(
            jax.random.key(0), counts=jnp.full(2000, count)
        )
    )
    np.testing.assert_array_equal(hidden.sum(1), count)
    assert hidden.any(0).all()
    assert not hidden.all(0).any()
    assert len(np.unique(hidden, axis=0)) > (1000 if count > 5 else 2)
    if grid == (14, 14):
        alone = np.asarray(masked(jax.random.key(0), 2000, 196, 75 / 196).hidden)
        assert holes(hidden.reshape(-1, 14, 14)) < 0.1 < 0.4 < holes(alone.reshape(-1, 14, 14))


def test_every_sample_may_hide_another_number_of_patches_also_none():
    counts = jnp.arange(0, 50, 7)
    hidden = jax.jit(lambda rng: block_mask(rng, (7, 7), counts, smallest=4))(jax.random.key(1))
    np.testing.assert_array_equal(hidden.sum(1), counts)


@pytest.mark.parametrize("grid", [(14, 14), (6, 10), (4, 4)])
def test_context_and_targets_do_not_overlap_and_targets_are_blocks(grid):
    n = 500
    blocks = jax.jit(lambda rng: multi_block_mask(rng, n, grid))(jax.random.key(0))
    size, context = block_sizes(grid, 4, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0))
    assert blocks.context.shape == (n, context)
    assert blocks.targets.shape == (n, 4, size)
    assert 0.15 <= size / np.prod(grid) <= 0.2
    seen = np.zeros((n, grid[0] * grid[1]), int)
    np.put_along_axis(seen, np.asarray(blocks.context), 1, 1)
    assert (seen.sum(1) == context).mean() > 0.99  # each patch once
    targets = np.asarray(blocks.targets)
    assert not np.take_along_axis(seen, targets.reshape(n, -1), 1).any()
    assert (np.diff(targets, axis=-1) > 0).all()  # each patch once, row by row
    rows, columns = targets // grid[1], targets % grid[1]
    height, width = (np.ptp(x, axis=-1) + 1 for x in (rows, columns))
    assert (height * width - size < width).mean() > 0.9  # a rectangle but for the end of its last row
    assert len(np.unique(targets[:, 0], axis=0)) > 3
    assert seen.any(0).all()


def test_targets_of_one_sample_have_one_shape_and_places_of_their_own():
    targets = np.asarray(multi_block_mask(jax.random.key(2), 50, (14, 14)).targets)
    width = np.ptp(targets % 14, axis=-1)
    assert (width == width[:, :1]).all()
    assert len(np.unique(width[:, 0])) > 2
    assert (targets[:, 0] != targets[:, 1]).any(1).mean() > 0.9


def test_targets_that_leave_no_context_are_refused():
    with pytest.raises(ValueError, match=r"20 target blocks of 0.5 to 0.6 leave no context of 4 x 4 patches") as error:
        multi_block_mask(jax.random.key(0), 2, (4, 4), targets=20, scale=(0.5, 0.6))
    assert "\n" not in str(error.value)
