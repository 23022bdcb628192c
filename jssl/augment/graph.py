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


def at(x, i):
    """What each index points to in its own row, or beyond it, as padding does, the last. x: [R, n, ...], i: int [R, K]
    -> [R, K, ...]"""
    return jax.vmap(lambda x, i: jnp.take(x, i, 0, mode="clip"))(x, i)


def draw(rng, graph, of="nodes", shape=(), by=jax.random.uniform):
    """Random numbers of every node or edge, [R, n or E, *shape], by a key of its graph's number and its place therein.

    So neither the row that a graph lies in nor what lies beside it changes any: on any number of devices they are the
    same.
    """
    member = graph["graph"] if of == "nodes" else at(graph["graph"], graph["receivers"])

    def row(index, member):
        place = jnp.arange(len(member)) - jnp.searchsorted(member, member)
        fold_in = jax.vmap(jax.random.fold_in, (None, 0))
        keys = jax.vmap(jax.random.fold_in)(fold_in(rng, index[member]), place)
        return jax.vmap(lambda key: by(key, shape))(keys)

    return jax.vmap(row)(graph["index"], member)


def shares(x, there):
    """Each node's features divided by their sum, as citation graphs are prepared; zeros stay."""
    total = jnp.sum(jnp.abs(x), -1, keepdims=True)
    return x / jnp.where(total > 0, total, 1)


def standard(x, there):
    """Features of mean 0 and deviation 1 over the batch's nodes, as BGRL prepares WikiCS; constant ones become 0."""
    there = there[..., None]
    count = jnp.maximum(jnp.sum(there), 1)
    x = (x - jnp.sum(x * there, (0, 1)) / count) * there
    deviation = jnp.sqrt(jnp.sum(x * x, (0, 1)) / count)
    return x / jnp.where(deviation > 1e-6, deviation, 1)


FORMS = {"shares": shares, "standard": standard}


def prepared(batch, form):
    """The batch with its features in one of `FORMS`, or as they are where `form` is None."""
    if form is None:
        return batch
    if form not in FORMS:
        raise ValueError(f"normalise is {form!r}, expected None or one of {', '.join(FORMS)}")
    return {**batch, "x": FORMS[form](batch["x"], batch["nodes"])}


@dataclasses.dataclass(frozen=True)
class Whole:
    """Every graph as it is: the one view of methods that corrupt graphs themselves. normalise: see `prepared`."""

    normalise: str | None = None

    def __call__(self, rng, batch):
        batch = prepared(batch, self.normalise)
        return {name: batch[name] for name in PASSED} | {name: batch[name][:, None] for name in CHANGED}


@dataclasses.dataclass(frozen=True)
class Drop:
    """Two views, each without some directed edges, and with some features at 0 in all nodes of the batch (GRACE, Zhu et
    al., 2020; arXiv:2006.04131, section 3.2; BGRL).

    edges, features: probabilities, one per view. adaptive: the batch holds 'edge_weight' [R, E] and 'feature_weight'
    [R, F] of mean 1, by which the probabilities are multiplied, up to `most` (GCA; arXiv:2010.14945, section 3.2).
    normalise: see `prepared`.
    """

    edges: tuple[float, ...] = (0.2, 0.4)
    features: tuple[float, ...] = (0.3, 0.4)
    adaptive: bool = False
    most: float = 0.7
    normalise: str | None = None

    def __post_init__(self):
        if len(self.edges) != len(self.features):
            raise ValueError(f"edges={self.edges}, features={self.features}: expected a probability of each per view")
        if not all(0 <= p < 1 for p in (*self.edges, *self.features)):
            raise ValueError(f"edges={self.edges}, features={self.features}: probabilities must be within [0, 1)")

    def __call__(self, rng, batch):
        if self.adaptive and "edge_weight" not in batch:
            raise ValueError("adaptive views need weights of edges and features; expected data.centrality='degree'")
        batch = prepared(batch, self.normalise)
        rng_edges, rng_features = (jax.random.split(key, len(self.edges)) for key in jax.random.split(rng))
        u = jnp.stack([draw(key, batch, "edges") for key in rng_edges], 1)  # [R, V, E]
        edges = self.kept(u, self.edges, batch.get("edge_weight"))
        u = jnp.stack([jax.random.uniform(key, batch["x"].shape[-1:]) for key in rng_features])[None]  # [1, V, F]
        features = self.kept(u, self.features, batch.get("feature_weight"))
        return {
            **{name: batch[name] for name in PASSED},
            "x": batch["x"][:, None] * features[:, :, None],
            "nodes": jnp.repeat(batch["nodes"][:, None], len(self.edges), 1),
            "edges": batch["edges"][:, None] * edges,
        }

    def kept(self, u, p, weight):
        """1 where something stays, 0 where it goes, float32 [R, V, K]. u: uniform numbers; weight: [R, K]."""
        p = jnp.array(p)[:, None]  # [V, 1]
        if self.adaptive:
            p = jnp.minimum(p * weight[:, None], self.most)
        return (u >= p).astype(jnp.float32)


KINDS = ("none", "nodes", "edges", "attributes", "subgraph")
RANDOM = {f"random{k}": ("nodes", "subgraph", "edges", "attributes")[:k] for k in (2, 3, 4)}


@dataclasses.dataclass(frozen=True)
class GraphCL:
    """Two views, each of one kind for all graphs (You et al., 2020; arXiv:2010.13902, section 3.1 and table 1):

    "nodes" leaves out the share `ratio` of a graph's nodes with their edges, "edges" of its edges, "attributes" puts
    noise of mean and deviation 0.5 in place of its nodes' features, "subgraph" keeps the share `kept` of its nodes,
    grown from a random one over its edges, "none" changes nothing. "random2", "random3" and "random4", as the authors'
    code has them, draw for each graph one of nodes and subgraph, of these and edges, of these and attributes. Nodes
    that this leaves without an edge stay. The paper adds edges or drops them; its code for unsupervised learning only
    drops, and so do we. normalise: see `prepared`.
    """

    kinds: tuple[str, str] = ("nodes", "subgraph")
    ratio: float = 0.1
    kept: float = 0.2
    normalise: str | None = None

    def __post_init__(self):
        for kind in self.kinds:
            if kind not in (*KINDS, *RANDOM):
                raise ValueError(f"kinds={self.kinds}: {kind!r} is not one of {', '.join((*KINDS, *RANDOM))}")

    def __call__(self, rng, batch):
        batch = prepared(batch, self.normalise)
        keys = jax.random.split(rng, len(self.kinds))
        made = [self.view(kind, key, batch) for kind, key in zip(self.kinds, keys, strict=True)]
        stacked = {name: jnp.stack([view[name] for view in made], 1) for name in CHANGED}
        return {**{name: batch[name] for name in PASSED}, **stacked}

    def view(self, kind, rng, batch):
        """{name: array} of what views change."""
        if kind in RANDOM:
            return self.drawn(RANDOM[kind], rng, batch)
        return {name: {**batch, **getattr(self, kind)(rng, batch)}[name] for name in CHANGED}

    def drawn(self, kinds, rng, batch):
        """The view of one of the kinds, drawn for each graph."""
        rng, *keys = jax.random.split(rng, len(kinds) + 1)
        made = [self.view(kind, key, batch) for kind, key in zip(kinds, keys, strict=True)]
        one = lambda graph: jax.random.randint(jax.random.fold_in(rng, graph), (), 0, len(kinds))
        nodes = at(jax.vmap(jax.vmap(one))(batch["index"]), batch["graph"])
        which = {"nodes": nodes, "x": nodes[..., None], "edges": at(nodes, batch["receivers"])}
        pick = lambda name: [which[name] == i for i in range(len(kinds))]
        return {name: jnp.select(pick(name), [view[name] for view in made]) for name in CHANGED}

    def none(self, rng, batch):
        return {}

    def attributes(self, rng, batch):
        rng_nodes, rng_noise = jax.random.split(rng)
        changed = share(rng_nodes, batch, self.ratio)[..., None]
        noise = 0.5 + 0.5 * draw(rng_noise, batch, shape=batch["x"].shape[-1:], by=jax.random.normal)
        return {"x": jnp.where(changed, noise, batch["x"])}

    def edges(self, rng, batch):
        there = batch["edges"] > 0
        graph = at(batch["graph"], batch["receivers"])
        score = draw(rng, batch, "edges", by=jax.random.bits)
        lost = lowest(score, there, graph, batch["index"].shape[1], self.ratio)
        return {"edges": batch["edges"] * ~lost}

    def nodes(self, rng, batch):
        return induced(batch, (batch["nodes"] > 0) & ~share(rng, batch, self.ratio))

    def subgraph(self, rng, batch):
        return induced(batch, grown(rng, batch, self.kept))


def share(rng, batch, part):
    """bool [R, n]: a random `part` of every graph's nodes, rounded down."""
    score = draw(rng, batch, by=jax.random.bits)
    return lowest(score, batch["nodes"] > 0, batch["graph"], batch["index"].shape[1], part)


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

    def row(keys, nodes, graph, senders, receivers, edges):
        there = nodes > 0
        graph = jnp.where(there, graph, graphs)
        count = jax.ops.segment_sum(nodes, graph, graphs + 1)
        wanted = jnp.maximum(jnp.floor(part * count + 1e-6), 1).at[graphs].set(0)

        def add(i, kept):
            """One more node of every graph that lacks any, by the highest random score."""
            neighbour = jax.ops.segment_max(jnp.where(edges > 0, kept[senders], 0), receivers, n) > 0
            may = jnp.where(i == 0, there, neighbour & there) & ~kept
            score = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, i)))(keys)
            score = jnp.where(may, score + 1, 0)
            best = jax.ops.segment_max(score, graph, graphs + 1)
            lacks = jax.ops.segment_sum(kept.astype(jnp.float32), graph, graphs + 1) < wanted
            return kept | (may & (score == best[graph]) & lacks[graph])

        steps = jnp.max(wanted).astype(jnp.int32)
        return jax.lax.fori_loop(0, steps, add, jnp.zeros(n, bool))

    fields = (batch[name] for name in ("nodes", "graph", "senders", "receivers", "edges"))
    return jax.vmap(row)(draw(rng, batch, by=lambda key, shape: key), *fields)


def induced(batch, kept):
    """The graphs of the nodes `kept`, bool [R, n], and of the edges between them."""
    sender = jax.vmap(lambda k, i: k[i])(kept, batch["senders"])
    receiver = jax.vmap(lambda k, i: jnp.take(k, i, mode="fill", fill_value=False))(kept, batch["receivers"])
    nodes = batch["nodes"] * kept
    return {"nodes": nodes, "edges": batch["edges"] * (sender & receiver), "x": batch["x"] * nodes[..., None]}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation's view: a batch of graphs -> the same, as networks take it. normalise: see `prepared`."""

    normalise: str | None = None

    reads = {}  # what a source's `every` is told

    def __call__(self, batch):
        batch = prepared(batch, self.normalise)
        return {name: batch[name] for name in (*PASSED, *CHANGED)}
