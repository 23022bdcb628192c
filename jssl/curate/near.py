"""Which images are near: groups of near-duplicates, neighbours of a curated set. Blocks against blocks, so that memory
does not grow with the images but for a number each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BLOCK = 2048  # rows


def groups(features, threshold, mirror=None, block=BLOCK):
    """Connected components of all pairs whose cosine is above `threshold` -> int32 [N], the first row of each group.

    features: [N, D] of unit length, any array that can be sliced, such as a memory-mapped one; mirror: [N, D] ->
    [N, D], the features of the mirrored images: a pair is as near as the nearer of the two, or None.
    """
    first = np.arange(len(features), dtype=np.int32)
    starts = range(0, len(features), block)
    for i in starts:
        rows = _padded(features[i : i + block], block)
        images = [rows] if mirror is None else [rows, mirror(rows)]
        for j in starts[i // block :]:
            near = _near(jnp.stack(images), _padded(features[j : j + block], block), threshold)
            if near[1]:
                a, b = np.nonzero(np.asarray(near[0]))
                _join(first, a + i, b + j)
    return np.array([_find(first, row) for row in range(len(first))], np.int32)


def nearest(bank, queries, k, mirror=None, block=BLOCK):
    """The `k` rows of `bank` [N, D] nearest by cosine to each of `queries` [M, D] -> similarity float32, index int64
    [M, min(k, N)], nearest first; of equal ones the first row. As `groups` in all else."""
    k, parts = min(k, len(bank)), []
    for i in range(0, len(queries), block):
        rows = queries[i : i + block]
        size, rows = len(rows), _padded(rows, block)
        images = jnp.stack([rows] if mirror is None else [rows, mirror(rows)])
        best = np.full((block, k), -np.inf, np.float32), np.zeros((block, k), np.int64)
        for j in range(0, len(bank), block):
            there = min(block, len(bank) - j)
            similarity, index = _top(images, _padded(bank[j : j + block], block), there, min(k, block))
            pool = (
                np.concatenate([best[0], similarity], 1),
                np.concatenate([best[1], np.asarray(index, np.int64) + j], 1),
            )
            order = np.argsort(-pool[0], 1, kind="stable")[:, :k]
            best = tuple(np.take_along_axis(x, order, 1) for x in pool)
        parts.append(tuple(x[:size] for x in best))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def cosine(a, b, mirror=None):
    """Row by row, of [N, D] -> float32 [N]"""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    same = (a * b).sum(1)
    return same if mirror is None else np.maximum(same, (mirror(a) * b).sum(1))


def _similarity(images, bank):
    """[1 or 2, b, D] and [b, D] -> [b, b]"""
    views, rows, dim = images.shape
    flat = jnp.matmul(images.reshape(-1, dim), bank.T, precision=lax.Precision.HIGHEST)  # one product is the fastest
    return flat.reshape(views, rows, -1).max(0)


@jax.jit
def _near(images, bank, threshold):
    near = _similarity(images, bank) > threshold  # rows of padding are 0, and so are their cosines
    return near, near.any()


@functools.partial(jax.jit, static_argnums=3)
def _top(images, bank, there, k):
    similarity = _similarity(images, bank)
    return lax.top_k(jnp.where(jnp.arange(len(bank)) < there, similarity, -jnp.inf), k)


def _padded(rows, block):
    rows = np.asarray(rows, np.float32)
    return np.pad(rows, ((0, block - len(rows)), (0, 0)))


def _join(first, a, b):
    """Joins the groups of rows a[i] and b[i]; components within the block first, so that few are joined one by one."""
    rows, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    pairs = coo_matrix((np.ones(len(a), bool), (places[: len(a)], places[len(a) :])), (len(rows), len(rows)))
    _, component = connected_components(pairs, directed=False)
    _, head = np.unique(component, return_index=True)
    for row, other in zip(rows.tolist(), rows[head[component]].tolist()):
        x, y = sorted((_find(first, row), _find(first, other)))
        first[y] = x


def _find(first, row):
    """The first row of a group, with the path to it halved (disjoint sets, Tarjan, 1975)."""
    while first[row] != row:
        first[row] = first[first[row]]
        row = first[row]
    return row
