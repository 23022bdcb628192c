"""Masks over patches and time steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
    keep: jax.Array  # int32 [N, K], the positions that stay, in random order
    restore: jax.Array  # int32 [N, L], where position l went: shuffled[restore[l]] is position l's
    hidden: jax.Array  # bool [N, L], True where a position was removed


def random_mask(rng, samples, length, ratio):
    """Hides a share `ratio` of the positions of each sample, uniformly at random (He et al., 2021, section 3).

    K = int(length * (1 - ratio)) positions stay, the same number in every sample.
    """
    noise = jax.random.uniform(rng, (samples, length))
    return mask_by_noise(noise, int(length * (1 - ratio)))


def mask_by_noise(noise, keep):
    """Keeps the `keep` positions with the smallest noise. noise: [N, L]."""
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return Mask(order[:, :keep], restore, restore >= keep)
