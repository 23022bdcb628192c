"""SimMIM: a Simple Framework for Masked Image Modeling.

Zhenda Xie, Zheng Zhang, Yue Cao, Yutong Lin, Jianmin Bao, Zhuliang Yao, Qi Dai, Han Hu, 2021; arXiv:2111.09886.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jssl.masking import coarse_mask
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, init_net, width
from jssl.nets.vit import check_mask_token, grid, pixels_of, unpatchify


@dataclasses.dataclass(frozen=True)
class SimMIM(Method):
    """Large squares of an image are replaced by a learned token; one linear layer predicts their pixels.

    The encoder sees hidden patches as tokens, so that it may also be a Swin (section 3.1). Nothing can collapse: the
    targets are the image itself.
    """

    encoder: Net  # a ViT or a Swin
    mask_ratio: float = 0.6
    mask_size: int = 32  # pixels along the side of a square that is hidden whole (section 3.2)

    def __post_init__(self):
        check_mask_token("SimMIM", self.encoder, "a ViT or a Swin")
        if self.mask_size % self.encoder.patch:
            raise ValueError(
                f"method.mask_size={self.mask_size} is no multiple of the patch size {self.encoder.patch}; "
                f"the nearest is {max(1, round(self.mask_size / self.encoder.patch)) * self.encoder.patch}"
            )

    @property
    def masked(self):
        return self.encoder.clone(mask_token=True)

    def head(self, channels):
        """A linear layer, which the paper finds as good as heavier ones (table 2)."""
        return MLP(0, self.encoder.stride**2 * channels, depth=1, dtype=self.encoder.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_head = jax.random.split(rng)
        encoder, _ = init_net(self.masked, rng_encoder, x)
        head, _ = init_net(self.head(x.shape[-1]), rng_head, jnp.zeros((1, 1, width(self.encoder, x))))
        return {"encoder": encoder, "head": head}, {}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_mask, rng_drop = jax.random.split(rng)
        hidden = self.mask(rng_mask, x)  # [N, L]
        h, out, _ = apply_net(self.masked, params["encoder"], {}, x, hidden=hidden, train=True, rng=rng_drop)
        pixels, _, _ = apply_net(self.head(x.shape[-1]), params["head"], {}, out["tokens"], train=True)

        image = unpatchify(pixels, self.encoder.stride, grid(x, self.encoder.stride))
        loss = reconstruction(image, x, self.pixels(hidden, x))
        return loss, (carry, {"metrics": {}, "embedding": h[:, None], "features": h[:, None]})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def reconstruct(self, params, carry, x, rng):
        hidden = self.mask(rng, x)
        _, out, _ = apply_net(self.masked, params["encoder"], {}, x, hidden=hidden)
        pixels, _, _ = apply_net(self.head(x.shape[-1]), params["head"], {}, out["tokens"])
        image, where = unpatchify(pixels, self.encoder.stride, grid(x, self.encoder.stride)), self.pixels(hidden, x)
        return jnp.stack([x, jnp.where(where, 0, x), jnp.where(where, image, x)], 1)

    def mask(self, rng, x):
        unit = self.mask_size // self.encoder.patch
        return coarse_mask(rng, len(x), grid(x, self.encoder.patch), unit, self.mask_ratio)

    def pixels(self, hidden, x):
        """Patches bool [N, L] -> their pixels, bool [N, H, W, 1]."""
        return pixels_of(hidden, self.encoder.patch, grid(x, self.encoder.patch))


def reconstruction(pixels, x, hidden):
    """Mean absolute error over hidden pixels alone (section 3.3). pixels, x: [N, H, W, C]; hidden: [N, H, W, 1]."""
    return jnp.sum(jnp.abs(pixels - x) * hidden) / (jnp.sum(hidden) * x.shape[-1])
