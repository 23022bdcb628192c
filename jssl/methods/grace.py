"""GRACE: Deep Graph Contrastive Representation Learning.

Yanqiao Zhu, Yichen Xu, Feng Yu, Qiang Liu, Shu Wu, Liang Wang, 2020; arXiv:2006.04131. With adaptive views it is GCA:
Graph Contrastive Learning with Adaptive Augmentation, of the same authors, 2020; arXiv:2010.14945.
"""

import dataclasses

from jssl.augment.graph import choose
from jssl.losses import nt_xent
from jssl.method import Method
from jssl.nets.graph import apply_graph_views, compared, of_examples, of_nodes
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_nets, init_nets


@dataclasses.dataclass(frozen=True)
class GRACE(Method):
    """A node's two views attract each other and repel all other nodes, of both views.

    Views leave out random edges and features (`jssl.augment.graph.Drop`); in GCA, of unimportant nodes more often. The
    negatives forbid collapse.
    """

    encoder: Net  # f, of nodes
    hidden: int = 128
    dim: int = 128
    temperature: float = 0.4  # tau

    @property
    def nets(self):
        projector = MLP(self.hidden, self.dim, norm=False, activation="elu", dtype=self.encoder.dtype)
        return {"encoder": of_nodes(self.encoder), "projector": projector}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, choose(views, 0))
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        out, stats = apply_graph_views(self.nets, params, carry["stats"], views, rng)
        graph = choose(views, 0)
        z, nodes = compared(self.encoder, graph, out["projector"])  # [N, 2, D]

        # Eq. 1 and 2: negatives are the other nodes of the other view and of the same, which is SimCLR's loss.
        loss = nt_xent(z, self.temperature, there=nodes)
        features, examples = of_examples(self.encoder, graph, out["encoder"])
        there = {"embedding": nodes, "features": examples}
        out = {"metrics": {}, "embedding": z, "features": features, "there": there}
        return loss, ({**carry, "stats": stats}, out)

    def embed(self, params, carry, inputs):
        out, _ = apply_nets({"encoder": self.encoder}, params, carry["stats"], inputs, train=False)
        return {"features": out["encoder"]}
