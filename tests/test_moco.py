"""MoCo v1 and v2 against lightly's figures, and the statements of the papers about queue, keys and batch norm."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl import health, watch
from jssl.losses import info_nce
from jssl.method import Time
from jssl.methods.moco import MoCo
from jssl.nets.net import apply_nets
from jssl.sharding import make_mesh, replicated
from jssl.transforms import push, unit
from tests import oracles
from tests.contract import COLLECTIVE, trained
from tests.trajectories import BACKBONE, assert_statistics, close, sgd, train, weights

SMALL = MoCo(BACKBONE, hidden=12, dim=5, temperature=0.5, queue=20, m=0.9, m_end=0.9, groups=4)
VIEWS = {"image": np.random.RandomState(0).randn(16, 2, 6).astype(np.float32)}
START = Time(0, 100, 10.0)


@pytest.fixture(scope="module")
def state():
    """(params, carry), the target moved away from the query encoder."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), VIEWS)
    return params, {**carry, "target": jax.tree.map(lambda x: 0.9 * x + 0.01, carry["target"])}


@functools.partial(jax.jit, static_argnames="method")
def loss(params, carry, views=VIEWS, seed=1, method=SMALL):
    return method.loss(params, carry, views, jax.random.key(seed), START)


def test_training_is_lightlys():
    """Losses, weights, target, queue and both batch norms of five steps. The manifest leaves out the temperature; 0.3
    gives the first loss to seven digits, and the other figures follow."""
    manifest, tensors = oracles.load("train_moco")
    tensors = {key.replace("proj.layers.2.", "proj.layers.3."): value for key, value in tensors.items()}  # no norm
    params, start = weights(tensors, "model.")
    start = {**start, "projector": {}}
    method = dataclasses.replace(SMALL, temperature=0.3, queue=16, groups=1)
    carry = {"stats": start, "target": params, "target_stats": start, "queue": tensors["in.bank0"]}
    carry["pointer"] = jnp.int32(0)
    losses, state = train(method, sgd(manifest["hyper"]), params, carry, tensors["in.x"])

    close(losses, tensors["out.losses"])
    close(state.carry["queue"], tensors["out.bank"])
    params, stats = weights(tensors, "out.final.")
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=5, n=8)
    target, target_stats = weights(tensors, "out.final_ema.")
    jax.tree.map(close, state.carry["target"], target)
    assert_statistics(state.carry["target_stats"], target_stats, start, passes=5, n=8)


def test_loss_gradient_and_queue_are_lightlys():
    manifest, tensors = oracles.load("moco_queue")
    queue, pointer, total = jnp.asarray(tensors["in.bank0"]), 0, 0.0
    for s in range(4):
        q, k = tensors[f"in.q{s}"], tensors[f"in.k{s}"]
        value, grad = jax.value_and_grad(info_nce)(q, k, manifest["hyper"]["temperature"], queue)
        np.testing.assert_allclose(value, tensors[f"out.loss{s}"], rtol=1e-5)
        close(grad, tensors[f"grad.q{s}"])
        queue, pointer = push(queue, pointer, unit(k))
        close(queue, tensors[f"out.bank_after{s}"])
        assert pointer == tensors[f"out.ptr_after{s}"]
        total += value
    np.testing.assert_allclose(total, manifest["scalars"]["loss"], rtol=1e-5)


@pytest.mark.parametrize(("n", "d", "size", "tau"), [(1, 4, 1, 0.07), (7, 32, 33, 0.2), (16, 128, 300, 1.0)])
def test_loss_is_equation_1_at_any_shape(n, d, size, tau):
    rng = np.random.RandomState(n)
    q, k, queue = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.randn(m, d) for m in (n, n, size)))
    positive = np.exp(np.sum(q * k, 1) / tau)
    expected = -np.log(positive / (positive + np.exp(q @ queue.T / tau).sum(1))).mean()
    arrays = [jnp.asarray(x, jnp.float32) for x in (3 * q, 2 * k, queue)]
    np.testing.assert_allclose(info_nce(arrays[0], arrays[1], tau, arrays[2]), expected, rtol=1e-5, atol=1e-6)


def test_loss_survives_bfloat16():
    rng = np.random.RandomState(0)
    q, k = (jnp.asarray(rng.randn(16, 128), jnp.bfloat16) for _ in range(2))
    queue = unit(rng.randn(300, 128).astype(np.float32))
    value, grad = jax.value_and_grad(info_nce)(q, k, 0.07, queue)
    np.testing.assert_allclose(value, info_nce(q.astype(np.float32), k.astype(np.float32), 0.07, queue), rtol=1e-3)
    assert np.isfinite(grad.astype(np.float32)).all()


@pytest.mark.parametrize(("size", "n"), [(12, 4), (10, 4), (7, 3), (5, 16), (4, 4), (1, 3)])
@pytest.mark.parametrize("devices", [1, 8])
def test_queue_holds_the_last_keys_and_overwrites_the_oldest(size, n, devices):
    """Also where K is no multiple of N, where the batch exceeds the queue, and on any number of devices."""
    mesh = make_mesh(devices, 1, jax.devices()[:devices])
    keys = np.arange(5 * n, dtype=np.float32).reshape(5, n, 1)
    with jax.set_mesh(mesh):
        step = jax.jit(push, out_shardings=replicated(mesh))
        queue, pointer = jnp.full((size, 1), -1.0), jnp.int32(0)
        for s in range(5):
            queue, pointer = step(queue, pointer, keys[s])
            seen = keys[: s + 1].reshape(-1)
            expected = np.full(size, -1.0)
            for i, key in enumerate(seen):  # one at a time
                expected[i % size] = key
            np.testing.assert_array_equal(queue[:, 0], expected)
            assert int(pointer) == len(seen) % size


def test_queue_starts_random_on_the_unit_sphere(state):
    queue = jax.jit(SMALL.init)(jax.random.key(0), VIEWS)[1]["queue"]
    assert (queue.shape, queue.dtype) == ((20, 5), np.float32)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
    assert len(np.unique(queue.round(4), axis=0)) == 20


def test_loss_uses_the_queue_from_before_this_batch(state):
    params, carry = state
    value, (after, out) = loss(params, carry)
    q, k = out["embedding"][:, 0], out["embedding"][:, 1]
    np.testing.assert_allclose(value, info_nce(q, k, 0.5, carry["queue"]), rtol=1e-5)
    close(after["queue"][:16], unit(k))
    np.testing.assert_array_equal(after["queue"][16:], carry["queue"][16:])
    assert after["pointer"] == 16
    assert np.abs(value - info_nce(q, k, 0.5, after["queue"])) > 1e-3


def test_no_gradient_reaches_keys_queue_and_key_encoder(state):
    params, carry = state
    learned = {name: carry[name] for name in ("target", "queue")}
    grads = jax.grad(lambda some: loss(params, {**carry, **some})[0])(learned)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_key_encoder_follows_the_query_encoder_of_after_the_gradient_step(state):
    params, carry = state
    stepped = jax.tree.map(lambda x: x - 0.1, params)
    kept, moved = SMALL.update(stepped, carry, START)
    jax.tree.map(np.testing.assert_array_equal, kept, stepped)
    jax.tree.map(close, moved["target"], jax.tree.map(lambda t, p: 0.9 * t + 0.1 * p, carry["target"], stepped))


def test_momentum_is_constant_unless_it_is_given_an_end():
    at = lambda step, **fields: float(MoCo(BACKBONE, **fields).momentum(Time(step, 100, 1.0)))
    np.testing.assert_allclose([at(0), at(50), at(100)], 0.999, rtol=1e-6)
    np.testing.assert_allclose([at(s, m=0.99) for s in (0, 50, 100)], [0.99, 0.9945, 0.999], rtol=1e-6)


def test_groups_of_queries_are_consecutive_and_those_of_keys_change_with_every_step():
    x = np.zeros((16, 6))
    blocks = SMALL.blocks(x)
    np.testing.assert_array_equal(blocks.argmax(1), np.arange(16) // 4)
    drawn = [SMALL.shuffled(x, jax.random.key(step)) for step in range(3)]
    for groups in drawn:
        np.testing.assert_array_equal(groups.sum(1), 1)
        np.testing.assert_array_equal(groups.sum(0), 4)  # all of one size
        assert np.any(groups != blocks)
    assert np.any(drawn[0] != drawn[1])
    assert np.any(drawn[1] != drawn[2])
    one = dataclasses.replace(SMALL, groups=1)
    assert one.blocks(x) is one.shuffled(x, jax.random.key(0)) is None


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="groups=5"):
        dataclasses.replace(SMALL, groups=5).blocks(np.zeros((16, 6)))


def test_query_and_key_take_their_batch_norm_from_different_groups(state):
    """The same view as query and as key, through the same weights, is embedded differently; with one group, equally."""
    params, carry = state
    carry = {**carry, "target": params}
    same = {"image": np.repeat(VIEWS["image"][:, :1], 2, 1)}
    embedding = loss(params, carry, same)[1][1]["embedding"]
    assert np.abs(embedding[:, 0] - embedding[:, 1]).max() > 1e-2
    other = loss(params, carry, same, seed=2)[1][1]["embedding"]
    close(embedding[:, 0], other[:, 0])
    assert np.abs(embedding[:, 1] - other[:, 1]).max() > 1e-2
    whole = loss(params, carry, same, method=dataclasses.replace(SMALL, groups=1))[1][1]["embedding"]
    close(whole[:, 0], whole[:, 1])


def test_queries_are_normalised_like_blocks_on_devices_of_their_own(state):
    params, carry = state
    _, (_, out) = loss(params, carry)
    for g in range(4):
        block = slice(4 * g, 4 * g + 4)
        part, _ = apply_nets(SMALL.nets, params, carry["stats"], VIEWS["image"][block, 0])
        np.testing.assert_allclose(out["embedding"][block, 0], part["projector"], rtol=1e-3, atol=1e-4)


def test_symmetric_is_the_mean_of_both_directions_and_queues_both_views(state):
    params, carry = state
    method = dataclasses.replace(SMALL, groups=1, queue=40)
    carry = {**carry, "queue": unit(np.random.RandomState(2).randn(40, 5).astype(np.float32))}
    value, (after, out) = loss(params, carry, method=dataclasses.replace(method, symmetric=True))
    swapped = {"image": VIEWS["image"][:, ::-1]}
    halves = [loss(params, carry, views, method=method) for views in (VIEWS, swapped)]
    np.testing.assert_allclose(value, (halves[0][0] + halves[1][0]) / 2, rtol=1e-5)
    for i, (_, (_, half)) in enumerate(halves):
        close(after["queue"][16 * i : 16 * i + 16], unit(half["embedding"][:, 1]))
        close(out["embedding"][:, i], half["embedding"][:, 0])
    assert after["pointer"] == 32

    def gradient(method, views):
        return jax.grad(lambda params: loss(params, carry, views, method=method)[0])(params)

    both = gradient(dataclasses.replace(method, symmetric=True), VIEWS)
    one, other = (gradient(method, views) for views in (VIEWS, swapped))
    near = lambda whole, a, b: np.testing.assert_allclose(whole, (a + b) / 2, rtol=1e-3, atol=1e-5)
    jax.tree.map(near, both, one, other)


def test_collapse_has_the_loss_of_guessing(state):
    params, carry = state
    flat = {"image": np.ones_like(VIEWS["image"])}
    carry = {**carry, "target": params}
    key = unit(loss(params, carry, flat)[1][1]["embedding"][0, 1])
    value, _ = loss(params, {**carry, "queue": jnp.tile(key, (20, 1))}, flat)
    np.testing.assert_allclose(value, np.log(20 + 1), rtol=1e-4)


def test_healthy_steps_raise_no_warning():
    assert not watch.findings([jax.device_get(jax.jit(health.measures)(trained("moco").out))])


def test_shuffling_needs_no_collective_of_its_own():
    mesh = make_mesh(8, 1)
    with jax.set_mesh(mesh):
        draw = jax.jit(lambda rng: SMALL.shuffled(np.zeros((16, 6)), rng))
        text = draw.lower(jax.random.key(0)).compile().as_text()
    assert not [line for line in text.splitlines() if COLLECTIVE.search(line)]


def test_recipes_of_imagenet_are_the_papers():
    v1, v2, longer = (configs.load(f"moco:{name}") for name in ("imagenet_v1", "imagenet", "imagenet_800"))
    for config in v1, v2, longer:
        method, optim = config.method, config.optim
        assert (method.queue, method.dim, method.m, method.m_end, method.groups) == (65536, 128, 0.999, 0.999, 8)
        assert not method.symmetric
        assert (optim.name, optim.lr, optim.scale, optim.momentum, optim.warmup) == ("sgd", 0.03, "linear", 0.9, 0)
        assert (config.train.batch_size, optim.weight_decay, optim.decay_all) == (256, 1e-4, True)
        assert config.augment.area == (0.2, 1.0)
    assert (v1.method.depth, v1.method.temperature) == (1, 0.07)
    assert (v2.method.depth, v2.method.temperature) == (2, 0.2)
    assert [config.train.epochs for config in (v1, v2, longer)] == [200.0, 200.0, 800.0]


def test_views_of_v1_are_not_blurred_and_those_of_v2_are():
    before, after = (configs.load(f"moco:{name}").augment for name in ("imagenet_v1", "imagenet"))
    before, after = (configs.build(augment).distort[0] for augment in (before, after))
    assert before[0] == before[1]
    assert (before[0].jitter, before[0].jitter_p, before[0].gray) == ((0.4, 0.4, 0.4, 0.4), 1.0, 0.2)
    assert (before[0].blur, before[0].solarise) == (0.0, 0.0)
    assert (after[0].jitter, after[0].jitter_p, after[0].blur) == ((0.4, 0.4, 0.4, 0.1), 0.8, 0.5)


@pytest.mark.parametrize(("depth", "layers"), [(1, ["dense0"]), (2, ["dense0", "dense1"])], ids=["v1", "v2"])
def test_head_is_linear_in_v1_and_an_mlp_without_batch_norm_in_v2(depth, layers):
    params, carry = jax.eval_shape(dataclasses.replace(SMALL, depth=depth).init, jax.random.key(0), VIEWS)
    assert list(params["projector"]) == layers
    assert params["projector"][layers[-1]]["kernel"].shape[1] == 5
    assert not carry["stats"]["projector"]
