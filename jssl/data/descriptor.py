"""What an image looks like, as a vector that needs no training: its copies are close, other images are not.

Two parts of equal weight, both of the image stretched to a square of `SIDE` pixels, so that size and aspect do not
count: where its edges run, as histograms of the gradient's orientation in soft cells (as SIFT's, Lowe, 2004; global
descriptors of that kind were found to tell copies at web scale by Douze et al., 2009, doi:10.1145/1646396.1646421), and
its colours on a coarse grid. The cells are wider than what a crop of 5 % moves.
"""

import numpy as np
from PIL import Image

SIDE = 32  # pixels
CELLS, ORIENTATIONS = 4, 8  # of the edges: cells each way, bins of 45 degrees
GRID = 8  # of the colours: cells each way
EDGES = CELLS * CELLS * ORIENTATIONS
DIM = EDGES + GRID * GRID * 3
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def small(image):
    """PIL image of mode RGB -> float32 [SIDE, SIDE, 3] in [0, 1], stretched to the square."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255


def describe(pixels):
    """float32 [SIDE, SIDE, 3], from `small` -> float32 [DIM] of unit length."""
    grey = pixels @ LUMA
    parts = [_edges(grey).ravel(), _colours(pixels, grey).ravel()]
    x = np.concatenate(parts)
    return (x / max(np.linalg.norm(x), 1e-6)).astype(np.float32)


def split(x):
    """What an image's descriptor has in common with its mirror image's, and what there has the other sign: an
    orthogonal change of basis. x: [N, DIM] -> [N, E], [N, DIM - E]"""
    here, there = x[:, _PAIRS[0]], x[:, _PAIRS[1]]
    return (here + there) * _WEIGHTS, ((here - there) * _WEIGHTS)[:, _PAIRS[0] < _PAIRS[1]]


def _edges(grey):
    """-> [CELLS, CELLS, ORIENTATIONS], of mean 0 and unit length"""
    dy, dx = np.gradient(grey)
    angle = np.arctan2(dy, dx) / (2 * np.pi) * ORIENTATIONS
    low = np.floor(angle).astype(int)
    strength, share = np.hypot(dy, dx), angle - low
    rows, columns = np.indices(grey.shape)
    bins = np.zeros((*grey.shape, ORIENTATIONS), np.float32)
    bins[rows, columns, low % ORIENTATIONS] += strength * (1 - share)
    bins[rows, columns, (low + 1) % ORIENTATIONS] += strength * share
    histograms = np.sqrt(_pooled(bins, CELLS))  # the root, so that no strong edge is all there is
    histograms -= histograms.mean()
    return histograms / max(np.linalg.norm(histograms), 1e-6)


def _colours(pixels, grey):
    """-> [GRID, GRID, 3]: grey without its mean, as long as 1 where there is contrast; red-green, blue-yellow."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    x = _pooled(np.stack([grey, red - green, blue - (red + green) / 2], -1), GRID) / (SIDE / GRID) ** 2
    x[..., 0] -= x[..., 0].mean()
    x[..., 0] /= np.linalg.norm(x[..., 0]) + 0.1  # a constant each: of a flat image noise must not be blown up
    x[..., 1:] /= np.linalg.norm(x[..., 1:]) + 0.3
    return x


def _pooled(x, cells):
    """[SIDE, SIDE, C] -> [cells, cells, C], in overlapping triangles twice as wide as a cell"""
    at, width = np.arange(SIDE) + 0.5, SIDE / cells
    weight = np.maximum(0, 1 - np.abs(at[:, None] / width - np.arange(cells) - 0.5)).astype(np.float32)
    return np.einsum("ia,jb,ijc->abc", weight, weight, x, optimize=True)


def _mirror():
    """Where each number of a mirrored image's descriptor stands in the image's own: a permutation."""
    edges = np.arange(EDGES).reshape(CELLS, CELLS, ORIENTATIONS)
    turned = (ORIENTATIONS // 2 - np.arange(ORIENTATIONS)) % ORIENTATIONS  # the gradient's x changes its sign
    colours = EDGES + np.arange(DIM - EDGES).reshape(GRID, GRID, 3)
    return np.concatenate([edges[:, ::-1][..., turned].ravel(), colours[:, ::-1].ravel()])


MIRROR = _mirror()
_PAIRS = np.stack([np.arange(DIM), MIRROR])[:, np.arange(DIM) <= MIRROR]  # numbers that change places
_WEIGHTS = np.where(_PAIRS[0] < _PAIRS[1], 0.5**0.5, 0.5).astype(np.float32)
