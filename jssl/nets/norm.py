"""Batch norm over the global batch, or over groups of it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Batch norm (Ioffe & Szegedy, 2015; arXiv:1502.03167) of [N, ..., C], statistics in float32.

    Under jit the statistics are those of the global batch, never by axis name. Given `groups`, a one-hot [N, G], each
    group is normalised by its own: what several devices with a batch norm each would do, whichever rows they held (the
    ghost batches of arXiv:1705.08741). Sums go through a [N, G] matrix product, so that no row moves between devices.
    Given `mask` [N, ...], of x but for its last axis, only what it marks with 1 counts.

    The running variance is the biased one, as everywhere in flax (torch keeps the unbiased one); of groups, the mean of
    theirs.
    """

    train: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, groups=None, mask=None):
        width = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        running_var = self.variable("batch_stats", "var", jnp.ones, width)
        if not self.train:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var = _statistics(x, groups) if mask is None else _masked(x, mask)  # [C] or [G, C]
            if not self.is_initializing():
                for running, now in (running_mean, mean), (running_var, var):
                    now = now if groups is None else now.mean(0)
                    running.value = self.momentum * running.value + (1 - self.momentum) * now
            if groups is not None:
                shape = (len(x), *([1] * (x.ndim - 2)), *width)
                mean, var = (_matmul(groups, value).reshape(shape) for value in (mean, var))  # every row's own
        scale = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            scale = scale * self.param("scale", self.scale_init, width)
        if mask is not None:  # As a matrix, whose gradient is a product: `*` alone was a fifth of GraphMAE's CPU step.
            scale = jnp.einsum("...,c->...c", jnp.ones(x.shape[:-1]), scale, precision=jax.lax.Precision.HIGHEST)
        y = (x - mean) * scale
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, width)
        return y.astype(self.dtype)


def norm(kind, train, dtype, name, **kw):
    """The norm layer `kind`: "batch", or "layer" (Ba et al., 2016; arXiv:1607.06450), over all of a sample's map, with
    a scale and a bias per channel."""
    if kind == "layer":
        return nn.GroupNorm(1, epsilon=1e-5, dtype=dtype, name=name, **kw)
    if kind != "batch":
        raise ValueError(f"norm is {kind!r}, expected batch or layer")
    return BatchNorm(train, dtype=dtype, name=name, **kw)


def grouped(groups):
    """A context in which every `BatchNorm` call takes its statistics over `groups`, a one-hot [N, G]."""

    def give(call, args, kw, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            kw = {**kw, "groups": groups}
        return call(*args, **kw)

    return nn.intercept_methods(give)


def _matmul(a, b):
    """In float32 throughout: accelerators would round what they multiply, here means and variances."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _masked(x, mask):
    """Mean and variance [C] of what the mask marks, in two passes."""
    mask = mask[..., None].astype(jnp.float32)
    axes, count = tuple(range(x.ndim - 1)), jnp.maximum(jnp.sum(mask), 1)
    mean = jnp.sum(x * mask, axes, dtype=jnp.float32) / count
    return mean, jnp.sum(jnp.square(x - mean) * mask, axes) / count


def _statistics(x, groups):
    """Mean and variance over all but the last axis, of the batch [C] or of every group [G, C]."""
    x = x.astype(jnp.float32)
    inner = tuple(range(1, x.ndim - 1))
    moments = jnp.stack([x.mean(inner), jnp.square(x).mean(inner)], 1)  # [N, 2, C]
    if groups is None:
        mean, square = moments.mean(0)
    else:
        share = groups / groups.sum(0)  # [N, G]
        mean, square = jnp.einsum("ng,nmc->mgc", share, moments, precision=jax.lax.Precision.HIGHEST)
    return mean, jnp.maximum(square - jnp.square(mean), 0)
