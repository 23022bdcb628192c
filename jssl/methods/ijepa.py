"""I-JEPA: Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture.

Mahmoud Assran, Quentin Duval, Ishan Misra, Piotr Bojanowski, Pascal Vincent, Michael Rabbat, Yann LeCun, Nicolas
Ballas, 2023; arXiv:2301.08243.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jssl.masking import multi_block_mask
from jssl.method import Method
from jssl.nets.decoder import Predictor
from jssl.nets.net import Net, apply_net, init_net
from jssl.nets.vit import grid
from jssl.transforms import ema, normalised

DISTANCES = ("l2", "smooth_l1")


@dataclasses.dataclass(frozen=True)
class IJEPA(Method):
    """From one block of an image, a narrow predictor gives the target encoder's tokens of four others.

    Predictions are made where semantics are, not of pixels, and no view is made by hand. The target encoder is a slow
    average of the context encoder, and takes no gradient, which keeps the pair from collapsing (section 3).
    """

    encoder: Net  # a ViT
    predictor_dim: int = 384
    predictor_depth: int = 12
    predictor_heads: int = 16
    targets: int = 4  # M
    scale: tuple[float, float] = (0.15, 0.2)  # of a target's area
    aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    distance: str = "l2"  # the paper's; "smooth_l1", the authors' code's
    m_base: float = 0.996  # of the target encoder, to 1 along a line (appendix A.1)

    def __post_init__(self):
        if not hasattr(self.encoder, "patch"):
            raise ValueError(f"IJEPA hides patches: encoder {type(self.encoder).__name__} has none, expected a ViT")
        if self.distance not in DISTANCES:
            raise ValueError(f"method.distance={self.distance!r}: expected one of {', '.join(DISTANCES)}")

    @property
    def predictor(self):
        return Predictor(self.predictor_dim, self.predictor_depth, self.predictor_heads, dtype=self.encoder.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_predictor, rng_mask = jax.random.split(rng, 3)
        encoder, _ = init_net(self.encoder, rng_encoder, x)
        blocks = self.mask(rng_mask, x)
        seen = jnp.zeros((*blocks.context.shape, self.encoder.dim))
        predictor, _ = init_net(self.predictor, rng_predictor, seen, *blocks, grid(x, self.encoder.patch))
        return {"encoder": encoder, "predictor": predictor}, {"target": jax.tree.map(jnp.copy, encoder)}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_mask, rng_drop = jax.random.split(rng)
        blocks = self.mask(rng_mask, x)

        # Targets: blocks of the target encoder's output for the whole image, cut out after it, not before.
        h, out, _ = apply_net(self.encoder, carry["target"], {}, x)
        # Normalised, as in the authors' code; the paper does not say so.
        s_y = lax.stop_gradient(at(normalised(out["tokens"]), blocks.targets))  # [N, M, T, D]

        # The context encoder sees the context's patches alone; the predictor is told where the targets are.
        keep = {"keep": blocks.context, "train": True, "rng": rng_drop}
        _, out, _ = apply_net(self.encoder, params["encoder"], {}, x, **keep)
        s_x = out["tokens"]  # [N, K, D]
        s_hat, _, _ = apply_net(
            self.predictor, params["predictor"], {}, s_x, *blocks, grid(x, self.encoder.patch), train=True
        )

        loss = distance(s_hat, s_y, self.distance)
        out = {"metrics": {"m": self.momentum(time)}, "embedding": h[:, None], "features": h[:, None]}
        return loss, (carry, out)

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], params["encoder"], self.momentum(time))}

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, carry["target"], {}, inputs["image"])
        return {"features": h, **out}

    def mask(self, rng, x):
        shape = (self.targets, self.scale, self.aspect, self.context_scale)
        return multi_block_mask(rng, len(x), grid(x, self.encoder.patch), *shape)

    def momentum(self, time):
        return self.m_base + (1 - self.m_base) * time.progress


def at(tokens, places):
    """Tokens [N, L, D] at places int [N, M, T] -> [N, M, T, D]."""
    return jax.vmap(lambda tokens, places: tokens[places])(tokens, places)


def distance(s_hat, s_y, kind):
    """Section 3, the mean over blocks, patches and dimensions. s_hat, s_y: [N, M, T, D] -> []."""
    if kind == "l2":
        return jnp.mean(jnp.square(s_hat - s_y))
    return jnp.mean(optax.huber_loss(s_hat, s_y, delta=1.0))
