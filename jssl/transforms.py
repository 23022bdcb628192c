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


def cosine(x, y):
    """Cosine of the angles between vectors, in float32; 0 where one is zero. [..., D] each -> [...]"""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    product = lambda x, y: jnp.einsum("...d,...d->...", x, y, precision=lax.Precision.HIGHEST)
    square = product(x, x) * product(y, y)
    return product(x, y) * lax.rsqrt(jnp.maximum(square, 1e-24))


def normalised(x):
    """Layer norm without scale and offset, over the last axis, in float32. [..., D] -> [..., D]"""
    x = x.astype(jnp.float32)
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def mean_over(x, there):
    """The mean of x where `there` is not 0, both of one shape; 0 where it is nowhere."""
    return jnp.sum(x * there) / jnp.maximum(jnp.sum(there), 1)


def push(queue, pointer, rows):
    """Writes rows [N, ...] over the oldest of a ring buffer [K, ...] -> (queue, pointer), both on every device.

    pointer: int32 [], where the next row goes. Of more rows than the ring has, it keeps the last K.
    """
    size, n = len(queue), len(rows)
    kept = gather(lax.stop_gradient(rows))[-size:].astype(queue.dtype)
    place = (pointer + n - len(kept) + jnp.arange(len(kept))) % size
    return queue.at[place].set(kept), (pointer + n) % size


def sinkhorn(blocks, epsilon=0.05, iterations=3, weights=None):
    """Balanced soft assignments of rows to K prototypes (Cuturi, 2013; SwAV, arXiv:2006.09882, section 3.1).

    blocks: a list of scores [B_i, K], balanced together: a batch that lies on many devices and a replicated queue need
    not be joined. weights: a scalar per block, or one per row [B_i], 0 where rows do not count (yet). In float32 and in
    logarithms: nothing overflows, however small `epsilon` is. No gradient passes.

    -> a list of [B_i, K]. Each iteration gives the prototypes equal shares, then every row the sum 1.
    """
    prototypes = blocks[0].shape[1]
    logits = [lax.stop_gradient(block).astype(jnp.float32) / epsilon for block in blocks]
    weights = [1.0] * len(blocks) if weights is None else weights
    shares = [jnp.log(jnp.asarray(w, jnp.float32)).reshape(-1, 1) for w in weights]
    row = [jnp.zeros(len(block)) for block in blocks]  # log of what each row is multiplied by
    column = jnp.zeros(prototypes)
    for _ in range(iterations):
        sums = [
            jax.nn.logsumexp(x + r[:, None] + w, 0) for x, r, w in zip(logits, row, shares, strict=True)
        ]  # [K] each
        column = -jax.nn.logsumexp(jnp.stack(sums), 0)
        row = [-jax.nn.logsumexp(x + column, 1) for x in logits]
    return [jnp.exp(x + r[:, None] + column) for x, r in zip(logits, row, strict=True)]


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
