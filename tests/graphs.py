"""Small graph batches for tests."""

import numpy as np


def batch(x, senders, receivers, weights=None, graph=None, nodes=0, edges=0):
    """One row of graphs, numpy, with so much padding of nodes and edges."""
    n, e = len(x), len(senders)
    order = np.argsort(receivers, kind="stable")
    weights, graph = np.ones(e) if weights is None else weights, np.zeros(n, int) if graph is None else graph
    count = graph.max() + 1
    pad = lambda value, more, fill: np.concatenate([value, np.full((more, *value.shape[1:]), fill)])[None]
    return {
        "x": pad(x, nodes, 0).astype(np.float32),
        "nodes": pad(np.ones(n), nodes, 0).astype(np.float32),
        "senders": pad(senders[order], edges, 0).astype(np.int32),
        "receivers": pad(receivers[order], edges, n + nodes).astype(np.int32),
        "edges": pad(weights[order], edges, 0).astype(np.float32),
        "graph": pad(graph, nodes, count).astype(np.int32),
        "index": np.arange(count, dtype=np.int32)[None],
    }


def rings(*sizes, features=3, nodes=0, edges=0, seed=0):
    """One row of rings of these sizes with a few chords, undirected."""
    rng, start, pairs = np.random.RandomState(seed), 0, []
    for size in sizes:
        pairs += [(start + i, start + (i + 1) % size) for i in range(size)]
        pairs += [(start + i, start + (i + size // 2) % size) for i in range(0, size // 2, 3)]
        start += size
    pairs = np.unique(np.sort(np.array(pairs), 1), axis=0)
    senders, receivers = np.concatenate([pairs, pairs[:, ::-1]]).T
    graph = np.repeat(np.arange(len(sizes)), sizes)
    return batch(rng.rand(start, features) + 1, senders, receivers, graph=graph, nodes=nodes, edges=edges)


def rows_of(*rows):
    """Several rows of the same shape as one batch, all graphs numbered."""
    made = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return {**made, "index": np.arange(made["index"].size, dtype=np.int32).reshape(made["index"].shape)}
