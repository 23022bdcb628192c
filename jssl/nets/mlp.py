"""MLP heads: projectors, predictors, prototypes; and what they, and other networks, are made of."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jssl.nets.net import batch_norm, unit


def flat(x, kernel, dims, **kw):
    """`lax.dot_general` of x [..., C] and a kernel [C, D], as of two matrices -> [..., D].

    With `...` as they are a CPU writes what the kernel's gradient is made of transposed first (jax 0.10.2).
    """
    y = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **kw)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


Dense = functools.partial(nn.Dense, dot_general=flat)


@jax.custom_jvp
def gelu(x):
    """x Phi(x) (Hendrycks & Gimpel, 2016; arXiv:1606.08415), computed in float32.

    By erf, as torch's, not jax's erfc; and of the wide hidden layer the gradient keeps one array, the derivative.
    """
    return (x * _phi(x.astype(jnp.float32))).astype(x.dtype)


@gelu.defjvp
def _(primals, tangents):
    ((x,), (t,)) = primals, tangents
    z = x.astype(jnp.float32)
    slope = _phi(z) + z * jnp.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return gelu(x), slope.astype(x.dtype) * t


def _phi(z):
    """The share of a normal distribution below z."""
    return 0.5 * (1 + lax.erf(z * math.sqrt(0.5)))


ACTIVATIONS = {
    "relu": lambda name: nn.relu,
    "gelu": lambda name: gelu,
    "elu": lambda name: nn.elu,
    "tanh": lambda name: jnp.tanh,
    "prelu": lambda name: nn.PReLU(negative_slope_init=0.25, name=name),  # one slope, learned
}
OUTPUTS = ("linear", "l2", "weight_norm")


class MLP(nn.Module):
    """`depth` linear layers, the hidden ones followed by batch norm and activation: [N, C] -> [N, dim].

    norm: batch norm after every hidden layer; last_norm: also after the last; last_affine: whether that one has scale
    and bias (SimSiam's has not). bias: in the layers that no norm follows; one before a norm would get only noise.
    output: "linear"; "l2" (rows of unit length); "weight_norm" (the last kernel's columns have unit length, as DINO's
    last layer, arXiv:2104.14294: `{"projector": MLP(2048, 256, depth=3, norm=False, activation="gelu", output="l2"),
    "prototypes": MLP(0, 65536, depth=1, bias=False, output="weight_norm")}`).
    kernel_init: of every layer. out: 'layers', the output of every layer, the last in float32.
    """

    hidden: int
    dim: int
    depth: int = 2
    norm: bool = True
    last_norm: bool = False
    last_affine: bool = True
    bias: bool = True
    activation: str = "relu"
    output: str = "linear"
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.depth < 1:
            raise ValueError(f"MLP depth is {self.depth}, expected 1 or more linear layers")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"MLP activation is {self.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        if self.output not in OUTPUTS:
            raise ValueError(f"MLP output is {self.output!r}, expected one of {', '.join(OUTPUTS)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x, train=False):
        def dense(i, dim, bias):
            return Dense(dim, bias, dtype=self.dtype, kernel_init=self.kernel_init, name=f"dense{i}")

        layers = []
        for i in range(self.depth - 1):
            x = dense(i, self.hidden, self.bias and not self.norm)(x)
            if self.norm:
                x = batch_norm(train, self.dtype, f"norm{i}")(x)
            x = ACTIVATIONS[self.activation](f"activation{i}")(x)
            layers.append(x)
        i = self.depth - 1
        last = dense(i, self.dim, self.bias and not self.last_norm)
        if self.output == "weight_norm":
            last = nn.WeightNorm(last, use_scale=False, variable_filter={"kernel"}, name=f"unit{i}")
        x = last(x)
        if self.last_norm:
            affine = self.last_affine
            x = batch_norm(train, self.dtype, f"norm{i}", use_scale=affine, use_bias=affine)(x)
        y = x.astype(jnp.float32)
        y = unit(y) if self.output == "l2" else y
        return y, {"layers": (*layers, y)}


def code_head(width, dim, dtype=jnp.float32):
    """From patch tokens [..., width] to unit vectors [..., dim], which codes are the nearest of (BEiT v2's VQ-KD)."""
    return MLP(width, dim, norm=False, activation="tanh", output="l2", dtype=dtype)


def prototype_head(hidden, dim, prototypes, depth=3, norm=False, dtype=jnp.float32):
    """DINO's networks from features to scores: an MLP to unit vectors [..., dim], and their cosines to prototypes.

    The last one computes in float32, since its scores are divided by temperatures as low as 0.04.
    """
    projector = MLP(hidden, dim, depth, norm, activation="gelu", output="l2", dtype=dtype)
    return {"projector": projector, "last": MLP(0, prototypes, depth=1, bias=False, output="weight_norm")}
