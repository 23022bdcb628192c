"""CPC: Representation Learning with Contrastive Predictive Coding, and its second version.

Aaron van den Oord, Yazhe Li, Oriol Vinyals, 2018; arXiv:1807.03748.
Olivier J. Hénaff, Aravind Srinivas, Jeffrey De Fauw, Ali Razavi, Carl Doersch et al., 2019; arXiv:1905.09272 (v2).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from jssl.augment.patches import cut_patches
from jssl.method import Method
from jssl.nets.context import Context
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, apply_views, init_net, init_nets
from jssl.transforms import gather, rows

# Quarter turns of the grid after which a prediction goes down (v2 takes all four).
DIRECTIONS = {"down": 0, "up": 2, "left": 1, "right": 3}


@dataclasses.dataclass(frozen=True)
class CPC(Method):
    """What was seen of an image predicts the encodings of the patches that come below, each among many others.

    Patches are encoded one by one; a context network reads them row by row, and a linear map per distance guesses the
    encodings some rows further down. The negatives, patches of the same and of other images, forbid collapse. No batch
    norm: through it patches would tell each other what they are to guess (v2).
    """

    encoder: Net  # g_enc, of one patch
    patch: int | None = None  # pixels; None: a quarter of the image
    stride: int | None = None  # pixels; None: half a patch
    dim: int = 64  # of targets and predictions; this and what `v2` marks below are as in its appendix
    width: int = 256  # of the context network
    depth: int = 5
    ignore: int = 2  # rows below that are not predicted: where patches overlap, they show the same pixels; v2
    steps: int = 3  # the furthest row that is; v1 predicts up to 5
    scale: float = 0.1  # of the predictions; v2
    directions: int = 4  # 1: down; 2: also up; 4: also sideways

    def __post_init__(self):
        if not (self.directions in (1, 2, 4) and 0 <= self.ignore < self.steps):
            raise ValueError(
                f"directions={self.directions}, ignore={self.ignore}, steps={self.steps}: "
                "expected 1, 2 or 4 directions, and fewer rows ignored than steps"
            )

    @property
    def heads(self):
        """Per direction the context network g_ar and the maps W_k, all k at once."""
        turns = list(DIRECTIONS)[: self.directions]
        linear = MLP(0, self.dim * (self.steps - self.ignore), depth=1, dtype=self.encoder.dtype)
        context = Context(self.width, self.depth, self.encoder.dtype)
        return {turn: {"context": context, "predictor": linear} for turn in turns}

    @property
    def target(self):
        return MLP(0, self.dim, depth=1, dtype=self.encoder.dtype)

    def init(self, rng, views):
        n, patches = views["image"].shape[:2]
        side = self.side(patches)
        rng_encoder, rng_target, rng_heads = jax.random.split(rng, 3)
        params, stats = init_nets({"encoder": self.encoder}, rng_encoder, views["image"][:, 0])
        z = jax.eval_shape(
            lambda: apply_net(self.encoder, params["encoder"], stats["encoder"], views["image"][:, 0])[0]
        )
        z = jnp.zeros((n, side, side, z.shape[-1]))
        params["target"], _ = init_net(self.target, rng_target, z)
        for i, (turn, nets) in enumerate(self.heads.items()):
            params[turn], _ = init_nets(nets, jax.random.fold_in(rng_heads, i), z)
        return params, {"stats": stats}

    def loss(self, params, carry, views, rng, time):
        n, patches = views["image"].shape[:2]
        side = self.side(patches)
        out, stats = apply_views({"encoder": self.encoder}, params, carry["stats"], views["image"], rng=rng)
        z = out["encoder"]  # [N, L, D], every patch by itself
        y = apply_net(self.target, params["target"], {}, z)[0]  # [N, L, E]
        y = rows(y.reshape(n, side, side, self.dim))
        candidates = gather(y)

        losses = []
        for turn, nets in self.heads.items():
            turned = lambda grid, turn=turn: jnp.rot90(grid, DIRECTIONS[turn], (1, 2))
            grid = turned(z.reshape(n, side, side, -1))
            out, _ = apply_nets(nets, params[turn], {name: {} for name in nets}, grid)
            predicted = self.scale * out["predictor"].reshape(n, side, side, -1, self.dim)  # z^_{i+k} = W_k c_i
            for i, k in enumerate(range(self.ignore + 1, self.steps + 1)):
                losses.append(nce(predicted[:, : side - k, :, i], turned(y)[:, k:], candidates))  # v1, eq. 4
        loss = sum(losses) / self.directions  # v2: summed over the distances
        embedding = y.reshape(n, patches, self.dim)
        return loss, ({**carry, "stats": stats}, {"metrics": {}, "embedding": embedding, "features": z})

    def embed(self, params, carry, inputs):
        x = cut_patches(inputs["image"], self.patch, self.stride)
        stats = {"encoder": carry.get("stats", {}).get("encoder", {})}  # layer norm has none: an export leaves it out
        out, _ = apply_views({"encoder": self.encoder}, params, stats, x, train=False)
        return {"features": out["encoder"].mean(1), "tokens": out["encoder"]}

    def side(self, patches):
        """Of the grid, in patches."""
        side = math.isqrt(patches)
        if side * side != patches or side <= self.steps:
            raise ValueError(
                f"{patches} patches are no square grid of more than steps={self.steps} rows: expected other patches, "
                "strides or steps"
            )
        return side


def nce(predicted, positives, candidates):
    """InfoNCE (v1, eq. 4, with f = exp of the scalar product): cross-entropy of naming the right patch of the batch.

    predicted, positives: [N, R, K, E], of the same places; candidates: [M, S, S, E], every patch of every image, on
    every device: each place's positive is one of them, the others are its negatives. -> mean over places, [].
    """
    high = {"precision": lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    logits = jnp.einsum("nrke,mste->nrkmst", predicted, candidates, **high)
    positive = jnp.einsum("nrke,nrke->nrk", predicted, positives, **high)
    return jnp.mean(jax.nn.logsumexp(logits, (3, 4, 5)) - positive)
