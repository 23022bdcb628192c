"""Optimizers and schedules, all optax, from `config.optim`."""

import math
import re

import jax
import jax.numpy as jnp
import optax

from jssl.config import nearest
from jssl.sharding import path_of

# Tokens and tables of positions are learned like biases: without decay, although they are matrices by shape (MAE, DINO,
# SimMIM, timm).
NO_DECAY = r"(^|/)(cls|registers|positions|mask|prompts)$|relative\d*/(table|tokens)$"

# What a group of parameters may have of its own.
GROUP = ("pattern", "lr_scale", "weight_decay", "clip", "name", "frozen_until", "constant")


def schedule(optim, steps, batch_size, unit=1.0):
    """Warm-up from 0, then half a cosine, or steps down at `optim.milestones`: step -> learning rate.

    The peak is `optim.lr` per 256 images, scaled by the global batch. unit: steps in one unit of `optim.warmup`.
    """
    scales = {"linear": batch_size / 256, "sqrt": math.sqrt(batch_size / 256), "none": 1.0}
    if optim.scale not in scales:
        raise ValueError(f"optim.scale={optim.scale!r}{nearest(optim.scale, scales)}")
    peak = optim.lr * scales[optim.scale]
    warmup = round(optim.warmup * unit)
    if warmup >= steps:
        raise ValueError(f"optim.warmup is {warmup} steps, but training has {steps}: the warm-up must be shorter")
    milestones = [round(milestone * unit) for milestone in optim.milestones]
    if not all(warmup < milestone < steps for milestone in milestones):
        raise ValueError(f"optim.milestones are steps {milestones}; expected them between {warmup} and {steps}")
    if milestones:
        falling = optax.piecewise_constant_schedule(peak, {milestone - warmup: 0.1 for milestone in milestones})
    else:
        falling = optax.cosine_decay_schedule(peak, steps - warmup, optim.end)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), falling], [warmup]) if warmup else falling


def optimizer(optim, rate, unit=1.0, steps=None, held=None):
    """The gradient transformation of `config.optim`, at the learning rate `rate(step)`.

    `optim.groups` is a sequence of dicts. The first whose 'pattern' is found in a parameter's path, such as
    'encoder/stem/kernel', gives it another 'lr_scale', 'weight_decay', 'clip' (norm of the group's gradient) or 'name',
    keeps it still until 'frozen_until', in the unit of `optim.warmup`, or, with 'constant', at the peak of the rate.
    steps: of the training, where `optim.weight_decay_end` is given. `optim.clip` does not count groups with a 'clip' of
    their own: what they hold cannot change the others' steps. held: (pattern, step), what keeps still until that step,
    whatever its group, or None.
    """
    tx = _one(optim, rate, steps)
    if optim.groups or held:
        tx = _groups(optim, rate, tx, unit, steps, held)
    if not optim.clip:
        return tx

    def clipped(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: not _group(optim, path).get("clip"), params)

    return optax.chain(optax.masked(optax.clip_by_global_norm(optim.clip), clipped), tx)


def decayed(params):
    """True for the leaves that weight decay and trust ratios apply to: no bias, no norm, no token."""

    def one(path, x):
        return x.ndim > 1 and not re.search(NO_DECAY, path_of(path))

    return jax.tree_util.tree_map_with_path(one, params)


def layer_decay(depth, decay, prefix="encoder"):
    """`optim.groups` of a transformer whose rates fall by `decay` from a block to the one before it (Clark et al.,
    2020; arXiv:2003.10555), in timm's groups.

    decay^(depth + 1) for patches, tokens and positions, decay^(depth - i) for block i, decay for the final norm, which
    BEiT's and MAE's own code leaves at 1; 1 for shared relative positions, as in BEiT's, and for what is not below
    `prefix`.
    """
    if decay == 1:
        return ()
    blocks = [{"pattern": f"^{prefix}/(block|relative){i}/", "lr_scale": decay ** (depth - i)} for i in range(depth)]
    first = {"pattern": f"^{prefix}/(?!norm/|relative/)", "lr_scale": decay ** (depth + 1)}
    return (*blocks, {"pattern": f"^{prefix}/norm/", "lr_scale": decay}, first)


def scale_by_larc(rate, coefficient):
    """min(trust ratio / rate, 1), so that the whole step is min(trust ratio, rate) times the gradient.

    solo-learn's `clip_lr`, which its tables are made with; the ratio is `coefficient * |p| / |update|`.
    """
    ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

    def init(params):
        return jnp.int32(0)

    def update(updates, step, params=None):
        scaled, _ = ratio.update(updates, ratio.init(params), params)
        cap = rate(step)

        def one(update, adapted):
            # Along the same direction: the shorter of the two, in units of the rate.
            return jnp.where(jnp.sum(adapted**2) < cap**2 * jnp.sum(update**2), adapted / cap, update)

        return jax.tree.map(one, updates, scaled), step + 1

    return optax.GradientTransformation(init, update)


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


def _one(optim, rate, steps, since=0):
    mask = None if optim.decay_all else decayed
    decay = {"weight_decay": _weight_decay(optim, steps, since)}
    betas = {"b1": optim.b1, "b2": optim.b2}
    momentum = {"momentum": optim.momentum, "nesterov": optim.nesterov}
    makers = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(**decay, mask=mask),
            optax.sgd(rate, momentum=optim.momentum or None, nesterov=optim.nesterov),
        ),
        # You et al., 2017 (arXiv:1708.03888); as in SimCLR and BYOL, biases and norms are neither decayed nor adapted.
        "lars": lambda: (
            optax.chain(
                optax.add_decayed_weights(**decay, mask=mask),
                optax.masked(scale_by_larc(rate, optim.trust_coefficient), decayed),
                optax.sgd(rate, **momentum),
            )
            if optim.clip_lr
            else optax.lars(
                rate,
                **decay,
                weight_decay_mask=mask or True,
                trust_ratio_mask=decayed,
                trust_coefficient=optim.trust_coefficient,
                **momentum,
            )
        ),
        # You et al., 2019 (arXiv:1904.00962). optax.lamb adapts biases and norms too: a bias near 0 then hardly moves.
        "lamb": lambda: optax.chain(
            optax.scale_by_adam(**betas, eps=1e-6),
            optax.add_decayed_weights(**decay, mask=mask),
            optax.masked(optax.scale_by_trust_ratio(), decayed),
            optax.scale_by_learning_rate(rate),
        ),
        # Kingma & Ba, 2014 (arXiv:1412.6980), its decay in the gradient, as torch's Adam has it.
        "adam": lambda: optax.chain(
            optax.add_decayed_weights(**decay, mask=mask),
            optax.scale_by_adam(**betas),
            optax.scale_by_learning_rate(rate),
        ),
        "adamw": lambda: optax.chain(
            optax.scale_by_adam(**betas),
            optax.add_decayed_weights(**decay, mask=mask),
            optax.scale_by_learning_rate(rate),
        ),
    }
    if optim.name not in makers:
        raise ValueError(f"optim.name={optim.name!r}{nearest(optim.name, makers)}")
    return makers[optim.name]()


def _weight_decay(optim, steps, since):
    """The decay, or, where it has an end, half a cosine from it to there (DINO, arXiv:2104.14294, section 3.2)."""
    start, end = optim.weight_decay, optim.weight_decay_end
    if end is None:
        return start
    return lambda step: end + (start - end) * (1 + jnp.cos(jnp.pi * jnp.minimum((step + since) / steps, 1.0))) / 2


def _group(optim, path):
    """The group that a parameter's path belongs to, {} for the default."""
    return next((group for group in optim.groups if re.search(group["pattern"], path_of(path))), {})


def _groups(optim, rate, default, unit, steps, held):
    pattern, wait = held or ("", 0)
    transforms = {"default": default}
    for group in optim.groups:
        for key in group:
            if key not in GROUP:
                raise ValueError(f"optim.groups: {dict(group)} has a {key!r}{nearest(key, GROUP)}")
        if "pattern" not in group:
            raise ValueError(f"optim.groups: {dict(group)} has no 'pattern'; expected one, of parameter paths")
        transforms[group["pattern"]] = _of_group(optim, rate, group, unit, steps)
    if wait:
        for group in ({"pattern": "default"}, *optim.groups):
            transforms[f"{group['pattern']} held"] = _of_group(optim, rate, group, unit, steps, wait)

    def label(path, _):
        name = _group(optim, path).get("pattern", "default")
        return f"{name} held" if wait and re.search(pattern, path_of(path)) else name

    return optax.partition(transforms, lambda params: jax.tree_util.tree_map_with_path(label, params))


def _of_group(optim, rate, group, unit, steps, wait=0):
    """The transformation of one group, held until step `wait` at least."""
    own = optim.copy_and_resolve_references()
    own.update({key: group[key] for key in ("weight_decay", "name") if key in group})
    if "weight_decay" in group:
        own.weight_decay_end = None
    scale, until = group.get("lr_scale", 1.0), max(round(group.get("frozen_until", 0) * unit), wait)
    # A held optimizer counts its steps from `until`; the schedule goes on meanwhile.
    at = lambda step: step + until
    if group.get("constant"):
        at = lambda step: round(optim.warmup * unit)
    tx = _one(own, lambda step: scale * rate(at(step)), steps, until)
    if group.get("clip"):
        tx = optax.chain(optax.clip_by_global_norm(group["clip"]), tx)
    return hold(tx, until) if until else tx
