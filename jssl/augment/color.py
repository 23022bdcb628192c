"""Colour and intensity operations on images in [0, 1], as torchvision's `v2.functional` defines them.

Images are float32 [..., H, C, W]: with the channels between rows and columns the innermost loop runs along a row,
on every backend. Parameters have the leading shape [...]: one value per image. Colour needs three channels; on
images with any other number grey is the mean of the channels.
"""

import jax.numpy as jnp

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def grey(x):
    """Luma (ITU-R BT.601), or the mean of the channels if they are not three. [..., H, C, W] -> [..., H, 1, W]."""
    if x.shape[-2] != 3:
        return x.mean(-2, keepdims=True)
    return 0.2989 * x[..., 0:1, :] + 0.587 * x[..., 1:2, :] + 0.114 * x[..., 2:3, :]


def jitter(x, order, amount):
    """Brightness, contrast, saturation and hue in any order, each at most once per image.

    order: [..., K], which operation comes k-th; amount: its factor [..., K] (1 changes nothing), for hue its shift in
    turns. The first three blend the image with black, its mean grey or its own grey, so that a slot costs one blend
    and one hue rotation whatever the order is.
    """
    for slot in range(order.shape[-1]):
        op, f = _wide(order[..., slot]), amount[..., slot]
        g = grey(x)
        mean = g.mean((-3, -2, -1), keepdims=True)
        base = jnp.where(op == SATURATION, g, jnp.where(op == CONTRAST, mean, 0.0))
        blend = jnp.clip(base + _wide(f) * (x - base), 0, 1)
        x = jnp.where(op == HUE, hue(x, f), blend) if x.shape[-2] == 3 else blend
    return x


def hue(x, shift):
    """Turns the hue of RGB images by `shift` turns in HSV, where saturation and value stay."""
    r, g, b = (x[..., c, :] for c in range(3))  # [..., H, W]
    top = jnp.maximum(jnp.maximum(r, g), b)
    chroma = top - jnp.minimum(jnp.minimum(r, g), b)
    inverse = 1 / jnp.where(chroma > 0, chroma, 1)
    h = jnp.where(top == r, g - b, jnp.where(top == g, b - r, r - g)) * inverse
    h = h + jnp.where(top == r, 0.0, jnp.where(top == g, 2.0, 4.0)) + 6 * shift[..., None, None]  # sixths of a turn

    def channel(n):  # HSV -> RGB without cases: value minus chroma times a trapezoid of the hue
        k = n + h
        k = k - 6 * jnp.floor(k / 6)
        return top - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -2)


def grayscale(x, apply):
    """Grey in all three channels where `apply`; other numbers of channels have no colour to lose."""
    return jnp.where(_wide(apply), grey(x), x) if x.shape[-2] == 3 else x


def solarise(x, apply, threshold=0.5):
    """Inverts the values from `threshold` up, where `apply`."""
    return jnp.where(_wide(apply) & (x >= threshold), 1 - x, x)


def gamma(x, exponent):
    return x ** _wide(exponent)


def normalise(x, mean, std):
    """(x - mean) / std along the last axis; a mean or std of length one serves any number of channels."""
    for name, value in ("mean", mean), ("std", std):
        if len(value) not in (1, x.shape[-1]):
            raise ValueError(
                f"{name} has {len(value)} values, the images {x.shape[-1]} channels: give that many, or one"
            )
    return (x - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def _wide(value):
    return value[..., None, None, None]
