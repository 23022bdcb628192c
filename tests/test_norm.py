"""Batch norm over the global batch against flax's, and over groups against splitting the batch by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.nets.conv import convnet
from jssl.nets.mlp import MLP
from jssl.nets.net import apply_net, apply_nets, init_net, init_nets
from jssl.nets.norm import BatchNorm
from jssl.sharding import ROWS, make_mesh
from tests.contract import COLLECTIVE

N, C = 16, 6
CONTIGUOUS = np.arange(N) // 4
SHUFFLED = np.random.RandomState(1).permutation(CONTIGUOUS)
UNEVEN = np.array([0] * 3 + [1] * 11 + [2] * 2)


def inputs(*shape, seed=0):
    return (np.random.RandomState(seed).randn(*shape) * np.arange(1, C + 1) + 2).astype(np.float32)


def variables(scale=1.5, bias=-0.5, mean=0.3, var=2.0):
    params = {"scale": np.full(C, scale, np.float32), "bias": np.full(C, bias, np.float32)}
    return {
        "params": params,
        "batch_stats": {"mean": np.full(C, mean, np.float32), "var": np.full(C, var, np.float32)},
    }


def run(net, x, groups=None):
    return net.apply(variables(), x, groups, mutable=["batch_stats"])


def one_hot(group):
    return np.eye(group.max() + 1, dtype=np.float32)[group]


@pytest.mark.parametrize("shape", [(N, C), (N, 5, 3, C)], ids=["vectors", "maps"])
@pytest.mark.parametrize("train", [True, False])
def test_without_groups_it_is_flaxs(shape, train):
    x = inputs(*shape)
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    expected, stats = theirs.apply(variables(), x, mutable=["batch_stats"])
    y, new = run(BatchNorm(train), x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new, stats)


def test_gradient_without_groups_is_flaxs():
    x = inputs(N, C)
    weights = inputs(N, C, seed=1)
    norms = BatchNorm(True), nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    grads = [
        jax.grad(lambda x, n=n: jnp.sum(weights * n.apply(variables(), x, mutable=["batch_stats"])[0]))(x)
        for n in norms
    ]
    np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", [CONTIGUOUS, SHUFFLED, UNEVEN], ids=["contiguous", "shuffled", "uneven"])
@pytest.mark.parametrize("shape", [(N, C), (N, 5, 3, C)], ids=["vectors", "maps"])
def test_groups_equal_splitting_the_batch_by_hand(shape, group):
    x, norm = inputs(*shape), BatchNorm(True)
    y, new = run(norm, x, one_hot(group))
    parts = [run(norm, x[group == g]) for g in range(group.max() + 1)]
    for g, (part, _) in enumerate(parts):
        np.testing.assert_allclose(y[group == g], part, rtol=1e-4, atol=1e-4)
    for name in ("mean", "var"):  # the mean of the groups'
        expected = np.mean([stats["batch_stats"][name] for _, stats in parts], 0)
        np.testing.assert_allclose(new["batch_stats"][name], expected, rtol=1e-4)


def test_gradient_of_groups_equals_splitting_the_batch_by_hand():
    x, norm, weights = inputs(N, C), BatchNorm(True), inputs(N, C, seed=1)
    whole = lambda x: jnp.sum(weights * run(norm, x, one_hot(SHUFFLED))[0])
    apart = lambda x: sum(jnp.sum(weights[g == SHUFFLED] * run(norm, x[g == SHUFFLED])[0]) for g in range(4))
    np.testing.assert_allclose(jax.grad(whole)(x), jax.grad(apart)(x), rtol=1e-3, atol=1e-4)


def test_one_group_is_the_whole_batch():
    x, norm = inputs(N, C), BatchNorm(True)
    (y, new), (expected, stats) = run(norm, x, np.ones((N, 1), np.float32)), run(norm, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new, stats)


def test_running_statistics_are_blended_with_the_biased_variance():
    x = inputs(N, C)
    _, new = run(BatchNorm(True), x)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.9 * 0.3 + 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 * 2 + 0.1 * x.var(0), rtol=1e-4)


def test_evaluation_ignores_groups_and_keeps_the_statistics():
    x, norm = inputs(N, C), BatchNorm(False)
    (y, new), (expected, _) = run(norm, x, one_hot(CONTIGUOUS)), run(norm, x)
    np.testing.assert_array_equal(y, expected)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables()["batch_stats"])


def test_groups_reach_every_norm_of_a_chain_and_no_later_call():
    nets = {"encoder": convnet((4, 8)), "projector": MLP(6, 5)}
    images = np.random.RandomState(0).randn(N, 6, 6, 1).astype(np.float32)
    params, stats = init_nets(nets, jax.random.key(0), images)
    outputs, _ = apply_nets(nets, params, stats, images, groups=one_hot(SHUFFLED))
    for g in range(4):
        part, _ = apply_nets(nets, params, stats, images[g == SHUFFLED])
        np.testing.assert_allclose(outputs["projector"][g == SHUFFLED], part["projector"], rtol=1e-3, atol=1e-4)
    after, _ = apply_nets(nets, params, stats, images)
    assert np.abs(after["projector"] - outputs["projector"]).max() > 1e-3


def test_bfloat16_computes_statistics_in_float32():
    x = jnp.asarray(inputs(N, 5, 3, C), jnp.bfloat16)
    for groups in (None, one_hot(SHUFFLED)):
        y, new = run(BatchNorm(True, dtype=jnp.bfloat16), x, groups)
        exact, expected = run(BatchNorm(True), x.astype(jnp.float32), groups)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(np.float32), exact, rtol=1e-2, atol=1e-2)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new, expected)
        assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("group", [None, CONTIGUOUS, SHUFFLED], ids=["batch", "contiguous", "shuffled"])
def test_eight_devices_are_one_and_no_row_travels(group):
    """Forward and backward pass; the collectives are all-reduces of sums."""
    net, x = MLP(C, 5, last_norm=True), inputs(N, C)
    params, stats = init_net(net, jax.random.key(0), x)
    groups = None if group is None else one_hot(group)

    def loss(params, x, groups):
        y, _, new = apply_net(net, params, stats, x, train=True, groups=groups)
        return jnp.mean(y**4), new

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (expected, expected_stats), expected_grads = grad(params, x, groups)
    mesh = make_mesh(8, 1)
    cut = jax.device_put((x, groups), NamedSharding(mesh, P(ROWS)))
    with jax.set_mesh(mesh):
        (value, new), grads = grad(params, *cut)
        text = grad.lower(params, *cut).compile().as_text()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (new, grads), (expected_stats, expected_grads))
    assert {match[2] for line in text.splitlines() if (match := COLLECTIVE.search(line))} == {"all-reduce"}
