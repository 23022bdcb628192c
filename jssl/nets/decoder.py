"""What comes after a vision transformer: MAE's decoder, I-JEPA's predictor and BEiT v2's further blocks."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.nets.relative import RelativeBias
from jssl.nets.vit import TOKEN, blocks, check_heads, dense, norm, sincos_positions, square


class Decoder(nn.Module):
    """The decoder of masked autoencoders (arXiv:2111.06377, section 3): kept patches' tokens -> all patches' pixels.

    Call with the encoder's patch tokens [N, K, D], `restore` int [N, L] (patch i is number restore[i] of: the K kept,
    then the hidden ones) and, if wanted, further tokens `prefix` [N, P, D] (the class token). `grid` (height, width) in
    patches if it is not square. -> (pixels float32 [N, L, out_dim], out); out: 'tokens' [N, L, dim] after the final
    norm, 'layers', 'attention' as in `ViT`.
    """

    dim: int
    depth: int
    heads: int
    out_dim: int
    mlp: int | None = None
    remat: bool = False
    eps: float = 1e-6
    dtype: Any = jnp.float32

    def __post_init__(self):
        check_heads(self.dim, self.heads)
        super().__post_init__()

    @nn.compact
    def __call__(self, x, restore, prefix=None, grid=None, train=False):
        n, length = restore.shape
        prefix = x[:, :0] if prefix is None else prefix
        first = prefix.shape[1]
        embedded = dense(self.dim, self.dtype, "embed")(jnp.concatenate([prefix, x], 1))  # [N, P + K, dim]

        mask = self.param("mask", TOKEN, (1, self.dim)).astype(self.dtype)
        hidden = jnp.broadcast_to(mask, (n, length - x.shape[1], self.dim))
        tokens = jnp.concatenate([embedded[:, first:], hidden], 1)
        tokens = jnp.take_along_axis(tokens, restore[..., None], 1)  # [N, L, dim]
        height, width = grid or square(length)
        tokens += jnp.asarray(sincos_positions(height, width, self.dim), self.dtype)

        block = (self.heads, self.mlp or 4 * self.dim, None, self.eps, self.dtype)
        tokens, out = blocks(
            jnp.concatenate([embedded[:, :first], tokens], 1), [None] * self.depth, self.remat, None, block
        )
        tokens = norm(self.eps, jnp.float32, "norm")(tokens)[:, first:]
        pixels = dense(self.out_dim, self.dtype, "pixels")(tokens)
        return pixels.astype(jnp.float32), {**out, "tokens": tokens}


class Predictor(nn.Module):
    """I-JEPA's predictor (arXiv:2301.08243, section 3): tokens of visible patches -> tokens of blocks that are not.

    Call with the encoder's tokens [N, K, D], their places `context` int [N, K] and those of the blocks `targets` int
    [N, M, T] on a `grid` (height, width) of patches. Each block is predicted by itself, from the context and T mask
    tokens with their positions. -> (predictions float32 [N, M, T, D], {}).
    """

    dim: int
    depth: int
    heads: int
    mlp: int | None = None
    remat: bool = False
    eps: float = 1e-6
    dtype: Any = jnp.float32

    def __post_init__(self):
        check_heads(self.dim, self.heads)
        super().__post_init__()

    @nn.compact
    def __call__(self, x, context, targets, grid, train=False):
        n, m, t = targets.shape
        positions = jnp.asarray(sincos_positions(*grid, self.dim), self.dtype)
        seen = dense(self.dim, self.dtype, "embed")(x) + positions[context]  # [N, K, dim]
        mask = self.param("mask", TOKEN, (1, self.dim)).astype(self.dtype)
        seen = jnp.broadcast_to(seen[:, None], (n, m, *seen.shape[1:]))
        tokens = jnp.concatenate([seen, mask + positions[targets]], 2)  # [N, M, K + T, dim]

        block = (self.heads, self.mlp or 4 * self.dim, None, self.eps, self.dtype)
        tokens, _ = blocks(tokens, [None] * self.depth, self.remat, None, block)
        tokens = norm(self.eps, jnp.float32, "norm")(tokens[:, :, -t:])
        return dense(x.shape[-1], self.dtype, "tokens")(tokens).astype(jnp.float32), {}


class Tower(nn.Module):
    """Further blocks: tokens [N, T, D], one of them before a `grid` (height, width) of patches -> (tokens float32 after
    a final norm, {}). drops: the rate of each block's drop path; relative: biases by relative position, which the
    blocks share."""

    drops: tuple
    heads: int
    relative: bool = False
    layer_scale: float | None = None
    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, grid, train=False):
        bias = RelativeBias(self.heads, name="relative")(*grid, 1) if self.relative else None
        block = (self.heads, 4 * x.shape[-1], self.layer_scale, self.eps, self.dtype)
        x, _ = blocks(x, [bias] * len(self.drops), False, self.drops if train else None, block)
        return norm(self.eps, jnp.float32, "norm")(x), {}
