"""`planetoid:FOLDER`: the raw files of Yang, Cohen and Salakhutdinov (2016; arXiv:1603.08861), which are pickles."""

import collections
import copyreg
import os
import pickle

import numpy as np

from jssl.data.graph import build
from jssl.data.graph_files import Sparse, as_many, file_of, lines_of, numbers, set_of, whole


def open_planetoid(spec, rest):
    """-> Graphs of the public split: 20 training nodes of each class, 500 for validation, 1,000 for testing."""
    folder, name = set_of(spec, rest, r"ind\.(.+)\.graph", "planetoid files", "ind.NAME.x, .tx, .allx, ..., .graph")
    file = lambda part: file_of(spec, folder, f"ind.{name}.{part}")
    allx, x, tx, ally, y, ty = (_rows(spec, file(part)) for part in ("allx", "x", "tx", "ally", "y", "ty"))
    for part, rows, every in ("x", x, allx), ("tx", tx, allx), ("y", y, ally), ("ty", ty, ally):
        if rows.shape[1] != every.shape[1]:
            both = f"{rows.shape[1]} columns, expected {every.shape[1]}, as many as all{part[-1]}"
            raise ValueError(f"{spec}: ind.{name}.{part} has {both}")
    test = whole(spec, "test.index", numbers(spec, "test.index", lines_of(file("test.index")))).ravel()
    for part, labels, rows in ("y", y, x), ("ally", ally, allx), ("ty", ty, tx), ("test.index", test, tx):
        as_many(spec, f"ind.{name}.{part}", labels, len(rows), "nodes that it is of")
    if test.min() < len(allx) or len(np.unique(test)) < len(test):
        raise ValueError(f"{spec}: test.index must name different nodes, from {len(allx)}, which follow those of allx")
    edges = _pairs(spec, unpickled(spec, file("graph"), dict))

    # Test nodes come in an order of their own. Those that the files leave out (CiteSeer's) have no features nor label.
    n = int(test.max()) + 1
    x, hot = np.zeros((n, allx.shape[1]), np.float32), np.zeros((n, ally.shape[1]))
    x[: len(allx)], hot[: len(ally)] = allx, ally
    x[test], hot[test] = tx, ty
    labels = np.where(hot.any(1), hot.argmax(1), -1).astype(np.int32)
    splits = {"train": np.arange(len(y)), "val": np.arange(len(y), min(len(y) + 500, len(allx))), "test": np.sort(test)}
    return build(spec, x, edges, labels=labels, splits=splits)


def _rows(spec, path):
    """The numbers [rows, columns] of a file."""
    found = unpickled(spec, path, np.ndarray)
    if found.ndim != 2 or found.dtype.kind not in "biuf":
        described = f"{found.dtype} {list(found.shape)}"
        raise ValueError(f"{spec}: {os.path.basename(path)} is {described}, expected numbers in rows and columns")
    return found


def _pairs(spec, graph):
    """{node: [neighbours]} -> int64 [E, 2]."""
    try:
        pairs = [(int(a), int(b)) for a, near in graph.items() for b in near]
        return np.array(pairs, np.int64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{spec}: the graph is not a dict of every node's list of neighbours' numbers") from None


class Fixed(type):
    """Of classes that a pickle may make objects of and not change."""

    def __setattr__(cls, name, value):
        raise pickle.UnpicklingError(f"changes {cls.__name__}")


class Matrix(metaclass=Fixed):
    """Takes the place of scipy's csr_matrix: its attributes, none of its code."""


class Latin1:
    """Python 3's way of writing bytes in the protocol of Python 2. A pickle may call it, and cannot change what has no
    attributes; functions and methods have some."""

    __slots__ = ()

    def __call__(self, text, encoding):
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"asks for the encoding {encoding}")
        return text.encode("latin1")


class Reconstructor:
    """Protocol 2's way of writing objects; of the same kind."""

    __slots__ = ()

    def __call__(self, *arguments):
        return copyreg._reconstructor(*arguments)


RECONSTRUCT = np.empty(0).__reduce__()[0]
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("scipy.sparse.csr", "csr_matrix"): Matrix,
    ("scipy.sparse._csr", "csr_matrix"): Matrix,
    ("collections", "defaultdict"): collections.defaultdict,
    ("_codecs", "encode"): Latin1(),
    **{(module, "list"): list for module in ("__builtin__", "builtins")},
    **{(module, "object"): object for module in ("__builtin__", "builtins")},
    **{(module, "_reconstructor"): Reconstructor() for module in ("copy_reg", "copyreg")},
}


class Unpickler(pickle.Unpickler):
    """Builds arrays, sparse matrices and dicts of lists, which planetoid's files hold, and refuses all else."""

    def find_class(self, module, name):
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


def unpickled(spec, path, kind):
    """An array, a sparse matrix as a dense one, or a dict, as `kind` says. Python 2 wrote them; its text is bytes."""
    try:
        with open(path, "rb") as file:
            found = Unpickler(file, encoding="latin1").load()
        if isinstance(found, Matrix):
            found = Sparse(found.data, found.indices, found.indptr, found._shape).dense(spec)
        if not isinstance(found, kind):
            raise pickle.UnpicklingError(f"holds a {type(found).__name__}")
    except Exception as error:  # of any kind: the bytes are anybody's
        raise ValueError(f"{spec}: {os.path.basename(path)} is not one of planetoid's files ({error})") from None
    return found
