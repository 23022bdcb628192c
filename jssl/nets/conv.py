"""A small convolutional encoder, for CPUs, small images and tests."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.nets.net import batch_norm


class ConvNet(nn.Module):
    """Stages of 3x3 convolution, batch norm and ReLU, halving the map from the second on, then the mean over the map.

    [N, H, W, C] float -> features [N, widths[-1]]; out: 'stage1', ... maps and 'map', the last of them.
    """

    widths: tuple = (32, 64, 128)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        out = {}
        for i, width in enumerate(self.widths):
            stride = 1 if i == 0 else 2
            x = nn.Conv(width, (3, 3), stride, use_bias=False, dtype=self.dtype, name=f"conv{i + 1}")(x)
            x = nn.relu(batch_norm(train, self.dtype, f"norm{i + 1}")(x))
            out[f"stage{i + 1}"] = x
        return x.mean((1, 2), dtype=jnp.float32), {**out, "map": x}


def convnet(widths=(32, 64, 128), dtype=jnp.float32):
    """The small encoder, with a config's plain values."""
    return ConvNet(tuple(widths), dtype)
