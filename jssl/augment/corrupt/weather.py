"""Weather: snow, frost, fog, and light."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jssl.augment.corrupt.blur import enlarge, streak, zoom_places

LUMA = (0.299, 0.587, 0.114)
TINT = (-0.08, 0.02, 0.06)  # of ice, about its mean
CELLS = 64  # of the noise that needles are made of, along each side
# Of ice: crystals of each sheet, needles of each along the side of an image and how often one breaks, brightness.
ICE = {"crystals": (40, 120), "needles": ((20, 3), (40, 6)), "level": (0.5, 0.8), "spread": 0.11}


def snow(key, x, table, level):
    """Flakes that fall, twice, once turned about, on an image that has gone pale.

    The constants: mean and standard deviation of the noise that makes flakes, how far it is enlarged, the threshold
    below which there is none, radius and sigma of its motion blur, and how much of the image's own colour stays.
    """
    mean, std, _, threshold, _, _, own = jnp.asarray(table)[level]
    noise_key, angle_key = jax.random.split(key)
    flakes = mean + std * jax.random.normal(noise_key, (*x.shape[:2], 1))
    flakes = enlarge(flakes, *(jnp.asarray(zoom_places(table[:, 2], size))[level] for size in x.shape[:2]))
    flakes = jnp.clip(jnp.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = streak(flakes, table[:, 4:6], level, jax.random.uniform(angle_key, (), minval=-135, maxval=-45))
    pale = jnp.maximum(x, 1.5 * luma(x) + 0.5)
    return own * x + (1 - own) * pale + flakes + flakes[::-1, ::-1]


def frost(key, x, table, level):
    """Ice over the image; the constants are the shares of the image and of the ice.

    The authors' ice is cut from five photographs. Here it is drawn, see `ice`, about as bright, as uneven and as blue.
    """
    image, over = jnp.asarray(table)[level]
    tint = jnp.asarray(TINT if x.shape[-1] == 3 else [np.dot(LUMA, TINT)] * x.shape[-1])
    return image * x + over * jnp.clip(ice(key, *x.shape[:2])[..., None] + tint, 0, 1)


def ice(key, height, width):
    """A texture of ice, [H, W]: two sheets of crystals, each of parallel needles in a direction and brightness of its
    own; a pixel belongs to the nearest crystal.

    Each picture has its own mean brightness, uniform in 0.5 to 0.8; its standard deviation is 0.11 before clipping.
    """
    seeds_key, noise_key = jax.random.split(key)
    count = sum(ICE["crystals"])
    u = jax.random.uniform(seeds_key, (1 + 4 * count,))
    level, seeds = u[0], u[1:].reshape(count, 4)
    noise = jax.random.normal(noise_key, (len(ICE["crystals"]), CELLS, CELLS))
    side = min(height, width)
    place = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1) / side  # [H, W, 2]
    total, first = 0.0, 0
    for sheet, crystals in enumerate(ICE["crystals"]):
        where, turn, own = jnp.split(seeds[first : first + crystals], (2, 3), -1)
        where = where * np.array([height, width]) / side
        nearest = jnp.argmin(jnp.sum((place[:, :, None] - where) ** 2, -1), -1)  # [H, W]
        turn, own = 2 * jnp.pi * turn[nearest, 0], own[nearest, 0]
        across = place[..., 0] * jnp.sin(turn) + place[..., 1] * jnp.cos(turn)
        along = place[..., 0] * jnp.cos(turn) - place[..., 1] * jnp.sin(turn)
        fine, coarse = ICE["needles"][sheet]
        wave = map_coordinates(noise[sheet], (CELLS * own + fine * across, coarse * along), 1, "wrap")
        total = total + jnp.exp(-2 * jnp.abs(wave)) + own / 2
        first += crystals
    total = (total - total.mean()) / (total.std() + 1e-6)
    return ICE["level"][0] + (ICE["level"][1] - ICE["level"][0]) * level + ICE["spread"] * total


def fog(key, x, table, level):
    """A cloud, see `plasma`, and all dimmed to the image's own maximum; the constants: how much cloud, its decay."""
    much, decay = jnp.asarray(table)[level]
    top = x.max()
    cloud = plasma(key, max(x.shape[:2]), decay)[: x.shape[0], : x.shape[1], None]
    return (x + much * cloud) * top / (top + much)


def plasma(key, size, decay):
    """A height map by diamonds and squares (Fournier, Fussell & Carpenter, 1982) on a torus, [P, P] from 0 to 1 with P
    the power of two from `size` up.

    At each halving of the step, the middle of each square is the mean of its corners, then the middle of each edge that
    of its four neighbours, all with uniform noise up to (100 / decay ** halvings) ** 2.
    """
    halvings = max(1, math.ceil(math.log2(size)))
    grid = jnp.zeros((1, 1))
    u = jax.random.uniform(key, (4**halvings,), minval=-1)
    for halving in range(halvings):
        amount = (100 / decay**halving) ** 2
        noise = amount * u[4**halving : 4 ** (halving + 1)].reshape(3, *grid.shape)
        pair = grid + jnp.roll(grid, -1, 0)
        middle = (pair + jnp.roll(pair, -1, 1)) / 4 + noise[0]
        across = (grid + jnp.roll(grid, -1, 1) + middle + jnp.roll(middle, 1, 0)) / 4 + noise[1]
        down = (pair + middle + jnp.roll(middle, 1, 1)) / 4 + noise[2]
        rows = jnp.stack([jnp.stack([grid, across], -1), jnp.stack([down, middle], -1)], 1)  # [n, 2, n, 2]
        grid = rows.reshape(2 * len(grid), -1)
    grid = grid - grid.min()
    return grid / grid.max()


def brightness(key, x, table, level):
    """Value in HSV, which is the largest channel, raised by the constant; hue and saturation stay."""
    (more,) = jnp.asarray(table)[level]
    value = x.max(-1, keepdims=True)
    raised = jnp.minimum(value + more, 1)
    return jnp.where(value > 0, x * raised / jnp.where(value > 0, value, 1), raised)


def luma(x):
    """[H, W, C] -> [H, W, 1]."""
    return (x @ jnp.asarray(LUMA))[..., None] if x.shape[-1] == 3 else x
