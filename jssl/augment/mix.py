"""Mixup, CutMix and random erasing: on the device, inside the step, on images that are views already.

Images are float32 [N, H, W, C], targets the probabilities of classes [N, K]. A sample is mixed with its neighbour in
the batch, rows 0 and 1, 2 and 3, ...: the batch is in random order, and pairs need no image of another device.
"""

import jax
import jax.numpy as jnp

AREA, RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of random erasing: share of the image, height / width


def mixup(rng, x, y, alpha):
    """lam * sample + (1 - lam) * neighbour, images and targets alike (Zhang et al., 2017; arXiv:1710.09412).

    lam ~ Beta(alpha, alpha), one for each sample.
    """
    lam = jax.random.beta(rng, alpha, alpha, (len(x),))
    return _blend(lam[:, None, None, None], x), _blend(lam[:, None], y)


def cutmix(rng, x, y, alpha):
    """A rectangle of the neighbour is pasted, and its label has the share of that area (Yun et al., 2019;
    arXiv:1905.04899).

    The rectangle has the image's shape, 1 - lam of its area, lam ~ Beta(alpha, alpha), and its centre anywhere: what
    lies outside of the image counts neither as pixels nor in the label.
    """
    rng_lam, rng_place = jax.random.split(rng)
    side = jnp.sqrt(1 - jax.random.beta(rng_lam, alpha, alpha, (len(x),)))
    centre = jax.random.uniform(rng_place, (2, len(x)))
    height, width = x.shape[1:3]
    pasted = _rectangle(height, width, centre[0] - side / 2, centre[1] - side / 2, side, side)  # [N, H, W]
    share = pasted.mean((1, 2))
    return jnp.where(pasted[..., None], neighbour(x), x), _blend(1 - share[:, None], y)


def either(rng, x, y, mixup_alpha, cutmix_alpha):
    """Each sample by `mixup` or by `cutmix`, as likely (timm's default), or by the one whose alpha is not 0."""
    rng_mixup, rng_cutmix, rng_which = jax.random.split(rng, 3)
    if not cutmix_alpha:
        return mixup(rng_mixup, x, y, mixup_alpha) if mixup_alpha else (x, y)
    if not mixup_alpha:
        return cutmix(rng_cutmix, x, y, cutmix_alpha)
    first = jax.random.bernoulli(rng_which, 0.5, (len(x),))
    one, other = mixup(rng_mixup, x, y, mixup_alpha), cutmix(rng_cutmix, x, y, cutmix_alpha)
    return jnp.where(first[:, None, None, None], one[0], other[0]), jnp.where(first[:, None], one[1], other[1])


def erase(rng, x, probability):
    """A rectangle of some images becomes Gaussian noise (Zhong et al., 2017; arXiv:1708.04896), pixel by pixel, as MAE
    fine-tunes: 2 % to a third of the area, sides within those of the image."""
    rng_some, rng_shape, rng_place, rng_noise = jax.random.split(rng, 4)
    n, height, width = x.shape[:3]
    u_area, u_ratio = jax.random.uniform(rng_shape, (2, n))
    area = AREA[0] + (AREA[1] - AREA[0]) * u_area
    ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** u_ratio  # log-uniform
    tall, wide = jnp.minimum(jnp.sqrt(area * ratio), 1.0), jnp.minimum(jnp.sqrt(area / ratio), 1.0)
    top, left = jax.random.uniform(rng_place, (2, n)) * (1 - jnp.stack([tall, wide]))
    erased = _rectangle(height, width, top, left, tall, wide)
    erased &= jax.random.bernoulli(rng_some, probability, (n, 1, 1))
    return jnp.where(erased[..., None], jax.random.normal(rng_noise, x.shape), x)


def neighbour(x):
    """Rows 1, 0, 3, 2, ... of an even number of rows; ValueError for an odd one."""
    if len(x) % 2:
        raise ValueError(f"{len(x)} samples cannot be mixed in pairs; expected an even number")
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def _blend(lam, x):
    return lam * x + (1 - lam) * neighbour(x)


def _rectangle(height, width, top, left, tall, wide):
    """bool [N, H, W]: the pixels whose centres are in rectangles. Places and sides [N] are shares of the image's."""
    row, column = ((jnp.arange(size) + 0.5) / size for size in (height, width))
    inside = lambda at, first, side: (at >= first[:, None]) & (at < (first + side)[:, None])
    return inside(row, top, tall)[:, :, None] & inside(column, left, wide)[:, None, :]
