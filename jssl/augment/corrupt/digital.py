"""Digital: contrast, elastic deformation, coarse pixels, JPEG."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from PIL import Image

from jssl.augment.corrupt.blur import along, smooth

# The tables of ITU-T T.81, annex K.1, in rows.
LUMINANCE = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
CHROMINANCE = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
"""
# Y, Cb and Cr of R, G and B (ITU-T T.871), in rows.
YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
CENTRE = np.array([0, 128, 128], np.float32)


def contrast(key, x, table, level):
    """Every channel drawn towards its mean; the constant is the share of the distance that stays."""
    (share,) = jnp.asarray(table)[level]
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * share + mean


def elastic_transform(key, x, table, level):
    """A random affine map, then a smooth random displacement of each pixel.

    The constants, shares of the side: the scale of the displacement, the sigma that smooths it, and how far each of
    three points of the affine map may move. The published ones do not grow with severity: they trade one for the other.
    """
    height, width, _ = x.shape
    side = min(height, width)
    scale, _, far = side * jnp.asarray(table)[level]
    u = jax.random.uniform(key, (6 + 2 * height * width,), minval=-1)
    place = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)  # [H, W, 2]

    centre, arm = np.array([height // 2, width // 2]), side // 3
    points = centre + arm * np.array([[1, 1], [-1, 1], [-1, -1]])  # a right angle, at the second
    moved = points + far * u[:6].reshape(3, 2)
    # Backwards: a pixel of the result shows the place which the map would bring there.
    (a, b), (c, d) = moved[0] - moved[1], moved[1] - moved[2]
    back = jnp.array([[d, -b], [-c, a]]) * 2 * arm / (a * d - b * c)
    x = sample(x, jnp.einsum("hwi,ij->hwj", place - moved[1], back, precision="highest") + points[1], "mirror")

    field = scale * smooth(u[6:].reshape(height, width, 2), side * table[:, 1], level, mode="reflect", truncate=3.0)
    return sample(x, place + field, "reflect")


def sample(x, place, mode):
    """x [H, W, C] at places [H, W, 2], row and column, linear between pixels; beyond the edge as scipy's `mode`."""
    at = (place[..., 0], place[..., 1])
    return jax.vmap(lambda channel: map_coordinates(channel, at, 1, mode), -1, -1)(x)


def pixelate(key, x, table, level):
    """Shrunk and enlarged again by Pillow's box filter; the constant is the share of the side to which it is shrunk."""
    boxes = lambda size: np.stack([box(size, int(np.float64(round(float(share), 6)) * size)) for (share,) in table])
    rows, columns = (jnp.asarray(boxes(size))[level] for size in x.shape[:2])
    return along(rows, columns, x)


def box(size, small):
    """What Pillow does to a row of pixels when it shrinks it to `small` of them and back, [size, size]."""
    resize = lambda rows, to: np.asarray(Image.fromarray(rows).resize((size, to), Image.Resampling.BOX))
    return resize(resize(np.eye(size, dtype=np.float32), max(1, small)), size)


def jpeg(key, x, table, level):
    """JPEG and back; the constant is libjpeg's quality. RGB has its colour at half the resolution, as by default.

    Rounding is libjpeg's after each step, so that the result is Pillow's but for a unit here and there.
    """
    quality = jnp.asarray(table)[level][0]
    height, width, channels = x.shape
    pixels = jnp.round(255 * x)
    if channels == 1:
        return coded(padded(pixels[..., 0], 8), quantiser(LUMINANCE, quality))[:height, :width, None] / 255
    ycc = jnp.round(pixels @ YCC.T + CENTRE)
    y, cb, cr = (padded(ycc[..., c], 16) for c in range(3))
    colour = quantiser(CHROMINANCE, quality)
    parts = [coded(y, quantiser(LUMINANCE, quality))[:height, :width]]
    parts += [doubled(coded(halved(c), colour)[: -(-height // 2), : -(-width // 2)])[:height, :width] for c in (cb, cr)]
    rgb = (jnp.stack(parts, -1) - CENTRE) @ np.linalg.inv(np.float64(YCC)).T.astype(np.float32)
    return jnp.clip(jnp.round(rgb), 0, 255) / 255


def quantiser(text, quality):
    """A table of annex K at a quality of 1 to 100, as libjpeg scales it, [8, 8]."""
    base = np.array(text.split(), np.float32).reshape(8, 8)
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((base * scale + 50) / 100), 1, 255)


def padded(plane, multiple):
    """[H, W] to whole multiples, the last row and column repeated."""
    return jnp.pad(plane, [(0, -size % multiple) for size in plane.shape], mode="edge")


def coded(plane, table):
    """Cosine transform of each block of 8 x 8, quantised, and back: whole numbers [H, W] -> whole numbers [H, W].

    As libjpeg's exact one: rows first, back columns first, and what lies between the two in quarters.
    """
    k, n = np.arange(8)[:, None], np.arange(8)
    cosines = np.float32(np.where(k == 0, 1, np.sqrt(2)) * np.cos((2 * n + 1) * k * np.pi / 16))
    times = functools.partial(jnp.einsum, precision="highest")
    whole = lambda x: jnp.floor(x + 0.5)
    blocks = plane.reshape(plane.shape[0] // 8, 8, -1, 8) - 128
    half = whole(4 * times("lj,aibj->aibl", cosines, blocks))
    found = whole(times("ki,aibl->akbl", cosines, half) / 4)  # eight times the coefficients
    table = table[:, None, :]
    # The quarter keeps a division of whole numbers from falling below one.
    kept = jnp.sign(found) * jnp.floor((jnp.abs(found) + 4 * table + 0.25) / (8 * table)) * table
    half = whole(4 * times("ki,akbl->aibl", cosines, kept))
    back = whole(times("lj,aibl->aibj", cosines, half) / 32)
    return jnp.clip(back + 128, 0, 255).reshape(plane.shape)


def halved(plane):
    """Means of 2 x 2 pixels; libjpeg rounds a half down in even columns and up in odd ones."""
    sums = plane.reshape(plane.shape[0] // 2, 2, -1, 2).sum((1, 3))
    return jnp.floor((sums + 1 + jnp.arange(sums.shape[1]) % 2) / 4)


def doubled(plane):
    """libjpeg's "fancy" enlargement: three quarters of the nearest and a quarter of the next, along both sides."""

    def weights(size):
        at = np.arange(2 * size)
        near, other = at // 2, np.clip(at // 2 + np.where(at % 2, 1, -1), 0, size - 1)
        eye = np.eye(size, dtype=np.float32)
        return 3 * eye[near] + eye[other]

    rows, columns = map(weights, plane.shape)
    sums = jnp.einsum("ih,jw,hw->ij", rows, columns, plane, precision="highest")
    return jnp.floor((sums + 8 - jnp.arange(sums.shape[1]) % 2) / 16)
