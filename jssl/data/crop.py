"""Crops on the host, for images whose sizes differ."""

import math

import numpy as np


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
    aspect = np.clip(width / height, *ratio)
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    return (height - h) // 2, (width - w) // 2, h, w
