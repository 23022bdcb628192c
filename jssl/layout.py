"""Places for the nodes of a graph on a page: forces within each connected part, then the parts packed side by side."""

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

ASPECT = 1.5  # width of the frame, its height being 1
STEPS = 150  # of the forces: at 3,000 nodes about 20 ms each
PIVOTS = 50  # nodes from which distances are counted for the start
GRAVITY = np.float32([0.7, 1.0])  # along x and y: loose ends stay near, and the whole is as wide as the frame
GAP = 1.5  # between two parts, in lengths of a spring
SMALL = 6  # a graph smaller than this, in the same unit, does not fill the frame


def layout(n, edges):
    """Places in the frame, joined nodes near each other -> float32 [n, 2] in [0, ASPECT] x [0, 1]; always the same.

    n: nodes; edges: int [E, 2], in one direction or both. Each connected part is laid out by itself; then they are put
    beside each other, the largest in the middle. Time and memory grow with n^2: 3,000 nodes take three seconds.
    """
    if not n:
        return np.zeros((0, 2), np.float32)
    edges = np.sort(np.asarray(edges, int).reshape(-1, 2), 1)
    edges = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)
    joined = sparse.csr_array((np.ones(len(edges)), edges.T), (n, n))
    _, part = csgraph.connected_components(joined, directed=False)
    parts = np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1])
    place, number = np.zeros((n, 2)), np.empty(n, int)
    for size in {len(nodes) for nodes in parts} - {0, 1}:
        alike = np.stack([nodes for nodes in parts if len(nodes) == size])  # [B, m], moved at once
        number[:] = -1
        number[alike.ravel()] = np.arange(alike.size)
        place[alike] = _forces(_start(joined, alike), number[edges[number[edges[:, 0]] >= 0]])
    place = _packed(place, sorted(parts, key=len, reverse=True), edges)
    low, high = place.min(0), place.max(0)
    scale = np.min((ASPECT, 1) / np.maximum(high - low, SMALL))
    frame = np.array([ASPECT, 1])
    return np.clip(frame / 2 + (place - (low + high) / 2) * scale, 0, frame).astype(np.float32)


def _start(joined, parts):
    """Two axes of the distances to some pivots: Pivot MDS (Brandes and Pich, 2007). parts: [B, m] -> [B, m, 2]"""
    count, size = parts.shape
    place = 0.1 * np.random.default_rng(0).normal(size=(count, size, 2))  # those with the same neighbours must part
    if size == 2:
        return place
    pivots = np.linspace(0, size - 1, min(size, PIVOTS)).astype(int)
    for i, nodes in enumerate(parts):
        away = csgraph.shortest_path(joined[nodes][:, nodes], directed=False, unweighted=True, indices=pivots).T ** 2
        centred = away - away.mean(0) - away.mean(1, keepdims=True) + away.mean()  # [m, pivots]
        axes, lengths, _ = np.linalg.svd(centred, full_matrices=False)
        place[i] += axes[:, :2] * lengths[:2] / lengths[0] * size / 2
    return place


def _forces(place, pairs):
    """Fruchterman and Reingold (1991), a spring's length being 1, and a gravity: all nodes repel with 1 / d, joined
    ones attract with d^2, and no step is longer than a temperature that falls to 0.

    place: [B, m, 2], of B parts that do not feel each other; pairs: int [E, 2] in 0 ... B * m - 1. -> float32 [B, m, 2]
    """
    count, size, _ = place.shape
    place, ones = place.astype(np.float32), np.ones((count, size, 1), np.float32)
    ends = np.repeat(np.arange(len(pairs)), 2), pairs.ravel()
    differences = sparse.csr_array((np.tile(np.float32([1, -1]), len(pairs)), ends), (len(pairs), count * size))
    back = differences.T.tocsr()
    for step in range(STEPS):
        place -= place.mean(1, keepdims=True)
        square = (place**2).sum(-1, keepdims=True)
        left, right = np.concatenate([-2 * place, square, ones], -1), np.concatenate([place, ones, square], -1)
        near = left @ right.swapaxes(1, 2)  # [B, m, m], squared distances
        np.reciprocal(np.maximum(near, 0.01, out=near), out=near)
        sums = near @ np.concatenate([place, ones], -1)
        force = place * sums[..., 2:] - sums[..., :2] - place * GRAVITY
        across = differences @ place.reshape(-1, 2)  # [E, 2]
        force -= (back @ (across * np.linalg.norm(across, axis=1, keepdims=True))).reshape(force.shape)
        length = np.linalg.norm(force, axis=-1, keepdims=True)
        heat = 0.1 * size**0.5 * (1 - step / STEPS)
        place += force * np.minimum(1, heat / np.maximum(length, 1e-9))
    return place


def _packed(place, parts, edges):
    """Moves the parts so that none lies on another: each, from the largest on, to where the frame grows least.

    place: [n, 2]; parts: nodes of each; edges: [E, 2]. -> [n, 2]. On a grid whose cells are as wide as a spring: the
    first part takes what its nodes and edges cover, the others their boxes.
    """
    box = lambda nodes: (place[nodes].min(0), place[nodes].max(0))
    moved = place - np.mean(box(parts[0]), 0)
    taken, corner = _covered(moved, parts[0], edges)
    for nodes in parts[1:]:
        low, high = box(nodes)
        wide, tall = size = np.ceil(high - low + GAP).astype(int)
        least, most = corner, corner + taken.shape
        taken, corner = np.pad(taken, ((wide, wide), (tall, tall))), corner - size
        total = np.pad(taken.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        inside = total[wide:, tall:] - total[:-wide, tall:] - total[wide:, :-tall] + total[:-wide, :-tall]
        x, y = (corner[axis] + np.arange(inside.shape[axis]) for axis in (0, 1))  # of a box's first cell
        x, y = x[:, None] + wide / 2, y + tall / 2  # of its middle
        width = np.maximum(most[0], x + wide / 2) - np.minimum(least[0], x - wide / 2)
        height = np.maximum(most[1], y + tall / 2) - np.minimum(least[1], y - tall / 2)
        frame = np.maximum(width / ASPECT, height) + 0.01 * np.hypot(x, y)
        i, j = np.unravel_index(np.where(inside, np.inf, frame).argmin(), inside.shape)
        moved[nodes] = place[nodes] - (low + high) / 2 + (x[i, 0], y[j])
        taken[i : i + wide, j : j + tall] = True
        columns, rows = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        taken = taken[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1]
        corner = corner + (columns[0], rows[0])
    return moved


def _covered(place, nodes, edges):
    """The cells that a part covers, with a margin and what it encloses -> bool [columns, rows], where its first is."""
    pairs = place[edges[np.isin(edges[:, 0], nodes)]]  # [E, 2, 2]
    along = pairs[:, :1] + np.linspace(0, 1, 50)[:, None] * (pairs[:, 1:] - pairs[:, :1])  # [E, 50, 2]
    cells = np.floor(np.concatenate([place[nodes], along.reshape(-1, 2)])).astype(int)
    corner = cells.min(0) - 2
    taken = np.zeros(cells.max(0) - corner + 3, bool)
    taken[tuple((cells - corner).T)] = True
    return ndimage.binary_fill_holes(ndimage.binary_dilation(taken, np.ones((3, 3)))), corner
