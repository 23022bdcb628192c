"""SimSiam: Exploring Simple Siamese Representation Learning.

Xinlei Chen, Kaiming He, 2020; arXiv:2011.10566.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, init_nets
from jssl.transforms import unit


@dataclasses.dataclass(frozen=True)
class SimSiam(Method):
    """One network sees two views of an image; its prediction from one must match its output for the other.

    The output that is matched is a constant of the loss: no gradient reaches it. Stop-gradient and predictor keep all
    outputs from becoming one (sections 4.1 and 4.2); there are no negatives and no momentum encoder.

    Experiments hold the predictor's learning rate at its peak, by `optim.groups` (table 1: 68.1 against 67.7 %).
    """

    encoder: Net  # the backbone; with the projector, f
    hidden: int = 2048  # of the projector
    dim: int = 2048  # of z and p
    depth: int = 3  # layers of the projector; 2 for CIFAR (appendix D)
    bottleneck: int = 512  # of the predictor
    predictor: bool = True  # False: h is the identity, an ablation (table 1); it collapses
    stop_gradient: bool = True  # False: z has a gradient too, an ablation (figure 2); it collapses

    @property
    def nets(self):
        dtype = self.encoder.dtype
        projector = MLP(self.hidden, self.dim, self.depth, last_norm=True, last_affine=False, dtype=dtype)
        nets = {"encoder": self.encoder, "projector": projector}
        return nets | ({"predictor": MLP(self.bottleneck, self.dim, dtype=dtype)} if self.predictor else {})  # h

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        x1, x2 = views["image"][:, 0], views["image"][:, 1]  # [N, H, W, C] each
        rng1, rng2 = jax.random.split(rng)

        # Each view passes by itself, so that batch norm sees one view at a time, as in the authors' code.
        out1, stats = apply_nets(self.nets, params, carry["stats"], x1, rng=rng1)
        out2, stats = apply_nets(self.nets, params, stats, x2, rng=rng2)
        z1, z2 = out1["projector"], out2["projector"]  # [N, dim]
        p1, p2 = (out["predictor"] if self.predictor else out["projector"] for out in (out1, out2))  # [N, dim]

        fixed = lax.stop_gradient if self.stop_gradient else lambda z: z
        loss = distance(p1, fixed(z2)) / 2 + distance(p2, fixed(z1)) / 2  # eq. 4
        h = jnp.stack([out1["encoder"], out2["encoder"]], 1)  # [N, 2, D]
        z = jnp.stack([z1, z2], 1)  # [N, 2, dim]
        return loss, ({**carry, "stats": stats}, {"metrics": {}, "embedding": z, "features": h})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


def distance(p, z):
    """Eq. 1: the negative cosine. p, z: [N, D] -> [], -1 where they agree."""
    return -jnp.mean(jnp.sum(unit(p) * unit(z), -1))
