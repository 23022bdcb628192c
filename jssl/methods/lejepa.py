"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics.

Randall Balestriero, Yann LeCun, 2025; arXiv:2511.08544.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.health import deviation
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_crops, apply_net, init_nets


@dataclasses.dataclass(frozen=True)
class LeJEPA(Method):
    """Every view's embedding is drawn to the mean of its image's large views; all embeddings together to a Gaussian.

    SIGReg compares the embeddings with the isotropic Gaussian along random directions (section 4). That alone forbids
    collapse: there is no teacher, no stop-gradient and no schedule, and one trade-off, `lam`.
    """

    encoder: Net  # f
    hidden: int = 2048
    dim: int = 64
    lam: float = 0.05  # lambda
    slices: int = 1024  # directions, drawn anew at every step
    knots: int = 17  # of the integral over t
    t_max: float = 5.0

    @property
    def nets(self):
        return {"encoder": self.encoder, "projector": MLP(self.hidden, self.dim, depth=3, dtype=self.encoder.dtype)}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        rng_drop, rng_slices = jax.random.split(rng)
        out, stats = apply_crops(self.nets, params, carry["stats"], views, rng=rng_drop)
        z = out["projector"]  # [N, V + L, dim], the V large views first

        centre = z[:, : views["image"].shape[1]].mean(1, keepdims=True)  # [N, 1, dim]
        prediction = jnp.mean(jnp.square(z - centre))
        directions = jax.random.normal(rng_slices, (self.dim, self.slices))
        gaussian = jnp.mean(sigreg(z, directions, self.knots, self.t_max))

        loss = self.lam * gaussian + (1 - self.lam) * prediction
        metrics = {"sigreg": gaussian, "prediction": prediction, "health/deviation": deviation(z)}
        return loss, ({**carry, "stats": stats}, {"metrics": metrics, "embedding": z, "features": out["encoder"]})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


def sigreg(z, directions, knots=17, t_max=5.0):
    """Sketched isotropic Gaussian regularisation (algorithm 1): the mean over directions of Epps and Pulley's statistic
    N * integral |E exp(i t x) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, by the trapezoid rule on `knots` points in [-t_max,
    t_max].

    z: [N, V, D], each view's N embeddings by themselves; directions: [D, S], of any length -> [V].
    """
    t = np.linspace(-t_max, t_max, knots).astype(np.float32)
    gaussian = np.exp(-(t**2) / 2)
    weight = np.gradient(t) * gaussian
    weight[[0, -1]] /= 2
    # Both terms are even in t: the non-negative half, counted twice, is the whole.
    half = t >= -1e-6
    weight = np.where(t > 1e-6, 2, 1) * weight

    directions = directions * lax.rsqrt(jnp.sum(jnp.square(directions), 0))
    x = jnp.einsum("nvd,ds->nvs", z.astype(jnp.float32), directions, precision=lax.Precision.HIGHEST)
    # From knot to knot a rotation by the same angle: two sines and cosines instead of two for every knot.
    first, step = t[half][0], t[1] - t[0]
    cos, sin, cos_step, sin_step = jnp.cos(first * x), jnp.sin(first * x), jnp.cos(step * x), jnp.sin(step * x)
    statistic = 0.0
    for gaussian_k, weight_k in zip(gaussian[half], weight[half]):
        error = jnp.square(cos.mean(0) - gaussian_k) + jnp.square(sin.mean(0))  # [V, S]
        statistic += weight_k * error
        cos, sin = cos * cos_step - sin * sin_step, sin * cos_step + cos * sin_step
    return len(z) * statistic.mean(-1)
