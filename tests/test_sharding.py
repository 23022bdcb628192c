"""Where arrays lie, and the parts of the step that cut and scan."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import step
from jssl.sharding import ROWS, make_mesh, path_of, put, replicated, rows_here, state_shardings
from jssl.step import TrainState, cut, scan, uncut
from jssl.transforms import gather, rows

SHAPES = TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    params={"f": {"kernel": jax.ShapeDtypeStruct((3, 3, 8, 16), jnp.float32)}, "g": jax.ShapeDtypeStruct((6,), int)},
    carry={
        "target": {"kernel": jax.ShapeDtypeStruct((12, 8), jnp.float32)},
        "queue": jax.ShapeDtypeStruct((64, 8), jnp.float32),
        "frozen": {"kernel": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)},
    },
    opt=({"f": jax.ShapeDtypeStruct((8, 2), jnp.float32)}, jax.ShapeDtypeStruct((), jnp.int32)),
)


def specs(mesh, **more):
    leaves = jax.tree_util.tree_leaves_with_path(state_shardings(mesh, SHAPES, **more))
    return {path_of(path): sharding.spec for path, sharding in leaves}


def test_parameters_are_cut_along_their_largest_axis_that_divides():
    found = specs(make_mesh(2, 4))
    assert found["params/f/kernel"] == P(None, None, None, "fsdp")
    assert found["params/g"] == P()  # 6 is no multiple of 4
    assert found["carry/target/kernel"] == P("fsdp", None)
    assert found["opt/0/f"] == P("fsdp", None)
    assert found["carry/frozen/kernel"] == P(None, "fsdp", None)  # of equal axes, the last


def test_queues_counters_and_statistics_are_replicated():
    found = specs(make_mesh(2, 4))
    assert found["carry/queue"] == found["step"] == found["opt/1"] == P()


def test_the_first_rule_found_decides():
    rules = ((r"/f/", "replicate"), (r"queue$", "fsdp"), (r"^params/", "fsdp"), (r"", "replicate"))
    found = specs(make_mesh(2, 4), rules=rules)
    assert found["params/f/kernel"] == P()
    assert found["carry/queue"] == P("fsdp", None)
    assert found["carry/target/kernel"] == P()


def test_data_of_minus_one_takes_all_devices():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
    assert dict(make_mesh(devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1}


@pytest.mark.parametrize("data, fsdp", [(3, 2), (-1, 3), (-1, 16), (8, 2)])
def test_an_impossible_mesh_is_one_clear_line(data, fsdp):
    with pytest.raises(ValueError, match=r"mesh.data=.* x mesh.fsdp=.* does not make 8 devices; expected") as error:
        make_mesh(data, fsdp)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mesh", [(1, 1), (8, 1), (2, 4)])
def test_a_batch_lies_in_blocks_over_all_devices_in_order(mesh):
    mesh = make_mesh(*mesh, devices=jax.devices()[: mesh[0] * mesh[1]])
    np.testing.assert_array_equal(rows_here(mesh, 16), np.arange(16))
    batch = {"image": np.arange(32).reshape(16, 2), "index": np.arange(16)}
    placed = put(mesh, batch, 16)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    shards = sorted(placed["index"].addressable_shards, key=lambda shard: shard.device.id)
    np.testing.assert_array_equal(np.concatenate([shard.data for shard in shards]), batch["index"])
    assert len({len(shard.data) for shard in shards}) == 1


def test_several_batches_are_cut_along_their_second_axis():
    items = np.arange(48).reshape(3, 16)
    placed = put(make_mesh(), {"index": items}, 16, axis=1)["index"]
    np.testing.assert_array_equal(placed, items)
    assert placed.sharding.spec == P(None, ROWS)
    assert placed.addressable_shards[0].data.shape == (3, 2)


def test_a_batch_of_one_is_replicated():
    """A full graph: every device holds all of it, on the way in and inside the step."""
    mesh = make_mesh()
    np.testing.assert_array_equal(rows_here(mesh, 1), [0])
    placed = put(mesh, {"graph": np.ones((1, 5))}, 1)["graph"]
    assert placed.sharding.is_fully_replicated
    with jax.set_mesh(mesh):
        assert str(P(ROWS)) in str(jax.make_jaxpr(rows)(np.ones((8, 5))))
        assert str(P(ROWS)) not in str(jax.make_jaxpr(rows)(placed))


def test_rows_cuts_and_gather_brings_together():
    mesh = make_mesh(2, 4)
    x = jnp.arange(32.0).reshape(16, 2)
    with jax.set_mesh(mesh):
        apart = jax.jit(rows)({"x": x})["x"]
        together = jax.jit(gather)({"x": apart})["x"]
    assert apart.sharding.is_equivalent_to(NamedSharding(mesh, P(ROWS)), 2)
    assert together.sharding.is_equivalent_to(replicated(mesh), 2)
    np.testing.assert_array_equal(apart, x)
    np.testing.assert_array_equal(together, x)


def test_without_a_mesh_rows_and_gather_do_nothing():
    x = jnp.ones((4, 2))
    assert gather({"x": x})["x"] is x
    assert rows({"x": x})["x"] is x
    for transform in (rows, gather):
        assert "sharding_constraint" not in str(jax.make_jaxpr(transform)(x))


def test_a_micro_batch_holds_every_nth_row_and_uncut_puts_them_back():
    x = np.arange(24).reshape(12, 2)
    pieces = cut(4, x)
    for i in range(4):
        np.testing.assert_array_equal(pieces[i], x[i::4])
    np.testing.assert_array_equal(uncut(pieces), x)
    np.testing.assert_array_equal(cut(1, x), x[None])


def test_cutting_a_batch_moves_no_row_to_another_device():
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct((64, 4), jnp.float32, sharding=NamedSharding(mesh, P(ROWS)))
        pieces = lambda x: jax.tree.map(rows, [2 * piece for piece in cut(4, x)])
        text = jax.jit(pieces).lower(x).compile().as_text()
    assert not re.search(r"all-gather|all-to-all|collective-permute|all-reduce", text)


def test_scan_is_laxs_on_every_backend(monkeypatch):
    def body(carry, x):
        carry = {"sum": carry["sum"] + x["a"], "last": x["b"]}
        return carry, {"sum": carry["sum"], "twice": 2 * x["b"]}

    start = {"sum": jnp.zeros(3), "last": jnp.zeros(())}
    xs = {"a": jnp.arange(12.0).reshape(4, 3), "b": jnp.arange(4.0)}
    expected = lax.scan(body, start, xs)
    run = jax.jit(functools.partial(scan, body))
    assert "while" not in str(jax.make_jaxpr(run)(start, xs)) + run.lower(start, xs).as_text()
    jax.tree.map(np.testing.assert_array_equal, run(start, xs), expected)
    monkeypatch.setattr(step.jax, "default_backend", lambda: "gpu")
    assert " scan[" in str(jax.make_jaxpr(functools.partial(scan, body))(start, xs))
    jax.tree.map(np.testing.assert_array_equal, scan(body, start, xs), expected)


@pytest.mark.parametrize("loops", [False, True])
def test_a_loop_alone_needs_to_know_beforehand_what_a_step_gives(monkeypatch, loops):
    """Tracing a step takes seconds; a CPU, which does not loop, does it once."""
    traced = []

    def once(state, batch, rng):
        traced.append(batch)
        return state + batch, {"metrics": {"loss": batch}, "embedding": 2 * batch}

    monkeypatch.setattr(step, "loops", lambda: loops)
    run = jax.jit(functools.partial(step.train_steps, once, lambda item: 1.0 * item))
    state, metrics, out = run(jnp.zeros(()), jnp.array([3]), jax.random.key(0))
    assert (state, *metrics["loss"], out["embedding"]) == (3, 3, 6)
    assert len(traced) == 1 + loops
