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

EDGES = ("senders", "receivers", "edges")


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
        rng_shuffle, rng_encoder = jax.random.split(rng)
        # C: the features of another node, the same edges (section 3.4). Here nodes keep their features and are given
        # another's edges, which is the same but for their numbers: vmap then computes x W, that both share, once.
        edges, to = shuffled(graph, rng_shuffle)

        def encode(edges, rng):
            h, _, stats = apply_net(net, params["encoder"], carry["stats"], {**graph, **edges}, train=True, rng=rng)
            return h, stats

        both = {name: jnp.stack([graph[name], edges[name]]) for name in EDGES}
        (h, h_tilde), stats = jax.vmap(encode)(both, jax.random.split(rng_encoder))
        stats = jax.tree.map(lambda of: of[0], stats)  # of the true graph, which is what the encoder will be given

        features, examples = of_examples(self.encoder, graph, h[None])
        if self.encoder.pool == "first":  # sampled graphs: their central nodes, with one summary (section 4.2, Reddit)
            graph, h, h_tilde = roots(graph, h, jax.vmap(lambda h, to: h[to])(h_tilde, to))
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
    """A random permutation of the nodes of every graph -> their edges, each given to the node that it goes to, {name:
    [R, E]}, and where each node goes to, int32 [R, n]."""

    def row(nodes, of, u, senders, receivers, edges):
        of = jnp.where(nodes > 0, of, graph["index"].shape[1])
        # The i-th node of a graph goes to the i-th in another order of the same graph.
        to = jnp.zeros(len(u), jnp.int32).at[jnp.lexsort((jnp.arange(len(u)), of))].set(jnp.lexsort((u, of)))
        receivers = to.at[receivers].get(mode="fill", fill_value=len(u))
        order = jnp.argsort(receivers)
        return {"senders": to[senders][order], "receivers": receivers[order], "edges": edges[order]}, to

    u = draw(rng, graph, by=jax.random.bits)
    return jax.vmap(row)(graph["nodes"], graph["graph"], u, *(graph[name] for name in EDGES))


def scores(graph, h, s, w):
    """D: the bilinear score of each node with its graph's summary (eq. 4). h: [R, n, D], s: [R, G, D] -> [R, n]."""
    return jnp.sum(h * of_graph(graph, s @ w.T), -1)


def jensen_shannon(positive, negative, there):
    """Eq. 1, to be minimised: cross-entropy of telling nodes from corrupted ones, mean over both. [R, n] each -> []."""
    return mean_over(jax.nn.softplus(-positive) + jax.nn.softplus(negative), there) / 2
