"""BYOL: Bootstrap Your Own Latent, a New Approach to Self-Supervised Learning.

Jean-Bastien Grill, Florian Strub, Florent Altché, Corentin Tallec, Pierre H. Richemond et al., 2020; arXiv:2006.07733.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, init_nets
from jssl.transforms import ema, unit


@dataclasses.dataclass(frozen=True)
class BYOL(Method):
    """The online network predicts the target network's projection of the other view; there are no negatives.

    The target is a slow average of the online network. Predictor and stop-gradient keep the pair from collapsing
    (section 3.2).
    """

    encoder: Net  # f
    hidden: int = 4096
    dim: int = 256
    tau_base: float = 0.996  # section 3.3, for 1000 epochs; 0.99 for 300
    predictor: bool = True  # False: q is the identity, an ablation (table 5b); it collapses
    # False: the target is the online network itself, and learns with it, an ablation; it collapses. A gradient into the
    # average would move nothing: the optimizer does not hold it. So tau is 0 and the gradient takes both branches.
    stop_gradient: bool = True

    @property
    def target(self):
        return {"encoder": self.encoder, "projector": self.head()}  # f, g

    @property
    def online(self):
        return self.target | ({"predictor": self.head()} if self.predictor else {})  # f, g, q

    def head(self):
        return MLP(self.hidden, self.dim, dtype=self.encoder.dtype)

    def init(self, rng, views):
        params, stats = init_nets(self.online, rng, views["image"][:, 0])
        target, target_stats = (jax.tree.map(jnp.copy, self.of_target(tree)) for tree in (params, stats))
        return params, {"stats": stats, "target": target, "target_stats": target_stats}

    def loss(self, params, carry, views, rng, time):
        v, w = views["image"][:, 0], views["image"][:, 1]  # [N, H, W, C] each
        rng_v, rng_w = jax.random.split(rng)

        # The online network predicts, the target network is regressed (section 3.1). The target's batch norm also uses
        # the batch's own statistics.
        out_v, stats = apply_nets(self.online, params, carry["stats"], v, rng=rng_v)
        out_w, stats = apply_nets(self.online, params, stats, w, rng=rng_w)
        target = lax.stop_gradient(carry["target"]) if self.stop_gradient else self.of_target(params)
        target_v, target_stats = apply_nets(self.target, target, carry["target_stats"], v)
        target_w, target_stats = apply_nets(self.target, target, target_stats, w)
        q1, q2 = (out["predictor"] if self.predictor else out["projector"] for out in (out_v, out_w))  # [N, dim]
        z1, z2 = target_v["projector"], target_w["projector"]  # [N, dim]

        loss = regression(q1, z2) + regression(q2, z1)  # eq. 2, symmetrised
        carry = {**carry, "stats": stats, "target_stats": target_stats}
        h = jnp.stack([out_v["encoder"], out_w["encoder"]], 1)  # [N, 2, D]
        z = jnp.stack([out_v["projector"], out_w["projector"]], 1)  # [N, 2, dim]
        return loss, (carry, {"metrics": {"tau": self.tau(time)}, "embedding": z, "features": h})

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], self.of_target(params), self.tau(time))}

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}

    def tau(self, time):
        """From tau_base to 1 along half a cosine (section 3.3)."""
        if not self.stop_gradient:
            return jnp.float32(0)
        return time.cosine(self.tau_base)

    def of_target(self, tree):
        return {name: tree[name] for name in self.target}


def regression(q, z):
    """Eq. 2: the squared distance of unit vectors, 2 - 2 cos. q, z: [N, D] -> []."""
    return jnp.mean(2 - 2 * jnp.sum(unit(q) * unit(z), -1))
