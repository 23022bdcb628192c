"""Networks as pure functions of parameters and statistics: the only file that knows flax collections.

A network is a Linen module called as `net(x, train=False, ...) -> (y, out)`: `y` the main output in float32, `out` a
dict of intermediates, which jit prunes when nobody reads them. Parameters and statistics are float32; `dtype`, a field
of every network, is what its matrix products and convolutions run in.
"""

import contextlib
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets.norm import BatchNorm, grouped

Net = nn.Module  # for annotations outside this folder


def init_net(net, rng, *args, **kw):
    """-> (params, stats) of one network; `args` and `kw` as for a call, where only shapes and dtypes matter."""
    _, params, stats = _init(net, rng, *args, **kw)
    return params, stats


def width(net, *args, **kw):
    """The size of the last axis of what a network gives; of `args` only shapes and dtypes matter."""
    return jax.eval_shape(lambda: _init(net, jax.random.key(0), *args, **kw)[0]).shape[-1]


def apply_net(net, params, stats, *args, train=False, rng=None, groups=None, **kw):
    """Runs one network -> (y, out, stats).

    With `train` batch norm uses, and blends into the returned `stats`, the statistics of this batch, or of its groups,
    given as a one-hot [N, G]; without it `stats` are used and returned as they are. `rng` feeds drop path, which is off
    when `train` is false.
    """
    variables = {"params": params, "batch_stats": stats}
    rngs = {} if rng is None else {"dropout": rng}
    if not train:
        y, out = net.apply(variables, *args, train=False, rngs=rngs, **kw)
        return y, out, stats
    with grouped(groups) if groups is not None else contextlib.nullcontext():
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


def apply_nets(nets, params, stats, x, train=True, rng=None, groups=None):
    """Runs a chain {name: net} on x -> ({name: main output}, stats).

    `params` and `stats` may hold more names than `nets`; the statistics of the others pass unchanged. groups: of the
    batch, for batch norm, as in `apply_net`.
    """
    outputs, stats = {}, dict(stats)
    for i, (name, net) in enumerate(nets.items()):
        key = None if rng is None else jax.random.fold_in(rng, i)
        x, _, stats[name] = apply_net(net, params[name], stats[name], x, train=train, rng=key, groups=groups)
        outputs[name] = x
    return outputs, stats


def apply_views(nets, params, stats, x, train=True, rng=None):
    """Runs a chain on all views x [N, V, ...] at once -> ({name: [N, V, D]}, stats): batch norm sees N * V of them."""
    n, v, *shape = x.shape
    outputs, stats = apply_nets(nets, params, stats, x.reshape(n * v, *shape), train, rng)
    return {name: y.reshape(n, v, *y.shape[1:]) for name, y in outputs.items()}, stats


def apply_crops(nets, params, stats, views, train=True, rng=None):
    """`apply_views` on the large crops views['image'], then on the small ones views['local'] where there are any: each
    size by itself, as in the code of SwAV's and DINO's authors -> ({name: [N, V + L, D]}, stats), large ones first."""
    outputs = []
    for i, crop in enumerate(name for name in ("image", "local") if name in views):
        key = None if rng is None else jax.random.fold_in(rng, i)
        out, stats = apply_views(nets, params, stats, views[crop], train, key)
        outputs.append(out)
    return {name: jnp.concatenate([out[name] for out in outputs], 1) for name in nets}, stats


def beside(net, path, fields):
    """A network beside `net`, in its dtype, such as a frozen teacher: that of the import path `path` with these (name,
    value) fields; without a path `net` itself but for the fields."""
    fields = dict(fields)
    return net.clone(**fields) if path is None else pkgutil.resolve_name(path)(**fields, dtype=net.dtype)


def batch_norm(train, dtype, name, **kw):
    """The suite's batch norm, see `jssl.nets.norm`."""
    return BatchNorm(train, dtype=dtype, name=name, **kw)


def unit(x):
    """Rows of unit length along the last axis; a zero row stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))


def _init(net, rng, *args, **kw):
    (y, _), variables = net.init_with_output({"params": rng}, *args, train=False, **kw)
    return y, variables.get("params", {}), variables.get("batch_stats", {})
