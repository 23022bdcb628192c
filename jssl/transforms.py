"""Pytree transforms that methods use inside the step."""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec as P

from jssl.sharding import ROWS


def ema(target, online, m):
    """target <- m * target + (1 - m) * online, leaf by leaf."""
    return optax.incremental_update(online, target, 1 - m)


def unit(x):
    """x / |x| over the last axis, in float32; zero stays zero. [..., D] -> [..., D]"""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))


def gather(tree):
    """Every device gets all of it: the only explicit cross-device exchange. For [N, D] embeddings, never for images."""
    return jax.tree.map(lambda x: _constrain(x, P()), tree)


def rows(tree):
    """Every device keeps its own rows of the batch; a batch of one is replicated."""
    return jax.tree.map(lambda x: _constrain(x, P(ROWS) if len(x) > 1 else P()), tree)


def _constrain(x, spec):
    if jax.sharding.get_abstract_mesh().empty:  # a single device, outside any mesh
        return x
    return lax.with_sharding_constraint(x, spec)
