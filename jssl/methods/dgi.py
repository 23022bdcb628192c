"""DGI: Deep Graph Infomax.

Petar Veličković, William Fedus, William L. Hamilton, Pietro Liò, Yoshua Bengio, R Devon Hjelm, 2018; arXiv:1809.10341.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jssl.augment.graph import choose, draw
from jssl.method import Method
from jssl.nets.graph import of_examples, of_graph, of_nodes, readout, roots
from jssl.nets.net import Net, apply_net, init_net, width
from jssl.transforms import mean_over


@dataclasses.dataclass(frozen=True)
class DGI(Method):
    """A discriminator tells a graph's nodes from those of the same graph with its features shuffled.

    It compares every node with a summary of the true graph, so that nodes learn what they share with all of it
    (section 3.3). The shuffled nodes are negatives: embeddings that are all equal can be told by nobody.
    """

    encoder: Net  # E, of nodes

    def init(self, rng, views):
        rng_encoder, rng_w = jax.random.split(rng)
        params, stats = init_net(of_nodes(self.encoder), rng_encoder, choose(views, 0))
        d = width(of_nodes(self.encoder), choose(views, 0))
        w = jax.random.uniform(rng_w, (d, d), minval=-(d**-0.5), maxval=d**-0.5)
        return {"encoder": params, "discriminator": w}, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        graph, net = choose(views, 0), of_nodes(self.encoder)
        rng_shuffle, rng_1, rng_2 = jax.random.split(rng, 3)
        corrupted = shuffled(graph, rng_shuffle)  # C: the features of another node, the same edges (section 3.4)
        h, _, stats = apply_net(net, params["encoder"], carry["stats"], graph, train=True, rng=rng_1)
        h_tilde, _, stats = apply_net(net, params["encoder"], stats, corrupted, train=True, rng=rng_2)

        features, examples = of_examples(self.encoder, graph, h[None])
        if self.encoder.pool == "first":  # sampled graphs: their central nodes, with one summary (section 4.2, Reddit)
            graph, h, h_tilde = roots(graph, h, h_tilde)
        s = jax.nn.sigmoid(readout(graph, h, "mean"))  # R: the summary of each graph, [R, G, D]
        positive, negative = (scores(graph, x, s, params["discriminator"]) for x in (h, h_tilde))  # [R, n]
        loss = jensen_shannon(positive, negative, graph["nodes"])  # eq. 1

        accuracy = mean_over(((positive > 0) + 1.0 * (negative < 0)) / 2, graph["nodes"])
        out = {"metrics": {"accuracy": accuracy}, "features": features, "there": {"features": examples}}
        return loss, ({**carry, "stats": stats}, out)

    def embed(self, params, carry, inputs):
        h, _, _ = apply_net(self.encoder, params["encoder"], carry["stats"], inputs)
        return {"features": h}


def shuffled(graph, rng):
    """Every graph with its nodes' features in random order."""

    def row(x, nodes, of, u):
        of = jnp.where(nodes > 0, of, graph["index"].shape[1])
        # The i-th node of a graph takes the features of the i-th in another order of the same graph.
        return jnp.zeros_like(x).at[jnp.lexsort((jnp.arange(len(u)), of))].set(x[jnp.lexsort((u, of))])

    u = draw(rng, graph["nodes"].shape)
    return {**graph, "x": jax.vmap(row)(graph["x"], graph["nodes"], graph["graph"], u)}


def scores(graph, h, s, w):
    """D: the bilinear score of each node with its graph's summary (eq. 4). h: [R, n, D], s: [R, G, D] -> [R, n]."""
    return jnp.sum(h * of_graph(graph, s @ w.T), -1)


def jensen_shannon(positive, negative, there):
    """Eq. 1, to be minimised: cross-entropy of telling nodes from corrupted ones, mean over both. [R, n] each -> []."""
    return mean_over(jax.nn.softplus(-positive) + jax.nn.softplus(negative), there) / 2
