"""Swin transformers (Liu et al., 2021; arXiv:2103.14030)."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jssl.nets.mlp import Dense
from jssl.nets.relative import RelativeBias
from jssl.nets.vit import TOKEN, Block, check_heads, dense, norm, patchify


class Swin(nn.Module):
    """[N, H, W, C] float -> features [N, D]: the mean of the last stage's tokens, after the final norm.

    Attention is within windows of `window` x `window` tokens, shifted by half a window in every second block; between
    stages 2 x 2 tokens become one of twice the width, so D is dim * 2 ** (stages - 1). A grid that is smaller than the
    window is one window. With a `mask_token`, call with `hidden` bool [N, L] to put it in place of those patches.

    depths, heads: of each stage. drop_path: rate of the last block, rising linearly from 0. eps: of every layer norm.

    out: 'tokens' [N, L / 4 ** (stages - 1), D] after the final norm, float32; 'layers', every stage's output before
    tokens are merged, [N, H', W', D'].
    """

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int = 4
    window: int = 7
    mask_token: bool = False
    drop_path: float = 0.0
    eps: float = 1e-5
    dtype: Any = jnp.float32

    def __post_init__(self):
        if len(self.depths) != len(self.heads):
            raise ValueError(f"Swin has {len(self.depths)} depths and {len(self.heads)} heads, expected one per stage")
        for stage, heads in enumerate(self.heads):
            check_heads(self.dim * 2**stage, heads)
        super().__post_init__()

    @property
    def stride(self):
        """Pixels of an image that a token of the last stage stands for, along a side."""
        return self.patch * 2 ** (len(self.depths) - 1)

    @nn.compact
    def __call__(self, x, train=False, hidden=None):
        if hidden is not None and not self.mask_token:
            raise ValueError("Swin has no mask token to hide patches with: set mask_token")
        if x.shape[1] % self.stride or x.shape[2] % self.stride:
            raise ValueError(f"image is {x.shape[1]} x {x.shape[2]}, expected multiples of {self.stride}")
        height, width = x.shape[1] // self.patch, x.shape[2] // self.patch
        x = dense(self.dim, self.dtype, "patch")(patchify(x, self.patch))
        x = norm(self.eps, self.dtype, "patch_norm")(x)  # [N, L, dim]
        if self.mask_token:
            mask = self.param("mask", TOKEN, (1, self.dim)).astype(self.dtype)
            x = x if hidden is None else jnp.where(hidden[..., None], mask, x)
        x = x.reshape(len(x), height, width, self.dim)

        layers, done, total = [], 0, sum(self.depths)
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads)):
            if stage:
                x = self._merged(x, stage)
            for i in range(depth):
                drop = self.drop_path * done / max(total - 1, 1) if train else 0.0
                x = self._block(x, heads, drop, shifted=i % 2 == 1, name=f"stage{stage}_block{i}")
                done += 1
            layers.append(x)
        tokens = norm(self.eps, jnp.float32, "norm")(x).reshape(len(x), -1, x.shape[-1])
        return tokens.mean(1), {"tokens": tokens, "layers": tuple(layers)}

    def _block(self, x, heads, drop, shifted, name):
        """Attention within windows of x [N, H, W, D]."""
        n, height, width, d = x.shape
        side = min(self.window, height, width)
        if height % side or width % side:
            raise ValueError(f"{height} x {width} tokens cannot be cut into windows of {side}: set Swin's window")
        shift = side // 2 if shifted and min(height, width) > side else 0
        x = jnp.roll(x, (-shift, -shift), (1, 2))
        x = x.reshape(n, height // side, side, width // side, side, d).swapaxes(2, 3)
        x = x.reshape(n, -1, side * side, d)  # [N, windows, T, D]
        bias = RelativeBias(heads, name=f"{name}_relative")(side, side)
        mask = jnp.asarray(together(height, width, side, shift)) if shift else None
        x, _ = Block(heads, 4 * d, None, self.eps, self.dtype, drop, name=name)(x, bias, mask)
        x = x.reshape(n, height // side, width // side, side, side, d).swapaxes(2, 3)
        return jnp.roll(x.reshape(n, height, width, d), (shift, shift), (1, 2))

    def _merged(self, x, stage):
        """2 x 2 tokens side by side, down the columns first as in the authors' code, to one."""
        n, height, width, d = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, d).transpose(0, 1, 3, 4, 2, 5)
        x = norm(self.eps, self.dtype, f"merge{stage}_norm")(x.reshape(n, height // 2, width // 2, 4 * d))
        return Dense(2 * d, use_bias=False, dtype=self.dtype, name=f"merge{stage}")(x)


def together(height, width, side, shift):
    """Which tokens of a shifted window lie beside each other in the image, bool [windows, T, T]: the last windows hold
    tokens of both its ends."""
    part = lambda size: np.searchsorted([size - side, size - shift], np.arange(size), "right")
    region = 3 * part(height)[:, None] + part(width)  # [H, W]
    region = region.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side * side)
    return region[:, :, None] == region[:, None]


swin_tiny = functools.partial(Swin, 96, (2, 2, 6, 2), (3, 6, 12, 24))
swin_base = functools.partial(Swin, 128, (2, 2, 18, 2), (4, 8, 16, 32))
swin_large = functools.partial(Swin, 192, (2, 2, 18, 2), (6, 12, 24, 48))
