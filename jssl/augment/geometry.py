"""Crops, resizing, small affine maps and blur, without a gather: every one is separable, a sum along rows and columns.

Images are float32 [..., H, C, W] (see `color`). Boxes are (top, left, height, width) in whole pixels, as torchvision
draws them.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

TRIES = 10


def boxes(rng, shape, height, width, area, ratio):
    """Random resized crop's boxes, drawn as torchvision's `RandomResizedCrop` does (Szegedy et al., 2015;
    arXiv:1409.4842): ten tries at an area and an aspect ratio, else the largest centred box of an allowed ratio.

    area: range of the share of the image; ratio: range of width / height, log-uniform.
    -> top, left, h, w: float32 of the given shape, whole numbers.
    """
    rng_area, rng_ratio, rng_top, rng_left = jax.random.split(rng, 4)
    draw = lambda key, low, high: jax.random.uniform(key, (*shape, TRIES), minval=low, maxval=high)
    target = height * width * draw(rng_area, *area)
    aspect = jnp.exp(draw(rng_ratio, math.log(ratio[0]), math.log(ratio[1])))
    w, h = jnp.round(jnp.sqrt(target * aspect)), jnp.round(jnp.sqrt(target / aspect))
    valid = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = valid & (jnp.cumsum(valid, -1) == 1)
    some = valid.any(-1)

    low, high = ratio[0] <= width / height, width / height <= ratio[1]
    h = jnp.where(some, jnp.sum(h * first, -1), height if low else round(width / ratio[0]))
    w = jnp.where(some, jnp.sum(w * first, -1), width if high else round(height * ratio[1]))

    def place(key, free):
        anywhere = jnp.floor(jax.random.uniform(key, shape) * (free + 1))
        return jnp.where(some, jnp.minimum(anywhere, free), free // 2)

    return place(rng_top, height - h), place(rng_left, width - w), h, w


def resize_weights(start, length, positions, size, source, interpolation="bilinear"):
    """Weights [..., P, source] with which `source` pixels add up to the pixels at `positions` [..., P] of a row of `size`
    that shows the pixels [start, start + length) ([...] each).

    The filter is stretched when shrinking, cut at the box and normalised, as torch and Pillow do (`antialias=True`).
    """
    kernel = {"bilinear": _triangle, "bicubic": _keys}[interpolation]
    scale = (length / size)[..., None]
    centre = scale * (positions + 0.5)  # [..., P]
    pixel = jnp.arange(source) + 0.5 - start[..., None]  # [..., source]
    inside = (pixel > 0) & (pixel < length[..., None])
    stretch = jnp.maximum(scale, 1)[..., None]
    weights = kernel((pixel[..., None, :] - centre[..., None]) / stretch) * inside[..., None, :]
    return weights / weights.sum(-1, keepdims=True)


def resized_crop(x, box, size, flip=None, interpolation="bilinear"):
    """Views of images: x [N, H, C, W], box and flip of shape [N, V] -> [N, V, size, C, size].

    Two matrix products; the flip reverses the columns' matrix.
    """
    top, left, h, w = box
    at = jnp.broadcast_to(jnp.arange(size, dtype=jnp.float32), (*top.shape, size))
    rows = resize_weights(top, h, at, size, x.shape[1], interpolation)
    at = at if flip is None else jnp.where(flip[..., None], size - 1 - at, at)
    cols = resize_weights(left, w, at, size, x.shape[3], interpolation)
    x = jnp.einsum("nvih,nhcw->nvicw", rows, x, precision=lax.Precision.HIGHEST)
    x = jnp.einsum("nvicw,nvjw->nvicj", x, cols, precision=lax.Precision.HIGHEST)
    return jnp.clip(x, 0, 1) if interpolation == "bicubic" else x


def blur(x, sigma, kernel):
    """Gaussian blur of [..., H, C, W] with reflected borders; sigma [...] in pixels, 0 for none; kernel: odd width."""
    half = min(kernel // 2, x.shape[-1] - 1, x.shape[-3] - 1)
    offset = jnp.arange(-half, half + 1)
    weights = jnp.exp(-0.5 * (offset / jnp.maximum(sigma, 1e-3)[..., None]) ** 2)
    weights = weights / weights.sum(-1, keepdims=True)  # [..., kernel]
    for axis in -1, -3:
        pad = [(0, 0)] * x.ndim
        pad[axis] = (half, half)
        padded, size = jnp.pad(x, pad, mode="reflect"), x.shape[axis]
        taps = (lax.slice_in_dim(padded, t, t + size, axis=axis % x.ndim) for t in range(2 * half + 1))
        x = sum(weights[..., t, None, None, None] * tap for t, tap in enumerate(taps))
    return x


def _triangle(x):
    return jnp.maximum(1 - jnp.abs(x), 0)


def _keys(x):
    """Cubic convolution (Keys, 1981) with a = -0.5, as Pillow has it."""
    x = jnp.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
