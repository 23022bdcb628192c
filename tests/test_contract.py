"""What every method keeps, whatever its paper: found by listing `experiments/`."""

import jax
import numpy as np
import pytest

from jssl import config as configs
from jssl import doctor, encoder, step
from jssl.checkpoint import Checkpoints
from jssl.sharding import flatten, path_of
from jssl.step import init_state
from tests.contract import (
    STEPS,
    Trained,
    assert_close,
    assert_equal,
    assert_probe_changes_nothing,
    begin,
    make_run,
    trained,
)

METHODS = list(configs.experiments())
# What the engine does around a loss is tried on each kind of state it finds; with `make test-all` on every method.
# Sharded parameters, too: in two processes (`test_processes`) every method has them.
KINDS = ("byol", "deepcluster", "dino", "graphcl", "mae", "moco", "simclr")
# Micro-batches, and the steps of a dispatch, hand the carry on: those whose carry is more than statistics, and graphs.
CARRYING = ("byol", "deepcluster", "dino", "graphcl", "moco")
of_kind = lambda name, *more, kinds=KINDS: pytest.param(name, *more, marks=[] if name in kinds else pytest.mark.slow)
of_engine = pytest.mark.parametrize("name", [of_kind(name) for name in METHODS], indirect=True)
of_carry = pytest.mark.parametrize("name", [of_kind(name, kinds=CARRYING) for name in METHODS], indirect=True)
on_eight_devices = pytest.mark.parametrize(
    "name, mesh",
    [(name, (8, 1)) for name in METHODS] + [of_kind(name, (2, 4)) for name in METHODS],
    ids=[*(f"{name}, 8 devices" for name in METHODS), *(f"{name}, 2 x 4, sharded parameters" for name in METHODS)],
    indirect=["name"],
)


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def test_init_needs_shapes_alone(name):
    one = trained(name)
    views = jax.eval_shape(lambda x: x, one.views)
    shapes = jax.eval_shape(lambda rng: init_state(one.method, one.experiment.tx, rng, views), jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(one.start)


def test_loss_is_finite_and_falls(name):
    one = trained(name)
    before, after = (one.fixed_loss(state.params, state.carry)[0] for state in (one.start, one.end))
    assert np.isfinite(one.losses).all()
    assert after < before


def test_without_weights_the_loss_is_that_of_guessing(name):
    """All embeddings, or all logits, are then one."""
    one = trained(name)
    level, _, metric = doctor.chance(configs.plain(one.config)) or (None, None, None)
    if metric == "loss":
        params = one.start.params
        nothing = jax.tree.map(np.zeros_like, params) | {name: params[name] for name in params.keys() & {"prototypes"}}
        loss, _ = one.fixed_loss(nothing, one.start.carry)
        assert float(loss) == pytest.approx(level, rel=1e-4)


@on_eight_devices
def test_number_of_devices_changes_nothing(name, mesh):
    one, many = trained(name), trained(name, mesh)
    assert_close(one.losses, many.losses)
    assert_close(one.end, many.end)


@of_engine
def test_parameters_are_sharded_where_the_mesh_says(name):
    state = trained(name, (2, 4)).state
    largest = max(jax.tree.leaves(state.params), key=lambda x: x.size)
    assert largest.addressable_shards[0].data.size == largest.size // 4


def test_step_is_compiled_once(name):
    assert trained(name).run.steps._cache_size() == 1


def test_state_is_donated(name):
    one = trained(name)
    with jax.set_mesh(one.mesh), one.run.feed.items(0, 1) as items:
        state = begin(one.run)
        one.run.steps(state, one.run.feed.held, next(items), one.run.rng)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


@on_eight_devices
def test_only_embeddings_cross_devices(name, mesh):
    many = trained(name, mesh)
    embeddings = many.out.get("embedding", many.out["features"]).size
    weights = many.state.params, many.state.carry.get("frozen", {})  # a frozen teacher may be the largest of them
    parameters = max(x.size for x in jax.tree.leaves(weights))
    budget = max(embeddings, parameters) if mesh[1] > 1 else embeddings
    found = many.collectives()
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert all(size <= budget for kind, size in found if kind == "all-gather"), found


@of_carry
def test_accumulation_moves_the_optimizer_and_the_method_once(name):
    two = trained(name, train__accumulate=2)
    steps = [int(x) for path, x in jax.tree_util.tree_leaves_with_path(two.end.opt) if path_of(path).endswith("count")]
    assert int(two.end.step) == STEPS
    assert all(count == STEPS for count in steps)


@of_carry
def test_accumulation_is_the_same_on_eight_devices(name):
    one, eight = trained(name, train__accumulate=2), trained(name, (8, 1), train__accumulate=2)
    assert_close(one.end, eight.end)


@of_carry
def test_steps_per_call_change_nothing(name):
    """Two dispatches of two steps, or four of one: the same state, bit by bit."""
    one = trained(name)
    with jax.set_mesh(one.mesh):
        state = begin(one.run)
        with one.run.feed.items(0, 2) as items:
            for _ in range(STEPS // 2):
                state, metrics, _ = one.run.steps(state, one.run.feed.held, next(items), one.run.rng)
    assert metrics["loss"].shape == (2,)
    assert_close(one.end, state)


@of_engine
def test_an_online_probe_changes_nothing(name):
    assert_probe_changes_nothing(trained(name), Trained(name, eval__probe_lr=0.5))


def test_state_keeps_its_types_as_accelerators_scan_it(name, monkeypatch):
    """A CPU loops in Python; elsewhere `lax.scan` runs the steps, and needs back the types that it gave."""
    monkeypatch.setattr(step, "loops", lambda: True)
    run = make_run(name, dtype="bfloat16", train__accumulate=4)
    items = {name: jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for name, x in run.feed.item_shapes().items()}
    with jax.set_mesh(run.mesh):
        state, metrics, _ = jax.eval_shape(run.steps, run.shapes, run.feed.held, items, run.rng)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), run.shapes)
    assert metrics["loss"].shape == (2,)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves((state.params, metrics)))


def test_no_gradient_flows_into_the_carry(name):
    """Targets, statistics and queues are constants of the loss: the stop-gradients stop."""
    one = trained(name)
    _, grads = one.fixed_loss(one.end.params, one.end.carry)
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert g.dtype == jax.dtypes.float0 or not np.asarray(g).any(), path_of(path)


def test_every_parameter_learns(name):
    one = trained(name)
    pairs = zip(jax.tree_util.tree_leaves_with_path(one.start.params), jax.tree.leaves(one.end.params))
    still = [path_of(path) for (path, before), after in pairs if np.array_equal(before, after)]
    assert not still


def test_running_statistics_and_targets_move(name):
    one = trained(name)
    kept = lambda state: {key: state.carry.get(key) for key in ("stats", "target", "target_stats")}
    pairs = zip(jax.tree_util.tree_leaves_with_path(kept(one.start)), jax.tree.leaves(kept(one.end)))
    still = [path_of(path) for (path, before), after in pairs if np.array_equal(before, after)]
    assert not still


def test_views_of_an_example_differ_and_hold_no_labels(name):
    one = trained(name)
    views = one.compared()
    assert "label" not in one.batch
    assert "label" not in one.views
    assert one.batch["index"].size == one.config.train.batch_size
    assert len(views) == one.run.feed.leading
    if views.shape[1] > 1:
        assert (views[:, 0] != views[:, 1]).reshape(len(views), -1).any(1).mean() > 0.95


def test_embedding_is_of_each_input_alone_without_randomness(name):
    one = trained(name)
    features = one.embed(np.arange(16))
    assert features.shape[0] == 16
    assert features.ndim == 2
    assert np.isfinite(features).all()
    assert len(np.unique(features.round(6), axis=0)) == 16
    assert_equal(features, one.embed(np.arange(16)))
    others = np.r_[:4, 16:28]
    assert_close(features[:4], one.embed(others)[:4])


def test_exported_encoder_is_the_trained_one(name, tmp_path):
    """It has what `embed` reads and nothing of the rest, and loads by itself."""
    one = trained(name)
    method, preprocess = one.method, one.experiment.preprocess
    with jax.set_mesh(one.mesh):
        encoder.export(tmp_path, one.config, method, preprocess, one.state.params, one.state.carry, one.run.source)
    loaded = encoder.Encoder(tmp_path).embed(one.run.source.take(np.arange(16)))
    np.testing.assert_allclose(loaded, one.embed(np.arange(16)), rtol=1e-4, atol=1e-5)


def test_checkpoint_holds_everything(name, tmp_path):
    """Two steps, saved, restored on the same mesh and on another, two more: the state of four steps."""
    one = trained(name)
    with jax.set_mesh(one.mesh):
        state = begin(one.run)
        with one.run.feed.items(0, 1) as items:
            for _ in range(STEPS // 2):
                state, _, _ = one.run.steps(state, one.run.feed.held, next(items), one.run.rng)
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(STEPS // 2, state)
        checkpoints.close()

    def resume(at):
        with jax.set_mesh(at.mesh):
            checkpoints = Checkpoints(tmp_path)
            state = checkpoints.restore(at.run.shapes)
            checkpoints.close()
            with at.run.feed.items(STEPS // 2, 1) as items:
                for _ in range(STEPS - STEPS // 2):
                    state, _, _ = at.run.steps(state, at.run.feed.held, next(items), at.run.rng)
        return jax.device_get(state)

    assert_equal(one.end, resume(one))
    assert_close(one.end, resume(trained(name, (2, 4) if name in KINDS else (8, 1))))


def test_two_processes_change_nothing(name, pair):
    """Two devices each, pairs of which share parameters."""
    one = trained(name)
    assert_close({"losses": np.array(one.losses), **flatten(one.end)}, pair.result(name))
