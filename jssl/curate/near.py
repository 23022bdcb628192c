"""Which images are near: groups of near-duplicates, neighbours of a curated set. Blocks against blocks, so that memory
does not grow with the images but for a number each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BLOCK = 1024  # rows: similarities of two blocks stay in a CPU's cache


def groups(features, threshold, split=None, block=BLOCK):
    """Connected components of all pairs that are nearer than `threshold` -> int32 [N], the first row of each group.

    features: [N, D] of unit length, any array that can be sliced, such as a memory-mapped one. A pair is as near as the
    cosine of the two images, or, given `split`, as that of one and the other's mirror image where it is larger.

    split: [N, D] -> [N, E], [N, D - E], an orthogonal change of basis: of the second part a mirror image has the
    negative. Both cosines are then one sum and one difference of the same two products: half the work.
    """
    first = np.arange(len(features), dtype=np.int32)
    for i in range(0, len(features), block):
        rows = _padded(features[i : i + block], block)
        for j in range(i, len(features), block):
            near = _near(rows, _padded(features[j : j + block], block), threshold, split)
            if near[1]:
                a, b = np.nonzero(np.asarray(near[0]))
                _join(first, a + i, b + j)
    return np.array([_find(first, row) for row in range(len(first))], np.int32)


def nearest(bank, queries, k, split=None, block=BLOCK):
    """The `k` rows of `bank` [N, D] nearest to each of `queries` [M, D] -> similarity float32, index int64
    [M, min(k, N)], nearest first; of equal ones the first row. As `groups` in all else."""
    k, parts = min(k, len(bank)), []
    for i in range(0, len(queries), block):
        rows = queries[i : i + block]
        size, rows = len(rows), _padded(rows, block)
        best = np.full((block, k), -np.inf, np.float32), np.zeros((block, k), np.int64)
        for j in range(0, len(bank), block):
            there = min(block, len(bank) - j)
            similarity, index = _top(rows, _padded(bank[j : j + block], block), there, min(k, block), split)
            pool = (
                np.concatenate([best[0], similarity], 1),
                np.concatenate([best[1], np.asarray(index, np.int64) + j], 1),
            )
            order = np.argsort(-pool[0], 1, kind="stable")[:, :k]
            best = tuple(np.take_along_axis(x, order, 1) for x in pool)
        parts.append(tuple(x[:size] for x in best))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def nearness(a, b, split=None):
    """How near row i of a is to row i of b, as `groups` counts it. [N, D] -> float32 [N]"""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if split is None:
        return (a * b).sum(1)
    same, turned = ((x * y).sum(1) for x, y in zip(split(a), split(b), strict=True))
    return same + abs(turned)


def _similarity(rows, bank, split):
    """[b, D] and [c, D] -> float32 [b, c]"""
    product = lambda a, b: jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)
    rows, bank = rows.astype(jnp.float32), bank.astype(jnp.float32)
    if split is None:
        return product(rows, bank)
    same, turned = map(product, split(rows), split(bank))
    return same + abs(turned)


@functools.partial(jax.jit, static_argnames="split")
def _near(rows, bank, threshold, split):
    near = _similarity(rows, bank, split) > threshold  # rows of padding are 0, and so are their cosines
    return near, near.any()


@functools.partial(jax.jit, static_argnames=("k", "split"))
def _top(rows, bank, there, k, split):
    similarity = _similarity(rows, bank, split)
    return lax.top_k(jnp.where(jnp.arange(len(bank)) < there, similarity, -jnp.inf), k)


def _padded(rows, block):
    return np.pad(rows, ((0, block - len(rows)), (0, 0))) if len(rows) < block else np.asarray(rows)


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
