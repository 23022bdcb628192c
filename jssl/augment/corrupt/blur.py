"""Blur: by a lens out of focus, by frosted glass, by motion, by zooming."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import ndimage

HIGHEST = lax.Precision.HIGHEST


def defocus_blur(key, x, table, level):
    """A disk; the constants are its radius in pixels and the sigma by which its edge is softened."""
    kernels = disks(table)  # [5, K, K]
    reach = kernels.shape[-1] // 2
    padded = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="reflect").transpose(2, 0, 1)[:, None]
    kernel = jnp.asarray(kernels)[level][None, None]
    return lax.conv(padded, kernel, (1, 1), "VALID", HIGHEST)[:, 0].transpose(1, 2, 0)


def disks(table):
    """The kernels of `defocus_blur`, each of sum one, on one grid: [5, K, K]."""
    reach = int(np.ceil(table[:, 0].max())) + 2
    at = np.arange(-reach, reach + 1)
    kernels = []
    for radius, sigma in np.float64(table):
        disk = np.float64(at[:, None] ** 2 + at**2 <= radius**2)
        taps = 1 if radius <= 8 else 2  # of the softening, on either side
        soft = ndimage.gaussian_filter(disk, sigma, mode="constant", radius=taps)
        kernels.append(soft / soft.sum())
    return np.float32(kernels)


def glass_blur(key, x, table, level):
    """Pixels shuffled among their neighbours, blurred before and after.

    The constants are the sigma of the blur, how far a pixel may go, and passes. In a pass each pixel shows a random one
    of the window's 2 * far x 2 * far, all at once; the authors' loop goes from pixel to pixel, which is the same
    where far is 1, as it is for small images.
    """
    _, far, passes = jnp.asarray(table)[level]
    height, width, _ = x.shape
    row, column = jnp.arange(height), jnp.arange(width)
    inner = lambda at, size: (at > far) & (at <= size - far)
    moves = inner(row, height)[:, None] & inner(column, width)

    def shuffle(n, x):
        u = jax.random.uniform(jax.random.fold_in(key, n), (2, height, width))
        step = jnp.where(moves & (n < passes), jnp.floor(u * 2 * far) - far, 0).astype(jnp.int32)
        return x[row[:, None] + step[0], column + step[1]]

    x = jnp.round(255 * smooth(x, table[:, 0], level)) / 255
    x = lax.fori_loop(0, int(table[:, 2].max()), shuffle, x)
    return smooth(x, table[:, 0], level)


def smooth(x, sigmas, level, mode="nearest", truncate=4.0):
    """Gaussian blur of x [H, W, C] by the sigma of a level, as scipy.ndimage.gaussian_filter1d has it; 0 is none."""
    rows, columns = (jnp.asarray(smoothers(sigmas, size, mode, truncate))[level] for size in x.shape[:2])
    return along(rows, columns, x)


def smoothers(sigmas, size, mode, truncate):
    """The blurs of a row of pixels as matrices, [5, size, size]; rows sum to one."""
    eye = np.eye(size)
    blur = lambda sigma: ndimage.gaussian_filter1d(eye, sigma, axis=0, mode=mode, truncate=truncate)
    return np.float32([blur(sigma) if sigma else eye for sigma in np.float64(sigmas)])


def along(rows, columns, x):
    """rows [I, H] and columns [J, W] applied to x [H, W, C] -> [I, J, C]."""
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, x, precision=HIGHEST)


def motion_blur(key, x, table, level):
    """Half a Gaussian along a line at -45 to 45 degrees; the constants are its radius and sigma in pixels."""
    angle = jax.random.uniform(key, (), minval=-45, maxval=45)
    return streak(x, table, level, angle)


def streak(x, table, level, angle):
    """ImageMagick's motion blur: 2 * radius + 1 pixels on a line from each pixel of x [H, W, C], the nearest ones, and
    where it leaves the image those of its edge. table [5, 2]: radius, sigma; angle: degrees, clockwise from the right.
    """
    reach = 2 * int(table[:, 0].max())
    weights = jnp.asarray(streak_weights(table))[level]
    turn = jnp.deg2rad(angle)
    steps = jnp.arange(reach + 1)[:, None] * jnp.array([jnp.sin(turn), jnp.cos(turn)])  # down, right
    steps = jnp.where(weights[:, None] > 0, jnp.ceil(steps - 0.5), 0).astype(jnp.int32)
    padded = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")

    def add(total, tap):
        weight, (down, right) = tap
        return total + weight * lax.dynamic_slice(padded, (reach + down, reach + right, 0), x.shape), None

    return lax.scan(add, jnp.zeros_like(x), (weights, steps))[0]


def streak_weights(table):
    """The weights of `streak` along its line, [5, 2 * most + 1]: of sum one, and 0 beyond the radius of each."""
    at = np.arange(2 * int(table[:, 0].max()) + 1)
    radius, sigma = table[:, :1], table[:, 1:]
    weights = np.exp(-0.5 * (at / sigma) ** 2) * (at <= 2 * radius)
    return np.float32(weights / weights.sum(1, keepdims=True))


def zoom_blur(key, x, table, level):
    """The mean of the image and of its enlargements by 1, 1 + step, ... below a stop: the constants, stop and step."""
    factors = [np.arange(1, stop, step) for stop, step in np.float64(np.round(table, 6))]
    most = max(map(len, factors))
    count = jnp.asarray([len(some) for some in factors])[level]
    padded = np.stack([np.pad(some, (0, most - len(some)), constant_values=1) for some in factors])  # [5, F]

    def add(total, zoom):
        n, rows, columns = zoom
        return total + (n < count) * enlarge(x, rows, columns), None

    places = [jnp.asarray(zoom_places(padded, size))[level] for size in x.shape[:2]]  # [F, 2] each
    total, _ = lax.scan(add, x, (jnp.arange(most), *places))
    return total / (count + 1)


def enlarge(x, rows, columns):
    """The image at places between its pixels, which are `zoom_places` of its height and width."""
    weights = lambda place, size: jnp.maximum(
        1 - jnp.abs(place[0] + place[1] * jnp.arange(size)[:, None] - jnp.arange(size)), 0
    )
    return along(weights(rows, x.shape[0]), weights(columns, x.shape[1]), x)


def zoom_places(factors, size):
    """Where the pixels of a row of `size` lie in it after its middle is enlarged -> [..., 2]: the first, the step.

    As scipy.ndimage.zoom does it: the middle's first and last pixels become the first and last of what is then trimmed.
    """
    kept = np.ceil(size / factors)
    grown = np.round(kept * factors)
    step = (kept - 1) / np.maximum(grown - 1, 1)
    first = (size - kept) // 2 + (grown - size) // 2 * step
    return np.float32(np.stack([first, step], -1))
