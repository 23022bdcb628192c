"""Sources of graphs: one large graph whose nodes are the examples, or many small ones that are examples themselves."""

import csv
import dataclasses
import functools
import os
import zipfile

import numpy as np

NEIGHBOURS = 10  # of each row, in the graph of `knn:`
FORMS = {
    "knn": "knn:SOURCE",
    "planetoid": "planetoid:FOLDER[@NAME]",
    "tu": "tu:FOLDER",
    "npz": "npz:FILE",
    "edges": "edges:FILE[,NODES]",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graphs:
    """Graphs side by side: graph i has the nodes offsets[i] to offsets[i + 1].

    x: float32 [n, F], features of the nodes; edges: int32 [E, 2], sender and receiver, ordered by receiver, an
    undirected edge in both directions, without self-loops and duplicates; offsets: int64 [G + 1]; labels: int32, of the
    nodes [n] where there is one graph, of the graphs [G] where there are more, -1 where there is none, or None.
    splits: {"train", "val", "test": int64 numbers of labelled nodes}, where the data come with one; folds: int32 [G],
    the graphs' test folds, -1 for none, or None. said: what was made of the data, a line each.
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

    def blank(self, size=None):
        """One example, as a batch."""
        return side_by_side(self, np.zeros((1, 1), int), len(self.x), len(self.edges))

    @functools.cached_property
    def arrays(self):
        """The one graph as a batch, see `jssl.nets.graph`; None where there are several."""
        return self.blank() if self.single else None


def open_graphs(spec):
    """Opens "knn:digits", "planetoid:FOLDER@cora", "tu:FOLDER", "npz:FILE" or "edges:FILE,NODES" -> Graphs.

    knn: the graph of every image's nearest neighbours in another source. planetoid: the raw ind.NAME.* files, whose
    pickles are read without running anything in them. tu: the raw text files of the TU collection. npz: CSR features
    (x_data, x_indices, x_indptr, x_shape) or `x`, `edges` [E, 2] and `label`, train_idx, val_idx, test_idx; or packs of
    graphs with node_offsets, node_label, graph_label and fold; undirected unless `directed` is there and true. edges: a
    CSV of two columns of node names, with a header or without; NODES: a CSV with a header, `id`, perhaps `label`, and
    columns of features. Raises ValueError or FileNotFoundError, one line.
    """
    kind, _, rest = spec.partition(":")
    if kind not in FORMS or not rest:
        forms = FORMS.get(kind) or " or ".join(FORMS.values())
        raise ValueError(f"unknown source of graphs {spec!r}: expected {forms}")
    if kind == "planetoid":
        from jssl.data.planetoid import open_planetoid as reader
    elif kind == "tu":
        from jssl.data.tu import open_tu as reader
    else:
        reader = {"knn": _knn, "npz": _npz, "edges": _edges}[kind]
    return reader(spec, rest)


def build(spec, x, edges, *, offsets=None, directed=False, **more):
    """Checks and cleans what a reader found -> Graphs. edges: whole numbers [E, 2], as they were; the rest as there."""
    x, edges = np.asarray(x, np.float32), np.asarray(edges)
    n, said = len(x), list(more.pop("said", ()))
    offsets = np.array([0, n]) if offsets is None else np.asarray(offsets, np.int64)
    if not np.isfinite(x).all():
        node, feature = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"{spec}: feature {feature} of node {node} is {x[node, feature]}, expected finite numbers")
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"{spec}: edges are {edges.dtype} {list(edges.shape)}, expected whole numbers [E, 2]")
    if not len(edges):
        raise ValueError(f"{spec}: there are no edges, expected at least one")
    if edges.min() < 0 or edges.max() >= n:
        edge = np.argwhere((edges < 0) | (edges >= n))[0, 0]
        raise ValueError(f"{spec}: edge {edge} joins {edges[edge, 0]} and {edges[edge, 1]}, but nodes are 0 to {n - 1}")
    of = np.searchsorted(offsets, edges, "right")
    if (of[:, 0] != of[:, 1]).any():
        edge = np.flatnonzero(of[:, 0] != of[:, 1])[0]
        raise ValueError(f"{spec}: edge {edge} joins nodes of two graphs, {of[edge, 0] - 1} and {of[edge, 1] - 1}")

    edges, before = edges[edges[:, 0] != edges[:, 1]].astype(np.int64), len(edges)
    if before > len(edges):
        said.append(f"{before - len(edges):,} self-loops left out")
    pairs = edges if directed else np.sort(edges, 1)
    keys = np.unique(pairs[:, 1] * n + pairs[:, 0])
    sent_twice = len(pairs) - len(keys)
    if sent_twice and (directed or sent_twice != len(keys)):  # exactly twice each: both directions were given
        said.append(f"{sent_twice:,} duplicate edges left out")
    pairs = np.stack([keys % n, keys // n], 1)
    pairs = pairs if directed else np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].astype(np.int32)
    alone = n - len(np.unique(pairs))
    if alone:
        said.append(f"{alone:,} nodes have no edges")
    return Graphs(spec=spec, x=x, edges=pairs, offsets=offsets, said=tuple(said), **more)


def side_by_side(graphs, index, n, e):
    """Graphs as a batch, see `jssl.nets.graph`, of n nodes and e edges a row.

    index: int [R, G], the graphs of each row, -1 for none.
    """
    index = np.asarray(index, np.int32)
    rows, per_row = index.shape
    ends = np.searchsorted(graphs.edges[:, 1], graphs.offsets)  # edges lie graph by graph, as their receivers do
    batch = {
        "x": np.zeros((rows, n, graphs.x.shape[1]), np.float32),
        "nodes": np.zeros((rows, n), np.float32),
        "senders": np.zeros((rows, e), np.int32),
        "receivers": np.full((rows, e), n, np.int32),
        "edges": np.zeros((rows, e), np.float32),
        "graph": np.full((rows, n), per_row, np.int32),
        "index": index,
    }
    for r in range(rows):
        node = edge = 0
        for g, i in enumerate(index[r]):
            if i < 0:
                continue
            first, last = graphs.offsets[i : i + 2]
            more = graphs.edges[ends[i] : ends[i + 1]] - first + node
            here, there = slice(node, node := node + last - first), slice(edge, edge := edge + len(more))
            batch["x"][r, here], batch["nodes"][r, here], batch["graph"][r, here] = graphs.x[first:last], 1, g
            batch["senders"][r, there], batch["receivers"][r, there], batch["edges"][r, there] = *more.T, 1
    return batch


def _knn(spec, rest):
    """Undirected: an edge where one of two images is among the other's nearest, by distance of pixels."""
    from sklearn.neighbors import kneighbors_graph

    from jssl.data.source import open_source

    source = open_source(rest)
    if source.images is None:
        raise ValueError(f"{spec}: images of {rest} are on disk, expected a source that is held in memory")
    x = source.images.reshape(len(source), -1) / np.float32(255)
    near = kneighbors_graph(x, min(NEIGHBOURS, len(x) - 1)).tocoo()
    edges = np.stack([near.row, near.col], 1)
    return dataclasses.replace(
        build(spec, x, edges, labels=source.labels, label_names=source.label_names, names=tuple(source.names)),
        said=(f"each image joined to its {NEIGHBOURS} nearest",),
    )


def _npz(spec, path):
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{spec}: there is no file {path}")
    try:
        arrays = dict(np.load(path, allow_pickle=False))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{spec}: cannot be read as an .npz of arrays ({error})") from None
    if "edges" not in arrays:
        raise ValueError(f"{spec}: expected an array `edges`, found {', '.join(arrays) or 'none'}")
    offsets, directed = arrays.get("node_offsets"), bool(arrays.get("directed", False))
    if offsets is not None and (offsets.ndim != 1 or len(offsets) < 2 or offsets[0] or (np.diff(offsets) < 0).any()):
        raise ValueError(f"{spec}: `node_offsets` is {list(offsets.shape)}, expected numbers [G + 1] rising from 0")
    x, said = _features(spec, arrays, offsets)
    n, graphs = len(x), 1 if offsets is None else len(offsets) - 1
    key, many, things = ("label", n, "nodes") if graphs == 1 else ("graph_label", graphs, "graphs")
    labels = arrays.get(key)
    if labels is not None:
        as_many(spec, f"`{key}`", labels, many, things)
    splits = {name: arrays.get(f"{name}_idx") for name in ("train", "val", "test")}
    splits = {name: rows.astype(np.int64) for name, rows in splits.items() if rows is not None}
    names = tuple(map(str, arrays["label_names"])) if "label_names" in arrays else None
    more = {"labels": None if labels is None else labels.astype(np.int32), "label_names": names, "splits": splits}
    return build(
        spec, x, arrays["edges"], offsets=offsets, directed=directed, folds=arrays.get("fold"), said=said, **more
    )


def _features(spec, arrays, offsets):
    """-> float [n, F] and what to say of them."""
    if "x" in arrays:
        return arrays["x"], []
    parts = ("x_data", "x_indices", "x_indptr", "x_shape")
    if all(part in arrays for part in parts):
        return Sparse(*(arrays[part] for part in parts)).dense(spec), []
    if "node_label" in arrays:
        if offsets is not None:
            as_many(spec, "`node_label`", arrays["node_label"], int(offsets[-1]), "nodes")
        return one_hot(arrays["node_label"]), []
    n = int(offsets[-1]) if offsets is not None else int(arrays["edges"].max(initial=-1)) + 1
    return np.ones((n, 1)), ["no features: every node has a 1"]


def _edges(spec, rest):
    """Names of nodes may be any text. Without a file of nodes they are those that edges name, in that order."""
    path, _, nodes = rest.partition(",")
    rows = _csv(spec, path)
    if rows and len(rows[0]) >= 2 and [cell.lower() for cell in rows[0][:2]] in HEADERS:
        rows = rows[1:]
    for line, row in enumerate(rows):
        if len(row) < 2:
            raise ValueError(f"{spec}: line {line + 1} of the edges is {','.join(row)!r}, expected two names of nodes")
    if nodes:
        names, x, labels, label_names, said = _nodes(spec, _csv(spec, nodes))
    else:
        names = list(dict.fromkeys(cell for row in rows for cell in row[:2]))
        x, labels, label_names, said = np.ones((len(names), 1)), None, None, ["no features: every node has a 1"]
    number = {name: i for i, name in enumerate(names)}
    for row in rows:
        for cell in row[:2]:
            if cell not in number:
                raise ValueError(f"{spec}: the edge {','.join(row[:2])} names a node {cell!r} that is not in {nodes}")
    edges = np.array([[number[cell] for cell in row[:2]] for row in rows], np.int64).reshape(-1, 2)
    return build(spec, x, edges, labels=labels, label_names=label_names, names=tuple(names), said=said)


HEADERS = [["source", "target"], ["src", "dst"], ["from", "to"], ["sender", "receiver"], ["u", "v"]]


def _nodes(spec, rows):
    """The table of nodes -> names, features, labels, label names, what to say."""
    if not rows or "id" not in rows[0]:
        first = ",".join(rows[0]) if rows else ""
        raise ValueError(f"{spec}: the nodes' first line is {first!r}, expected a header with id")
    header, rows = rows[0], rows[1:]
    for line, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"{spec}: line {line + 2} of the nodes has {len(row)} cells, expected {len(header)}")
    column = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    names = column.pop("id")
    if len(set(names)) < len(names):
        raise ValueError(f"{spec}: node {next(n for n in names if names.count(n) > 1)!r} is there twice")
    labels, label_names = column.pop("label", None), None
    if labels is not None:
        label_names = tuple(sorted(set(labels) - {""}))
        labels = np.array([label_names.index(label) if label else -1 for label in labels], np.int32)
    if not column:
        return names, np.ones((len(names), 1)), labels, label_names, ["no features: every node has a 1"]
    lines = [",".join(cells) for cells in zip(*column.values(), strict=True)]
    return names, numbers(spec, "the table of nodes", lines), labels, label_names, []


@dataclasses.dataclass
class Sparse:
    """A matrix in compressed rows."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    shape: tuple

    def dense(self, spec):
        rows, columns = (int(side) for side in self.shape)
        if len(self.indptr) != rows + 1 or len(self.data) != len(self.indices) or self.indptr[-1] != len(self.data):
            raise ValueError(f"{spec}: features in compressed rows do not fit their shape [{rows}, {columns}]")
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < columns:
            raise ValueError(f"{spec}: features in compressed rows name column {self.indices.max()} of {columns}")
        x = np.zeros((rows, columns), np.float32)
        x[np.repeat(np.arange(rows), np.diff(self.indptr)), self.indices] = self.data
        return x


def one_hot(values):
    """Numbers of kinds [n] -> float32 [n, kinds]."""
    kinds, which = np.unique(np.asarray(values).ravel(), return_inverse=True)
    return np.eye(len(kinds), dtype=np.float32)[which]


def as_many(spec, what, values, n, things):
    """Raises ValueError where `what` has other than n rows."""
    if len(values) != n:
        raise ValueError(f"{spec}: {what} has {len(values):,} rows, expected one for each of the {n:,} {things}")


def folder_of(spec, path):
    """The path, where there is a folder."""
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{spec}: there is no folder {path}")
    return path


def file_of(spec, folder, name):
    """The path of a file that must be there."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{spec}: {folder} has no {name}")
    return path


def lines_of(path):
    """A text file's lines that are not blank."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return [line for line in file.read().splitlines() if line.strip()]


def _csv(spec, path):
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{spec}: there is no file {path}")
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file) if row]


def numbers(spec, name, lines):
    """Lines of comma-separated numbers -> float64 [rows, columns]."""
    if not lines:
        raise ValueError(f"{spec}: {name} is empty")
    rows = [line.split(",") for line in lines]
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"{spec}: line {number + 1} of {name} has {len(row)} numbers, the first {len(rows[0])}")
    try:
        return np.array(rows, np.float64)
    except ValueError:
        number = next(i for i, row in enumerate(rows) if not all(map(_is_number, row)))
        raise ValueError(f"{spec}: line {number + 1} of {name} is {lines[number]!r}, expected numbers") from None


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
