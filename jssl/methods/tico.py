"""TiCo: Transformation Invariance and Covariance Contrast for Self-Supervised Visual Representation Learning.

Jiachen Zhu, Rafael M. Moraes, Serkan Karakulak, Vlad Sobol, Alfredo Canziani, Yann LeCun, 2022; arXiv:2206.10698.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import stop_gradient

from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, init_nets
from jssl.transforms import ema, unit


@dataclasses.dataclass(frozen=True)
class TiCo(Method):
    """A view's embedding meets the momentum network's of the other view, and shuns the directions that are in use.

    Those are held in a running covariance of the embeddings, a memory of unlimited length. A collapse
    would put all of it into one direction, where the penalty is largest.
    """

    encoder: Net  # f
    hidden: int = 4096
    dim: int = 256
    rho: float = 8.0  # weight of the covariance contrast
    beta: float = 0.9  # decay of the running covariance
    tau_base: float = 0.99  # of the momentum network, rising to 1

    @property
    def nets(self):
        return {"encoder": self.encoder, "projector": MLP(self.hidden, self.dim, dtype=self.encoder.dtype)}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        target, target_stats = jax.tree.map(jnp.copy, (params, stats))
        covariance = jnp.zeros((self.dim, self.dim))
        return params, {"stats": stats, "target": target, "target_stats": target_stats, "covariance": covariance}

    def loss(self, params, carry, views, rng, time):
        v, w = views["image"][:, 0], views["image"][:, 1]  # [N, H, W, C] each
        out, stats = apply_nets(self.nets, params, carry["stats"], v, rng=rng)
        other, target_stats = apply_nets(self.nets, carry["target"], carry["target_stats"], w)
        z1, z2 = unit(out["projector"]), unit(stop_gradient(other["projector"]))  # [N, dim]

        loss, covariance = tico(z1, z2, carry["covariance"], self.rho, self.beta)
        carry = {**carry, "stats": stats, "target_stats": target_stats, "covariance": covariance}
        h = jnp.stack([out["encoder"], stop_gradient(other["encoder"])], 1)  # [N, 2, D]
        return loss, (carry, {"metrics": {}, "embedding": jnp.stack([z1, z2], 1), "features": h})

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], params, time.cosine(self.tau_base))}

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


def tico(z1, z2, covariance, rho, beta):
    """The paper's loss: 1 - mean z1 . z2 + rho mean z1' C z1, with C the running covariance, this batch's included.

    z1, z2: unit rows [N, D]; covariance: [D, D] -> loss [], the new covariance. No gradient passes through it.
    """
    z = stop_gradient(z1)
    batch = jnp.einsum("nd,ne->de", z, z, precision=lax.Precision.HIGHEST) / len(z)
    covariance = beta * stop_gradient(covariance) + (1 - beta) * batch
    used = jnp.einsum("nd,de,ne->n", z1, covariance, z1, precision=lax.Precision.HIGHEST)
    return 1 - jnp.mean(jnp.sum(z1 * z2, -1)) + rho * jnp.mean(used), covariance
