"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Ting Chen, Simon Kornblith, Mohammad Norouzi, Geoffrey Hinton, 2020; arXiv:2002.05709.
"""

import dataclasses

from jssl.losses import nt_xent
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_views, init_nets


@dataclasses.dataclass(frozen=True)
class SimCLR(Method):
    """Two views of an image attract each other and repel all other images of the global batch.

    The loss compares projections z = g(h); the representation h = f(x) is what is kept (section 4.2). The negatives
    forbid collapse: with all embeddings equal, the loss is that of guessing.
    """

    encoder: Net  # f
    hidden: int = 2048
    dim: int = 128
    depth: int = 2  # layers of g
    temperature: float = 0.1  # tau; table 5
    decoupled: bool = False  # DCL (Yeh et al., 2021; arXiv:2110.06848): the positive leaves the denominator

    @property
    def nets(self):
        # As in the authors' code, every layer of g ends in batch norm.
        projector = MLP(self.hidden, self.dim, self.depth, last_norm=True, dtype=self.encoder.dtype)
        return {"encoder": self.encoder, "projector": projector}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        # Both views pass together, so batch norm sees all N * V of them (section 2.2, "global BN").
        out, stats = apply_views(self.nets, params, carry["stats"], views["image"], rng=rng)
        h, z = out["encoder"], out["projector"]  # [N, V, D], [N, V, E]

        loss = nt_xent(z, self.temperature, self.decoupled)  # eq. 1
        return loss, ({**carry, "stats": stats}, {"metrics": {}, "embedding": z, "features": h})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}
