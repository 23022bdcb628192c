"""Discrete codes of patches: which code is nearest, how codebooks move, how they look."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.nets.vit import grid, pixels_of
from jssl.transforms import unit


def assign(z, codebook):
    """The nearest code of each vector, all of unit length. z: [..., D]; codebook: [K, D] -> int32 [...]"""
    cosines = jnp.einsum("...d,kd->...k", z, codebook, precision=lax.Precision.HIGHEST)
    return jnp.argmax(cosines, -1).astype(jnp.int32)


def averaged(codebook, z, codes, decay):
    """codebook <- the unit vector of decay * codebook + (1 - decay) * mean, the mean of what was assigned to each code,
    of unit length; a code that nothing was assigned to stays. z: [..., D]; codes: [...] -> ([K, D], counts [K])"""
    k, d = codebook.shape
    z, codes = lax.stop_gradient(z).reshape(-1, d), codes.reshape(-1)
    sums = jnp.zeros((k, d)).at[codes].add(z)
    counts = jnp.zeros(k).at[codes].add(1.0)
    mean = jnp.where(counts[:, None] > 0, unit(sums), codebook)
    return unit(decay * codebook + (1 - decay) * mean), counts


def resized(x, grid, stride):
    """Images as a tokenizer sees them that makes a code of `stride` x `stride` pixels: so that there is one for each
    patch of the grid. [N, H, W, C] -> [N, height * stride, width * stride, C]"""
    shape = (len(x), grid[0] * stride, grid[1] * stride, x.shape[-1])
    return x if shape == x.shape else jax.image.resize(x, shape, "lanczos3")


def predictions_sheet(x, hidden, z, found, size, patch):
    """For people: images [N, H, W, C], what the encoder sees of them, their codes, and those with what was found of
    hidden patches, bool [N, L]. z, found: int [N, L], of `size` codes; patch: pixels of its side -> [N, 4, H, W, C]"""
    shape = grid(x, patch)
    seen = jnp.where(pixels_of(hidden, patch, shape), 0, x)
    paint = lambda codes: painted(codes.reshape(len(x), *shape), x, size)
    return jnp.stack([x, seen, paint(z), paint(jnp.where(hidden, found, z))], 1)


def painted(codes, like, size):
    """A colour of its own for each code, between the darkest and the lightest of images [N, H, W, C]: for people.

    codes: int [N, h, w], of `size` codes -> [N, H, W, C]
    """
    channels = like.shape[-1]
    greys = np.random.RandomState(0).permutation(size)[:, None] / max(size - 1, 1)
    colours = greys if channels == 1 else np.random.RandomState(0).uniform(size=(size, channels))
    tiles = like.min() + (like.max() - like.min()) * jnp.asarray(colours, jnp.float32)[codes]  # [N, h, w, C]
    return tiles.repeat(like.shape[1] // codes.shape[1], 1).repeat(like.shape[2] // codes.shape[2], 2)
