"""Small graphs around the nodes of a large one, for many roots at once."""

import dataclasses

import numpy as np

from jssl.data.large import noise, within


@dataclasses.dataclass(frozen=True)
class Around:
    """Graphs side by side, one of each root, which is its first node; farther nodes follow.

    graph: int64 [n], ascending; node: int64 [n], numbers in the large graph; hop: int64 [n], how far it was found from
    the root; senders, receivers: int64 [e], places among these nodes, by receiver; edge: int64 [e], which of the large
    graph's; weight: float32 [e].
    """

    graph: np.ndarray
    node: np.ndarray
    hop: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    edge: np.ndarray
    weight: np.ndarray

    def trimmed(self, nodes, edges):
        """At most so many nodes and edges, the farthest left out -> the same, how many nodes and edges it lacks."""
        if len(self.node) <= nodes and len(self.edge) <= edges:
            return self, 0
        kept = np.zeros(len(self.node), bool)
        kept[np.argsort(self.hop, kind="stable")[:nodes]] = True
        left = np.flatnonzero(kept[self.senders] & kept[self.receivers])
        left = np.sort(left[np.argsort(self.hop[self.receivers[left]], kind="stable")[:edges]])
        place, lost = np.cumsum(kept) - 1, len(self.node) + len(self.edge) - kept.sum() - len(left)
        of_nodes = (x[kept] for x in (self.graph, self.node, self.hop))
        of_edges = (place[self.senders[left]], place[self.receivers[left]], self.edge[left], self.weight[left])
        return Around(*of_nodes, *of_edges), int(lost)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """GraphSAGE's sampling (Hamilton et al., 2017; arXiv:1706.02216, algorithm 2), of a graph for each root: at every
    hop up to so many of the edges into each node of the last one, without replacement; a node that comes twice is one.

    Only the edges that were drawn are there, not all between these nodes: each node's are then a fair sample of its
    own, and as many as were asked for, where all edges between the nodes would favour neighbours that know each other
    and leave the last hop a few that lead back. A node of d edges of which k were drawn has them with weight d / k:
    sums are those of all its edges in expectation, means those of the k, and its degree is the true one. The nodes of
    the last hop have none. With fan-outs of no less than every degree, a network of as many layers as hops gives at the
    root what it gives on the whole graph; GCN, which divides by the senders' degrees too, needs one hop more.
    """

    fanouts: tuple[int, ...]

    def __post_init__(self):
        if not self.fanouts or not all(isinstance(k, int) and k > 0 for k in self.fanouts):
            raise ValueError(f"data.fanouts={self.fanouts}: expected a number above 0 for each hop, as in (10, 10)")

    @property
    def most(self):
        """(nodes, edges) that no graph exceeds."""
        edges = int(np.cumprod(self.fanouts).sum())
        return 1 + edges, edges

    def __call__(self, large, roots, keys):
        """roots: int [G]; keys: uint64 [G], of which what is drawn is a function -> Around."""
        n = len(large.x)
        new = np.arange(len(roots)) * n + roots  # a node of graph g is the number g * n + node
        seen, hops, edges = new, np.zeros(len(new), int), []
        for hop, most in enumerate(self.fanouts, 1):
            receivers, graphs = new % n, new // n
            of, edge = large.drawn(receivers, noise(keys[graphs], receivers), most)
            senders = graphs[of] * n + large.senders[edge]
            weight = large.degree(receivers) / np.maximum(np.minimum(large.degree(receivers), most), 1)
            edges.append((senders, new[of], edge, weight[of].astype(np.float32)))
            new = np.setdiff1d(senders, seen)
            seen, hops = np.concatenate([seen, new]), np.concatenate([hops, np.full(len(new), hop)])
        return arranged(n, seen, hops, *(np.concatenate(parts) for parts in zip(*edges, strict=True)))


@dataclasses.dataclass(frozen=True)
class Walks:
    """Random walks from each root, against the direction of the edges, which is where its messages come from; and all
    edges between the nodes they visit (GraphSAINT's sampler, Zeng et al., 2019; arXiv:1907.04931, section 3.4, for each
    root by itself and without its weights, so that degrees are those within)."""

    number: int
    length: int

    def __post_init__(self):
        if not all(isinstance(k, int) and k > 0 for k in (self.number, self.length)):
            raise ValueError(f"data.walks={(self.number, self.length)}: expected how many and how long, as in (4, 10)")

    @property
    def most(self):
        nodes = 1 + self.number * self.length
        return nodes, nodes * (nodes - 1)

    def __call__(self, large, roots, keys):
        n, graphs = len(large.x), np.arange(len(roots))[:, None]
        at, visited = np.repeat(np.asarray(roots)[:, None], self.number, 1), [np.asarray(roots)[:, None]]
        for step in range(self.length):
            at = large.step(at, noise(keys[:, None], step, np.arange(self.number)[None]))  # [G, number]
            visited.append(at)
        found = np.concatenate([(graphs * n + nodes).ravel() for nodes in visited])
        nodes, first = np.unique(found, return_index=True)
        hops = np.where(first < len(roots), 0, (first - len(roots)) // max(at.size, 1) + 1)

        senders, receivers, edge = between(large, nodes)
        return arranged(n, nodes, hops, nodes[senders], nodes[receivers], edge, np.ones(len(edge), np.float32))


def between(large, nodes):
    """All edges between nodes of the same graph. nodes: int64 [m], graph * n + node, ascending.

    -> int [e] senders and receivers among these nodes, int64 [e] which of the large graph's edges.
    """
    n = len(large.x)
    graph, node = nodes // n, nodes % n
    count = np.bincount(graph)
    start, count, degree = (np.cumsum(count) - count)[graph], count[graph], large.degree(node)

    # Of a node with few edges each is looked at; of one with many, whether it has one from each node of its graph.
    few, many = np.flatnonzero(degree <= count), np.flatnonzero(degree > count)
    receivers = np.repeat(few, degree[few])
    edges = large.offsets[node[receivers]] + within(degree[few])
    wanted = graph[receivers] * n + large.senders[edges]
    senders = np.minimum(np.searchsorted(nodes, wanted), len(nodes) - 1)
    there = nodes[senders] == wanted

    asked = np.repeat(many, count[many])
    near = start[asked] + within(count[many])
    found = large.find(node[near], node[asked])
    parts = ((senders[there], receivers[there], edges[there]), (near[found >= 0], asked[found >= 0], found[found >= 0]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def arranged(n, nodes, hops, senders, receivers, edge, weight):
    """Puts nodes into the order of graph, hop and number, edges into that of receiver and sender -> Around.

    nodes, senders, receivers: int64, graph * n + node.
    """
    order = np.lexsort((nodes, hops, nodes // n))
    nodes, hops = nodes[order], hops[order]
    by_number = np.argsort(nodes)
    place = lambda x: by_number[np.searchsorted(nodes, x, sorter=by_number)]
    senders, receivers = place(senders), place(receivers)
    by = np.lexsort((senders, receivers))
    return Around(nodes // n, nodes % n, hops, senders[by], receivers[by], edge[by], weight[by])
