"""Colour and intensity operations on images in [0, 1], as torchvision's `v2.functional` defines them.

Images are float32 [..., H, C, W]: with the channels between rows and columns the innermost loop runs along a row,
on every backend. Parameters have the leading shape [...]: one value per image. Colour needs three channels; on
images with any other number grey is the mean of the channels.
"""

import jax.numpy as jnp


def grey(x):
    """Luma (ITU-R BT.601), or the mean of the channels if they are not three. [..., H, C, W] -> [..., H, 1, W]."""
    if x.shape[-2] != 3:
        return x.mean(-2, keepdims=True)
    return 0.2989 * x[..., 0:1, :] + 0.587 * x[..., 1:2, :] + 0.114 * x[..., 2:3, :]


def jitter(x, amount, place):
    """Brightness, contrast, saturation and hue, each once, in any order.

    amount: factors, and for hue a shift in turns, [..., 4]; place: when each one comes, [..., 4], a permutation of
    0..3. Images that are not RGB take the first two only, [..., 2].

    The first three blend the image with black, with its mean grey and with its own grey. So a place in the order
    costs one blend and one hue rotation, whichever of the four comes there.
    """
    for now in range(amount.shape[-1]):
        turn = [_wide(place[..., op] == now) for op in range(amount.shape[-1])]
        factor = _wide(jnp.sum(jnp.where(place == now, amount, 0), -1))
        own = grey(x)
        base = jnp.where(turn[1], own.mean((-3, -2, -1), keepdims=True), 0)
        base = jnp.where(turn[2], own, base) if len(turn) > 2 else base
        blend = jnp.clip(base + factor * (x - base), 0, 1)
        x = jnp.where(turn[3], hue(x, amount[..., 3]), blend) if len(turn) > 2 else blend
    return x


def any_order(u):
    """Uniform numbers [..., K] -> a uniformly random permutation of 0..K-1: their ranks."""
    return jnp.argsort(jnp.argsort(u))


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
