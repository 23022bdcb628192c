"""SimSiam against lightly's figures, and the statements of the paper about its stop-gradient and its predictor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl.method import Time
from jssl.methods.simsiam import SimSiam, distance
from jssl.nets.net import apply_nets
from jssl.optim import optimizer
from tests import oracles
from tests.collapse import judged
from tests.oracles import make_torch
from tests.trajectories import BACKBONE, assert_statistics, close, sgd, train, weights

SMALL = SimSiam(BACKBONE, hidden=12, dim=8, bottleneck=4)
VIEWS = {"image": np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)}


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


def losses(method, params, carry, views=VIEWS):
    run = jax.jit(lambda p: method.loss(p, carry, views, jax.random.key(1), Time(0, 100, 10.0)))
    return run(params)


def gradient(method, params, carry):
    """Of the loss with respect to the parameters."""
    return jax.jit(jax.grad(lambda p: method.loss(p, carry, VIEWS, jax.random.key(1), Time(0, 100, 10.0))[0]))(params)


def test_training_is_lightlys():
    """Five steps of SGD: losses, weights and batch norm."""
    manifest, tensors = oracles.load("train_simsiam")
    params, start = weights(tensors, "model.")
    values, state = train(SMALL, sgd(manifest["hyper"]), params, {"stats": start}, tensors["in.x"])
    close(values, tensors["out.losses"])
    params, stats = weights(tensors, "out.final.")
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=10, n=8)


def test_loss_and_gradient_are_lightlys():
    manifest, tensors = oracles.load("byol_simsiam_cosine")
    p, z = ([tensors[f"in.{name}{i}"] for i in (0, 1)] for name in "pz")
    symmetric = lambda p: distance(p[0], z[1]) / 2 + distance(p[1], z[0]) / 2
    value, grad = jax.jit(jax.value_and_grad(symmetric))(p)
    close(value, manifest["scalars"]["loss"])
    for i in (0, 1):
        close(grad[i], tensors[f"grad.p{i}"])


@pytest.mark.parametrize("i", range(len(make_torch.REGRESSION)), ids=[str(case) for case in make_torch.REGRESSION])
def test_distance_is_lightlys_at_any_shape(i):
    """The file holds BYOL's regression, 2 + 2 distance."""
    manifest, tensors = oracles.load("torch_losses")
    p, z = (make_torch.inputs(*make_torch.REGRESSION[i], seed=seed) for seed in (1, 2))
    value, grad = jax.jit(jax.value_and_grad(distance))(p, z)
    np.testing.assert_allclose(2 + 2 * value, manifest["losses"][f"regression.{i}"], rtol=1e-6)
    np.testing.assert_allclose(2 * grad, tensors[f"grad.regression.{i}"], rtol=1e-4, atol=1e-7)


def test_distance_survives_bfloat16_and_zero_rows():
    p, z = (jnp.asarray(make_torch.inputs(16, 256, seed=seed), jnp.bfloat16) for seed in (1, 2))
    value, grad = jax.jit(jax.value_and_grad(distance))(p.at[0].set(0), z)
    exact = jax.jit(distance)(p.at[0].set(0).astype(jnp.float32), z.astype(jnp.float32))
    np.testing.assert_allclose(value, exact, atol=1e-3)
    assert np.isfinite(grad.astype(np.float32)).all()


def test_loss_compares_each_prediction_with_the_other_views_output(state):
    params, carry = state
    value, (_, out) = losses(SMALL, params, carry)
    again, (_, mirrored) = losses(SMALL, params, carry, {"image": VIEWS["image"][:, ::-1]})
    np.testing.assert_allclose(value, again, rtol=1e-5)
    close(out["embedding"], mirrored["embedding"][:, ::-1])
    assert out["embedding"].shape == (8, 2, 8)
    assert out["features"].shape == (8, 2, 10)
    np.testing.assert_allclose(np.std(out["embedding"], 0), 1, atol=1e-2)  # the last batch norm, without scale


def test_gradient_takes_the_predictors_branch_alone(state):
    """As if z were numbers: the gradient is that of a loss whose z comes from a copy of the network."""
    params, carry = state
    _, (_, out) = losses(SMALL, params, carry)
    z1, z2 = (np.asarray(out["embedding"][:, v]) for v in (0, 1))

    def towards_constants(p):
        values = [project(p, v) for v in (0, 1)]
        return distance(values[0], z2) / 2 + distance(values[1], z1) / 2

    def project(p, v):
        return apply_nets(SMALL.nets, p, carry["stats"], VIEWS["image"][:, v])[0]["predictor"]

    expected = jax.jit(jax.grad(towards_constants))(params)
    jax.tree.map(close, gradient(SMALL, params, carry), expected)
    both = gradient(dataclasses.replace(SMALL, stop_gradient=False), params, carry)
    assert np.abs(both["projector"]["dense2"]["kernel"] - expected["projector"]["dense2"]["kernel"]).max() > 1e-4


def test_without_predictor_the_stop_gradient_only_halves_the_step(state):
    """Section 4.2: with h the identity, both branches have the same gradient."""
    params, carry = state
    params = {name: params[name] for name in ("encoder", "projector")}
    carry = {"stats": {name: carry["stats"][name] for name in params}}
    half = gradient(dataclasses.replace(SMALL, predictor=False), params, carry)
    whole = gradient(dataclasses.replace(SMALL, predictor=False, stop_gradient=False), params, carry)
    jax.tree.map(lambda h, w: np.testing.assert_allclose(2 * h, w, atol=1e-5), half, whole)


@pytest.mark.parametrize("variant", ["demo", "cifar10", "imagenet"])
def test_rate_of_the_predictor_alone_stays_constant(variant):
    optim = configs.load(f"simsiam:{variant}").optim
    optim.update({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0})
    tx = optimizer(optim, lambda step: 0.1 / (1 + step), steps=10)
    params = {name: {"dense0": {"kernel": jnp.ones((2, 2))}} for name in ("encoder", "projector", "predictor")}
    state = tx.init(params)
    for step in range(3):
        moved, state = tx.update(params, state, params)
        found = {name: -float(tree["dense0"]["kernel"][0, 0]) for name, tree in moved.items()}
        expected = {"encoder": 0.1 / (1 + step), "projector": 0.1 / (1 + step), "predictor": 0.1}
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("ablation", [{}, {"method__predictor": False}, {"method__stop_gradient": False}], ids=str)
def test_it_collapses_without_predictor_or_without_stop_gradient(ablation):
    small = {"method__hidden": 16, "method__dim": 16, "method__depth": 3}
    warning, _ = judged("simsiam", 140, **small, optim__lr=4.0, **ablation)
    assert bool(warning) == bool(ablation)


def test_features_come_before_the_projector_and_from_running_statistics(state):
    params, carry = state
    embed = jax.jit(lambda x: SMALL.embed(params, carry, {"image": x})["features"])
    close(embed(VIEWS["image"][:4, 0]), embed(VIEWS["image"][:, 0])[:4])
    assert embed(VIEWS["image"][:, 0]).shape == (8, 10)
