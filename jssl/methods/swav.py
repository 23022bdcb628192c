"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Mathilde Caron, Ishan Misra, Julien Mairal, Priya Goyal, Piotr Bojanowski, Armand Joulin, 2020; arXiv:2006.09882.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl import transforms
from jssl.health import assignments
from jssl.losses import cross_crops
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_crops, apply_net, apply_views, init_nets
from jssl.transforms import push, unit


@dataclasses.dataclass(frozen=True)
class SwAV(Method):
    """Every crop of an image predicts the soft cluster assignment, the code, of its other large crops.

    Clusters are named by prototypes, learned unit vectors. Sinkhorn's iterations make the codes of the global batch,
    and of a queue of earlier embeddings where batches are small, use all prototypes equally (section 3.1): so codes
    that are the same for every input can only be uniform, which a sharp `epsilon` keeps away from.
    """

    encoder: Net  # f
    hidden: int = 2048
    dim: int = 128
    prototypes: int = 3000  # K, for ImageNet
    tau: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    queue_size: int = 0  # embeddings of each large crop; 3840 for batches of 256
    queue_start: float = 15.0  # epochs; embeddings of an untrained network would disturb the codes
    sinkhorn: bool = True  # False, for the ablation: codes are plain softmaxes, and collapse

    @property
    def nets(self):
        return {"encoder": self.encoder, "projector": self.projector}

    @property
    def projector(self):
        return MLP(self.hidden, self.dim, output="l2", dtype=self.encoder.dtype)

    def init(self, rng, views):
        rng_nets, rng_c = jax.random.split(rng)
        params, stats = init_nets(self.nets, rng_nets, views["image"][:, 0])
        params["prototypes"] = unit(jax.random.normal(rng_c, (self.prototypes, self.dim)))
        carry = {"stats": stats}
        if self.queue_size:
            carry["queue"] = jnp.zeros((self.queue_size, views["image"].shape[1], self.dim))
            carry["pointer"] = jnp.int32(0)
        return params, carry

    def loss(self, params, carry, views, rng, time):
        large = views["image"].shape[1]
        # As in the authors' code, the projector's batch norm sees crops of all sizes together.
        out, stats = apply_crops({"encoder": self.encoder}, params, carry["stats"], views, rng=rng)
        h = out["encoder"]  # [N, V + L, D]
        out, stats = apply_views({"projector": self.projector}, params, stats, h)
        z = out["projector"]  # [N, V + L, dim], unit length
        c = on_sphere(params["prototypes"])  # [K, dim]

        scores = products(z, c)  # [N, V + L, K]
        q = self.codes(scores[:, :large], c, carry, time)  # [N, V, K]
        loss = cross_crops(q, jax.nn.log_softmax(scores / self.tau))  # eq. 1, 2 and 6

        carry = {**carry, "stats": stats}
        if self.queue_size:
            carry["queue"], carry["pointer"] = push(carry["queue"], carry["pointer"], z[:, :large])
        return loss, (carry, {"metrics": assignments(q), "embedding": z, "features": h})

    def codes(self, scores, c, carry, time):
        """Eq. 3-5: of each large crop by itself, [N, V, K] -> [N, V, K], rows of sum 1. No gradient passes."""
        if not self.sinkhorn:
            return jax.nn.softmax(lax.stop_gradient(scores) / self.epsilon)
        codes, weights = [], None
        if self.queue_size:
            weights = [1.0, self.queue_counts(carry["queue"], time)]
        for v in range(scores.shape[1]):
            blocks = [scores[:, v]]
            if self.queue_size:
                blocks.append(products(carry["queue"][:, v], c))  # [queue_size, K]
            codes.append(transforms.sinkhorn(blocks, self.epsilon, self.iterations, weights)[0])
        return jnp.stack(codes, 1)

    def queue_counts(self, queue, time):
        """1.0 from epoch `queue_start` on, once the queue is full, else 0.0: one compiled program for both."""
        late = time.step >= round(self.queue_start * time.per_epoch)
        full = jnp.any(queue[-1] != 0)  # the last row to be written
        return (late & full).astype(jnp.float32)

    def update(self, params, carry, time):
        return {**params, "prototypes": unit(params["prototypes"])}, carry

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


def on_sphere(c):
    """Unit rows; as in the authors' code, which normalises before each step, the gradient ignores the division."""
    return c * lax.stop_gradient(lax.rsqrt(jnp.sum(c * c, -1, keepdims=True)))


def products(z, c):
    """z [..., D], c [K, D] -> [..., K]. The exponentials of Sinkhorn need full precision."""
    return jnp.einsum("...d,kd->...k", z, c, precision=lax.Precision.HIGHEST)
