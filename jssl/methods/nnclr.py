"""NNCLR: With a Little Help from My Friends, Nearest-Neighbor Contrastive Learning of Visual Representations.

Debidatta Dwibedi, Yusuf Aytar, Jonathan Tompson, Pierre Sermanet, Andrew Zisserman, 2021; arXiv:2104.14548.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import stop_gradient

from jssl.losses import info_nce
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_views, init_nets
from jssl.transforms import push, unit


@dataclasses.dataclass(frozen=True)
class NNCLR(Method):
    """A view predicts not the other view but that view's nearest neighbour in a queue of earlier embeddings.

    So positives differ by more than any distortion could make them (section 3.2). As in SimCLR, the negatives, here the
    other predictions of the batch, forbid collapse.
    """

    encoder: Net  # f
    hidden: int = 2048
    dim: int = 256
    predictor_hidden: int = 4096
    queue: int = 98_304  # embeddings in the support set Q
    temperature: float = 0.1  # tau

    @property
    def nets(self):
        # Three layers, each with batch norm, and two with batch norm inside, as in the paper.
        dtype = self.encoder.dtype
        projector = MLP(self.hidden, self.dim, depth=3, last_norm=True, dtype=dtype)
        return {
            "encoder": self.encoder,
            "projector": projector,
            "predictor": MLP(self.predictor_hidden, self.dim, dtype=dtype),
        }

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        queue = unit(jax.random.normal(jax.random.fold_in(rng, len(self.nets)), (self.queue, self.dim)))
        return params, {"stats": stats, "queue": queue, "pointer": jnp.int32(0)}

    def loss(self, params, carry, views, rng, time):
        out, stats = apply_views(self.nets, params, carry["stats"], views["image"], rng=rng)
        z, p = unit(out["projector"]), out["predictor"]  # [N, 2, dim] each

        # Each view's neighbour in the queue is the positive of the other view's prediction (section 3.2, symmetrised).
        n1, n2 = (nearest(z[:, v], carry["queue"]) for v in (0, 1))  # [N, dim]
        loss = (info_nce(n1, p[:, 1], self.temperature) + info_nce(n2, p[:, 0], self.temperature)) / 2

        # The queue takes the first view's embeddings after it has been searched.
        queue, pointer = push(carry["queue"], carry["pointer"], z[:, 0])
        carry = {**carry, "stats": stats, "queue": queue, "pointer": pointer}
        likeness = jnp.mean(jnp.sum(n1 * stop_gradient(z[:, 0]), -1))
        return loss, (carry, {"metrics": {"neighbour": likeness}, "embedding": z, "features": out["encoder"]})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


def nearest(z, queue):
    """Each row's nearest neighbour among the unit rows of the queue. z: [N, D], queue: [K, D] -> [N, D]."""
    z, queue = stop_gradient((z, queue))
    cosine = jnp.einsum("nd,kd->nk", z, queue, precision=lax.Precision.HIGHEST)
    return queue[jnp.argmax(cosine, 1)]
