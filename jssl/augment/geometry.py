"""Crops, resizing, small affine maps and blur, without a gather: every one is separable, a sum along rows and columns.

Images are float32 [..., H, C, W] (see `color`). Boxes are (top, left, height, width) in whole pixels, as torchvision
draws them.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

TRIES = 10
FILTERS = ("bilinear", "bicubic")


def boxes(u, height, width, area, ratio):
    """Random resized crop's boxes, drawn as torchvision's `RandomResizedCrop` draws them (Szegedy et al., 2015;
    arXiv:1409.4842): ten tries at an area and an aspect ratio, else the largest centred box of an allowed ratio.

    u: uniform numbers in [0, 1), [..., 2 * TRIES + 2]; area: range of the share of the image; ratio: range of width /
    height, log-uniform. -> top, left, h, w: float32 [...], whole numbers.
    """
    u_area, u_ratio, u_top, u_left = jnp.split(u, (TRIES, 2 * TRIES, 2 * TRIES + 1), -1)
    target = height * width * between(u_area, *area)
    aspect = jnp.exp(between(u_ratio, math.log(ratio[0]), math.log(ratio[1])))
    w, h = jnp.round(jnp.sqrt(target * aspect)), jnp.round(jnp.sqrt(target / aspect))  # [..., TRIES]
    valid = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = valid & (jnp.cumsum(valid, -1) == 1)
    found = valid.any(-1)

    aspect = min(max(width / height, ratio[0]), ratio[1])
    h = jnp.where(found, jnp.sum(h * first, -1), min(height, max(1, round(width / aspect))))
    w = jnp.where(found, jnp.sum(w * first, -1), min(width, max(1, round(height * aspect))))
    place = lambda u, free: jnp.where(found, jnp.minimum(jnp.floor(u[..., 0] * (free + 1)), free), free // 2)
    return place(u_top, height - h), place(u_left, width - w), h, w


def resize_weights(start, length, positions, size, source, interpolation="bilinear"):
    """Weights [..., P, source] of the `source` pixels of a row in the pixels at `positions` [..., P] of a row of `size`
    that shows [start, start + length) of it ([...] each).

    The filter is stretched when shrinking, cut at the box and normalised, as torch and Pillow do (`antialias=True`).
    """
    kernel = {"bilinear": _triangle, "bicubic": _keys}[interpolation]
    scale = (length / size)[..., None]
    centre = scale * (positions + 0.5)  # [..., P]
    pixel = jnp.arange(source) + 0.5 - start[..., None]  # [..., source]
    inside = (pixel > -0.5) & (pixel < length[..., None] + 0.5)
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
    """Gaussian blur of [..., H, C, W] with reflected borders; sigma: [...] in pixels, 0 for none; kernel: odd width.

    By two matrix products: a sum of shifted images does fewer sums, but the compiler then recomputes all that comes
    before it for every shift.
    """
    rows, cols = (_blur_weights(sigma, size, kernel) for size in (x.shape[-3], x.shape[-1]))
    x = jnp.einsum("...ih,...hcw->...icw", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("...icw,...jw->...icj", x, cols, precision=lax.Precision.HIGHEST)


def _blur_weights(sigma, size, kernel):
    """Weights [..., size, size] of the pixels of a row in the blurred pixels of the row."""
    at = np.arange(size)
    mirrored = np.stack([at, -at, 2 * (size - 1) - at])  # where a pixel is, and where the border shows it again
    offset = mirrored[:, None] - at[:, None]  # [3, size, size]
    there = abs(offset) <= min(kernel // 2, size - 1)
    there[1, :, 0] = there[2, :, -1] = False
    spread = jnp.maximum(sigma, 1e-3)[..., None, None, None]
    weights = jnp.sum(there * jnp.exp(-0.5 * (offset / spread) ** 2), -3)
    return weights / weights.sum(-1, keepdims=True)


def rotate_shear(x, angle, horizontal, vertical, most):
    """Turns square images [..., S, C, S] about the centre by `angle` (radians, counter-clockwise) and shears them by
    the slopes `horizontal` and `vertical` ([...] each); what comes in from outside is 0.

    A rotation is three shears (Paeth, 1986), and a shear shifts each row or column by its own amount, `most` (static)
    times its distance from the centre at most.
    """
    size = x.shape[-1]
    reach = math.ceil(most * (size - 1) / 2)
    distance = (jnp.arange(size) - (size - 1) / 2)[:, None, None]  # [S, 1, 1]

    def shear_and_transpose(x, slope):
        shift = slope[..., None, None, None] * distance
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(reach, reach)])
        # Linear interpolation, as a sum over all whole shifts, of which two have a weight: no gather.
        x = sum(_triangle(shift - t) * padded[..., reach + t : reach + t + size] for t in range(-reach, reach + 1))
        return x.swapaxes(-1, -3), None

    tilt = jnp.tan(angle / 2)
    slopes = jnp.stack([horizontal - tilt, vertical + jnp.sin(angle), -tilt])
    # A loop, and not three calls, so that the compiler does not compute the first shear once per shift of the second.
    return lax.scan(shear_and_transpose, x, slopes)[0].swapaxes(-1, -3)


def between(u, low, high):
    return low + (high - low) * u


def _triangle(x):
    return jnp.maximum(1 - jnp.abs(x), 0)


def _keys(x):
    """Cubic convolution (Keys, 1981) with a = -0.5, as Pillow has it."""
    x = jnp.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
