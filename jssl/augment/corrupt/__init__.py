"""The 15 corruptions of ImageNet-C and CIFAR-10-C at five severities (Hendrycks & Dietterich, 2019; arXiv:1903.12261).

On the device. Each is a function of one image and of its own random key, (key, x, table, level) -> x: x float32
[H, W, C] in [0, 1], grey or RGB; table [5, K], what the paper's authors published for each severity; level 0 ... 4,
traced, so that five severities are one program. Where what they ran cannot be had on the device, the function says so.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jssl.augment.corrupt import blur, digital, noise, weather
from jssl.config import nearest

LARGE = 97  # pixels of the shorter side from which on the constants are ImageNet-C's, and below CIFAR-10-C's

CORRUPTIONS = {
    "gaussian noise": noise.gaussian_noise,
    "shot noise": noise.shot_noise,
    "impulse noise": noise.impulse_noise,
    "defocus blur": blur.defocus_blur,
    "glass blur": blur.glass_blur,
    "motion blur": blur.motion_blur,
    "zoom blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg": digital.jpeg,
}
SEVERITIES = (1, 2, 3, 4, 5)

# The constants of severities 1 to 5, of CIFAR-10-C and of ImageNet-C; what they are is said where they are used.
CONSTANTS = {
    "gaussian noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion blur": (
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        np.array([(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)])
        * (244 / 224),  # theirs are of 244 pixels, for images of 224
    ),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


def corrupt(images, name, severity, key, index=None):
    """Corrupts images, each by random numbers of (key, its index) alone: uint8 [N, H, W, C] -> uint8 [N, H, W, C].

    name: of `CORRUPTIONS`; severity: 1 to 5; index: int [N], 0 ... N - 1 by default. Compiles once for each name and
    shape. Lengths are in pixels as published, for images of 32 and of 224 pixels, but for those of "elastic transform",
    which are shares of the side. Raises ValueError in one line.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}{nearest(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}; expected 1 to 5")
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images are {images.dtype} {list(images.shape)}; expected uint8 [N, H, W, 1 or 3]")
    index = np.arange(len(images)) if index is None else index
    return program(name, images, jnp.asarray(index, jnp.uint32), severity - 1, key)


def published(side):
    """Whose constants images of a side in pixels get: "CIFAR-10-C" or "ImageNet-C"."""
    return "ImageNet-C" if side >= LARGE else "CIFAR-10-C"


@functools.partial(jax.jit, static_argnames="name")
def program(name, images, index, level, key):
    """What `corrupt` compiles; level: severity - 1."""
    table = CONSTANTS[name][published(min(images.shape[1:3])) == "ImageNet-C"]
    table = np.asarray(table, np.float32).reshape(5, -1)

    def one(image, index):
        x = CORRUPTIONS[name](jax.random.fold_in(key, index), image / jnp.float32(255), table, level)
        return jnp.round(255 * jnp.clip(x, 0, 1)).astype(jnp.uint8)

    return jax.vmap(one)(images, index)
