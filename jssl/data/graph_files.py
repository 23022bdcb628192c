"""What sources of graphs are read from: arrays, tables, images; and what all readers share."""

import csv
import dataclasses
import os
import re
import zipfile

import numpy as np

from jssl.config import nearest
from jssl.data.graph import build

NEIGHBOURS = 5  # of each row, in the graph of `knn:`


def open_knn(spec, rest):
    """Undirected: an edge where one of two images is among the other's nearest, by distance of pixels."""
    from sklearn.neighbors import kneighbors_graph

    source = _images(spec, rest)
    x = source.images.reshape(len(source), -1) / np.float32(255)
    near = kneighbors_graph(x, min(NEIGHBOURS, len(x) - 1)).tocoo()
    edges = np.stack([near.row, near.col], 1)
    return dataclasses.replace(
        build(spec, x, edges, labels=source.labels, label_names=source.label_names, names=tuple(source.names)),
        said=(f"each image joined to its {NEIGHBOURS} nearest",),
    )


def open_pixels(spec, rest):
    """A graph of each image. Features of a node: its brightness, by channel, and its row and column, in [0, 1]."""
    source = _images(spec, rest)
    nodes, edges, offsets = [], [], [0]
    for image in source.images:
        ink = image.max(-1) > 0
        ink[ink.shape[0] // 2, ink.shape[1] // 2] |= not ink.any()  # a black image is its centre
        at = np.argwhere(ink)
        apart = np.abs(at[:, None] - at[None]).max(-1)
        edges.append(np.argwhere(np.triu(apart == 1)) + offsets[-1])
        place = at / np.maximum(np.array(ink.shape) - 1, 1)
        nodes.append(np.concatenate([image[ink] / 255, place], 1))
        offsets.append(offsets[-1] + len(at))
    more = {"labels": source.labels, "label_names": source.label_names, "names": tuple(source.names)}
    return build(spec, np.concatenate(nodes), np.concatenate(edges), offsets=np.array(offsets), **more)


def _images(spec, rest):
    """The source of images that `rest` says, held in memory."""
    from jssl.data.source import open_source

    source = open_source(rest)
    if getattr(source, "images", None) is None:
        raise ValueError(f"{spec}: expected a source of images that is held in memory, such as digits")
    return source


def open_npz(spec, path):
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{spec}: there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile):
        raise ValueError(f"{spec}: cannot be read as an .npz of arrays; Python objects are not read") from None
    if "edges" not in arrays:
        raise ValueError(f"{spec}: expected an array `edges`, found {', '.join(arrays) or 'none'}")
    offsets, directed = arrays.get("node_offsets"), bool(arrays.get("directed", False))
    x = _features(spec, arrays)
    labels = arrays.get("label" if offsets is None or offsets.size == 2 else "graph_label")
    splits = {name: arrays[f"{name}_idx"] for name in ("train", "val", "test") if f"{name}_idx" in arrays}
    names = tuple(map(str, arrays["label_names"])) if "label_names" in arrays else None
    more = {"labels": labels, "label_names": names, "splits": splits}
    return build(spec, x, arrays["edges"], offsets=offsets, directed=directed, folds=arrays.get("fold"), **more)


def _features(spec, arrays):
    """-> float [n, F], or None where there are none."""
    if "x" in arrays:
        return arrays["x"]
    parts = ("x_data", "x_indices", "x_indptr", "x_shape")
    if all(part in arrays for part in parts):
        return Sparse(*(arrays[part] for part in parts)).dense(spec)
    if "node_label" in arrays:
        kinds = arrays["node_label"]
        if kinds.ndim != 1 or (kinds != kinds).any():  # NaN is not equal to itself
            described = f"{kinds.dtype} {list(kinds.shape)}"
            raise ValueError(f"{spec}: `node_label` is {described}, expected a kind for each node, without NaN")
        return one_hot(kinds)
    return None


def open_edges(spec, rest):
    """Names of nodes may be any text. Without a file of nodes they are those that edges name, in that order."""
    path, *tail = rest.split(",")
    directed = tail[-1:] == ["directed"]
    nodes = ",".join(tail[:-1] if directed else tail)
    rows = _csv(spec, path)
    rows = rows[1:] if _is_header(rows) else rows
    for line, row in enumerate(rows):
        if len(row) < 2:
            raise ValueError(f"{spec}: line {line + 1} of the edges is {','.join(row)!r}, expected two names of nodes")
    if nodes:
        names, x, labels, label_names = _nodes(spec, _csv(spec, nodes))
    else:
        names = list(dict.fromkeys(cell for row in rows for cell in row[:2]))
        x = labels = label_names = None
    number = {name: i for i, name in enumerate(names)}
    for row in rows:
        for cell in row[:2]:
            if cell not in number:
                raise ValueError(f"{spec}: the edge {','.join(row[:2])} names a node {cell!r} that is not in {nodes}")
    edges = np.array([[number[cell] for cell in row[:2]] for row in rows], np.int64).reshape(-1, 2)
    said = ["columns of edges after the second, such as weights, are not read"] if any(row[2:] for row in rows) else []
    more = {"labels": labels, "label_names": label_names, "names": tuple(names), "said": said}
    return build(spec, x, edges, offsets=[0, len(names)], directed=directed, **more)


HEADERS = [["source", "target"], ["src", "dst"], ["from", "to"], ["sender", "receiver"], ["u", "v"]]


def _is_header(rows):
    """Whether the first row has known titles, or words where all others have numbers."""
    first, *others = (row[:2] for row in rows or [[]])
    numeric = lambda row: all(map(_is_number, row))
    return [cell.lower() for cell in first] in HEADERS or bool(
        others and not any(map(_is_number, first)) and all(map(numeric, others))
    )


def _nodes(spec, rows):
    """The table of nodes -> names, features or None, labels, label names."""
    if not rows or "id" not in rows[0]:
        first = _short(",".join(rows[0]) if rows else "")
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
        return names, None, labels, label_names
    lines = [",".join(cells) for cells in zip(*column.values(), strict=True)]
    return names, numbers(spec, "the table of nodes", lines), labels, label_names


@dataclasses.dataclass
class Sparse:
    """A matrix in compressed rows."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    shape: tuple

    def dense(self, spec):
        parts = {name: np.asarray(part) for name, part in vars(self).items()}
        data, indices, ends, shape = parts.values()
        if data.dtype.kind not in "biuf" or any(part.dtype.kind not in "iu" for part in (indices, ends, shape)):
            kinds = ", ".join(f"{name} {part.dtype}" for name, part in parts.items())
            raise ValueError(f"{spec}: features in compressed rows are {kinds}; expected numbers, all else whole ones")
        if any(part.ndim != 1 for part in parts.values()) or len(shape) != 2:
            sizes = ", ".join(f"{name} {list(part.shape)}" for name, part in parts.items())
            raise ValueError(f"{spec}: features in compressed rows are {sizes}; expected [k], [k], [n + 1] and [2]")
        (rows, columns), ends = shape.tolist(), ends.astype(np.int64)
        fits = len(ends) == rows + 1 and ends[0] == 0 and ends[-1] == len(data) == len(indices)
        if not fits or (np.diff(ends) < 0).any():
            raise ValueError(f"{spec}: features in compressed rows do not fit their shape [{rows}, {columns}]")
        if (outside := indices[(indices < 0) | (indices >= columns)]).size:
            raise ValueError(f"{spec}: features in compressed rows name column {outside[0]} of {columns}")
        x = np.zeros((rows, columns), np.float32)
        x[np.repeat(np.arange(rows), np.diff(ends)), indices] = data
        return x


def whole(spec, name, values):
    """float64 of any shape, read from the file `name` -> int64."""
    if not np.array_equal(values, np.round(values)):
        line = np.argwhere(values != np.round(values))[0, 0] + 1
        raise ValueError(f"{spec}: line {line} of {name} is {values[line - 1].tolist()}, expected whole numbers")
    return values.astype(np.int64)


def one_hot(values):
    """Numbers of kinds [n] -> float32 [n, kinds]."""
    kinds, which = np.unique(np.asarray(values).ravel(), return_inverse=True)
    return np.eye(len(kinds), dtype=np.float32)[which]


def as_many(spec, what, values, n, things):
    """Raises ValueError where `what` has other than n rows."""
    if len(values) != n:
        raise ValueError(f"{spec}: {what} has {len(values):,} rows, expected one for each of the {n:,} {things}")


def set_of(spec, rest, pattern, kind, expected):
    """FOLDER[@NAME] -> the folder, and the name of the set in it. pattern: of a file that each set has, its name a
    group; kind, expected: files that are to be there, in words."""
    folder, _, name = rest.rpartition("@") if "@" in rest and not os.path.isdir(rest) else (rest, "", "")
    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{spec}: there is no folder {folder}")
    names = sorted(match[1] for file in os.listdir(folder) if (match := re.fullmatch(pattern, file)))
    if not names:
        raise FileNotFoundError(f"{spec}: no {kind} in {folder}, expected {expected}")
    if name and name not in names:
        raise FileNotFoundError(f"{spec}: there is no set {name!r} in {folder}{nearest(name, names)}")
    if not name and len(names) > 1:
        raise ValueError(f"{spec}: several sets in {folder}, expected @NAME with one of {', '.join(names)}")
    return folder, name or names[0]


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
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{spec}: {path} is not text, expected a CSV in UTF-8") from None


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
        raise ValueError(
            f"{spec}: line {number + 1} of {name} is {_short(lines[number])!r}, expected numbers"
        ) from None


def _short(line):
    """A line of a file as an error shows it."""
    return line if len(line) <= 60 else f"{line[:60]}..."


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
