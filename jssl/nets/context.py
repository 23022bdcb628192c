"""The context network of contrastive predictive coding: masked convolutions over a grid of encodings."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Context(nn.Module):
    """PixelCNN-like residual blocks (arXiv:1905.09272, appendix A.2): [N, R, K, D] -> float32 [N, R, K, D].

    Row r of the output sees rows 0 to r of the input alone, all columns of them that its depth reaches: 1 x 3
    convolutions look sideways, 2 x 1 convolutions at the row above. width: of the blocks' inner layers.
    """

    width: int = 256
    depth: int = 5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        for i in range(self.depth):
            y = nn.relu(self._conv(self.width, (1, 1), f"inner{i}")(x))
            y = self._conv(self.width, (1, 3), f"across{i}", ((0, 0), (1, 1)))(y)
            y = nn.relu(self._conv(self.width, (2, 1), f"above{i}", ((1, 0), (0, 0)))(y))
            x = x + self._conv(x.shape[-1], (1, 1), f"outer{i}")(y)
        return nn.relu(x).astype(jnp.float32), {}

    def _conv(self, width, kernel, name, padding="VALID"):
        return nn.Conv(width, kernel, padding=padding, dtype=self.dtype, name=name)
