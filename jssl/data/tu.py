"""`tu:FOLDER[@NAME][,attributes]`: the text files of the TU collection (Morris et al., 2020; arXiv:2007.08663)."""

import os

import numpy as np

from jssl.data.graph import build
from jssl.data.graph_files import as_many, file_of, lines_of, numbers, one_hot, set_of, whole


def open_tu(spec, rest):
    """-> Graphs. Features are one-hot node labels, where there are none node attributes, or both where these are asked
    for; labels of edges are not read."""
    path = rest.removesuffix(",attributes")
    asked = path != rest
    folder, name = set_of(
        spec, path, r"(.+)_graph_indicator\.txt", "TU files", "NAME_A.txt, NAME_graph_indicator.txt, ..."
    )

    def read(part, optional=False, kinds=True, columns=None):
        file = f"{name}_{part}.txt"
        if optional and not os.path.isfile(os.path.join(folder, file)):
            return None
        values = numbers(spec, file, lines_of(file_of(spec, folder, file)))
        if columns not in (None, values.shape[1]):
            raise ValueError(f"{spec}: {file} has {values.shape[1]} numbers in a line, expected {columns}")
        return whole(spec, file, values) if kinds else values

    graph = read("graph_indicator", columns=1).ravel() - 1
    if (np.diff(graph) < 0).any() or graph.min() != 0:
        raise ValueError(
            f"{spec}: {name}_graph_indicator.txt does not count up from 1, as the nodes of graphs in order do"
        )
    n, graphs = len(graph), int(graph.max()) + 1
    offsets = np.searchsorted(graph, np.arange(graphs + 1))
    parts, said = [], []
    if (kinds := read("node_labels", optional=True)) is not None:
        as_many(spec, f"{name}_node_labels.txt", kinds, n, "nodes")
        parts += [one_hot(column) for column in kinds.T]
    values = read("node_attributes", optional=not asked, kinds=False)
    if values is not None and (asked or kinds is None):
        as_many(spec, f"{name}_node_attributes.txt", values, n, "nodes")
        parts.append(values)
    elif values is not None:
        said.append(f"node labels alone are features; node attributes as well: tu:{path},attributes")
    labels = read("graph_labels", optional=True, columns=1)
    if labels is not None:
        as_many(spec, f"{name}_graph_labels.txt", labels, graphs, "graphs")
    classes, labels = (None, None) if labels is None else np.unique(labels.ravel(), return_inverse=True)
    names = None if classes is None else tuple(f"{c:g}" for c in classes)
    labels = None if labels is None else labels.astype(np.int32)
    edges = read("A", columns=2)
    if (outside := (edges < 1) | (edges > n)).any():
        a, b = edges[np.flatnonzero(outside.any(1))[0]]
        raise ValueError(f"{spec}: {name}_A.txt joins {a} and {b}, but nodes are 1 to {n}")
    x = np.concatenate(parts, 1) if parts else None
    return build(spec, x, edges - 1, offsets=offsets, labels=labels, label_names=names, said=said)
