"""MAE: Masked Autoencoders Are Scalable Vision Learners.

Kaiming He, Xinlei Chen, Saining Xie, Yanghao Li, Piotr Dollár, Ross Girshick, 2021; arXiv:2111.06377.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jssl.masking import random_mask
from jssl.method import Method
from jssl.nets.decoder import Decoder
from jssl.nets.net import Net, apply_net, init_net
from jssl.nets.vit import grid, patchify, unpatchify


@dataclasses.dataclass(frozen=True)
class MAE(Method):
    """Three quarters of an image's patches are hidden; a small decoder predicts their pixels from the last quarter.

    The encoder, a vision transformer, sees the visible patches alone (section 3). Nothing can collapse: the targets are
    the image itself.
    """

    encoder: Net  # a ViT
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    norm_pix: bool = True  # targets normalised per patch (table 1d)

    def __post_init__(self):
        if not hasattr(self.encoder, "patch"):
            raise ValueError(f"MAE hides patches: encoder {type(self.encoder).__name__} has none, expected a ViT")

    def decoder(self, channels):
        pixels = self.encoder.patch**2 * channels
        return Decoder(self.decoder_dim, self.decoder_depth, self.decoder_heads, pixels, dtype=self.encoder.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_decoder, rng_mask = jax.random.split(rng, 3)
        encoder, _ = init_net(self.encoder, rng_encoder, x)
        mask = self.mask(rng_mask, x)
        kept = jnp.zeros((*mask.keep.shape, self.encoder.dim))  # [N, K, D]
        decoder, _ = init_net(self.decoder(x.shape[-1]), rng_decoder, kept, mask.restore, **self.prefix(x, kept[:, 0]))
        return {"encoder": encoder, "decoder": decoder}, {}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_mask, rng_drop = jax.random.split(rng)

        # Encode the visible patches, decode all of them (section 3).
        mask = self.mask(rng_mask, x)
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, x, keep=mask.keep, train=True, rng=rng_drop)
        decoder, prefix = self.decoder(x.shape[-1]), self.prefix(x, out.get("cls"))
        pixels, _, _ = apply_net(decoder, params["decoder"], {}, out["tokens"], mask.restore, train=True, **prefix)

        loss = reconstruction(pixels, self.target(x), mask.hidden)
        return loss, (carry, {"metrics": {}, "embedding": h[:, None], "features": h[:, None]})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def reconstruct(self, params, carry, x, rng):
        """With norm_pix the decoder knows neither mean nor contrast of a patch: they are then those of the image."""
        mask = self.mask(rng, x)
        _, out, _ = apply_net(self.encoder, params["encoder"], {}, x, keep=mask.keep)
        decoder, prefix = self.decoder(x.shape[-1]), self.prefix(x, out.get("cls"))
        pixels, _, _ = apply_net(decoder, params["decoder"], {}, out["tokens"], mask.restore, **prefix)
        patches, hidden = patchify(x, self.encoder.patch), mask.hidden[..., None]
        if self.norm_pix:
            pixels = pixels * patches.std(-1, keepdims=True, ddof=1) + patches.mean(-1, keepdims=True)
        image = lambda patches: unpatchify(patches, self.encoder.patch, prefix["grid"])
        return jnp.stack([x, image(jnp.where(hidden, 0, patches)), image(jnp.where(hidden, pixels, patches))], 1)

    def mask(self, rng, x):
        return random_mask(rng, len(x), math.prod(grid(x, self.encoder.patch)), self.mask_ratio)

    def prefix(self, x, cls):
        """What the decoder is told besides the patches: their grid, and the class token where there is one."""
        return {"grid": grid(x, self.encoder.patch), "prefix": cls[:, None] if self.encoder.class_token else None}

    def target(self, x):
        """The pixels of every patch, [N, L, p * p * C]; with norm_pix, of mean 0 and variance 1 within the patch."""
        target = patchify(x, self.encoder.patch)
        if not self.norm_pix:
            return target
        mean = target.mean(-1, keepdims=True)
        return (target - mean) / jnp.sqrt(target.var(-1, keepdims=True, ddof=1) + 1e-6)


def reconstruction(pixels, target, hidden):
    """Mean squared error over the hidden patches alone. pixels, target: [N, L, P]; hidden: bool [N, L] -> []."""
    error = jnp.mean(jnp.square(pixels - target), -1)  # [N, L]
    return jnp.sum(error * hidden) / jnp.sum(hidden)
