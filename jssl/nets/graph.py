"""Graph neural networks on padded graphs.

A batch of graphs is a dict of arrays. A row holds G graphs side by side, one where the graph is large:

    x          float32 [R, n, F]  features of the nodes; 0 for padding
    nodes      float32 [R, n]     1; 0 for padding and for nodes that a view leaves out
    senders    int32   [R, E]     where an edge comes from; an undirected edge is there in both directions
    receivers  int32   [R, E]     where it goes to, ascending; n, which is no node, for padding
    edges      float32 [R, E]     an edge's weight; 0 for padding and for edges that a view leaves out
    graph      int32   [R, n]     which of the row's graphs a node belongs to, ascending; G for padding
    index      int32   [R, G]     the graphs' numbers in the data; -1 for padding

Nothing is ever removed from it: views set weights to 0, so that shapes stay what they are. Edges have no self-loops;
layers whose paper adds them do so themselves.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.augment.graph import at, choose, draw
from jssl.config import nearest
from jssl.nets.mlp import ACTIVATIONS, Dense
from jssl.nets.net import apply_nets, batch_norm

glorot = nn.initializers.xavier_uniform()
uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's linear layers
within = lambda rng, shape, limit: jax.random.uniform(rng, shape, minval=-limit, maxval=limit)


def at_senders(graph, x):
    """What the sender of each edge has: x [R, n, ...] -> [R, E, ...]."""
    return jax.vmap(lambda x, i: x[i])(x, graph["senders"])


def at_receivers(graph, x):
    """What the receiver of each edge has: x [R, n, ...] -> [R, E, ...]."""
    return at(x, graph["receivers"])


def to_receivers(graph, messages, reduce=jax.ops.segment_sum):
    """Reduces the messages [R, E, ...] that every node receives -> [R, n, ...]; what belongs to padding is dropped."""
    n = graph["nodes"].shape[1]
    one = lambda m, i: reduce(m, i, n, indices_are_sorted=True)
    return jax.vmap(one)(messages, graph["receivers"])


def neighbours(graph, h):
    """Weighted sum over the edges into each node. h: [R, n, D] -> [R, n, D]"""
    return to_receivers(graph, graph["edges"][..., None].astype(h.dtype) * at_senders(graph, h))


def of_graph(graph, s):
    """What each node's graph has: s [R, G, D] -> [R, n, D]."""
    return at(s, graph["graph"])


def readout(graph, h, kind):
    """The nodes of every graph as one vector, "sum", "mean", "max" or the "first", which a graph was sampled around; 0
    where it has none, or a view leaves the first out. [R, n, D] -> [R, G, D]"""
    graphs = graph["index"].shape[1]
    there = graph["nodes"][..., None] > 0
    if kind == "first":
        return jax.vmap(lambda h, of: first(h, of, graphs))(jnp.where(there, h, 0), graph["graph"])
    one = lambda x, reduce: jax.vmap(lambda x, i: reduce(x, i, graphs, indices_are_sorted=True))(x, graph["graph"])
    if kind == "max":
        most = one(jnp.where(there, h, -jnp.inf), jax.ops.segment_max)
        return jnp.where(jnp.isfinite(most), most, 0)
    total = one(jnp.where(there, h, 0), jax.ops.segment_sum)
    if kind == "sum":
        return total
    if kind != "mean":
        raise ValueError(f"readout is {kind!r}, expected sum, mean, max or first")
    return total / jnp.maximum(one(graph["nodes"], jax.ops.segment_sum), 1)[..., None]


def first(h, of, graphs):
    """The row of h [n, D] where each of so many graphs begins, 0 where none does. of: int [n], ascending -> [G, D]"""
    at = jnp.searchsorted(of, jnp.arange(graphs))
    begins = jnp.take(of, at, mode="clip") == jnp.arange(graphs)
    return jnp.where(begins[:, None], jnp.take(h, at, 0, mode="clip"), 0)


def roots(graph, *h):
    """The first nodes of all graphs of a batch, as the nodes of one graph without edges -> it, each h [1, R * G, D]."""
    of_roots = lambda h: readout(graph, h, "first").reshape(1, -1, h.shape[-1])
    there = of_roots(graph["nodes"][..., None])[..., 0]
    one = {"nodes": there, "graph": jnp.zeros(there.shape, jnp.int32), "index": jnp.zeros((1, 1), jnp.int32)}
    return one, *map(of_roots, h)


def of_nodes(net):
    """The same network without its readout."""
    return net.clone(pool=None)


def each(x):
    """What a view gives for every node or graph: [V, R, K, D] -> [R * K, V, D]."""
    return jnp.moveaxis(x, 0, 2).reshape(-1, len(x), x.shape[-1])


def of_examples(net, graph, h):
    """Features of nodes h [V, R, n, D] as those of the examples: of the same nodes, or, where `net` has a readout, of
    their graphs -> [N, V, D], and bool [N] with False for padding."""
    if net.pool is None:
        return each(h), graph["nodes"].reshape(-1) > 0
    return each(jax.vmap(lambda h: readout(graph, h, net.pool))(h)), graph["index"].reshape(-1) >= 0


def compared(net, graph, h):
    """What a loss compares of the nodes' h [V, R, n, D]: each of them, or, where `net` reads out the "first" of graphs
    that were sampled around it, that one alone: the others lack neighbours -> [N, V, D], and bool [N]."""
    return of_examples(net if net.pool == "first" else of_nodes(net), graph, h)


def apply_graph_views(nets, params, stats, views, rng):
    """Runs a chain on every view by itself -> ({name: [V, R, n or G, D]}, stats)."""
    outputs = []
    for v, key in enumerate(jax.random.split(rng, views["x"].shape[1])):
        out, stats = apply_nets(nets, params, stats, choose(views, v), rng=key)
        outputs.append(out)
    return {name: jnp.stack([out[name] for out in outputs]) for name in nets}, stats


def dropout(module, graph, x, rate, of="nodes"):
    """x [R, n or E, D] with the share `rate` of its numbers at 0, the others scaled so that the mean stays.

    By random numbers of 16 bits, the halves of others: making them is what dropout costs, where features are wide.
    """
    if not rate:
        return x
    *shape, width = x.shape
    pairs = draw(module.make_rng("dropout"), graph, of, (-(-width // 2),), jax.random.bits)
    bits = jax.lax.bitcast_convert_type(pairs, jnp.uint16).reshape(*shape, -1)[..., :width]
    return jnp.where(bits >= round(rate * 2**16), x / (1 - rate), 0)


class GCN(nn.Module):
    """Kipf & Welling, 2016; arXiv:1609.02907: D^-1/2 (A + I) D^-1/2 X W + b, degrees counted with the self-loop."""

    dim: int
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, graph, x, train=False):
        dense = Dense(self.dim, use_bias=False, kernel_init=glorot, dtype=self.dtype, name="dense")
        scale = jax.lax.rsqrt(to_receivers(graph, graph["edges"]) + 1).astype(self.dtype)  # [R, n]
        # As einsum: where DGI's two passes share h the gradient of `*` sums over them, a third of its step on a CPU.
        scaled = functools.partial(jnp.einsum, "rn,rnd->rnd", scale, precision=jax.lax.Precision.HIGHEST)
        narrow = x.shape[-1] < self.dim  # neighbours are summed where that is least work
        h = x.astype(self.dtype) if narrow else dense(x)
        h = scaled(h)
        h = scaled(neighbours(graph, h) + h)
        h = dense(h) if narrow else h
        return h + self.param("bias", nn.initializers.zeros, (self.dim,)).astype(h.dtype) if self.bias else h


class SAGE(nn.Module):
    """GraphSAGE (Hamilton et al., 2017; arXiv:1706.02216) with the mean: W_1 x + W_2 mean of the neighbours + b."""

    dim: int
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, graph, x, train=False):
        dense = lambda name, bias: Dense(self.dim, bias, kernel_init=uniform, dtype=self.dtype, name=name)
        degree = to_receivers(graph, graph["edges"])[..., None]
        mean = neighbours(graph, x) / jnp.maximum(degree, 1e-12)
        return dense("self", False)(x) + dense("neighbours", self.bias)(mean)


class GIN(nn.Module):
    """Xu et al., 2018; arXiv:1810.00826, eq. 4.1: an MLP of (1 + eps) x + the sum of the neighbours.

    The MLP has two layers, the first of width `hidden`, or `dim` as well; norm: batch norm between them, over the nodes
    that are there. eps: constant.
    """

    dim: int
    hidden: int | None = None
    eps: float = 0.0
    norm: bool = False
    activation: str = "relu"
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, graph, x, train=False):
        dense = lambda dim, bias, name: Dense(dim, bias, kernel_init=uniform, dtype=self.dtype, name=name)
        h = dense(self.hidden or self.dim, not self.norm, "dense0")((1 + self.eps) * x + neighbours(graph, x))
        if self.norm:
            h = batch_norm(train, self.dtype, "norm")(h, mask=graph["nodes"])
        return dense(self.dim, self.bias, "dense1")(ACTIVATIONS[self.activation]("activation")(h))


class GAT(nn.Module):
    """Velickovic et al., 2017; arXiv:1710.10903: neighbours and the node itself, weighted by attention.

    heads: their outputs, dim / heads each, lie side by side. attention_dropout: of the weights, in training. gain: of
    the initial weights, Glorot's; those of attention as of a layer from dim to dim / heads, as DGL has them.
    """

    dim: int
    heads: int = 1
    gain: float = 1.0
    slope: float = 0.2
    attention_dropout: float = 0.0
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, graph, x, train=False):
        if self.dim % self.heads:
            raise ValueError(f"GAT of {self.dim} dimensions cannot have {self.heads} heads: expected a divisor")
        # Products of heads as einsum: the gradient of `*` and `sum` took a CPU 20 times as long (jax 0.10.2).
        product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        x, width, shape = x.astype(self.dtype), x.shape[-1], (self.heads, self.dim // self.heads)
        init = lambda *fans: lambda rng, shape: within(rng, shape, self.gain * (6 / sum(fans)) ** 0.5)
        kernel = self.param("kernel", init(width, self.dim), (width, self.dim)).astype(self.dtype)
        kernel = kernel.reshape(width, *shape)
        attend = lambda name: self.param(name, init(self.dim, shape[1]), shape)
        weigh = lambda name: product("rni,ih->rnh", x, product("ihd,hd->ih", kernel, attend(name)))
        source, target = (weigh(name).astype(jnp.float32) for name in ("source", "target"))  # [R, n, heads]

        # A softmax over each node's edges and its self-loop, in float32, its largest term taken out first.
        there = graph["edges"][..., None] > 0
        over_edges = nn.leaky_relu(at_senders(graph, source) + at_receivers(graph, target), self.slope)
        over_edges = jnp.where(there, over_edges, -jnp.inf)
        alone = nn.leaky_relu(source + target, self.slope)
        top = jax.lax.stop_gradient(jnp.maximum(to_receivers(graph, over_edges, jax.ops.segment_max), alone))
        weight = jnp.where(there, jnp.exp(over_edges - at_receivers(graph, top)), 0)  # [R, E, heads]
        alone = jnp.exp(alone - top)
        total = to_receivers(graph, weight) + alone
        weight, alone = weight / at_receivers(graph, total), alone / total
        if train:
            weight = dropout(self, graph, weight, self.attention_dropout, "edges")
            alone = dropout(self, graph, alone, self.attention_dropout)

        weight, alone = weight.astype(self.dtype), alone.astype(self.dtype)
        if self.heads * width < self.dim:  # narrow inputs are gathered as they are, which is linear, then made wide
            messages = product("reh,rei->rehi", weight, at_senders(graph, x))
            mixed = to_receivers(graph, messages) + product("rnh,rni->rnhi", alone, x)
            y = jnp.einsum("rnhi,ihd->rnhd", mixed, kernel)
        else:
            h = jnp.einsum("rni,ihd->rnhd", x, kernel)
            messages = product("reh,rehd->rehd", weight, at_senders(graph, h))
            y = to_receivers(graph, messages) + product("rnh,rnhd->rnhd", alone, h)
        y = y.reshape(*x.shape[:2], self.dim)
        return y + self.param("bias", nn.initializers.zeros, (self.dim,)).astype(y.dtype) if self.bias else y


LAYERS = {"gcn": GCN, "sage": SAGE, "gin": GIN, "gat": GAT}


class GNN(nn.Module):
    """Layers of one kind, each followed by batch norm, if asked for, and an activation: a graph batch -> nodes.

    dims: width of each layer; heads, gain: of "gat"; eps, hidden: of "gin"; norm: batch norm over the nodes that are
    there, within the layers of "gin" too (inner_norm); norm_last: it follows the activation; last: whether norm and
    activation follow the last layer too; jumping: all layers' outputs side by side (Xu et al., 2018; arXiv:1806.03536);
    pool: "sum", "mean", "max" or "first" of the nodes, so that the main output is of graphs; dropout: of each layer's
    inputs.

    -> [R, n, D], or with `pool` [R, G, D]; out: 'nodes' [R, n, D] and 'layers', a tuple of [R, n, dims[i]].
    """

    layer: str = "gcn"
    dims: tuple = (512,)
    heads: int = 1
    gain: float = 1.0
    activation: str = "relu"
    eps: float = 0.0
    hidden: int | None = None
    norm: bool = False
    inner_norm: bool | None = None
    norm_last: bool = False
    last: bool = True
    jumping: bool = False
    pool: str | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.layer not in LAYERS:
            raise ValueError(f"layer is {self.layer!r}{nearest(self.layer, LAYERS)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, graph, train=False):
        x, layers = graph["x"], []
        for i, dim in enumerate(self.dims):
            x = dropout(self, graph, x, self.dropout) if train else x
            followed = self.last or i < len(self.dims) - 1
            # A bias that a norm follows would get only noise for a gradient.
            own = {**self.fields(), "bias": not (followed and self.norm and not self.norm_last)}
            x = LAYERS[self.layer](dim, dtype=self.dtype, name=f"layer{i}", **own)(graph, x, train)
            if followed:
                activation = ACTIVATIONS[self.activation](f"activation{i}")
                x = activation(x) if self.norm_last else x
                x = batch_norm(train, self.dtype, f"norm{i}")(x, mask=graph["nodes"]) if self.norm else x
                x = x if self.norm_last else activation(x)
            layers.append(x)
        nodes = jnp.concatenate(layers, -1) if self.jumping else x
        nodes = nodes.astype(jnp.float32) * graph["nodes"][..., None]
        y = nodes if self.pool is None else readout(graph, nodes, self.pool)
        return y, {"nodes": nodes, "layers": tuple(layers)}

    def fields(self):
        """What the kind of layer has of its own."""
        if self.layer == "gat":
            return {"heads": self.heads, "gain": self.gain, "attention_dropout": self.attention_dropout}
        if self.layer != "gin":
            return {}
        norm = self.norm if self.inner_norm is None else self.inner_norm
        return {"eps": self.eps, "hidden": self.hidden, "norm": norm, "activation": self.activation}
