"""Networks as pure functions of parameters and statistics: the only file that knows flax collections.

A network is a Linen module called as `net(x, train=False, ...) -> (y, out)`: `y` the main output in float32, `out` a
dict of intermediates, which jit prunes when nobody reads them. Parameters and statistics are float32; `dtype`, a field
of every network, is what its matrix products and convolutions run in.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

Net = nn.Module  # for annotations outside this folder


def init_net(net, rng, *args, **kw):
    """-> (params, stats) of one network; `args` and `kw` as for a call, where only shapes and dtypes matter."""
    _, params, stats = _init(net, rng, *args, **kw)
    return params, stats


def apply_net(net, params, stats, *args, train=False, rng=None, **kw):
    """Runs one network -> (y, out, stats).

    With `train` batch norm uses, and blends into the returned `stats`, the statistics of this batch; without it they
    are used and returned as they are. `rng` feeds drop path, which is off when `train` is false.
    """
    variables = {"params": params, "batch_stats": stats}
    rngs = {} if rng is None else {"dropout": rng}
    if not train:
        y, out = net.apply(variables, *args, train=False, rngs=rngs, **kw)
        return y, out, stats
    (y, out), new = net.apply(variables, *args, train=True, rngs=rngs, mutable=["batch_stats"], **kw)
    return y, out, new.get("batch_stats", stats)


def init_nets(nets, rng, x):
    """-> ({name: params}, {name: stats}) of a chain {name: net}, each fed with the main output of the one before it.

    The leading networks get the same weights whatever follows them.
    """
    params, stats = {}, {}
    for i, (name, net) in enumerate(nets.items()):
        x, params[name], stats[name] = _init(net, jax.random.fold_in(rng, i), x)
    return params, stats


def apply_nets(nets, params, stats, x, train=True, rng=None):
    """Runs a chain {name: net} on x -> ({name: main output}, stats).

    `params` and `stats` may hold more names than `nets`; the statistics of the others pass unchanged.
    """
    outputs, stats = {}, dict(stats)
    for i, (name, net) in enumerate(nets.items()):
        key = None if rng is None else jax.random.fold_in(rng, i)
        x, _, stats[name] = apply_net(net, params[name], stats[name], x, train=train, rng=key)
        outputs[name] = x
    return outputs, stats


def batch_norm(train, dtype, name, **kw):
    """The suite's batch norm (arXiv:1502.03167): statistics in float32, over the global batch under jit, never by axis
    name. The running variance is the biased one, as everywhere in flax; torch keeps the unbiased one."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name, **kw)


def unit(x):
    """Rows of unit length along the last axis; a zero row stays zero, with zero gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))


def _init(net, rng, *args, **kw):
    (y, _), variables = net.init_with_output({"params": rng}, *args, train=False, **kw)
    return y, variables.get("params", {}), variables.get("batch_stats", {})
