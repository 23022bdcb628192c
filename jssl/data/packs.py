"""Batches of small graphs, side by side in rows of few sizes: little is padding, and few programs are compiled."""

import dataclasses
import functools
import itertools

import numpy as np

from jssl.data.large import within
from jssl.data.pipeline import order

TRIALS = 64  # random batches, of whose largest rows the sizes are made
GROWTH = 1.25  # from one size to the next
WORTH = 0.25  # share of the batches that a smaller size must hold to be worth a program
MULTIPLE = 8  # of all sizes


@dataclasses.dataclass(frozen=True)
class Packing:
    """How `batch_size` graphs are laid out in so many rows, `together` batches of one size after each other.

    sizes: int [G, 2], nodes and edges of every graph.
    """

    sizes: np.ndarray
    batch_size: int
    rows: int
    together: int = 1

    def __post_init__(self):
        per_row(self.batch_size, self.rows)

    @functools.cached_property
    def smallest(self):
        """(nodes, edges) of a row that almost every batch fits in, or, while many fit in less, of such a row."""
        n, draw = len(self.sizes), np.random.default_rng(0).choice
        trials = (draw(n, min(n, self.batch_size), replace=False) for _ in range(TRIALS * self.together))
        needed = np.array([self.needed(self.deal(index)) for index in trials]).reshape(TRIALS, self.together, 2).max(1)
        size = needed.max(0)
        while np.mean((needed <= size / GROWTH).all(1)) >= WORTH:
            size = size / GROWTH
        return size

    def deal(self, index):
        """int [<= batch_size], graphs -> int32 [rows, G], with -1 for none: rows of about the same number of nodes.

        The large ones first, to one row after the other: micro-batches, which are rows i::A, then hold the same graphs
        whatever the number of rows.
        """
        index = np.concatenate([index, np.full(self.batch_size - len(index), -1)]).astype(np.int32)
        nodes = np.where(index < 0, -1, self.sizes[index, 0])
        return index[np.argsort(-nodes, kind="stable")].reshape(-1, self.rows).T

    def needed(self, layout):
        """(nodes, edges) of the largest row, of each the largest."""
        return (self.sizes[layout] * (layout >= 0)[..., None]).sum(1).max(0)

    def size(self, layouts):
        """The smallest of the sizes that all of these fit in -> nodes, edges."""
        return grown(self.smallest, [self.needed(layout) for layout in layouts])


def grown(size, needed):
    """The smallest of the sizes from `size` on that all of these fit in. Pairs of nodes and edges."""
    while (np.max(needed, 0) > size).any():
        size = np.maximum(np.ceil(np.array(size) * GROWTH), MULTIPLE)
    return rounded(size)


def rounded(size):
    """The next multiples of `MULTIPLE`, one at least."""
    return tuple(max(int(-(-most // MULTIPLE) * MULTIPLE), MULTIPLE) for most in size)


def per_row(batch_size, rows):
    """How many graphs a row has."""
    if batch_size % rows:
        raise ValueError(f"data.rows={rows} does not divide train.batch_size={batch_size}; expected a divisor")
    return batch_size // rows


def stream(graphs, *, batch_size, seed, start, leading, rows, together):
    """Training batches of steps start, start + 1, ..., `together` of the same shapes one after the other.

    leading: rows of the global batch; rows: int array, those of them that this process holds.
    """
    packing, rows_at = Packing(graphs.sizes, batch_size, leading, together), order(len(graphs), seed)
    for first in itertools.count(start, together):
        layouts = [packing.deal(rows_at(step, batch_size)) for step in range(first, first + together)]
        size = packing.size(layouts)
        for layout in layouts:
            yield side_by_side(graphs, layout[rows], *size)


def every(graphs, *, batch_size, leading, rows):
    """One pass over the graphs, in an order that keeps batches about equally large; -1 pads the last."""
    batch_size = -(-min(batch_size, len(graphs)) // leading) * leading
    packing = Packing(graphs.sizes, batch_size, leading)
    shuffled = np.random.default_rng(0).permutation(len(graphs))
    for first in range(0, len(graphs), batch_size):
        layout = packing.deal(shuffled[first : first + batch_size])
        yield side_by_side(graphs, layout[rows], *packing.size([layout]))


def side_by_side(graphs, index, n, e):
    """Graphs as a batch, see `jssl.nets.graph`, of n nodes and e edges a row.

    index: int [R, G], the graphs of each row, -1 for none.
    """
    index = np.asarray(index, np.int32)
    ends, weights = graphs.edge_offsets, graphs.weights
    batch = padding(*index.shape, n, e, graphs.x.shape[1], weights and weights["features"]) | {"index": index}
    for r in range(len(index)):
        there = np.flatnonzero(index[r] >= 0)
        which = index[r, there]
        nodes, edges = graphs.sizes[which].T
        node = np.repeat(graphs.offsets[which], nodes) + within(nodes)
        edge = np.repeat(ends[which], edges) + within(edges)
        moved = np.repeat(np.cumsum(nodes) - nodes - graphs.offsets[which], edges)
        batch["x"][r, : len(node)], batch["nodes"][r, : len(node)] = graphs.x[node], 1
        batch["graph"][r, : len(node)] = np.repeat(there, nodes)
        batch["senders"][r, : len(edge)], batch["receivers"][r, : len(edge)] = graphs.edges[edge].T + moved
        batch["edges"][r, : len(edge)] = 1
        if weights:
            batch["edge_weight"][r, : len(edge)] = weights["edges"][edge]
    return batch


def padding(rows, graphs, n, e, features, feature_weight=None):
    """A batch of rows that hold nothing yet, with room for `graphs` graphs, n nodes and e edges each.

    feature_weight: float32 [F], where edges have weights of their own, see `jssl.data.graph.Graphs`.
    """
    batch = {
        "x": np.zeros((rows, n, features), np.float32),
        "nodes": np.zeros((rows, n), np.float32),
        "senders": np.zeros((rows, e), np.int32),
        "receivers": np.full((rows, e), n, np.int32),
        "edges": np.zeros((rows, e), np.float32),
        "graph": np.full((rows, n), graphs, np.int32),
        "index": np.full((rows, graphs), -1, np.int32),
    }
    if feature_weight is not None:
        batch["edge_weight"] = np.zeros((rows, e), np.float32)
        batch["feature_weight"] = np.tile(feature_weight, (rows, 1))
    return batch
