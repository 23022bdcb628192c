"""BYOL against lightly's figures, and the statements of the paper about its target."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.method import Time
from jssl.methods.byol import BYOL, regression
from jssl.transforms import ema
from tests import oracles
from tests.collapse import judged
from tests.oracles import make_torch
from tests.trajectories import BACKBONE, assert_statistics, close, sgd, train, weights

SMALL = BYOL(BACKBONE, hidden=12, dim=5, tau_base=0.9)
VIEWS = {"image": np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)}
START = Time(0, 100, 10.0)
graded = jax.jit(jax.value_and_grad(regression, (0, 1)))


@pytest.fixture(scope="module")
def state():
    """(params, carry), the target moved away from the online network."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), VIEWS)
    return params, {**carry, "target": jax.tree.map(lambda x: 0.9 * x + 0.01, carry["target"])}


@jax.jit
def loss(params, carry):
    return SMALL.loss(params, carry, VIEWS, jax.random.key(1), START)


def test_training_is_lightlys():
    """Five steps of SGD: losses, weights, target and both batch norms. Our loss, the paper's, is 4 + 4 times theirs."""
    manifest, tensors = oracles.load("train_byol")
    params, start = weights(tensors, "model.")
    carry = {"stats": start, "target": SMALL.of_target(params), "target_stats": SMALL.of_target(start)}
    losses, state = train(SMALL, sgd(manifest["hyper"], scale=4.0), params, carry, tensors["in.x"])

    close(losses, 4 + 4 * tensors["out.losses"])
    params, stats = weights(tensors, "out.final.")
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=10, n=8)
    target, target_stats = weights(tensors, "out.final_ema.")
    jax.tree.map(close, state.carry["target"], target)
    assert_statistics(state.carry["target_stats"], target_stats, start, passes=10, n=8)


def test_loss_and_gradient_are_lightlys():
    manifest, tensors = oracles.load("byol_simsiam_cosine")
    p, z = ([tensors[f"in.{name}{i}"] for i in (0, 1)] for name in "pz")
    halves = [graded(p[i], z[1 - i]) for i in (0, 1)]
    value = sum(half for half, _ in halves)
    close(value, 4 + 4 * manifest["scalars"]["loss"])
    close(value, manifest["other_implementations_same_inputs"]["solo BYOL sum of 2-2cos"])
    for i in (0, 1):
        close(halves[i][1][0], 4 * tensors[f"grad.p{i}"])


@pytest.mark.parametrize("i", range(len(make_torch.REGRESSION)), ids=[str(case) for case in make_torch.REGRESSION])
def test_regression_is_lightlys_at_any_shape(i):
    manifest, tensors = oracles.load("torch_losses")
    n, d = make_torch.REGRESSION[i]
    value, (grad, _) = graded(make_torch.inputs(n, d, seed=1), make_torch.inputs(n, d, seed=2))
    np.testing.assert_allclose(value, manifest["losses"][f"regression.{i}"], rtol=1e-6)
    np.testing.assert_allclose(grad, tensors[f"grad.regression.{i}"], rtol=1e-4, atol=1e-7)


def test_regression_survives_bfloat16_and_zero_rows():
    q = jnp.asarray(make_torch.inputs(16, 256, seed=1), jnp.bfloat16).at[0].set(0)
    value, (grad, _) = graded(q, jnp.asarray(make_torch.inputs(16, 256, seed=2), jnp.bfloat16))
    exact, _ = graded(q.astype(jnp.float32), make_torch.inputs(16, 256, seed=2))
    np.testing.assert_allclose(value, exact, rtol=1e-3)
    assert np.isfinite(grad.astype(np.float32)).all()


def test_no_gradient_reaches_the_target_network(state):
    params, carry = state
    grads = jax.jit(jax.grad(lambda target: loss(params, {**carry, "target": target})[0]))(carry["target"])
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_without_stop_gradient_the_target_is_the_online_network_and_learns(state):
    """As an ablation: tau is 0, and the loss does not see the average in the carry."""
    params, carry = state
    method = dataclasses.replace(SMALL, stop_gradient=False)
    run = jax.jit(jax.value_and_grad(lambda p, c: method.loss(p, c, VIEWS, jax.random.key(1), START)[0]))
    value, grads = run(params, carry)
    again, _ = run(params, {**carry, "target": jax.tree.map(jnp.zeros_like, carry["target"])})
    at_online = {**carry, "target": SMALL.of_target(params)}
    np.testing.assert_array_equal(value, again)
    np.testing.assert_allclose(value, loss(params, at_online)[0], rtol=1e-5)
    stopped = jax.jit(jax.grad(lambda p: loss(p, at_online)[0]))(params)
    jax.tree.map(close, grads["predictor"], stopped["predictor"])
    assert np.abs(grads["projector"]["dense1"]["kernel"] - stopped["projector"]["dense1"]["kernel"]).max() > 1e-4
    _, moved = method.update(params, carry, START)
    jax.tree.map(np.testing.assert_array_equal, moved["target"], SMALL.of_target(params))


@pytest.mark.parametrize("ablation", [{}, {"method__predictor": False}, {"method__stop_gradient": False}], ids=str)
def test_it_collapses_without_predictor_or_without_stop_gradient(ablation):
    warning, _ = judged("byol", 140, method__tau_base=0.9, optim__lr=1.0, **ablation)
    assert bool(warning) == bool(ablation)


def test_each_view_predicts_the_targets_projection_of_the_other(state):
    """Swapping the views changes nothing; what the target thinks of a view does."""
    params, carry = state
    swapped = {"image": VIEWS["image"][:, ::-1]}
    value, (_, out) = loss(params, carry)
    again, (_, mirrored) = jax.jit(lambda: SMALL.loss(params, carry, swapped, jax.random.key(1), START))()
    np.testing.assert_allclose(value, again, rtol=1e-5)
    close(out["embedding"], mirrored["embedding"][:, ::-1])
    assert np.abs(value - loss(params, {**carry, "target": SMALL.of_target(params)})[0]) > 1e-4


def test_target_follows_the_online_network_of_after_the_gradient_step(state):
    params, carry = state
    stepped = jax.tree.map(lambda x: x - 0.1, params)
    kept, moved = SMALL.update(stepped, carry, START)
    jax.tree.map(np.testing.assert_array_equal, kept, stepped)
    expected = jax.tree.map(lambda t, p: 0.9 * t + 0.1 * p, carry["target"], SMALL.of_target(stepped))
    jax.tree.map(close, moved["target"], expected)
    assert "predictor" not in moved["target"]


def test_statistics_of_the_target_are_its_own_and_move(state):
    params, carry = state
    _, (after, _) = loss(params, carry)
    for name in ("stats", "target_stats"):
        assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(after[name]), jax.tree.leaves(carry[name])))
    online, target = after["stats"]["projector"]["norm0"], after["target_stats"]["projector"]["norm0"]
    assert np.abs(online["mean"] - target["mean"]).max() > 1e-4
    jax.tree.map(np.testing.assert_array_equal, after["target"], carry["target"])


def test_tau_goes_from_its_base_to_one():
    method = BYOL(BACKBONE, tau_base=0.99)
    taus = np.array([method.tau(Time(step, 100, 1.0)) for step in range(101)])
    np.testing.assert_allclose(taus[[0, 50, 100]], [0.99, 0.995, 1.0], atol=1e-6)
    assert (np.diff(taus) > -1e-7).all()
    lightly = oracles.load("schedules")[1]["out.lightly_cosine_start_end"]  # of 20 steps, at its end one step earlier
    ours = [BYOL(BACKBONE, tau_base=0.996).tau(Time(step, 19, 1.0)) for step in range(21)]
    np.testing.assert_allclose(ours, lightly, atol=1e-6)


def test_average_is_lightlys_over_parameters_alone():
    manifest, tensors = oracles.load("ema")
    read = lambda prefix: weights({k: v for k, v in tensors.items() if "num" not in k}, prefix)[0]
    moved = ema(read("in.ema."), read("in.model."), manifest["hyper"]["m"])
    jax.tree.map(close, moved, read("out.ema."))
    for name in ("running_mean", "running_var"):
        np.testing.assert_array_equal(tensors[f"out.ema.1.{name}"], tensors[f"in.ema.1.{name}"])


def test_features_are_the_online_encoders_in_evaluation(state):
    params, carry = state
    embed = jax.jit(lambda x: SMALL.embed(params, carry, {"image": x})["features"])
    close(embed(VIEWS["image"][:4, 0]), embed(VIEWS["image"][:, 0])[:4])
    assert embed(VIEWS["image"][:, 0]).shape == (8, 10)
