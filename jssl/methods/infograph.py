"""InfoGraph: Unsupervised and Semi-supervised Graph-Level Representation Learning via Mutual Information Maximization.

Fan-Yun Sun, Jordan Hoffmann, Vikas Verma, Jian Tang, 2019; arXiv:1908.01000. The unsupervised method.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.augment.graph import choose
from jssl.method import Method
from jssl.nets.graph import of_nodes, readout
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, init_net, width
from jssl.transforms import gather, mean_over, rows


@dataclasses.dataclass(frozen=True)
class InfoGraph(Method):
    """A graph's summary is told from those of the batch's other graphs by each of its nodes.

    Nodes are the outputs of all layers, a summary is their sum (section 3.3). The other graphs are the negatives, which
    forbid collapse.
    """

    encoder: Net  # of graphs: its nodes' representations h, and their readout H

    def heads(self, d):
        """What both sides pass through before they are compared: three layers beside a linear one."""
        dtype = self.encoder.dtype
        deep = MLP(d, d, depth=3, norm=False, activation=self.encoder.activation, dtype=dtype)
        return {"deep": deep, "linear": MLP(0, d, depth=1, dtype=dtype)}

    def init(self, rng, views):
        graph, net = choose(views, 0), of_nodes(self.encoder)
        rng_encoder, *rngs = jax.random.split(rng, 3)
        encoder, stats = init_net(net, rng_encoder, graph)
        d = width(net, graph)
        head = lambda rng: {
            name: init_net(mlp, key, jnp.zeros((1, d)))[0]
            for (name, mlp), key in zip(self.heads(d).items(), jax.random.split(rng), strict=True)
        }
        return {"encoder": encoder, "node": head(rngs[0]), "graph": head(rngs[1])}, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        graph = choose(views, 0)
        h, _, stats = apply_net(of_nodes(self.encoder), params["encoder"], carry["stats"], graph, train=True, rng=rng)
        summary = readout(graph, h, self.encoder.pool)  # H: [R, G, D]
        nodes, graphs = self.head(params["node"], h), self.head(params["graph"], summary)

        of = graph["graph"] + graph["index"].shape[1] * jnp.arange(len(h))[:, None]  # each node's graph in the batch
        flat = lambda x: rows(x.reshape(-1, *x.shape[2:]))
        here, there = flat(graph["nodes"]) > 0, flat(graph["index"]) >= 0
        loss = local_global(flat(nodes), flat(graphs), flat(of), here, there)
        out = {"metrics": {}, "features": flat(summary)[:, None], "there": {"features": there}}
        return loss, ({**carry, "stats": stats}, out)

    def head(self, params, x):
        nets = self.heads(x.shape[-1])
        deep, linear = (apply_net(nets[name], params[name], {}, x)[0] for name in ("deep", "linear"))
        return jax.nn.relu(deep) + linear

    def embed(self, params, carry, inputs):
        y, _, _ = apply_net(self.encoder, params["encoder"], carry["stats"], inputs)
        return {"features": y}


def local_global(nodes, graphs, of, here, there):
    """Eq. 4 with the Jensen-Shannon estimator (eq. 5), to be minimised: nodes against their own graph and all others.

    nodes: [N, D], of: int [N], the graph of each; graphs: [M, D]; here, there: bool [N], [M], False for padding -> []
    """
    scores = jnp.einsum("nd,md->nm", nodes, gather(graphs), precision=lax.Precision.HIGHEST)
    own = of[:, None] == jnp.arange(len(graphs))
    pairs = here[:, None] & gather(there)
    positive = mean_over(jax.nn.softplus(-scores), pairs & own)
    return positive + mean_over(jax.nn.softplus(scores), pairs & ~own)
