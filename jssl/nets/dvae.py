"""The discrete autoencoder of DALL-E (Ramesh et al., 2021; arXiv:2102.12092, appendix A.2): images <-> codes."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.nets.mlp import ACTIVATIONS

EDGE = 0.1  # by which pixels are kept away from 0 and 1, where their logits are infinite (appendix A.3)


class Encoder(nn.Module):
    """[N, H, W, C] in `pixels` -> features [N, D], the mean over the last group's map; out: 'logits' float32 [N, h, w,
    vocabulary] of the codes, 'map' [N, h, w, D]. h and w are 2^(groups - 1) times smaller; D = 2^(groups - 1) * hidden.
    """

    vocabulary: int = 8192
    hidden: int = 256
    groups: int = 4
    blocks: int = 2  # of each group
    activation: str = "relu"
    dtype: Any = jnp.float32

    @property
    def stride(self):
        """Pixels of an image that a code stands for, along a side."""
        return 2 ** (self.groups - 1)

    @nn.compact
    def __call__(self, x, train=False):
        if x.shape[1] % self.stride or x.shape[2] % self.stride:
            raise ValueError(f"image is {x.shape[1]} x {x.shape[2]}, expected multiples of a code's {self.stride}")
        block = blocks((3, 3, 3, 1), self)
        x = conv(self.hidden, 7, self.dtype, "stem")(x)
        for i in range(self.groups):
            x = nn.max_pool(x, (2, 2), (2, 2)) if i else x
            for j in range(self.blocks):
                x = block(self.hidden * 2**i, f"block{i}_{j}")(x)
        x = ACTIVATIONS[self.activation]("activation")(x)
        logits = conv(self.vocabulary, 1, self.dtype, "logits")(x)
        return x.mean((1, 2), dtype=jnp.float32), {"logits": logits.astype(jnp.float32), "map": x}


class Decoder(nn.Module):
    """Shares of codes [N, h, w, vocabulary] -> (float32 [N, H, W, 2 * channels], {}): of every pixel the mu of a
    logit-Laplace distribution, then the logarithms of its b."""

    channels: int
    initial: int = 128
    hidden: int = 256
    groups: int = 4
    blocks: int = 2
    activation: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z, train=False):
        block = blocks((1, 3, 3, 3), self)
        x = conv(self.initial, 1, self.dtype, "stem")(z)
        for i in range(self.groups):
            x = x.repeat(2, 1).repeat(2, 2) if i else x
            for j in range(self.blocks):
                x = block(self.hidden * 2 ** (self.groups - 1 - i), f"block{i}_{j}")(x)
        x = ACTIVATIONS[self.activation]("activation")(x)
        return conv(2 * self.channels, 1, self.dtype, "pixels")(x).astype(jnp.float32), {}


class Block(nn.Module):
    """x + gain * four convolutions of a quarter of the width, an activation before each; x by a 1x1 convolution where
    widths differ. [N, h, w, D] -> [N, h, w, width]"""

    width: int
    kernels: tuple
    gain: float
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x):
        y, narrow = x, self.width // 4
        for i, kernel in enumerate(self.kernels):
            y = ACTIVATIONS[self.activation](f"activation{i}")(y)
            y = conv(self.width if i == len(self.kernels) - 1 else narrow, kernel, self.dtype, f"conv{i}")(y)
        same = x if x.shape[-1] == self.width else conv(self.width, 1, self.dtype, "same")(x)
        return same + self.gain * y


def blocks(kernels, net):
    """(width, name) -> a `Block` of the network; deep ones add little to x each, so that training is stable."""
    gain = 1 / (net.groups * net.blocks) ** 2
    return lambda width, name: Block(width, kernels, gain, net.activation, net.dtype, name=name)


def conv(width, kernel, dtype, name):
    return nn.Conv(width, (kernel, kernel), dtype=dtype, name=name)


def pixels(x, mean, std):
    """Normalised images [N, H, W, C] in [0, 1] again, then in [EDGE, 1 - EDGE] (appendix A.3)."""
    x = x.astype(jnp.float32) * jnp.asarray(std) + jnp.asarray(mean)
    return (1 - 2 * EDGE) * jnp.clip(x, 0, 1) + EDGE


def images(x, mean, std):
    """The inverse of `pixels`."""
    return (jnp.clip((x - EDGE) / (1 - 2 * EDGE), 0, 1) - jnp.asarray(mean)) / jnp.asarray(std)
