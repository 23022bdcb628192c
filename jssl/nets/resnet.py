"""Residual networks (He et al., 2015; arXiv:1512.03385), 18 to 200 layers, 1 to 4 times as wide."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.nets.norm import norm

STEMS = ("imagenet", "cifar")
# The initialisation of the paper's follow-up (arXiv:1502.01852), over the fan-out as in torch's residual networks.
INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet(nn.Module):
    """[N, H, W, C] float -> features [N, D], the mean over the last map; D is 512 (bottleneck: 2048) times `width`.

    stem: "imagenet" (7x7, stride 2, then 3x3 max-pool, stride 2) or "cifar" (3x3, stride 1, for images of 32 or so).
    width: multiplies every layer, the stem's too (the wide encoders of SimCLR). zero_init: the last norm of a block
    starts at scale zero, so that every block starts as its shortcut. norm: "batch" or "layer", see `jssl.nets.norm`.
    Strides sit in the 3x3 convolution ("v1.5").
    out: maps 'stem' and 'stage1' .. 'stage4', and 'map', the last of them.
    """

    depths: tuple
    bottleneck: bool
    width: int = 1
    stem: str = "imagenet"
    zero_init: bool = True
    widths: tuple = (64, 128, 256, 512)
    stem_width: int = 64
    dtype: Any = jnp.float32
    norm: str = "batch"

    def __post_init__(self):
        if self.stem not in STEMS:
            raise ValueError(f"ResNet stem is {self.stem!r}, expected one of {', '.join(STEMS)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x, train=False):
        x = Stem(self.stem_width * self.width, self.stem, self.dtype, self.norm, name="stem")(x, train)
        out = {"stem": x}
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            block = (width * self.width, self.bottleneck, self.zero_init, self.dtype, self.norm)
            x = Stage(depth, 1 if i == 1 else 2, block, name=f"stage{i}")(x, train)
            out[f"stage{i}"] = x
        return x.mean((1, 2), dtype=jnp.float32), {**out, "map": x}


class Stem(nn.Module):
    width: int
    kind: str
    dtype: Any
    norm: str = "batch"

    @nn.compact
    def __call__(self, x, train):
        kernel, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
        x = _conv(self.width, kernel, stride, self.dtype, "conv")(x)
        x = nn.relu(norm(self.norm, train, self.dtype, "norm")(x))
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if self.kind == "imagenet" else x


class Stage(nn.Module):
    depth: int
    stride: int
    block: tuple

    @nn.compact
    def __call__(self, x, train):
        for i in range(self.depth):
            x = Block(self.stride if i == 0 else 1, *self.block, name=f"block{i}")(x, train)
        return x


class Block(nn.Module):
    """Two 3x3 convolutions, or a 3x3 one between two 1x1 (bottleneck), added to the input or its projection."""

    stride: int
    width: int
    bottleneck: bool
    zero_init: bool
    dtype: Any
    norm: str = "batch"

    @nn.compact
    def __call__(self, x, train):
        basic = [(self.width, 3, self.stride), (self.width, 3, 1)]
        bottleneck = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        *hidden, last = bottleneck if self.bottleneck else basic
        y, n = x, len(hidden) + 1
        for i, shape in enumerate(hidden, start=1):
            y = nn.relu(norm(self.norm, train, self.dtype, f"norm{i}")(_conv(*shape, self.dtype, f"conv{i}")(y)))
        y = _conv(*last, self.dtype, f"conv{n}")(y)
        scale = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = norm(self.norm, train, self.dtype, f"norm{n}", scale_init=scale)(y)
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = _conv(y.shape[-1], 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = norm(self.norm, train, self.dtype, "shortcut_norm")(x)
        return nn.relu(x + y)


def _conv(width, kernel, stride, dtype, name):
    """Padding is symmetric, as torch's: SAME would put the odd pixel of a strided convolution at the end."""
    pad = kernel // 2
    padding = ((pad, pad), (pad, pad))
    return nn.Conv(width, (kernel,) * 2, stride, padding, use_bias=False, kernel_init=INIT, dtype=dtype, name=name)


resnet18 = functools.partial(ResNet, (2, 2, 2, 2), False)
resnet34 = functools.partial(ResNet, (3, 4, 6, 3), False)
resnet50 = functools.partial(ResNet, (3, 4, 6, 3), True)
resnet101 = functools.partial(ResNet, (3, 4, 23, 3), True)
resnet152 = functools.partial(ResNet, (3, 8, 36, 3), True)
resnet200 = functools.partial(ResNet, (3, 24, 36, 3), True)
