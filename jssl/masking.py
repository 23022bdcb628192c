"""Masks over patches and time steps."""

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
