"""Learned tables on a grid of patches, for images of another size."""

import jax.numpy as jnp
import numpy as np


def table(net, name, init, shape, side=None):
    """The table `name` of the module that calls, on the grid of `shape` (height, width, D).

    It keeps the grid that init saw, or has one of `side` x `side` from the start, so its own shape, not this image's,
    says what to read; for others it is resized bicubically, as the published vision transformers are.
    """
    if not net.has_variable("params", name):
        learned = net.param(name, init, (side, side, shape[-1]) if side else shape)
    else:
        learned = net.get_variable("params", name)
    return learned if learned.shape == shape else resized(learned, *shape[:2])


def resized(table, height, width):
    """A table [h, w, D] on a grid of another size, [height, width, D]."""
    rows, columns = _bicubic(table.shape[0], height), _bicubic(table.shape[1], width)
    return jnp.einsum("yh,hwd,xw->yxd", rows, table, columns, precision="highest")


def _bicubic(size, target):
    """Weights [target, size] of torch's bicubic interpolation (a = -0.75, half-pixel centres, edges repeated)."""
    a = -0.75
    at = (np.arange(target) + 0.5) * size / target - 0.5
    weights = np.zeros((target, size), np.float32)
    for tap in range(-1, 3):
        pixel = np.floor(at).astype(int) + tap
        t = np.abs(at - pixel)
        near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
        np.add.at(weights, (np.arange(target), np.clip(pixel, 0, size - 1)), np.where(t <= 1, near, far))
    return weights
