"""Crops on the host, for images whose sizes differ."""

import math

import numpy as np
from PIL import Image

from jssl.data.decode import decode, upright_size

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}  # both antialias when shrinking


def sample_box(rng, height, width, area, ratio):
    """The box of a random resized crop (Szegedy et al., 2014, arXiv:1409.4842; sampled as torchvision samples it).

    rng: np.random.Generator; area: (low, high) share of the image's area; ratio: (low, high) width / height, uniform in
    its logarithm -> (top, left, height, width) in pixels. After ten boxes that do not fit: the largest central box
    whose ratio is allowed.
    """
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


def random_crops(image, channels, crops, rng):
    """Every crop group of one opened image: {crop.name: uint8 [views, size, size, C]}."""
    height, width = upright_size(image)
    boxes = [[sample_box(rng, height, width, c.area, c.ratio) for _ in range(c.views)] for c in crops]
    shrink = min(min(h, w) / c.size for c, group in zip(crops, boxes) for *_, h, w in group)
    cut = _cutter(image, channels, shrink)
    return {c.name: np.stack([cut(box, c.size, c.interpolation) for box in group]) for c, group in zip(crops, boxes)}


def centre_crop(image, channels, size, crop):
    """The central square, `crop` of the short side, resized -> uint8 [size, size, C]."""
    height, width = upright_size(image)
    side = max(1.0, crop * min(height, width))
    box = ((height - side) / 2, (width - side) / 2, side, side)
    return _cutter(image, channels, side / size)(box, size, "bilinear")


def _cutter(image, channels, shrink):
    """Decodes once, for all boxes; a JPEG no larger than they need."""
    height, width = upright_size(image)
    pixels = decode(image, channels, shrink)
    y, x = pixels.height / height, pixels.width / width

    def cut(box, size, interpolation):
        top, left, h, w = box
        edges = np.array([left * x, top * y, (left + w) * x, (top + h) * y])
        edges = np.minimum(edges, [pixels.width, pixels.height] * 2)  # rounding may put one a hair outside
        outer = np.concatenate([np.floor(edges[:2]), np.ceil(edges[2:])]).astype(int)
        # Cut first: as in torchvision, a view shows nothing from outside its box.
        part = pixels.crop(tuple(outer.tolist()))
        part = part.resize((size, size), FILTERS[interpolation], tuple((edges - np.tile(outer[:2], 2)).tolist()))
        return np.asarray(part).reshape(size, size, channels)

    return cut
