"""Sources of graphs: one large graph whose nodes are the examples, or many small ones that are examples themselves."""

import dataclasses
import functools
import importlib

import numpy as np

from jssl.data import packs
from jssl.data.centrality import weights
from jssl.data.parts import Batches

FORMS = {
    "knn": "knn:SOURCE",
    "pixels": "pixels:SOURCE",
    "planetoid": "planetoid:FOLDER[@NAME]",
    "tu": "tu:FOLDER[@NAME][,attributes]",
    "npz": "npz:FILE",
    "edges": "edges:FILE[,NODES][,directed]",
}
MOST = 400  # the highest degree that is told from the next, where degrees are the features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graphs:
    """Graphs side by side: graph i has the nodes offsets[i] to offsets[i + 1].

    x: float32 [n, F], features of the nodes; edges: int32 [E, 2], sender and receiver, ordered by receiver, an
    undirected edge in both directions, without self-loops and duplicates; offsets: int64 [G + 1]; labels: int32, of the
    nodes [n] where there is one graph, of the graphs [G] where there are more, -1 where there is none, or None.
    splits: {"train", "val", "test": int64 numbers of labelled nodes or graphs}, where the data come with one, or with
    several in rows, see `each_split`; folds: int32 [G], the graphs' test folds, -1 for none, or None. said: what was
    made of the data, a line each. weights: {"edges": float32 [E], "features": float32 [F]} for views that spare what
    matters, or None. by_degree: whether x is `degrees`, in want of features.
    """

    spec: str
    x: np.ndarray
    edges: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    splits: dict = dataclasses.field(default_factory=dict)
    folds: np.ndarray | None = None
    said: tuple[str, ...] = ()
    weights: dict | None = None
    by_degree: bool = False

    modality = "graph"
    channels = None  # of images

    def __len__(self):
        return len(self.offsets) - 1

    @property
    def single(self):
        """Whether there is one graph, whose nodes are the examples."""
        return len(self) == 1

    @property
    def examples(self):
        """Nodes, or graphs, that features and labels are of."""
        return len(self.x) if self.single else len(self)

    @property
    def contents(self):
        """How much there is, for people."""
        nodes, edges = len(self.x), len(self.edges)
        if self.single:
            return f"a graph of {nodes:,} nodes and {edges:,} directed edges"
        return f"{len(self):,} graphs of {nodes / len(self):.0f} nodes on average"

    @functools.cached_property
    def edge_offsets(self):
        """int64 [G + 1]: graph i has the edges edge_offsets[i] to edge_offsets[i + 1], as it has their receivers."""
        return np.searchsorted(self.edges[:, 1], self.offsets)

    @functools.cached_property
    def sizes(self):
        """int64 [G, 2], nodes and edges of every graph."""
        return np.stack([np.diff(self.offsets), np.diff(self.edge_offsets)], 1)

    def blank(self, size=None):
        """One example, as a batch."""
        return packs.side_by_side(self, np.zeros((1, 1), int), *self.sizes[0])

    @functools.cached_property
    def arrays(self):
        """The one graph as a batch, see `jssl.nets.graph`; None where there are several."""
        return self.blank() if self.single else None

    @property
    def train_labels(self):
        """Labels that training may look at: where there is a split, only those of its training nodes or graphs."""
        return known(self.labels, self.splits)

    def leading(self, batch_size, rows):
        """The length of a batch's arrays: many small graphs lie in so many rows."""
        return 1 if self.single else rows

    def shapes(self, batch_size, leading, crops=None):
        """{name: (shape, dtype)} of one global batch."""
        if self.single:
            return {name: (x.shape, x.dtype) for name, x in self.arrays.items()}
        layout = np.full((leading, batch_size // leading), -1)
        size = packs.Packing(self.sizes, batch_size, leading).size([layout])
        return {name: (x.shape, x.dtype) for name, x in packs.side_by_side(self, layout, *size).items()}

    def stream(self, *, batch_size, seed, start, leading, rows, together=1, crops=None, workers=0):
        """Training batches of steps start, start + 1, ... without end; see `packs.stream`."""
        return Batches(
            packs.stream(
                self, batch_size=batch_size, seed=seed, start=start, leading=leading, rows=rows, together=together
            )
        )

    def every(self, *, batch_size, leading, rows, workers=0):
        """One pass over the graphs, in an order of its own: batches with 'index', the numbers of the examples, -1 for
        padding; a single graph is one."""
        if self.single:
            numbers = np.arange(self.examples, dtype=np.int32)[None]
            return Batches({**graph, "index": numbers} for graph in [self.arrays])
        return Batches(packs.every(self, batch_size=batch_size, leading=leading, rows=rows))

    def take(self, which):
        """These graphs alone, int [M], in their order; of a single graph all there is."""
        if self.single:
            return self
        nodes = np.concatenate([np.arange(*self.offsets[i : i + 2]) for i in which])
        moved = np.full(len(self.x), -1)
        moved[nodes] = np.arange(len(nodes))
        edges = np.concatenate([moved[self.edges[slice(*self.edge_offsets[i : i + 2])]] for i in which])
        part = lambda x: None if x is None else x[which]
        return dataclasses.replace(
            self,
            x=self.x[nodes],
            edges=edges.astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(self.sizes[which, 0])]),
            labels=part(self.labels),
            splits={},
            folds=part(self.folds),
            weights=None,
        )

    def weighted(self, centrality):
        """The same with how little each edge and feature matters (GCA), see `jssl.data.centrality.weights`."""
        edges, features = weights(self.x, self.edges, centrality)
        return dataclasses.replace(self, weights={"edges": edges, "features": features})


def each_split(splits):
    """[{"train", ...: numbers}, ...]: the one split, or as many as a part has rows [S, k]; parts of one row, or of one
    axis, are of all, and -1 is padding."""
    parts = {name: np.atleast_2d(rows) for name, rows in splits.items()}
    count = max(map(len, parts.values()), default=0)
    row = lambda rows, i: rows[i if len(rows) > 1 else 0]
    return [{name: row(rows, i)[row(rows, i) >= 0] for name, rows in parts.items()} for i in range(count)]


def known(labels, splits):
    """The labels of what the first split trains on, -1 for all others; all of them where there is no split."""
    if "train" not in splits:
        return labels
    hidden, train = np.full_like(labels, -1), each_split(splits)[0]["train"]
    hidden[train] = labels[train]
    return hidden


def open_graphs(spec):
    """Opens "knn:digits", "pixels:digits", "planetoid:FOLDER@cora", "tu:FOLDER", "npz:FILE" or "edges:FILE,NODES".

    knn: the graph of every image's nearest neighbours in another source. pixels: a graph of each image, its pixels that
    are not black joined to those beside them. planetoid: the raw ind.NAME.* files, whose
    pickles are read without running anything in them. tu: the raw text files of the TU collection: node labels, without
    them node attributes, or both where the word attributes follows. npz: CSR features
    (x_data, x_indices, x_indptr, x_shape) or `x`, `edges` [E, 2] and `label`, train_idx, val_idx, test_idx, [k] or for
    several splits [S, k]; or packs of graphs with node_offsets, node_label, graph_label and fold, which
    `jssl.evals.svm` takes (`jssl eval` shuffles its own, as the papers do); undirected unless `directed` is there and
    true. edges: a CSV of two columns of node names, with a header or without; NODES: a CSV with a header, `id`, perhaps
    `label`, and columns of features; undirected unless the word directed follows. Nodes without features have one-hot
    `degrees`. -> Graphs. Raises ValueError or FileNotFoundError, one line.
    """
    kind, _, rest = spec.partition(":")
    if kind not in FORMS or not rest:
        forms = FORMS.get(kind) or " or ".join(FORMS.values())
        raise ValueError(f"unknown source of graphs {spec!r}: expected {forms}")
    module = {"planetoid": "planetoid", "tu": "tu"}.get(kind, "graph_files")
    return getattr(importlib.import_module(f"jssl.data.{module}"), f"open_{kind}")(spec, rest)


def build(spec, x, edges, *, offsets=None, directed=False, **more):
    """Checks and cleans what a reader found -> Graphs. x: None for the degrees of the nodes that edges name, or offsets
    count; edges: whole numbers [E, 2], as they were; the rest as there."""
    x, edges, said = _features(spec, x), _edges(spec, edges), list(more.pop("said", ()))
    n = len(x) if x is not None else int(edges.max()) + 1 if offsets is None else None
    offsets = _offsets(spec, [0, n] if offsets is None else offsets, n)
    n = int(offsets[-1])
    many, things = (n, "nodes") if len(offsets) == 2 else (len(offsets) - 1, "graphs")
    labels = _labels(spec, more.pop("labels", None), many, things, said)
    _check_splits(spec, more.get("splits", {}), labels)
    if (folds := more.get("folds")) is not None and np.shape(folds) != (many,):
        raise ValueError(f"{spec}: folds are {list(np.shape(folds))}, expected one for each of the {many:,} {things}")
    if edges.min() < 0 or edges.max() >= n:
        edge = np.argwhere((edges < 0) | (edges >= n))[0, 0]
        raise ValueError(f"{spec}: edge {edge} joins {edges[edge, 0]} and {edges[edge, 1]}, but nodes are 0 to {n - 1}")
    of = np.searchsorted(offsets, edges, "right")
    if (of[:, 0] != of[:, 1]).any():
        edge = np.flatnonzero(of[:, 0] != of[:, 1])[0]
        raise ValueError(f"{spec}: edge {edge} joins nodes of two graphs, {of[edge, 0] - 1} and {of[edge, 1] - 1}")

    edges, before = edges[edges[:, 0] != edges[:, 1]].astype(np.int64), len(edges)
    if not len(edges):
        raise ValueError(f"{spec}: all {before:,} edges are self-loops, expected edges between nodes")
    if directed:
        said.append("edges are directed")
    if before > len(edges):
        said.append(f"{before - len(edges):,} self-loops left out")
    pairs = edges if directed else np.sort(edges, 1)
    keys = np.unique(pairs[:, 1] * n + pairs[:, 0])
    sent_twice = len(pairs) - len(keys)
    if sent_twice and (directed or sent_twice != len(keys)):  # exactly twice each: both directions were given
        said.append(f"{sent_twice:,} duplicate edges left out")
    if not directed:
        keys = np.sort(np.concatenate([keys, keys % n * n + keys // n]))
    pairs = np.stack([(keys % n).astype(np.int32), (keys // n).astype(np.int32)], 1)
    alone = n - np.count_nonzero(np.bincount(pairs.ravel(), minlength=n))
    if alone:
        said.append(f"{alone:,} nodes have no edges")
    if by_degree := x is None:
        highest = np.bincount(pairs[:, 1]).max()
        x = degrees(pairs, n, min(highest, MOST))
        said.append("no features: one-hot degrees" + (f", those above {MOST} as {MOST}" if highest > MOST else ""))
    more |= {"x": x, "by_degree": by_degree}
    return Graphs(spec=spec, edges=pairs, offsets=offsets, labels=labels, said=tuple(said), **more)


def degrees(edges, n, most):
    """The numbers of edges into each of n nodes, one-hot, more than `most` as that -> float32 [n, most + 1]."""
    return np.eye(most + 1, dtype=np.float32)[np.minimum(np.bincount(edges[:, 1], minlength=n), most)]


def _features(spec, x):
    """float32 [n, F], or None where there are none."""
    if x is None:
        return None
    x = np.asarray(x)
    if x.ndim != 2 or not x.shape[1] or x.dtype.kind not in "biuf":
        raise ValueError(f"{spec}: features of nodes are {x.dtype} {list(x.shape)}, expected numbers [n, F], F >= 1")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        node, feature = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"{spec}: feature {feature} of node {node} is {x[node, feature]}, expected finite numbers")
    return x


def _edges(spec, edges):
    """Whole numbers [E, 2], of any nodes."""
    edges = np.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"{spec}: edges are {edges.dtype} {list(edges.shape)}, expected whole numbers [E, 2]")
    if not len(edges):
        raise ValueError(f"{spec}: there are no edges, expected at least one")
    return edges


def _offsets(spec, offsets, n):
    """int64 [G + 1], from 0 to n, the number of nodes; n: None where the offsets alone tell it."""
    offsets = np.asarray(offsets)
    whole = offsets.ndim == 1 and len(offsets) > 1 and offsets.dtype.kind in "iu"
    if not whole or offsets[0] or (np.diff(offsets.astype(np.int64)) < 0).any():
        described = f"{offsets.dtype} {list(offsets.shape)}"
        raise ValueError(f"{spec}: `node_offsets` is {described}, expected whole numbers [G + 1] rising from 0")
    if n not in (None, offsets[-1]):
        raise ValueError(f"{spec}: `node_offsets` ends at {offsets[-1]:,}, expected the number of nodes, {n:,}")
    return offsets.astype(np.int64)


def _labels(spec, labels, many, things, said):
    """int32 [many], or None where there are none; adds to what is `said`."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (many,):
        has = f"{len(labels):,} rows" if labels.ndim == 1 else f"shape {list(labels.shape)}"
        raise ValueError(f"{spec}: labels have {has}, expected one for each of the {many:,} {things}")
    whole = labels.dtype.kind in "biuf" and np.array_equal(labels, np.round(labels))  # NaN is not equal to itself
    if not whole or labels.min(initial=0) < -1:
        raise ValueError(f"{spec}: labels are {labels.dtype}, expected class numbers from 0, or -1 for none")
    if not (labels >= 0).any():
        said.append(f"none of the {things} has a label")
        return None
    return labels.astype(np.int32)


def _check_splits(spec, splits, labels):
    for name, rows in splits.items():
        if labels is None:
            raise ValueError(f"{spec}: there is a split but no labels, expected both or neither")
        rows = np.asarray(rows)
        if rows.ndim not in (1, 2) or rows.dtype.kind not in "iu":
            raise ValueError(f"{spec}: {name!r} of the split is {rows.dtype} {list(rows.shape)}, expected node numbers")
        least = -1 if rows.ndim == 2 else 0
        if rows.size and not least <= rows.min() <= rows.max() < len(labels):
            wrong = rows[(rows < least) | (rows >= len(labels))][0]
            raise ValueError(f"{spec}: {name!r} of the split names node {wrong}, but nodes are 0 to {len(labels) - 1}")
    for one in each_split(splits):
        for name in set(one) - {"test"}:
            if (both := np.intersect1d(one[name], one.get("test", ()))).size:
                raise ValueError(f"{spec}: {name!r} and 'test' of the split share {both.size:,}, such as {both[0]:.0f}")
