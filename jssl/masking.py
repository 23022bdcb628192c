"""Masks over patches and time steps."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
    keep: jax.Array  # int32 [N, K], the positions that stay, in random order
    restore: jax.Array  # int32 [N, L], where position l went: shuffled[restore[l]] is position l's
    hidden: jax.Array  # bool [N, L], True where a position was removed


def random_mask(rng, samples, length, ratio):
    """Hides a share `ratio` of the positions of each sample, uniformly at random (He et al., 2021, section 3).

    K = floor(length * (1 - ratio)) positions stay, the same number in every sample.
    """
    keep = math.floor(length * (1 - ratio) + 1e-9)  # 10 * (1 - 0.9) is 0.9999999999999998
    if not 0 < keep < length:
        raise ValueError(
            f"a mask of {ratio:g} keeps {keep} of {length} patches; expected a share that leaves some and hides some"
        )
    return mask_by_noise(jax.random.uniform(rng, (samples, length)), keep)


def mask_by_noise(noise, keep):
    """Keeps the `keep` positions with the smallest noise. noise: [N, L]."""
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return Mask(order[:, :keep], restore, restore >= keep)


def coarse_mask(rng, samples, grid, unit, ratio):
    """Hides squares of `unit` x `unit` patches together (SimMIM, arXiv:2111.09886, section 3.2) -> bool [N, L].

    grid: (height, width) in patches. ceil(squares * ratio) squares are hidden, the same number in every sample. Those
    at the end of a grid that is no multiple of them are cut.
    """
    height, width = grid
    rows, columns = -(-height // unit), -(-width // unit)
    keep = rows * columns - math.ceil(rows * columns * ratio - 1e-9)
    if not 0 <= keep < rows * columns:
        raise ValueError(
            f"a mask of {ratio:g} hides {rows * columns - keep} of {rows * columns} squares; expected some"
        )
    hidden = mask_by_noise(jax.random.uniform(rng, (samples, rows * columns)), keep).hidden
    hidden = hidden.reshape(samples, rows, columns).repeat(unit, 1).repeat(unit, 2)
    return hidden[:, :height, :width].reshape(samples, -1)


def block_mask(rng, grid, counts, smallest=16, aspect=0.3):
    """Hides rectangles of patches, counts int32 [N] in all (BEiT, arXiv:2106.08254, algorithm 1) -> bool [N, L].

    grid: (height, width) in patches. A rectangle has `smallest` patches or more, at most as many as are still wanted,
    and a height of `aspect` to 1 / `aspect` of its width. Exactly as many as asked are hidden: the last rectangle loses
    its last rows where the paper's code stops short of the number.
    """
    height, width = grid

    def one_more(hidden, rng):
        rng_area, rng_aspect, rng_place = jax.random.split(rng, 3)
        wanted = counts - hidden.sum(1)  # [N]
        area = jax.random.uniform(rng_area, counts.shape, minval=jnp.minimum(smallest, wanted), maxval=wanted)
        ratio = jnp.exp(jax.random.uniform(rng_aspect, counts.shape, minval=jnp.log(aspect), maxval=-jnp.log(aspect)))
        sides = _sides(area, ratio, grid)
        new = _rectangles(rng_place, *sides, grid) & ~hidden
        return hidden | new & (jnp.cumsum(new, 1) <= wanted[:, None]), None

    rng_blocks, rng_rest = jax.random.split(rng)
    hidden = jnp.zeros((len(counts), height * width), bool)
    hidden, _ = jax.lax.scan(one_more, hidden, jax.random.split(rng_blocks, BLOCKS))
    # What is left where rectangles fell on each other, all over the image.
    noise = jnp.where(hidden, -1.0, jax.random.uniform(rng_rest, hidden.shape))
    return jnp.argsort(jnp.argsort(noise, 1), 1) < counts[:, None]


def block_share(rng, samples, grid, ratio, smallest=16):
    """`block_mask` of the same rounded share `ratio` of each sample's patches."""
    return block_mask(rng, grid, jnp.full(samples, round(math.prod(grid) * ratio)), smallest)


def hidden_first(hidden, most):
    """Places of hidden positions, bool [N, L], then of others, each in their order -> int32 [N, most]."""
    return jnp.argsort(~hidden, 1)[:, :most]


BLOCKS = 24  # rectangles at most: enough for each of 10,000 masks of 75 of 14 x 14 patches, for 86 % of those of 150


class Blocks(NamedTuple):
    context: jax.Array  # int32 [N, K], patches that the encoder sees, in random order
    targets: jax.Array  # int32 [N, M, T], the patches of each target block, row by row


def multi_block_mask(rng, samples, grid, targets=4, scale=(0.15, 0.2), aspect=(0.75, 1.5), context_scale=(0.85, 1.0)):
    """I-JEPA's target blocks, and a context block without them (arXiv:2301.08243, section 3) -> Blocks.

    grid: (height, width) in patches; scale: of a target's area; aspect: height to width; the context's block is as
    oblong as the grid. The numbers K and T are the same for all samples and steps: T is the middle of the scale, in
    rectangles whose last row may not be full, and K one that nine of ten contexts reach, which lose patches at random.
    (The authors' code draws T per batch from the scale, and cuts contexts to the smallest of the batch, row by row.)
    """
    shape = (grid, targets, tuple(scale), tuple(aspect), tuple(context_scale))
    size, context = block_sizes(*shape)
    blocks, free = _blocks(rng, (DRAWS, samples), *shape)  # [DRAWS, N, M, L], [DRAWS, N, L]

    # The first draw whose context is large enough, else the one with the largest: nearly never.
    enough = jnp.minimum(free.sum(-1), context)  # [DRAWS, N]
    draw = jnp.argmax(enough, 0)  # [N]
    blocks, free = (jnp.take_along_axis(x, draw.reshape(1, -1, *[1] * (x.ndim - 2)), 0)[0] for x in (blocks, free))

    inside = jnp.argsort(~blocks, -1)[..., :size]  # stable: row by row
    noise = jax.random.uniform(jax.random.fold_in(rng, 1), free.shape)
    order = jnp.argsort(jnp.where(free, noise, 2.0), -1)[:, :context]
    there = jnp.arange(context) < free.sum(-1, keepdims=True)
    return Blocks(jnp.where(there, order, order[:, :1]), inside)


DRAWS = 4


@functools.cache
def block_sizes(grid, targets, scale, aspect, context_scale):
    """-> (T, K): how many patches each target and the context of `multi_block_mask` have."""
    with jax.ensure_compile_time_eval():
        _, free = _blocks(jax.random.key(0), (1000,), grid, targets, scale, aspect, context_scale)
        context = int(jnp.quantile(free.sum(-1), 0.1))
    if context < 1:
        raise ValueError(
            f"{targets} target blocks of {scale[0]:g} to {scale[1]:g} leave no context of {grid[0]} x {grid[1]} "
            "patches; expected fewer, smaller blocks or more patches"
        )
    return target_size(grid, scale), context


def target_size(grid, scale):
    """How many patches a target of `multi_block_mask` has."""
    return max(round(math.prod(grid) * sum(scale) / 2), 1)


def _blocks(rng, shape, grid, targets, scale, aspect, context_scale):
    """-> the target blocks, bool [*shape, M, L], and what the context block has besides, bool [*shape, L]."""
    height, width = grid
    keys = jax.random.split(rng, 4)
    uniform = lambda rng, shape, bounds: jax.random.uniform(rng, shape, minval=bounds[0], maxval=bounds[1])
    size = target_size(grid, scale)
    tall = jnp.round(jnp.sqrt(size * uniform(keys[0], shape, aspect)))  # one shape for all targets of a sample
    tall = jnp.clip(tall.astype(jnp.int32), -(-size // width), min(size, height))
    sides = [jnp.broadcast_to(side[..., None], (*shape, targets)) for side in (tall, -(-size // tall))]
    blocks = _rectangles(keys[1], *sides, grid)
    blocks &= jnp.cumsum(blocks, -1) <= size
    area = height * width * uniform(keys[2], shape, context_scale)
    context = _rectangles(keys[3], *_sides(area, height / width, grid), grid)
    return blocks, context & ~blocks.any(-2)


def _sides(area, ratio, grid):
    """int32 height and width of rectangles with these areas and ratios of height to width, within the grid."""
    sides = jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)
    return [jnp.clip(jnp.round(side).astype(jnp.int32), 1, most) for side, most in zip(sides, grid)]


def _rectangles(rng, height, width, grid):
    """Rectangles of these sizes [...] anywhere on the grid -> bool [..., L]."""
    place = jax.random.uniform(rng, (2, *height.shape))
    inside = []
    for side, most, at in zip((height, width), grid, place):
        first = jnp.floor(at * (most - side + 1)).astype(jnp.int32)[..., None]
        inside.append((jnp.arange(most) >= first) & (jnp.arange(most) < first + side[..., None]))
    rows, columns = inside
    return (rows[..., :, None] & columns[..., None, :]).reshape(*height.shape, -1)
