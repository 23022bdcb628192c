"""Random views of graphs, on the device, inside the train step: weights become 0, and no shape changes.

A batch and its views are as `jssl.nets.graph` says, views with an axis V after the rows in what they change:
'x' [R, V, n, F], 'nodes' [R, V, n], 'edges' [R, V, E]. The rest of a batch passes as it is, labels excepted.
"""

import dataclasses

import jax
import jax.numpy as jnp

PASSED = ("senders", "receivers", "graph", "index")
CHANGED = ("x", "nodes", "edges")


def choose(views, v):
    """View v of a batch's views, as a graph batch."""
    return {**{name: views[name] for name in PASSED}, **{name: views[name][:, v] for name in CHANGED}}


def draw(rng, shape, of=jax.random.uniform):
    """Random numbers [R, ...], each row's by a key of its own: how much padding follows them changes none."""
    return jax.vmap(lambda key: of(key, shape[1:]))(jax.random.split(rng, shape[0]))


def shares(batch):
    """The same with each node's features divided by their sum, as citation graphs are prepared; zeros stay."""
    x = batch["x"]
    total = jnp.sum(jnp.abs(x), -1, keepdims=True)
    return {**batch, "x": x / jnp.where(total > 0, total, 1)}


@dataclasses.dataclass(frozen=True)
class Whole:
    """Every graph as it is: the one view of methods that corrupt graphs themselves. normalise: see `shares`."""

    normalise: bool = False

    def __call__(self, rng, batch):
        batch = shares(batch) if self.normalise else batch
        return {name: batch[name] for name in PASSED} | {name: batch[name][:, None] for name in CHANGED}


@dataclasses.dataclass(frozen=True)
class Drop:
    """Two views, each without some directed edges, and with some features at 0 in all nodes of a row (GRACE, Zhu et
    al., 2020; arXiv:2006.04131, section 3.2; BGRL).

    edges, features: probabilities, one per view. adaptive: the batch holds 'edge_weight' [R, E] and 'feature_weight'
    [R, F] of mean 1, by which the probabilities are multiplied, up to `most` (GCA; arXiv:2010.14945, section 3.2).
    normalise: see `shares`.
    """

    edges: tuple[float, ...] = (0.2, 0.4)
    features: tuple[float, ...] = (0.3, 0.4)
    adaptive: bool = False
    most: float = 0.7
    normalise: bool = False

    def __post_init__(self):
        if len(self.edges) != len(self.features):
            raise ValueError(f"edges={self.edges}, features={self.features}: expected a probability of each per view")
        if not all(0 <= p < 1 for p in (*self.edges, *self.features)):
            raise ValueError(f"edges={self.edges}, features={self.features}: probabilities must be within [0, 1)")

    def __call__(self, rng, batch):
        if self.adaptive and "edge_weight" not in batch:
            raise ValueError("adaptive views need weights of edges and features; expected data.centrality='degree'")
        batch = shares(batch) if self.normalise else batch
        rng_edges, rng_features = jax.random.split(rng)
        edges = self.kept(rng_edges, self.edges, batch["edges"].shape, batch.get("edge_weight"))
        features = self.kept(rng_features, self.features, batch["x"].shape[::2], batch.get("feature_weight"))
        return {
            **{name: batch[name] for name in PASSED},
            "x": batch["x"][:, None] * features[:, :, None],
            "nodes": jnp.repeat(batch["nodes"][:, None], len(self.edges), 1),
            "edges": batch["edges"][:, None] * edges,
        }

    def kept(self, rng, p, shape, weight):
        """1 where something stays, 0 where it goes, float32 [R, V, shape[1]]."""
        p = jnp.array(p)[:, None]  # [V, 1]
        if self.adaptive:
            p = jnp.minimum(p * weight[:, None], self.most)
        u = jnp.stack([draw(key, shape) for key in jax.random.split(rng, len(self.edges))], 1)
        return (u >= p).astype(jnp.float32)


KINDS = ("none", "nodes", "edges", "attributes", "subgraph")


@dataclasses.dataclass(frozen=True)
class GraphCL:
    """Two views, each of one kind for all graphs (You et al., 2020; arXiv:2010.13902, section 3.1 and table 1):

    "nodes" leaves out the share `ratio` of a graph's nodes with their edges, "edges" of its edges, "attributes" puts
    noise of mean and deviation 0.5 in place of its nodes' features, "subgraph" keeps the share `kept` of its nodes,
    grown from a random one over its edges, "none" changes nothing. Nodes that this leaves without an edge go too, as in
    the authors' code, but for "none" and "attributes". A graph keeps one node at least. normalise: see `shares`.
    """

    kinds: tuple[str, str] = ("nodes", "subgraph")
    ratio: float = 0.1
    kept: float = 0.2
    normalise: bool = False

    def __post_init__(self):
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(f"kinds={self.kinds}: {kind!r} is not one of {', '.join(KINDS)}")

    def __call__(self, rng, batch):
        batch = shares(batch) if self.normalise else batch
        keys = jax.random.split(rng, len(self.kinds))
        made = [getattr(self, kind)(key, batch) for kind, key in zip(self.kinds, keys, strict=True)]
        stacked = {name: jnp.stack([{**batch, **view}[name] for view in made], 1) for name in CHANGED}
        return {**{name: batch[name] for name in PASSED}, **stacked}

    def none(self, rng, batch):
        return {}

    def attributes(self, rng, batch):
        rng_nodes, rng_noise = jax.random.split(rng)
        changed = share(rng_nodes, batch, self.ratio)[..., None]
        noise = 0.5 + 0.5 * draw(rng_noise, batch["x"].shape, jax.random.normal)
        return {"x": jnp.where(changed, noise, batch["x"])}

    def edges(self, rng, batch):
        there = batch["edges"] > 0
        graph = jax.vmap(lambda of, i: jnp.take(of, i, mode="clip"))(batch["graph"], batch["receivers"])
        lost = lowest(draw(rng, there.shape), there, graph, batch["index"].shape[1], self.ratio)
        return connected(batch, batch["edges"] * ~lost)

    def nodes(self, rng, batch):
        return induced(batch, (batch["nodes"] > 0) & ~share(rng, batch, self.ratio))

    def subgraph(self, rng, batch):
        return induced(batch, grown(rng, batch, self.kept))


def share(rng, batch, part):
    """bool [R, n]: a random `part` of every graph's nodes, rounded down."""
    there = batch["nodes"] > 0
    return lowest(draw(rng, there.shape), there, batch["graph"], batch["index"].shape[1], part)


def lowest(score, there, graph, graphs, part):
    """bool: the `part` of the things of every graph, rounded down, whose scores are lowest. All [R, K]."""

    def row(score, there, graph):
        graph = jnp.where(there, graph, graphs)
        order = jnp.lexsort((score, graph))
        count = jax.ops.segment_sum(jnp.ones(len(score), jnp.int32), graph, graphs + 1)
        first = jnp.cumsum(count) - count  # of each graph in that order
        rank = jnp.zeros(len(score), jnp.int32).at[order].set(jnp.arange(len(score))) - first[graph]
        return there & (rank < jnp.floor(part * count[graph] + 1e-6))

    return jax.vmap(row)(score, there, graph)


def grown(rng, batch, part):
    """bool [R, n]: in every graph a random node, then random neighbours of what there is, up to `part` of its nodes.

    Rounded down, one at least; a graph whose nodes are not all joined may give fewer.
    """
    graphs, n = batch["index"].shape[1], batch["nodes"].shape[1]

    def row(rng, nodes, graph, senders, receivers, edges):
        there = nodes > 0
        graph = jnp.where(there, graph, graphs)
        count = jax.ops.segment_sum(nodes, graph, graphs + 1)
        wanted = jnp.maximum(jnp.floor(part * count + 1e-6), 1).at[graphs].set(0)

        def add(i, kept):
            """One more node of every graph that lacks any, by the highest random score."""
            neighbour = jax.ops.segment_max(jnp.where(edges > 0, kept[senders], 0), receivers, n) > 0
            may = jnp.where(i == 0, there, neighbour & there) & ~kept
            score = jnp.where(may, jax.random.uniform(jax.random.fold_in(rng, i), (n,)) + 1, 0)
            best = jax.ops.segment_max(score, graph, graphs + 1)
            lacks = jax.ops.segment_sum(kept.astype(jnp.float32), graph, graphs + 1) < wanted
            return kept | (may & (score == best[graph]) & lacks[graph])

        steps = jnp.max(wanted).astype(jnp.int32)
        return jax.lax.fori_loop(0, steps, add, jnp.zeros(n, bool))

    fields = (batch[name] for name in ("nodes", "graph", "senders", "receivers", "edges"))
    return jax.vmap(row)(jax.random.split(rng, len(batch["nodes"])), *fields)


def induced(batch, kept):
    """The graphs of the nodes `kept`, bool [R, n], and of the edges between them."""
    sender = jax.vmap(lambda k, i: k[i])(kept, batch["senders"])
    receiver = jax.vmap(lambda k, i: jnp.take(k, i, mode="fill", fill_value=False))(kept, batch["receivers"])
    return connected({**batch, "nodes": batch["nodes"] * kept}, batch["edges"] * (sender & receiver))


def connected(batch, edges):
    """The same with these edges, without the nodes that have none; a graph that would lose all keeps its nodes."""
    graphs, n = batch["index"].shape[1], batch["nodes"].shape[1]

    def row(nodes, graph, senders, receivers, edges):
        joined = jnp.zeros(n, bool).at[receivers].max(edges > 0, mode="drop").at[senders].max(edges > 0)
        left = jax.ops.segment_max((joined & (nodes > 0)).astype(jnp.int32), graph, graphs + 1)[graph] > 0
        return jnp.where(left, nodes * joined, nodes)

    fields = (batch[name] for name in ("graph", "senders", "receivers"))
    nodes = jax.vmap(row)(batch["nodes"], *fields, edges)
    return {"nodes": nodes, "edges": edges, "x": batch["x"] * nodes[..., None]}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation's view: a batch of graphs -> the same, as networks take it. normalise: see `shares`."""

    normalise: bool = False

    def __call__(self, batch):
        batch = shares(batch) if self.normalise else batch
        return {name: batch[name] for name in (*PASSED, *CHANGED)}
