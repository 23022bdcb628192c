"""Other ways to run a method's networks on its crops."""

import jax.numpy as jnp

from jssl.nets.net import apply_nets


def separately(nets, params, stats, x, train=True, rng=None):
    """`apply_views`, or `apply_crops`, with batch norm over one view at a time, as in lightly's example; the authors'
    code, and ours, normalises all views of a size together."""
    x = x["image"] if isinstance(x, dict) else x
    outputs = []
    for v in range(x.shape[1]):
        out, stats = apply_nets(nets, params, stats, x[:, v], train, rng)
        outputs.append(out)
    return {name: jnp.stack([out[name] for out in outputs], 1) for name in nets}, stats
