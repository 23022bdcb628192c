"""Optimizers and schedules against torch's, lightly's and timm's; which parameters decay; groups of parameters."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl.config import base
from jssl.method import Method
from jssl.methods.byol import BYOL
from jssl.methods.mae import MAE
from jssl.nets.resnet import resnet18
from jssl.nets.vit import ViT
from jssl.optim import decayed, optimizer, restart, schedule
from jssl.sharding import path_of
from tests import oracles

PARAMS = {"encoder": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "head": {"kernel": jnp.full((3, 2), 2.0)}}
GRADS = jax.tree.map(lambda x: 0.1 * x, PARAMS)


def config(**fields):
    optim = base().optim
    optim.update(fields)
    return optim


def steps(optim, params, grads, rate=lambda step: 0.1, unit=1.0):
    """Every [(params, state)], from the start on."""
    tx = optimizer(optim, rate, unit)
    state, history = tx.init(params), []
    history.append((params, state))
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, state))
    return history


def theirs(optim, rate):
    """Parameters after 1 and 5 steps on the oracle's gradients."""
    tensors = oracles.load("optimizers")[1]
    leaves = ("w", "conv", "bias", "zero")
    start = {name: tensors[f"in.{name}"] for name in leaves}
    grads = [{name: tensors[f"in.grad{s}.{name}"] for name in leaves} for s in range(5)]
    history = steps(optim, start, grads, lambda step: rate)
    return tensors, {s: history[s][0] for s in (1, 5)}


@pytest.mark.parametrize(
    "name, reference, rate, fields",
    [
        ("sgd", "torch_sgd", 0.03, {}),
        ("adamw", "torch_adamw", 0.003, {"b2": 0.95}),
        ("lamb", "timm_lamb", 0.003, {"clip": 1.0}),  # timm's clips the whole gradient to norm 1
    ],
)
def test_sgd_adamw_and_lamb_are_torchs_and_timms(name, reference, rate, fields):
    tensors, ours = theirs(config(name=name, weight_decay=0.01, **fields), rate)
    for s, params in ours.items():
        for leaf, value in params.items():
            np.testing.assert_allclose(value, tensors[f"out.{reference}.step{s}.{leaf}"], rtol=1e-5, atol=2e-6)


def test_adams_decay_is_part_of_the_gradient():
    """Kingma and Ba's algorithm 1 by hand, the gradient being that of the loss plus decay / 2 |p|^2."""
    tensors, ours = theirs(config(name="adam", weight_decay=0.01, decay_all=True), 0.003)
    for leaf in ("w", "bias"):
        p, m, v = tensors[f"in.{leaf}"].astype(np.float64), 0.0, 0.0
        for s in range(5):
            g = tensors[f"in.grad{s}.{leaf}"] + 0.01 * p
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            p = p - 0.003 * (m / (1 - 0.9 ** (s + 1))) / (np.sqrt(v / (1 - 0.999 ** (s + 1))) + 1e-8)
        np.testing.assert_allclose(ours[5][leaf], p, rtol=1e-5, atol=2e-6)


def by_hand(p, grads, rate, momentum, decay, trust):
    """LARS of the authors of SimCLR, BYOL and MAE: the trust ratio divides by the norm of gradient plus decay."""
    p, velocity = p.astype(np.float64), 0.0
    for g in grads:
        g = g + decay * p
        ratio = trust * np.linalg.norm(p) / np.linalg.norm(g) if np.any(p) else 1.0
        velocity = momentum * velocity + rate * ratio * g
        p = p - velocity
    return p


def test_lars_is_the_papers_authors_and_lightlys_up_to_the_norm_that_it_divides_by():
    """lightly, timm and solo-learn divide by |g| + decay |p| (1 % off here); without decay they are the same."""
    manifest, _ = oracles.load("optimizers")
    hyper = manifest["hyper"]
    fields = {key: hyper[key] for key in ("momentum", "weight_decay", "trust_coefficient")}
    tensors, ours = theirs(config(name="lars", **fields), hyper["lr"])
    for s, params in ours.items():
        for leaf in ("w", "conv", "zero"):
            start, grads = tensors[f"in.{leaf}"], [tensors[f"in.grad{i}.{leaf}"] for i in range(s)]
            expected = by_hand(start, grads, hyper["lr"], *fields.values())
            np.testing.assert_allclose(params[leaf], expected, rtol=1e-5, atol=1e-6)
            lightly = tensors[f"out.lightly_lars.step{s}.{leaf}"]
            assert np.linalg.norm(params[leaf] - lightly) < 0.02 * np.linalg.norm(lightly - start)
        np.testing.assert_allclose(params["bias"], tensors[f"out.lightly_lars.step{s}.bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trust", [0.02, 1e3], ids=["the ratio is smaller", "the rate is smaller"])
def test_clipped_lars_takes_the_smaller_of_trust_ratio_and_rate(trust):
    """solo-learn's `clip_lr`, two steps by hand: each moves by min(ratio, rate) times the gradient with decay."""
    rate, decay = 0.3, 0.01
    fields = {"momentum": 0.5, "weight_decay": decay, "trust_coefficient": trust, "clip_lr": True}
    tensors, ours = theirs(config(name="lars", **fields), rate)
    p, velocity = tensors["in.w"].astype(np.float64), 0.0
    for s in range(5):
        g = tensors[f"in.grad{s}.w"] + decay * p
        velocity = 0.5 * velocity + min(trust * np.linalg.norm(p) / np.linalg.norm(g), rate) * g
        p = p - velocity
    np.testing.assert_allclose(ours[5]["w"], p, rtol=1e-5, atol=1e-6)
    plain = theirs(config(name="sgd", momentum=0.5), rate)[1]
    np.testing.assert_allclose(ours[5]["bias"], plain[5]["bias"], rtol=1e-5)


def test_clipped_lars_stands_still_where_the_warm_up_begins_at_zero():
    gone = moved(steps(config(name="lars", clip_lr=True), PARAMS, [GRADS], lambda step: 0.0 * step))
    assert all(np.isfinite(x).all() and not x.any() for x in jax.tree.leaves(gone))


def test_nesterov_looks_ahead():
    plain, ahead = (steps(config(nesterov=n), PARAMS, [GRADS])[1][0]["head"]["kernel"] for n in (False, True))
    np.testing.assert_allclose(2 - ahead, 1.9 * (2 - plain), rtol=1e-5)


def shapes(method, size=32):
    views = {"image": jax.ShapeDtypeStruct((2, 2, size, size, 3), jnp.float32)}
    assert isinstance(method, Method)
    return jax.eval_shape(lambda rng: method.init(rng, jax.tree.map(lambda x: jnp.zeros(x.shape), views)), RNG)[0]


RNG = jax.random.key(0)
VIT = functools.partial(ViT, 24, 1, 2, patch=8, registers=2, layer_scale=0.1)


@pytest.mark.parametrize("method", [BYOL(resnet18()), BYOL(VIT()), MAE(VIT(), 16, 1, 2)], ids=["ResNet", "ViT", "MAE"])
def test_kernels_decay_and_no_bias_norm_or_token(method):
    mask = decayed(shapes(method))
    leaves = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(mask)}
    wrong = [path for path, decays in leaves.items() if decays != path.endswith("/kernel")]
    assert not wrong
    assert sum(leaves.values()) > 5
    tokens = {"encoder/cls", "encoder/registers", "encoder/positions", "encoder/block0/scale1", "decoder/mask"}
    assert "ResNet" in str(method) or len(tokens & set(leaves)) >= 4


def test_schedule_is_transformers():
    """Warm-up from 0 at step 0, half a cosine to 0 at the last; lightly's ends one earlier, timm's starts above 0."""
    _, tensors = oracles.load("schedules")
    rate = schedule(config(lr=0.3, scale="none", warmup=5.0), steps=20, batch_size=64)
    np.testing.assert_allclose(
        [rate(s) for s in range(21)], tensors["out.hf_cosine_with_warmup_lr0.3"], rtol=1e-6, atol=1e-7
    )


def test_schedule_without_warm_up_starts_at_the_peak_and_ends_at_its_share():
    rate = schedule(config(lr=1.0, scale="none", end=0.1), steps=10, batch_size=64)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(11)], [1.0, 0.55, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0.0, 10.0])
def test_steps_down_are_torchs_milestones(warmup):
    """A tenth from each milestone's step on, wherever the warm-up ends."""
    rate = schedule(config(lr=0.03, scale="none", warmup=warmup, milestones=(120.0, 160.0)), 400, 256, unit=2.0)
    steps = [2 * int(warmup), 239, 240, 319, 320, 400]
    np.testing.assert_allclose([rate(s) for s in steps], [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003], rtol=1e-6)


def test_warm_up_is_counted_in_epochs_where_the_training_is():
    rate = schedule(config(lr=1.0, scale="none", warmup=2.0), steps=100, batch_size=64, unit=4.5)
    assert float(rate(9)) == 1.0
    np.testing.assert_allclose(rate(3), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("scale, expected", [("linear", 0.8), ("sqrt", 0.4), ("none", 0.2)])
def test_rate_is_given_per_256_images(scale, expected):
    assert float(schedule(config(lr=0.2, scale=scale), 10, batch_size=1024)(0)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: schedule(config(scale="lineer"), 10, 64), "optim.scale='lineer'; did you mean linear?"),
        (
            lambda: schedule(config(warmup=10.0), 10, 64),
            "optim.warmup is 10 steps, but training has 10",
        ),
        (
            lambda: schedule(config(warmup=2.0, milestones=(5.0, 10.0)), 10, 64),
            "optim.milestones are steps [5, 10]; expected them between 2 and 10",
        ),
        (lambda: optimizer(config(name="adame"), lambda s: 0.1), "optim.name='adame'; did you mean adam or adamw?"),
        (
            lambda: optimizer(config(groups=({"clip": 1.0},)), lambda s: 0.1),
            "{'clip': 1.0} has no 'pattern'; expected one",
        ),
        (
            lambda: optimizer(config(groups=({"pattern": "^head/", "lrscale": 0.1},)), lambda s: 0.1),
            "has a 'lrscale'; did you mean lr_scale?",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_near_miss(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)


def moved(history, s=1):
    """How far each leaf went in step s."""
    return jax.tree.map(lambda a, b: np.asarray(b - a), history[s - 1][0], history[s][0])


def test_a_group_has_its_own_rate_decay_optimizer_and_clipping():
    plain = moved(steps(config(weight_decay=0.5), PARAMS, [GRADS]))
    own = lambda **group: moved(
        steps(config(weight_decay=0.5, groups=({"pattern": "^head/", **group},)), PARAMS, [GRADS])
    )
    for group in ({"lr_scale": 0.1}, {"weight_decay": 0.0}, {"name": "adamw"}, {"clip": 0.01}):
        np.testing.assert_array_equal(own(**group)["encoder"]["kernel"], plain["encoder"]["kernel"])
    np.testing.assert_allclose(own(lr_scale=0.1)["head"]["kernel"], 0.1 * plain["head"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(own(weight_decay=0.0)["head"]["kernel"], -0.1 * 0.2, rtol=1e-5)
    np.testing.assert_allclose(own(name="adamw", weight_decay=0.0)["head"]["kernel"], -0.1, rtol=1e-4)
    clipped = own(clip=0.01, weight_decay=0.0)["head"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(clipped), 0.1 * 0.01, rtol=1e-3)


def test_the_first_pattern_found_decides():
    groups = ({"pattern": "k.*l$", "lr_scale": 0.0}, {"pattern": "^head/", "lr_scale": 1.0})
    gone = moved(steps(config(groups=groups), PARAMS, [GRADS]))
    assert not gone["head"]["kernel"].any()
    assert gone["encoder"]["bias"].all()


def test_clip_bounds_the_norm_of_the_whole_gradient():
    gone = moved(steps(config(clip=0.01), PARAMS, [GRADS]))
    np.testing.assert_allclose(optax.tree.norm(gone), 0.1 * 0.01, rtol=1e-3)


def test_a_group_that_clips_for_itself_does_not_count_in_the_clip_of_the_others():
    """So that a probe beside a method changes nothing in it, however large its gradient."""
    groups = ({"pattern": "^head/", "clip": 1.0},)
    large = {**GRADS, "head": {"kernel": 1e6 * GRADS["head"]["kernel"]}}
    one, other = (moved(steps(config(clip=0.01, groups=groups), PARAMS, [g])) for g in (GRADS, large))
    jax.tree.map(np.testing.assert_array_equal, one["encoder"], other["encoder"])
    np.testing.assert_allclose(optax.tree.norm(one["encoder"]), 0.1 * 0.01, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(other["head"]["kernel"]), 0.1, rtol=1e-3)


def test_a_constant_group_keeps_the_peak_of_the_rate():
    """SimSiam's predictor: no warm-up, no decay."""
    optim = config(momentum=0.0, warmup=1.5, lr=0.1, scale="none", groups=({"pattern": "^head/", "constant": True},))
    rate = schedule(optim, 6, 256, unit=2.0)
    history = steps(optim, PARAMS, [GRADS] * 6, rate, unit=2.0)
    for s in range(1, 7):
        np.testing.assert_allclose(moved(history, s)["head"]["kernel"], -0.1 * 0.2, rtol=1e-4)
        expected = -float(rate(s - 1)) * 0.1
        np.testing.assert_allclose(moved(history, s)["encoder"]["kernel"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_weight_decay_moves_to_its_end_along_half_a_cosine(name):
    """DINO's schedule: with no gradient, all that moves a kernel is its decay."""
    optim = config(name=name, momentum=0.0, weight_decay=0.1, weight_decay_end=0.5)
    history = [(PARAMS, optimizer(optim, lambda step: 0.1, steps=4).init(PARAMS))]
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    for _ in range(5):
        updates, state = optimizer(optim, lambda step: 0.1, steps=4).update(still, history[-1][1], history[-1][0])
        history.append((optax.apply_updates(history[-1][0], updates), state))
    kernels = np.array([params["head"]["kernel"][0, 0] for params, _ in history])
    if name == "lamb":  # the trust ratio takes the size of the decay away, and leaves whether there is one
        assert (np.diff(kernels) < 0).all()
        return
    cosine = 0.5 - 0.4 * (1 + np.cos(np.pi * np.array([0, 1, 2, 3, 4]) / 4)) / 2
    np.testing.assert_allclose(1 - kernels[1:] / kernels[:-1], 0.1 * cosine, rtol=1e-3)
    biases = [params["encoder"]["bias"] for params, _ in history]
    np.testing.assert_array_equal(biases[0], biases[-1])


def test_all_decays_where_it_is_asked_for():
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    for decays in (False, True):
        gone = moved(steps(config(weight_decay=0.5, decay_all=decays), PARAMS, [still]))
        assert gone["encoder"]["bias"].any() == decays
        assert gone["encoder"]["kernel"].all()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "lamb"])
def test_a_frozen_group_stands_still_with_its_state_then_starts_on_the_schedules_rate(name):
    """Neither weight decay nor momentum moves it; from `frozen_until` on it is as if its optimizer began there."""
    rate = lambda step: 0.1 / (1 + step)
    optim = config(name=name, weight_decay=0.1, groups=({"pattern": "^head/", "frozen_until": 1.5},))
    history = steps(optim, PARAMS, [GRADS] * 5, rate, unit=2.0)  # until step 3
    head = [params["head"]["kernel"] for params, _ in history]
    for s in (1, 2, 3):
        np.testing.assert_array_equal(head[s], head[0])
    held = lambda state: jax.tree.map(np.asarray, state.inner_states["^head/"].inner_state[1])
    jax.tree.map(np.testing.assert_array_equal, held(history[0][1]), held(history[3][1]))
    assert (history[1][0]["encoder"]["kernel"] != PARAMS["encoder"]["kernel"]).all()

    late = steps(config(name=name, weight_decay=0.1), PARAMS, [GRADS] * 2, lambda step: rate(step + 3))
    for s in (1, 2):
        np.testing.assert_allclose(head[3 + s], late[s][0]["head"]["kernel"], rtol=1e-6)


@pytest.mark.parametrize("group", [None, {"frozen_until": 1.0}, {"name": "sgd"}])
@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "lamb"])
def test_replaced_parameters_restart_with_fresh_state(name, group):
    """As after a clustering: the head's momentum is that of the first step, the encoder's and all counts go on."""
    optim = config(name=name, clip=1.0, groups=({"pattern": "^head/", **group},) if group else ())
    (start, blank), *_, (_, state) = steps(optim, PARAMS, [GRADS] * 3)
    replaced = jax.tree.map(lambda _: False, start) | {"head": {"kernel": True}}
    new = restart(optimizer(optim, lambda step: 0.1), state, blank, replaced)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    leaves = zip(*(jax.tree_util.tree_leaves_with_path(tree) for tree in (new, state, blank)))
    seen = 0
    for (path, value), (_, went_on), (_, fresh) in leaves:
        of_head = path_of(path).endswith("/head/kernel")
        np.testing.assert_array_equal(value, fresh if of_head else went_on)
        seen += of_head and bool(np.any(went_on != fresh))
    assert seen >= 1
