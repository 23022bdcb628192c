"""One graph that is too large to be a batch: its examples are small graphs, sampled around each node."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from absl import logging

from jssl.config import nearest
from jssl.data.around import Neighbours, Walks
from jssl.data.graph import known
from jssl.data.large import Large, noise
from jssl.data.packs import grown, padding, per_row, rounded
from jssl.data.parts import made_ahead
from jssl.data.pipeline import ENDLESS, order

TRIALS = 512  # graphs, whose sizes tell how much a row has to hold
DEVIATIONS = 4.0  # of a row's size, above its mean, that it has room for: of normal sums 1 in 30,000 has more
TRAINING, EVALUATION = 1, 2  # what random numbers are for
KINDS = {"neighbours": Neighbours, "walk": Walks}


def sample(graphs, kind, fanouts=(10, 10), walks=(4, 10)):
    """A source of one graph -> `Sampled`. kind: "neighbours" with `fanouts`, "walk" with `walks`, see their classes.

    The source is not kept, so that its edges, which lie here in another form, can be forgotten.
    """
    if kind not in KINDS:
        raise ValueError(f"data.sample is {kind!r}{nearest(kind, KINDS)}")
    if graphs.modality != "graph" or not graphs.single:
        raise ValueError(f"data.sample={kind!r} is of one graph, but {graphs.spec} holds {graphs.contents}")
    draw = Neighbours(tuple(fanouts)) if kind == "neighbours" else Walks(*walks)
    weights = graphs.weights or {}
    large = Large(
        x=graphs.x,
        offsets=np.searchsorted(graphs.edges[:, 1], np.arange(len(graphs.x) + 1)),
        senders=np.ascontiguousarray(graphs.edges[:, 0]),
        edge_weight=weights.get("edges"),
        feature_weight=weights.get("features"),
    )
    same = {name: getattr(graphs, name) for name in ("spec", "labels", "label_names", "names", "splits", "said")}
    return Sampled(large=large, draw=draw, **same)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """A source of small graphs: example i is one around the node roots[i], which is the first of its nodes.

    What is drawn for an element of the run depends on the seed and the element's number alone, in evaluation on the
    node alone. labels: int32 of the roots, or None; splits: {"train", ...: examples}. roots: int64, or None for all
    nodes in their order. All training batches have one shape; what does not fit in it loses its farthest nodes, which
    is said once.
    """

    spec: str
    large: Large
    draw: Neighbours | Walks
    roots: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    splits: dict = dataclasses.field(default_factory=dict)
    said: tuple[str, ...] = ()

    modality = "graph"
    single = False
    arrays = channels = folds = None

    def __len__(self):
        return len(self.large.x) if self.roots is None else len(self.roots)

    @property
    def x(self):
        """float32 [len(self), F], the roots' own features."""
        return self.large.x if self.roots is None else self.large.x[self.roots]

    @property
    def examples(self):
        return len(self)

    @property
    def train_labels(self):
        """Labels that training may look at, see `Graphs`."""
        return known(self.labels, self.splits)

    @property
    def contents(self):
        """How much there is, for people."""
        nodes, edges = len(self.large.x), len(self.large.senders)
        of = f"a graph of {nodes:,} nodes and {edges:,} directed edges"
        return f"{len(self):,} sampled graphs of {self.measured[0][0]:.0f} nodes on average, from {of}"

    @functools.cached_property
    def measured(self):
        """Mean and standard deviation of the graphs' numbers of nodes and edges: two float64 [2]."""
        count = min(TRIALS, len(self.large.x))
        roots = np.random.default_rng(0).permutation(len(self.large.x))[:count]
        found = self.draw(self.large, roots, keys(0, EVALUATION, roots))
        of = found.graph, found.graph[found.receivers]
        sizes = np.stack([np.bincount(graph, minlength=count) for graph in of], 1)
        return sizes.mean(0), sizes.std(0)

    def size(self, graphs):
        """(nodes, edges) of a row of so many graphs."""
        mean, deviation = self.measured
        usual = mean * graphs + DEVIATIONS * deviation * graphs**0.5
        return rounded(np.minimum(usual, np.array(self.draw.most) * graphs))

    def blank(self, size=None):
        """One example, as a batch."""
        rows = self._rows(lambda *_: (np.zeros(1, np.int32), None), (0, 0), rows=1, batches=1)
        return rows.join([rows[0]], {})

    def leading(self, batch_size, rows):
        """The length of a batch's arrays."""
        return rows

    def shapes(self, batch_size, leading, crops=None):
        """{name: (shape, dtype)} of one global batch."""
        graphs = per_row(batch_size, leading)
        features, weight = self.large.x.shape[1], self.large.feature_weight
        made = padding(0, graphs, *self.size(graphs), features, weight)
        return {name: ((leading, *x.shape[1:]), x.dtype) for name, x in made.items()}

    def stream(self, *, batch_size, seed, start, leading, rows, together=1, crops=None, workers=0):
        """Training batches of steps start, start + 1, ... without end, as `Batches`.

        leading: rows of the global batch; rows: int array, those of them that this process holds; workers: processes
        that make them, a row each.
        """
        graphs, rows_at = per_row(batch_size, leading), order(len(self), seed)
        rows_at(start, batch_size)

        def row(batch, i):
            place = rows[i] + leading * np.arange(graphs)  # so that micro-batches, rows i::A, hold the same for any R
            return rows_at(start + batch, batch_size)[place], (start + batch) * batch_size + place

        made = self._rows(row, self.size(graphs), len(rows), ENDLESS, seed=seed, purpose=TRAINING, fixed=True)
        return made_ahead(made, workers)

    def every(self, *, batch_size, leading, rows, workers=0):
        """One pass over the examples in order, as `Batches`: larger where that is needed, the last padded with -1."""
        graphs, count = -(-min(batch_size, len(self)) // leading), len(self)

        def row(batch, i):
            index = (batch * leading + rows[i]) * graphs + np.arange(graphs)
            return np.where(index < count, index, -1).astype(np.int32), None

        return made_ahead(self._rows(row, self.size(graphs), len(rows), -(-count // (graphs * leading))), workers)

    def _rows(self, row, size, rows, batches, **more):
        return Rows(self.spec, self.large, self.draw, self.roots, row, size, rows, batches, **more)

    def take(self, which):
        """The graphs of these examples alone, int [M], in their order."""
        part = lambda x: None if x is None else x[which]
        names = None if self.names is None else tuple(self.names[i] for i in which)
        roots = np.asarray(which) if self.roots is None else self.roots[which]
        return dataclasses.replace(self, roots=roots, labels=part(self.labels), names=names, splits={})


@dataclasses.dataclass(frozen=True)
class Rows:
    """Row j of this process's rows of all batches, one batch after the other; worker processes are sent it.

    row: (batch, i) -> int32 [G] examples, -1 for padding, and whole numbers [G] that what is drawn is a function of,
    with `seed` and `purpose`, or None: of the roots; size: (nodes, edges) that a row has room for, always where it is
    `fixed`, else at least.
    """

    spec: str
    large: Large
    draw: Neighbours | Walks
    roots: np.ndarray | None
    row: Callable
    size: tuple[int, int]
    per_batch: int
    batches: int
    seed: int = 0
    purpose: int = EVALUATION
    fixed: bool = False

    def __len__(self):
        return self.batches * self.per_batch

    def __getitem__(self, j):
        """One row without its padding, and how many nodes and edges found no room."""
        index, numbers = self.row(*divmod(j, self.per_batch))
        there = np.flatnonzero(index >= 0)
        roots = index[there] if self.roots is None else self.roots[index[there]]
        numbers = roots if numbers is None else numbers[there]
        found = self.draw(self.large, roots, keys(self.seed, self.purpose, numbers))
        found, lost = found.trimmed(*self.size) if self.fixed else (found, 0)
        row = {
            "x": self.large.x[found.node],
            "nodes": np.ones(len(found.node), np.float32),
            "senders": found.senders.astype(np.int32),
            "receivers": found.receivers.astype(np.int32),
            "edges": found.weight,
            "graph": there[found.graph].astype(np.int32),
            "index": index,
        }
        if self.large.edge_weight is not None:
            row["edge_weight"] = self.large.edge_weight[found.edge]
        return {**row, "lost": lost}

    def join(self, rows, seen):
        """A batch's rows as one batch, {} where there are none. seen: a dict that says whether a loss was said."""
        if not rows:
            return {}
        if any(row["lost"] for row in rows) and not seen:
            seen["lost"] = True
            lost, nodes, edges = max(row["lost"] for row in rows), *self.size
            logging.warning(
                "%s: sampled graphs had %d nodes and edges more than a row's room for %d and %d: the farthest are left "
                "out, here and in other batches", self.spec, lost, nodes, edges
            )  # fmt: skip
        n, e = grown(self.size, [(len(row["nodes"]), len(row["edges"])) for row in rows])
        features, weight = self.large.x.shape[1], self.large.feature_weight
        batch = padding(len(rows), len(rows[0]["index"]), n, e, features, weight)
        for r, row in enumerate(rows):
            for name in row.keys() - {"lost"}:
                batch[name][r, : len(row[name])] = row[name]
        return batch


def keys(seed, purpose, numbers):
    """uint64 [M], noise for whole numbers [M]."""
    return noise(np.zeros(1, np.uint64), seed, purpose, numbers)
