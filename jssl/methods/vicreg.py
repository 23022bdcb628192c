"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning.

Adrien Bardes, Jean Ponce, Yann LeCun, 2021; arXiv:2105.04906.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.health import deviation
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, init_nets
from jssl.transforms import rows


@dataclasses.dataclass(frozen=True)
class VICReg(Method):
    """Two views' embeddings are pulled together, while each component keeps its spread and repeats no other.

    The variance term keeps the standard deviation of every component over the batch above 1, which is what forbids
    collapse; the covariance term keeps components from saying the same. Each branch is regularised by itself: there
    are no negatives, no stop-gradient, no predictor, and no normalisation of the embeddings.
    """

    encoder: Net  # f
    hidden: int = 8192
    dim: int = 8192  # d
    depth: int = 3  # layers of the expander h
    invariance: float = 25.0  # lambda; section 4.2
    variance: float = 25.0  # mu; the authors' code halves the variance term: 12.5 here is 25 there. 0: it collapses
    covariance: float = 1.0  # nu

    @property
    def nets(self):
        # No bias in the last layer, as in the authors' code: no term of the loss depends on it.
        expander = MLP(self.hidden, self.dim, self.depth, bias=False, dtype=self.encoder.dtype)
        return {"encoder": self.encoder, "projector": expander}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        x, x_prime = views["image"][:, 0], views["image"][:, 1]  # [N, H, W, C] each
        rng1, rng2 = jax.random.split(rng)

        # Each view passes by itself: batch norm sees one branch at a time.
        out, stats = apply_nets(self.nets, params, carry["stats"], x, rng=rng1)
        out_prime, stats = apply_nets(self.nets, params, stats, x_prime, rng=rng2)
        z, z_prime = out["projector"], out_prime["projector"]  # [N, d]

        s = distance(z, z_prime)
        v = spread_lacking(z) + spread_lacking(z_prime)
        c = shared(z) + shared(z_prime)
        loss = self.invariance * s + self.variance * v + self.covariance * c  # eq. 6
        h = jnp.stack([out["encoder"], out_prime["encoder"]], 1)  # [N, 2, D]
        both = jnp.stack([z, z_prime], 1)  # [N, 2, d]
        metrics = {"invariance": s, "variance": v, "covariance": c, "health/deviation": deviation(both)}
        out = {"metrics": metrics, "embedding": both, "features": h}
        return loss, ({**carry, "stats": stats}, out)

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


def distance(z, z_prime):
    """s: the mean squared difference over rows and components. [N, d] twice -> [].

    So it is in algorithm 1, which the weights belong to; eq. 5 sums over the components.
    """
    return jnp.mean(jnp.square(z.astype(jnp.float32) - z_prime.astype(jnp.float32)))


def spread_lacking(z, gamma=1.0, epsilon=1e-4):
    """v, eq. 1 and 2: how far the standard deviations over the batch stay below gamma, on average. [N, d] -> []."""
    z = centred(z)
    variance = jnp.sum(z * z, 0) / (len(z) - 1)
    return jnp.mean(jnp.maximum(gamma - jnp.sqrt(variance + epsilon), 0))


def shared(z):
    """c, eq. 3 and 4: the squared covariances of different components, summed, over d. [N, d] -> []."""
    n, d = z.shape
    z = centred(z)
    covariance = jnp.einsum("ne,nf->ef", z, z, precision=lax.Precision.HIGHEST) / (n - 1)  # [d, d]
    return jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, covariance) ** 2) / d


def centred(z):
    z = rows(z.astype(jnp.float32))
    return z - z.mean(0)
