"""Vision transformers (Dosovitskiy et al., 2020; arXiv:2010.11929)."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl.nets.mlp import Dense, gelu
from jssl.nets.relative import RelativeBias
from jssl.nets.resize import table

POOLS = ("cls", "mean")
POSITIONS = ("learned", "sincos", "none")
RELATIVE = (None, "shared", "each")
FFN = ("mlp", "quick_gelu", "swiglu")
TOKEN = nn.initializers.normal(0.02)


class ViT(nn.Module):
    """[N, H, W, C] float -> features [N, dim]: the class token, or the mean of the patch tokens, after the final norm.

    Call with `keep` int [N, K] to let only those patches (row by row, from 0) in: the others are never read, as in
    masked autoencoders. With a `mask_token`, call with `hidden` bool [N, L] to put it in place of those patches. Every
    call may have another resolution, as long as the patch size divides it. What `jssl.peft` adds comes with the call
    too: `prompts` [1 or depth, P, dim], tokens before the patches, of the first block or others for each; `adapters`,
    one for each block, see `Block`.

    mlp: hidden width, 4 * dim if None. ffn: "mlp", "quick_gelu", the same with CLIP's x * sigmoid(1.702 x) for GELU, or
    "swiglu" (arXiv:2002.05202), whose hidden width is two thirds of `mlp`, for as many weights. registers: further
    tokens without a patch (arXiv:2309.16588). positions: "sincos" (fixed, `sincos_positions`), "learned" (a table on
    the grid of the images given to init, or of `table` x `table` patches, resized bicubically for other grids) or
    "none". Class token and registers have no position: they are learned themselves. relative: biases of attention by
    relative position, "shared" by all blocks or one table for "each". drop_path: rate of the last block, rising
    linearly from 0 (arXiv:1603.09382), or, where drop_path_uniform, of every block; neither changes as training goes
    on. layer_scale: initial value (arXiv:2103.17239), or None. remat: keep only the blocks' inputs for the backward
    pass. eps: of every layer norm. pre_norm: one more, before the blocks, as in CLIP (arXiv:2103.00020). out_dim: of a
    linear layer on all tokens after the final norm, or None for no layer.

    out: 'tokens' [N, L or K, dim] and, where there are any, 'cls' [N, dim] and 'registers' [N, R, dim], after the final
    norm, float32; 'layers', every block's output [N, T, dim], T counting class token, registers, prompts, patches in
    this order; 'attention' [N, heads, T, T] and 'keys' [N, T, heads, dim / heads] of the last block.
    """

    dim: int
    depth: int
    heads: int
    patch: int = 16
    mlp: int | None = None
    ffn: str = "mlp"
    pool: str = "cls"
    class_token: bool = True
    registers: int = 0
    positions: str = "learned"
    table: int | None = None
    relative: str | None = None
    mask_token: bool = False
    drop_path: float = 0.0
    drop_path_uniform: bool = False
    layer_scale: float | None = None
    remat: bool = False
    eps: float = 1e-6
    pre_norm: bool = False
    out_dim: int | None = None
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.pool not in POOLS:
            raise ValueError(f"ViT pool is {self.pool!r}, expected one of {', '.join(POOLS)}")
        if self.pool == "cls" and not self.class_token:
            raise ValueError("ViT pool is 'cls' without a class token: set class_token, or pool to 'mean'")
        if self.positions not in POSITIONS:
            raise ValueError(f"ViT positions are {self.positions!r}, expected one of {', '.join(POSITIONS)}")
        if self.relative not in RELATIVE:
            raise ValueError(f"ViT relative is {self.relative!r}, expected one of {', '.join(map(str, RELATIVE))}")
        if self.ffn not in FFN:
            raise ValueError(f"ViT ffn is {self.ffn!r}, expected one of {', '.join(FFN)}")
        check_heads(self.dim, self.heads)
        super().__post_init__()

    @property
    def stride(self):
        """Pixels of an image that a token stands for, along a side."""
        return self.patch

    @property
    def drops(self):
        """The rate of each block's drop path."""
        steps = max(self.depth - 1, 1)
        return [self.drop_path if self.drop_path_uniform else self.drop_path * i / steps for i in range(self.depth)]

    @nn.compact
    def __call__(self, x, train=False, keep=None, hidden=None, prompts=None, adapters=None):
        if train and self.drop_path and not self.has_rng("dropout"):
            raise ValueError(f"ViT drop_path is {self.drop_path} but training got no randomness: give apply_net an rng")
        height, width = grid(x, self.patch)
        if keep is not None and self.relative:
            raise ValueError("ViT with relative positions reads all patches: hide some by its mask token, not by keep")
        if hidden is not None and not self.mask_token:
            raise ValueError("ViT has no mask token to hide patches with: set mask_token")
        patches = patchify(x, self.patch)  # [N, L, p*p*C]
        position = self._positions(height, width)  # [L, dim]
        if keep is not None:
            patches = jnp.take_along_axis(patches, keep[..., None], 1)  # [N, K, p*p*C]
            position = position[keep]  # [N, K, dim]
        tokens = dense(self.dim, self.dtype, "patch")(patches)
        if self.mask_token:
            mask = self.param("mask", TOKEN, (1, self.dim)).astype(self.dtype)
            tokens = tokens if hidden is None else jnp.where(hidden[..., None], mask, tokens)
        tokens += position.astype(self.dtype)

        prefix = []
        if self.class_token:
            prefix.append(self.param("cls", TOKEN, (1, self.dim)))
        if self.registers:
            prefix.append(self.param("registers", TOKEN, (self.registers, self.dim)))
        if prompts is not None:
            prefix.append(prompts[0])
        first = sum(map(len, prefix))
        prefix = [jnp.broadcast_to(token.astype(self.dtype), (len(x), *token.shape)) for token in prefix]
        tokens = jnp.concatenate([*prefix, tokens], 1)  # [N, T, dim]
        if self.pre_norm:
            tokens = norm(self.eps, self.dtype, "pre_norm")(tokens)

        block = (self.heads, self.mlp or 4 * self.dim, self.layer_scale, self.eps, self.dtype)
        how = {"ffn": self.ffn, "adapters": adapters}
        how["prompts"] = [] if prompts is None else [(first - len(tokens), tokens) for tokens in prompts]
        biases = self._biases(height, width, first)
        tokens, out = blocks(tokens, biases, self.remat, self.drops if train else None, block, **how)
        tokens = norm(self.eps, jnp.float32, "norm")(tokens)
        if self.out_dim:
            tokens = dense(self.out_dim, self.dtype, "out")(tokens).astype(jnp.float32)
        out["tokens"] = tokens[:, first:]
        if self.class_token:
            out["cls"] = tokens[:, 0]
        if self.registers:
            out["registers"] = tokens[:, self.class_token : self.class_token + self.registers]
        return out["cls"] if self.pool == "cls" else out["tokens"].mean(1), out

    def _positions(self, height, width):
        if self.positions == "none":
            return jnp.zeros((height * width, self.dim))
        if self.positions == "sincos":
            return jnp.asarray(sincos_positions(height, width, self.dim))
        learned = table(self, "positions", TOKEN, (height, width, self.dim), self.table)
        return learned.reshape(height * width, self.dim)

    def _biases(self, height, width, tokens):
        """What each block adds to its attention's logits, [heads, T, T] or None."""
        if self.relative == "shared":
            return [RelativeBias(self.heads, name="relative")(height, width, tokens)] * self.depth
        if self.relative == "each":
            return [RelativeBias(self.heads, name=f"relative{i}")(height, width, tokens) for i in range(self.depth)]
        return [None] * self.depth


class Block(nn.Module):
    """Pre-norm attention and MLP on tokens [N, ..., T, D] -> (tokens, (q, k)), q and k [B, T, heads, D / heads].

    bias: [heads, T, T] float32, added to the logits, or None. mask: bool [..., T, T], which keys a query sees, or None.
    B counts the samples, and what they are cut into. ffn: as in `ViT`. adapter: {'down': {'kernel' [D, W], 'bias' [W]},
    'up': ...}, a bottleneck beside the MLP, or None.
    """

    heads: int
    mlp: int
    layer_scale: float | None
    eps: float
    dtype: Any
    drop: float
    ffn: str = "mlp"

    @nn.compact
    def __call__(self, x, bias=None, mask=None, adapter=None):
        t, d = x.shape[-2:]
        y = norm(self.eps, self.dtype, "norm1")(x)
        qkv = dense(3 * d, self.dtype, "qkv")(y).reshape(-1, t, 3, self.heads, d // self.heads)
        q, k, v = jnp.moveaxis(qkv, 2, 0)  # [B, T, heads, D / heads]
        bias = None if bias is None else bias[None]
        mask = None if mask is None else jnp.broadcast_to(mask, (*x.shape[:-1], t)).reshape(-1, 1, t, t)
        y = jax.nn.dot_product_attention(q, k, v, bias, mask).reshape(x.shape)
        x = x + self._branch(dense(d, self.dtype, "proj")(y), "scale1")
        y = norm(self.eps, self.dtype, "norm2")(x)
        x = x + self._branch(dense(d, self.dtype, "fc2")(self._hidden(y)), "scale2")
        if adapter is not None:
            linear = lambda y, layer: y @ layer["kernel"].astype(self.dtype) + layer["bias"].astype(self.dtype)
            x = x + linear(nn.relu(linear(y, adapter["down"])), adapter["up"])
        return x, (q, k)

    def _hidden(self, y):
        if self.ffn == "mlp":
            return gelu(dense(self.mlp, self.dtype, "fc1")(y))
        if self.ffn == "quick_gelu":
            y = dense(self.mlp, self.dtype, "fc1")(y)
            return y * nn.sigmoid(1.702 * y)
        width = -(-(2 * self.mlp // 3) // 8) * 8  # a multiple of 8, as in DINOv2's code
        gate, value = jnp.split(dense(2 * width, self.dtype, "fc1")(y), 2, -1)
        return nn.silu(gate) * value

    def _branch(self, y, name):
        """LayerScale, then drop path: a sample's branch is left out, or scaled up so that its mean stays."""
        if self.layer_scale is not None:
            scale = self.param(name, nn.initializers.constant(self.layer_scale), (y.shape[-1],))
            y = y * scale.astype(self.dtype)
        if self.drop:
            stays = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.drop, (len(y), *[1] * (y.ndim - 1)))
            y = jnp.where(stays, y / (1 - self.drop), 0)
        return y


def patchify(images, patch):
    """Images [N, H, W, C] -> [N, L, p*p*C], patches and the pixels in them row by row, channel last."""
    n, height, width, channels = images.shape
    if height % patch or width % patch:
        raise ValueError(f"image is {height} x {width}, expected multiples of the patch size {patch}")
    x = images.reshape(n, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(n, -1, patch * patch * channels)


def grid(images, patch):
    """(height, width) of images [N, H, W, C] in patches."""
    return images.shape[1] // patch, images.shape[2] // patch


def unpatchify(patches, patch, grid=None):
    """The inverse of `patchify`; `grid` (height, width) in patches if it is not square."""
    height, width = grid or square(patches.shape[1])
    x = patches.reshape(len(patches), height, width, patch, patch, -1)
    return x.swapaxes(2, 3).reshape(len(patches), height * patch, width * patch, -1)


def pixels_of(patches, patch, grid):
    """Which pixels lie in these patches: bool [N, L] -> bool [N, H, W, 1]."""
    return unpatchify(patches[..., None].repeat(patch**2, 2), patch, grid)


def sincos_positions(height, width, dim):
    """Fixed 2-D positions float32 [height * width, dim], in the order of the masked autoencoder's official code: column
    sines, column cosines, row sines, row cosines, a quarter of `dim` each."""
    if dim % 4:
        raise ValueError(f"sin-cos positions need a dimension divisible by 4, not {dim}")
    frequency = 10000.0 ** -(np.arange(dim // 4) / (dim // 4))
    row, column = np.divmod(np.arange(height * width), width)
    angles = [column[:, None] * frequency, row[:, None] * frequency]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], 1).astype(np.float32)


def blocks(x, biases, remat, drops, block, ffn="mlp", prompts=(), adapters=None):
    """Blocks 'block0', ... of the network that calls, one for each bias -> (tokens, first intermediates). drops: the
    rate of each one's drop path, or None; prompts: from the second on they take the places of what the block before
    made of them: (the first place, tokens [P, D]) each."""
    make = nn.remat(Block) if remat else Block
    layers = []
    for i, bias in enumerate(biases):
        if 0 < i < len(prompts):
            at, tokens = prompts[i]
            x = x.at[:, at : at + len(tokens)].set(tokens.astype(x.dtype))
        adapter = None if adapters is None else adapters[i]
        x, (q, k) = make(*block, drop=drops[i] if drops else 0.0, ffn=ffn, name=f"block{i}")(x, bias, None, adapter)
        layers.append(x)
    logits = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    shares = jax.nn.softmax(logits if bias is None else logits + bias)
    return x, {"layers": tuple(layers), "attention": shares, "keys": k}


def dense(width, dtype, name):
    return Dense(width, kernel_init=nn.initializers.xavier_uniform(), dtype=dtype, name=name)


def norm(eps, dtype, name):
    return nn.LayerNorm(eps, use_fast_variance=False, dtype=dtype, name=name)


def check_mask_token(method, encoder, expected="a ViT"):
    if not hasattr(encoder, "mask_token"):
        name = type(encoder).__name__
        raise ValueError(f"{method} hides patches: encoder {name} has no mask token, expected {expected}")


def check_heads(dim, heads):
    if dim % heads:
        raise ValueError(f"{heads} heads cannot share a width of {dim}: it has to be a multiple")


def square(length):
    side = math.isqrt(length)
    if side * side != length:
        raise ValueError(f"{length} patches are no square: give their grid (height, width)")
    return side, side


vit_tiny = functools.partial(ViT, 192, 12, 3)
vit_small = functools.partial(ViT, 384, 12, 6)
vit_base = functools.partial(ViT, 768, 12, 12)
vit_large = functools.partial(ViT, 1024, 24, 16)
vit_huge = functools.partial(ViT, 1280, 32, 16, patch=14)
vit_giant = functools.partial(ViT, 1408, 40, 16, patch=14, mlp=6144)  # arXiv:2106.04560, table 2
vit_giant2 = functools.partial(ViT, 1536, 40, 24, patch=14, ffn="swiglu")  # arXiv:2304.07193, appendix B
