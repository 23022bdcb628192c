"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers.

Xinlei Chen, Saining Xie, Kaiming He, 2021; arXiv:2104.02057.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jssl.losses import info_nce
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, init_nets
from jssl.transforms import ema


@dataclasses.dataclass(frozen=True)
class MoCoV3(Method):
    """Each view must find the key of the image's other view among the keys of the batch; there is no queue.

    Keys come from a momentum encoder, queries from the encoder and a predictor. The negatives forbid collapse: with all
    embeddings equal, the loss is that of guessing. Vision transformers train stably if their patch projection stays as
    it was drawn (section 4.2), which is a parameter group of the recipe.
    """

    encoder: Net
    hidden: int = 4096
    dim: int = 256
    depth: int = 3  # layers of the projector; the authors' code has 2 after a ResNet
    temperature: float = 0.2  # tau; the authors' code has 1.0 for a ResNet
    m: float = 0.99  # momentum of the key encoder at the start

    @property
    def target(self):
        return {"encoder": self.encoder, "projector": self.head(self.depth)}  # f_k

    @property
    def online(self):
        return {**self.target, "predictor": self.head(2)}  # f_q

    def head(self, depth):
        """Batch norm after every layer, the last without scale and bias, as in the authors' code."""
        return MLP(self.hidden, self.dim, depth, last_norm=True, last_affine=False, dtype=self.encoder.dtype)

    def init(self, rng, views):
        params, stats = init_nets(self.online, rng, views["image"][:, 0])
        target, target_stats = (jax.tree.map(jnp.copy, self.of_target(tree)) for tree in (params, stats))
        return params, {"stats": stats, "target": target, "target_stats": target_stats}

    def loss(self, params, carry, views, rng, time):
        x1, x2 = views["image"][:, 0], views["image"][:, 1]  # [N, H, W, C] each
        rng_1, rng_2 = jax.random.split(rng)

        # Algorithm 1.
        out_1, stats = apply_nets(self.online, params, carry["stats"], x1, rng=rng_1)
        out_2, stats = apply_nets(self.online, params, stats, x2, rng=rng_2)
        target_1, target_stats = apply_nets(self.target, carry["target"], carry["target_stats"], x1)
        target_2, target_stats = apply_nets(self.target, carry["target"], target_stats, x2)
        q1, q2 = out_1["predictor"], out_2["predictor"]  # [N, dim]
        k1, k2 = target_1["projector"], target_2["projector"]  # [N, dim]

        loss = contrast(q1, k2, self.temperature) + contrast(q2, k1, self.temperature)
        carry = {**carry, "stats": stats, "target_stats": target_stats}
        h = jnp.stack([out_1["encoder"], out_2["encoder"]], 1)  # [N, 2, D]
        q = jnp.stack([q1, q2], 1)  # [N, 2, dim]
        return loss, (carry, {"metrics": {"m": self.momentum(time)}, "embedding": q, "features": h})

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], self.of_target(params), self.momentum(time))}

    def embed(self, params, carry, inputs):
        stats = carry.get("stats", {}).get("encoder", {})  # a ViT has none, and an export leaves out what is empty
        h, out, _ = apply_net(self.encoder, params["encoder"], stats, inputs["image"])
        return {"features": h, **out}

    def momentum(self, time):
        """From m to 1 along half a cosine, as in the authors' code."""
        return time.cosine(self.m)

    def of_target(self, tree):
        return {name: tree[name] for name in self.target}


def contrast(q, k, tau):
    """Eq. 1 over the keys of the global batch, times 2 tau (algorithm 1). q, k: [N, D] -> []. No gradient reaches k."""
    return 2 * tau * info_nce(q, stop_gradient(k), tau)
