"""MaskFeat: Masked Feature Prediction for Self-Supervised Visual Pre-Training.

Chen Wei, Haoqi Fan, Saining Xie, Chao-Yuan Wu, Alan Yuille, Christoph Feichtenhofer, 2021; arXiv:2112.09133.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jssl.masking import block_share
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, init_net
from jssl.nets.vit import check_mask_token, grid, patchify
from jssl.transforms import mean_over

SOBEL = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))  # down the rows; across the columns its transpose


@dataclasses.dataclass(frozen=True)
class MaskFeat(Method):
    """The encoder sees an image with some blocks of patches hidden and predicts the hidden ones' histograms of oriented
    gradients: shape and texture, without colour and contrast, which pixels would ask for (section 3.2).

    Nothing can collapse: the targets are made of the pixels.
    """

    encoder: Net  # a ViT
    mask_ratio: float = 0.4  # of the patches, in blocks (section 4.2)
    block: int = 16  # patches of the smallest block
    bins: int = 9  # of orientations, in each channel
    cell: int = 8  # pixels of a histogram's side
    window: int = 16  # pixels of a Gaussian that weighs them, in the authors' code; 0: none

    def __post_init__(self):
        check_mask_token("MaskFeat", self.encoder)
        if self.encoder.patch % self.cell:
            raise ValueError(
                f"method.cell={self.cell} does not divide patches of {self.encoder.patch} pixels; expected a divisor"
            )

    @property
    def masked(self):
        return self.encoder.clone(mask_token=True)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_head = jax.random.split(rng)
        encoder, _ = init_net(self.masked, rng_encoder, x)
        head, _ = init_net(self.head(x.shape[-1]), rng_head, jnp.zeros((1, 1, self.encoder.dim)))
        return {"encoder": encoder, "head": head}, {}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_mask, rng_drop = jax.random.split(rng)
        hidden = self.mask(rng_mask, x)  # [N, L]
        h, out, _ = apply_net(self.masked, params["encoder"], {}, x, hidden=hidden, train=True, rng=rng_drop)
        found, _, _ = apply_net(self.head(x.shape[-1]), params["head"], {}, out["tokens"], train=True)

        loss = mean_over(jnp.square(found - self.target(x)).mean(-1), hidden)  # of hidden patches alone
        return loss, (carry, {"metrics": {}, "embedding": h[:, None], "features": h[:, None]})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def target(self, x):
        """The histograms of every patch, [N, L, cells of a patch * C * bins]."""
        cells = hog(x, self.bins, self.cell, self.window)
        return patchify(cells.reshape(*cells.shape[:3], -1), self.encoder.patch // self.cell)

    def head(self, channels):
        width = (self.encoder.patch // self.cell) ** 2 * channels * self.bins
        return MLP(0, width, depth=1, dtype=self.encoder.dtype)

    def mask(self, rng, x):
        return block_share(rng, len(x), grid(x, self.encoder.patch), self.mask_ratio, self.block)


def hog(x, bins=9, cell=8, window=0, kernel=SOBEL):
    """Histograms of oriented gradients (Dalal & Triggs, 2005): images [N, H, W, C] -> [N, H / cell, W / cell, C, bins].

    Of each channel by itself, as in the authors' code: gradients by `kernel` [3, 3], down the rows, and its transpose
    (the image continues as its mirror), each pixel's magnitude in the bin of its direction, opposite ones being the
    same, summed over a cell, of unit length over the bins. window: pixels are weighed by Gaussians of that side, whose
    deviation is half of it, one beside the other over the image.
    """
    n, height, width, channels = x.shape
    if height % cell or width % cell:
        raise ValueError(f"image is {height} x {width}, expected multiples of a histogram's {cell} pixels")
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    shifted = lambda i, j: padded[:, i : i + height, j : j + width]
    weighted = [(kernel[i][j], kernel[j][i], shifted(i, j)) for i in range(3) for j in range(3)]
    down = sum(weight * y for weight, _, y in weighted if weight)
    across = sum(weight * y for _, weight, y in weighted if weight)

    which = jnp.int32(jnp.floor(jnp.arctan2(across, down) / jnp.pi * bins)) % bins  # [N, H, W, C]
    magnitude = jnp.sqrt(down**2 + across**2)
    if window:
        bell = lambda side: jnp.exp(-(((jnp.arange(side) % window - (window - 1) / 2) / (window // 2)) ** 2) / 2)
        magnitude *= bell(height)[:, None, None] * bell(width)[:, None]
    votes = jax.nn.one_hot(which, bins) * magnitude[..., None]
    cells = votes.reshape(n, height // cell, cell, width // cell, cell, channels, bins).sum((2, 4))
    return cells / jnp.maximum(jnp.linalg.norm(cells, axis=-1, keepdims=True), 1e-12)
