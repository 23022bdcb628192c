"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

Jure Zbontar, Li Jing, Ishan Misra, Yann LeCun, Stéphane Deny, 2021; arXiv:2103.03230.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, init_nets
from jssl.transforms import rows


@dataclasses.dataclass(frozen=True)
class BarlowTwins(Method):
    """The cross-correlation of two views' embeddings, over the batch, is driven to the identity.

    Ones on the diagonal: each component says the same of both views. Zeros elsewhere: no component says what another
    already said. Constant components correlate with nothing, not even themselves, so collapse has the loss E.
    """

    encoder: Net
    hidden: int = 8192
    dim: int = 8192  # E
    depth: int = 3  # layers of the projector
    redundancy: float = 5e-3  # lambda; section 2.2 (the authors' code has 0.0051)
    scale: float = 1.0  # of the whole loss; solo-learn has 0.1 for CIFAR

    @property
    def nets(self):
        # No bias in the last layer: the normalisation below would take it out again.
        projector = MLP(self.hidden, self.dim, self.depth, bias=False, dtype=self.encoder.dtype)
        return {"encoder": self.encoder, "projector": projector}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        y_a, y_b = views["image"][:, 0], views["image"][:, 1]  # [N, H, W, C] each
        rng_a, rng_b = jax.random.split(rng)

        # Each view passes by itself, so that batch norm sees one view at a time (algorithm 1).
        out_a, stats = apply_nets(self.nets, params, carry["stats"], y_a, rng=rng_a)
        out_b, stats = apply_nets(self.nets, params, stats, y_b, rng=rng_b)
        z_a, z_b = out_a["projector"], out_b["projector"]  # [N, E]

        c = cross_correlation(z_a, z_b)  # [E, E]
        on, off = distance_from_identity(c)
        loss = self.scale * (on + self.redundancy * off)  # eq. 1
        h = jnp.stack([out_a["encoder"], out_b["encoder"]], 1)  # [N, 2, D]
        z = jnp.stack([z_a, z_b], 1)  # [N, 2, E]
        metrics = {"invariance": on, "redundancy": off}
        return loss, ({**carry, "stats": stats}, {"metrics": metrics, "embedding": z, "features": h})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


def cross_correlation(z_a, z_b):
    """Eq. 2, over the global batch, as the authors compute it: z is normalised like a batch. [N, E] twice -> [E, E]."""
    return jnp.einsum("ne,nf->ef", normalise(z_a), normalise(z_b), precision=lax.Precision.HIGHEST) / len(z_a)


def distance_from_identity(c):
    """Eq. 1: the sums of (1 - c_ii)^2 and of c_ij^2. [E, E] -> [], []."""
    diagonal = jnp.eye(len(c), dtype=bool)
    return jnp.sum(jnp.where(diagonal, 1 - c, 0) ** 2), jnp.sum(jnp.where(diagonal, 0, c) ** 2)


def normalise(z):
    """Mean 0, variance 1 (of N, not of N - 1) of each component over the batch, in float32. [N, E] -> [N, E]."""
    z = rows(z.astype(jnp.float32))
    z = z - z.mean(0)
    return z * lax.rsqrt(jnp.mean(z * z, 0) + 1e-5)
