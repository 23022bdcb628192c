"""GraphCL: Graph Contrastive Learning with Augmentations.

Yuning You, Tianlong Chen, Yongduo Sui, Ting Chen, Zhangyang Wang, Yang Shen, 2020; arXiv:2010.13902.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.augment.graph import choose
from jssl.method import Method
from jssl.nets.graph import apply_graph_views, each
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_nets, init_nets
from jssl.transforms import gather, rows, unit


@dataclasses.dataclass(frozen=True)
class GraphCL(Method):
    """Two views of a graph attract each other and repel the other graphs of the global batch.

    Which views suit depends on the data: molecules bear subgraphs and dropped nodes, social networks dropped edges
    (section 4.1). The negatives forbid collapse.
    """

    encoder: Net  # f, of graphs
    hidden: int = 96
    dim: int = 96
    temperature: float = 0.2  # tau

    @property
    def nets(self):
        return {"encoder": self.encoder, "projector": MLP(self.hidden, self.dim, norm=False, dtype=self.encoder.dtype)}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, choose(views, 0))
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        out, stats = apply_graph_views(self.nets, params, carry["stats"], views, rng)
        h, z, there = each(out["encoder"]), each(out["projector"]), views["index"].reshape(-1) >= 0  # [R * G, 2, D]
        loss = contrast(z[:, 0], z[:, 1], self.temperature, there)
        out = {"metrics": {}, "embedding": z, "features": h, "there": {"embedding": there, "features": there}}
        return loss, ({**carry, "stats": stats}, out)

    def embed(self, params, carry, inputs):
        out, _ = apply_nets({"encoder": self.encoder}, params, carry["stats"], inputs, train=False)
        return {"features": out["encoder"]}


def contrast(z, other, temperature, there):
    """Eq. 3: a graph's two views against the other graphs' second views; the positive is not in the denominator.

    z, other: [N, D]; there: bool [N], False for padding -> the mean over the graphs, [].
    """
    z, other = rows(unit(z)), rows(unit(other))
    logits = jnp.einsum("nd,md->nm", z, gather(other), precision=lax.Precision.HIGHEST) / temperature
    positive = jnp.sum(z * other, -1) / temperature
    out = jnp.eye(len(z), dtype=bool) | ~gather(there)
    return jnp.mean(jax.nn.logsumexp(jnp.where(out, -jnp.inf, logits), 1) - positive, where=there)
