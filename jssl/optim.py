"""Optimizers and schedules, all optax, from `config.optim`."""

import math
import re

import jax
import jax.numpy as jnp
import optax

from jssl.config import nearest
from jssl.sharding import path_of

# Tokens are learned like biases: without decay, although they are matrices by shape (MAE, DINO, timm).
NO_DECAY = r"(^|/)(cls|registers|positions|mask)$"

# What a group of parameters may have of its own.
GROUP = ("pattern", "lr_scale", "weight_decay", "clip", "name", "frozen_until")


def schedule(optim, steps, batch_size, unit=1.0):
    """Warm-up from 0, then half a cosine: step -> learning rate.

    The peak is `optim.lr` per 256 images, scaled by the global batch. unit: steps in one unit of `optim.warmup`.
    """
    scales = {"linear": batch_size / 256, "sqrt": math.sqrt(batch_size / 256), "none": 1.0}
    if optim.scale not in scales:
        raise ValueError(f"optim.scale={optim.scale!r}{nearest(optim.scale, scales)}")
    peak = optim.lr * scales[optim.scale]
    warmup = round(optim.warmup * unit)
    if warmup >= steps:
        raise ValueError(f"optim.warmup is {warmup} steps, but training has {steps}: the warm-up must be shorter")
    cosine = optax.cosine_decay_schedule(peak, steps - warmup, optim.end)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), cosine], [warmup]) if warmup else cosine


def optimizer(optim, rate, unit=1.0):
    """The gradient transformation of `config.optim`, at the learning rate `rate(step)`.

    `optim.groups` is a sequence of dicts. The first whose 'pattern' is found in a parameter's path, such as
    'encoder/stem/kernel', gives it another 'lr_scale', 'weight_decay', 'clip' (norm of the group's gradient) or 'name',
    or keeps it still until 'frozen_until', in the unit of `optim.warmup`.
    """
    default = _one(optim, rate)
    if optim.groups:
        default = _groups(optim, rate, default, unit)
    return optax.chain(optax.clip_by_global_norm(optim.clip), default) if optim.clip else default


def decayed(params):
    """True for the leaves that weight decay and trust ratios apply to: no bias, no norm, no token."""

    def one(path, x):
        return x.ndim > 1 and not re.search(NO_DECAY, path_of(path))

    return jax.tree_util.tree_map_with_path(one, params)


def hold(tx, until):
    """Keeps parameters, and the optimizer's state for them, still until step `until`.

    `stop_gradient` alone would let weight decay and momentum move them.
    """

    def init(params):
        return jnp.int32(0), tx.init(params)

    def update(grads, state, params=None):
        step, inner = state
        updates, moved = tx.update(grads, inner, params)
        updates = jax.tree.map(lambda u: jnp.where(step >= until, u, jnp.zeros_like(u)), updates)
        inner = jax.tree.map(lambda new, old: jnp.where(step >= until, new, old), moved, inner)
        return updates, (step + 1, inner)

    return optax.GradientTransformation(init, update)


def restart(tx, opt, fresh, replaced):
    """The optimizer state `opt` with that of the parameters marked in `replaced` (bools) from `fresh`; counts go on."""
    marks = optax.tree_map_params(
        tx,
        lambda _, swap: swap,
        opt,
        replaced,
        transform_non_params=lambda _: False,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),  # another group's parameter
    )
    return jax.tree.map(lambda swap, old, new: new if swap else old, marks, opt, fresh)


def _one(optim, rate):
    decay = {"weight_decay": optim.weight_decay}
    betas = {"b1": optim.b1, "b2": optim.b2}
    makers = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(optim.weight_decay, decayed),
            optax.sgd(rate, momentum=optim.momentum or None, nesterov=optim.nesterov),
        ),
        # You et al., 2017 (arXiv:1708.03888); as in SimCLR and BYOL, biases and norms are neither decayed nor adapted.
        "lars": lambda: optax.lars(
            rate,
            **decay,
            weight_decay_mask=decayed,
            trust_ratio_mask=decayed,
            trust_coefficient=optim.trust_coefficient,
            momentum=optim.momentum,
            nesterov=optim.nesterov,
        ),
        # You et al., 2019 (arXiv:1904.00962). optax.lamb adapts biases and norms too: a bias near 0 then hardly moves.
        "lamb": lambda: optax.chain(
            optax.scale_by_adam(**betas, eps=1e-6),
            optax.add_decayed_weights(optim.weight_decay, decayed),
            optax.masked(optax.scale_by_trust_ratio(), decayed),
            optax.scale_by_learning_rate(rate),
        ),
        "adamw": lambda: optax.adamw(rate, **betas, **decay, mask=decayed),
    }
    if optim.name not in makers:
        raise ValueError(f"optim.name={optim.name!r}{nearest(optim.name, makers)}")
    return makers[optim.name]()


def _groups(optim, rate, default, unit):
    transforms = {"default": default}
    for group in optim.groups:
        for key in group:
            if key not in GROUP:
                raise ValueError(f"optim.groups: {dict(group)} has a {key!r}{nearest(key, GROUP)}")
        if "pattern" not in group:
            raise ValueError(f"optim.groups: {dict(group)} has no 'pattern'; expected one, of parameter paths")
        own = optim.copy_and_resolve_references()
        own.update({key: group[key] for key in ("weight_decay", "name") if key in group})
        scale, until = group.get("lr_scale", 1.0), round(group.get("frozen_until", 0) * unit)
        # A held optimizer counts its steps from `until`; the schedule goes on meanwhile.
        tx = _one(own, lambda step, scale=scale, until=until: scale * rate(step + until))
        if group.get("clip"):
            tx = optax.chain(optax.clip_by_global_norm(group["clip"]), tx)
        transforms[group["pattern"]] = hold(tx, until) if until else tx

    def label(path, _):
        patterns = (group["pattern"] for group in optim.groups)
        return next((pattern for pattern in patterns if re.search(pattern, path_of(path))), "default")

    return optax.partition(transforms, lambda params: jax.tree_util.tree_map_with_path(label, params))
