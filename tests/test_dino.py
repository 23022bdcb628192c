"""DINO against lightly's figures, and the statements of the paper about its teacher, centre and temperatures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl.losses import cross_crops
from jssl.method import Time
from jssl.methods.dino import DINO
from jssl.nets.vit import ViT
from jssl.optim import optimizer
from tests import oracles
from tests.collapse import ADAMW, judged
from tests.crops import separately
from tests.torch_weights import convert
from tests.trajectories import BACKBONE, NAMES, assert_statistics, close, sgd, train

SMALL = DINO(BACKBONE, hidden=12, dim=6, prototypes=9, tau_t=0.06, tau_t_start=0.06, lambda_base=0.9)
RANDOM = np.random.RandomState(0)
VIEWS = {"image": RANDOM.randn(8, 2, 6).astype(np.float32), "local": RANDOM.randn(8, 3, 6).astype(np.float32)}
START = Time(0, 100, 10.0)
HEAD = {
    r"^proj\.last_layer\.weight_v": "last.dense0.weight",
    r"^proj\.layers\.0": "projector.dense0",
    r"^proj\.layers\.2": "projector.dense1",
    r"^proj\.layers\.4": "projector.dense2",
    **NAMES,
}


def weights(tensors, prefix):
    """The last layer's lengths, frozen at 1, are no parameters of ours."""
    chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    np.testing.assert_array_equal(chosen.pop("proj.last_layer.weight_g"), 1)
    params, stats = convert({key: value for key, value in chosen.items() if "num_batches" not in key}, HEAD)
    return params, {**stats, "projector": {}, "last": {}}


@pytest.fixture(scope="module")
def state():
    """(params, carry), the teacher moved away from the student."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), VIEWS)
    moved = jax.tree.map(lambda x: 0.9 * x + 0.05, carry["target"])
    return params, {**carry, "target": moved, "center": jnp.linspace(-0.1, 0.1, 9)}


def loss(method, params, carry, views=VIEWS, time=START):
    return jax.jit(lambda: method.loss(params, carry, views, jax.random.key(1), time))()


def test_training_with_the_views_normalised_separately_is_lightlys(monkeypatch):
    """Losses, weights, teacher, centre and both batch norms of five steps."""
    monkeypatch.setattr("jssl.methods.dino.apply_crops", separately)
    manifest, tensors = oracles.load("train_dino")
    params, start = weights(tensors, "model.")
    carry = {"stats": start, "target": params, "target_stats": start, "center": jnp.zeros(9)}
    losses, state = train(SMALL, sgd(manifest["hyper"]), params, carry, tensors["in.x"])

    close(losses, tensors["out.losses"])
    close(state.carry["center"], tensors["out.center"])
    params, stats = weights(tensors, "out.final.")
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=10, n=8)
    target, target_stats = weights(tensors, "out.final_ema.")
    jax.tree.map(close, state.carry["target"], target)
    assert_statistics(state.carry["target_stats"], target_stats, start, passes=10, n=8)


def test_three_losses_centres_and_gradients_are_lightlys():
    """The centre is used as it was before the batch, and follows the teacher's scores of both large crops."""
    manifest, tensors = oracles.load("dino_centering")
    tau_s, tau_t, m = (manifest["hyper"][name] for name in ("student_temp", "teacher_temp", "center_momentum"))
    method = dataclasses.replace(SMALL, tau_s=tau_s, tau_t=tau_t, tau_t_start=tau_t, m=m)
    teacher = [np.stack([tensors[f"in.teacher{s}.{v}"] for v in range(2)], 1) for s in range(3)]
    student, theirs = (
        np.stack([np.stack([tensors[f"{kind}.student{s}.{v}"] for v in range(4)], 1) for s in range(3)])
        for kind in ("in", "grad")
    )

    def total(student):
        center, losses, centers = jnp.zeros(10), [], []
        for s, t in zip(student, teacher):
            p_t = method.sharpened(t, center, START)
            losses.append(cross_crops(p_t, jax.nn.log_softmax(s / method.tau_s)))
            center = method.centred(center, t)
            centers.append(center)
        return sum(losses), (jnp.stack(losses), jnp.stack(centers))

    (value, (losses, centers)), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(student)
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(losses, [tensors[f"out.loss{s}"] for s in range(3)], rtol=1e-5)
    close(centers, np.stack([tensors[f"out.center_after{s}"] for s in range(3)]))
    np.testing.assert_allclose(grad, theirs, rtol=1e-4, atol=1e-6)


def test_every_crop_predicts_the_teachers_distributions_of_the_other_large_crops(state):
    """By hand, from what the networks say of the crops; the teacher never sees the small ones."""
    params, carry = state
    value, (after, out) = loss(SMALL, params, carry)
    assert out["embedding"].shape == (8, 5, 6)
    assert out["features"].shape == (8, 5, 10)
    s = SMALL.scores(SMALL.student, params, carry["stats"], VIEWS)[0]
    t = SMALL.scores(SMALL.teacher, carry["target"], carry["target_stats"], {"image": VIEWS["image"]})[0]
    p_t = jax.nn.softmax((t - carry["center"]) / 0.06)
    terms = [
        -jnp.sum(p_t[:, v] * jax.nn.log_softmax(s[:, w] / 0.1), 1).mean() for v in (0, 1) for w in range(5) if w != v
    ]
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-5)
    close(after["center"], 0.9 * carry["center"] + 0.1 * t.mean((0, 1)))
    other = {**VIEWS, "local": -VIEWS["local"]}
    again, (unmoved, _) = loss(SMALL, params, carry, other)
    assert np.abs(again - value) > 1e-3
    jax.tree.map(close, unmoved["target_stats"], after["target_stats"])


def test_no_gradient_reaches_the_teacher_nor_the_centre(state):
    params, carry = state
    learned = {name: carry[name] for name in ("target", "target_stats", "center")}
    run = lambda learned: SMALL.loss(params, {**carry, **learned}, VIEWS, jax.random.key(1), START)[0]
    assert not any(np.any(g) for g in jax.tree.leaves(jax.jit(jax.grad(run))(learned)))


def test_teacher_follows_the_student_of_after_the_gradient_step(state):
    params, carry = state
    stepped = jax.tree.map(lambda x: x - 0.1, params)
    kept, moved = SMALL.update(stepped, carry, START)
    assert kept is stepped
    jax.tree.map(lambda t, c, p: close(t, 0.9 * c + 0.1 * p), moved["target"], carry["target"], stepped)
    momenta = np.array([DINO(BACKBONE).momentum(Time(step, 100, 1.0)) for step in range(101)])
    np.testing.assert_allclose(momenta[[0, 50, 100]], [0.996, 0.998, 1.0], atol=1e-6)


def test_temperature_of_the_teacher_rises_for_30_epochs():
    method = DINO(BACKBONE)
    taus = [method.temperature(Time(step, 1000, 10.0)) for step in (0, 150, 300, 999)]
    np.testing.assert_allclose(taus, [0.04, 0.055, 0.07, 0.07], rtol=1e-6)
    assert dataclasses.replace(method, tau_t_warmup=0.0).temperature(START) == np.float32(0.07)
    t, half = RANDOM.randn(4, 2, 9), Time(150, 1000, 10.0)
    close(method.sharpened(t, 0.0, half), jax.nn.softmax(t / 0.055))


def test_scores_are_cosines_to_prototypes_of_unit_length(state):
    """So long as the last layer is normalised; otherwise each has a learned length, 1 at first."""
    params, carry = state
    scores = lambda params: SMALL.scores(SMALL.student, params, carry["stats"], VIEWS)[0]
    assert np.abs(scores(params)).max() <= 1 + 1e-5
    longer = {**params, "last": jax.tree.map(lambda x: 3 * x, params["last"])}
    close(scores(longer), scores(params))

    free = dataclasses.replace(SMALL, norm_last_layer=False)
    own, moved = jax.jit(free.init)(jax.random.key(0), VIEWS)
    np.testing.assert_array_equal(own["gain"], np.ones((1, 9)))
    np.testing.assert_array_equal(moved["target"]["gain"], own["gain"])
    close(scores({**params, "gain": jnp.full((1, 9), 2.0)}), 2 * scores(params))


def test_teacher_has_no_drop_path_and_the_student_has():
    vit = ViT(16, 2, 2, patch=4, drop_path=0.5)
    method = DINO(vit, hidden=12, dim=6, prototypes=9)
    views = {"image": RANDOM.randn(4, 2, 8, 8, 3).astype(np.float32)}
    params, carry = jax.jit(method.init)(jax.random.key(0), views)
    run = jax.jit(lambda rng: method.loss(params, carry, views, rng, START))
    (_, (first, one)), (_, (second, two)) = run(jax.random.key(1)), run(jax.random.key(2))
    assert np.abs(one["features"] - two["features"]).max() > 1e-3
    close(first["center"], second["center"])


@pytest.mark.parametrize("variant", ["imagenet", "cifar10"])
def test_last_layer_alone_does_not_move_in_the_first_epoch(variant):
    config = configs.load(f"dino:{variant}")
    params = {name: {"kernel": jnp.ones((2, 3))} for name in ("encoder", "projector", "last")}
    params["gain"] = jnp.ones((1, 3))
    tx = optimizer(config.optim, lambda step: 0.1, 3.0, 100)
    update, opt = jax.jit(tx.update), tx.init(params)
    for step in range(5):  # an epoch has three steps
        updates, opt = update(jax.tree.map(lambda x: 0.1 * x, params), opt, params)
        moved = {name for name, tree in updates.items() if any(np.any(u) for u in jax.tree.leaves(tree))}
        assert moved == {"encoder", "projector"} | ({"last", "gain"} if step >= 3 else set())


def test_recipe_of_imagenet_is_the_authors():
    config = configs.load("dino:imagenet")
    method, optim, views = config.method, config.optim, config.augment
    assert (method.hidden, method.dim, method.prototypes, method.depth) == (2048, 256, 65536, 3)
    assert (method.tau_s, method.tau_t_start, method.tau_t, method.tau_t_warmup) == (0.1, 0.04, 0.07, 30)
    assert (method.m, method.lambda_base, method.norm, method.norm_last_layer) == (0.9, 0.996, False, False)
    assert (config.encoder.name, config.encoder.drop_path) == ("jssl.nets.vit:vit_small", 0.1)
    assert (config.train.batch_size, config.train.epochs, optim.lr, optim.warmup) == (1024, 300, 5e-4, 10)
    assert (optim.weight_decay, optim.weight_decay_end, optim.clip) == (0.04, 0.4, 3.0)
    assert optim.lr * 4 * optim.end == pytest.approx(1e-6)
    assert (views.size, views.local_views, views.local_size) == (224, 8, 96)
    assert (views.area, views.local_area) == ((0.4, 1.0), (0.05, 0.4))
    shorter, convnet = (configs.load(f"dino:{name}") for name in ("imagenet_100", "imagenet_resnet50"))
    assert shorter.optim.lr * 2 * shorter.optim.end == pytest.approx(1e-6)
    assert convnet.optim.lr * 2 * convnet.optim.end == pytest.approx(1e-6)


def test_bfloat16_encoder_gives_finite_and_close_figures(state):
    params, carry = state
    half = dataclasses.replace(SMALL, encoder=BACKBONE.clone(dtype=jnp.bfloat16))
    value, (after, out) = loss(half, params, carry)
    np.testing.assert_allclose(value, loss(SMALL, params, carry)[0], rtol=5e-2)
    assert out["embedding"].dtype == jnp.float32
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, out)))


def test_features_are_the_teachers_in_evaluation(state):
    params, carry = state
    embed = jax.jit(lambda params, carry, x: SMALL.embed(params, carry, {"image": x})["features"])
    x = VIEWS["image"][:, 0]
    close(embed(params, carry, x[:4]), embed(params, carry, x)[:4])
    assert embed(params, carry, x).shape == (8, 10)
    assert np.abs(embed(params, {**carry, "target": params}, x) - embed(params, carry, x)).max() > 1e-3


def test_without_centring_it_collapses_and_is_told():
    warning, metrics = judged("dino", 40, train__steps=400, **ADAMW)
    assert warning is None
    assert metrics["health/information"] > 0.5
    warning, metrics = judged("dino", 40, train__steps=400, **ADAMW, method__centering=False)
    assert warning.startswith("collapse")
    assert metrics["health/information"] < 0.05
