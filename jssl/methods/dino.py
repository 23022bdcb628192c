"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Mathilde Caron, Hugo Touvron, Ishan Misra, Hervé Jégou, Julien Mairal, Piotr Bojanowski, Armand Joulin, 2021;
arXiv:2104.14294.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.health import assignments
from jssl.losses import cross_crops
from jssl.method import Method
from jssl.nets.mlp import prototype_head
from jssl.nets.net import Net, apply_crops, apply_net, apply_views, init_nets
from jssl.transforms import ema


@dataclasses.dataclass(frozen=True)
class DINO(Method):
    """A student predicts, from any crop of an image, the distribution that its teacher gives the other, large crops.

    Both give distributions over K dimensions that nobody named; the teacher is a slow average of the student. The
    teacher's are centred, which keeps one dimension from dominating, and sharpened, which keeps them from becoming
    uniform: together they avoid collapse (section 3.1).
    """

    encoder: Net  # f
    hidden: int = 2048
    dim: int = 256  # of the bottleneck
    prototypes: int = 65536  # K
    depth: int = 3  # layers of the head up to the bottleneck
    norm: bool = False  # batch norm in the head, for convnets
    norm_last_layer: bool = True  # False: the last layer's columns learn their lengths, safe only for small ViTs
    tau_s: float = 0.1
    tau_t: float = 0.07
    tau_t_start: float = 0.04
    tau_t_warmup: float = 30.0  # epochs, from tau_t_start to tau_t
    m: float = 0.9  # of the centre, eq. 4
    lambda_base: float = 0.996  # of the teacher; larger for small batches
    centering: bool = True  # False, for the ablation: it collapses to one dimension

    @property
    def heads(self):
        return prototype_head(self.hidden, self.dim, self.prototypes, self.depth, self.norm, self.encoder.dtype)

    @property
    def student(self):
        return {"encoder": self.encoder, **self.heads}

    @property
    def teacher(self):
        """The same networks without drop path; their batch norm, if any, also uses the batch's own statistics."""
        encoder = self.encoder.clone(drop_path=0.0) if hasattr(self.encoder, "drop_path") else self.encoder
        return {"encoder": encoder, **self.heads}

    def init(self, rng, views):
        params, stats = init_nets(self.student, rng, views["image"][:, 0])
        if not self.norm_last_layer:
            params["gain"] = jnp.ones((1, self.prototypes))
        target, target_stats = (jax.tree.map(jnp.copy, tree) for tree in (params, stats))
        center = jnp.zeros(self.prototypes)
        return params, {"stats": stats, "target": target, "target_stats": target_stats, "center": center}

    def loss(self, params, carry, views, rng, time):
        # The teacher sees the large crops only, the student all of them ("local-to-global", section 3.1).
        s, student, stats = self.scores(self.student, params, carry["stats"], views, rng)  # [N, V + L, K]
        large = {"image": views["image"]}
        t, _, target_stats = self.scores(self.teacher, carry["target"], carry["target_stats"], large)  # [N, V, K]

        p_t = self.sharpened(t, carry["center"], time)  # the centre is that of before this batch
        loss = cross_crops(p_t, jax.nn.log_softmax(s / self.tau_s))  # eq. 3

        center = self.centred(carry["center"], t)
        carry = {**carry, "stats": stats, "target_stats": target_stats, "center": center}
        metrics = {"tau_t": self.temperature(time), "lambda": self.momentum(time), **assignments(p_t)}
        return loss, (carry, {"metrics": metrics, "embedding": student["projector"], "features": student["encoder"]})

    def sharpened(self, t, center, time):
        """The teacher's distributions, of its scores [N, V, K] (section 3.1). No gradient passes."""
        return jax.nn.softmax(lax.stop_gradient(t - center) / self.temperature(time))

    def centred(self, center, t):
        """Eq. 4: the centre [K] follows the mean score of the global batch."""
        return self.m * center + (1 - self.m) * lax.stop_gradient(t).mean((0, 1)) if self.centering else center

    def scores(self, nets, params, stats, views, rng=None):
        """-> (what the softmax takes, float32 [N, V + L, K], the outputs of the other networks, stats)."""
        out, stats = apply_crops({"encoder": nets["encoder"]}, params, stats, views, rng=rng)
        # As in the authors' code, the head sees crops of all sizes together.
        more, stats = apply_views({name: nets[name] for name in self.heads}, params, stats, out["encoder"])
        scores = more.pop("last")
        return scores * params["gain"] if "gain" in params else scores, out | more, stats

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], params, self.momentum(time))}

    def embed(self, params, carry, inputs):
        # The teacher's features are the better ones throughout training (section 5.2).
        params, stats = (carry[name]["encoder"] for name in ("target", "target_stats"))
        h, out, _ = apply_net(self.teacher["encoder"], params, stats, inputs["image"])
        return {"features": h, **out}

    def temperature(self, time):
        """From tau_t_start to tau_t along a line; the authors' code takes a step of it each epoch."""
        return time.line(self.tau_t_start, self.tau_t, self.tau_t_warmup)

    def momentum(self, time):
        """From lambda_base to 1 along half a cosine (section 3.1)."""
        return time.cosine(self.lambda_base)
