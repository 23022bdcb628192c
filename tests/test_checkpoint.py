"""What is on disk is either the state, bit by bit, or known to be damaged."""

import logging
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jssl.checkpoint import Checkpoints, checkpoint_steps, fill, fingerprint, tree_hash
from jssl.sharding import make_mesh, state_shardings
from jssl.step import TrainState
from tests.contract import assert_equal


def state_of(step, mesh=None, **carry):
    """A small state with leaves of several kinds, all of them functions of `step`."""
    mesh = mesh or make_mesh(1, 1, jax.devices()[:1])
    kernel = jnp.arange(4096.0).reshape(64, 64) + step
    params = {"encoder": {"kernel": kernel, "bias": jnp.full(64, step / 7)}, "head": {"kernel": kernel[:, :8] * 2}}
    carry = {"queue": jnp.arange(10, dtype=jnp.bfloat16) + step, "full": jnp.array([True, step % 2 == 0]), **carry}
    state = TrainState(jnp.int32(step), params, carry, (jnp.int32(step), jax.tree.map(jnp.square, params)))
    return jax.device_put(state, state_shardings(mesh, state))


def like(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def save(workdir, steps=(1, 2), **kw):
    with Checkpoints(workdir, **kw) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step))


def restore(workdir, state=None):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(like(state or state_of(0)))


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [r.getMessage() for r in caplog.records if r.pathname.endswith("jssl/checkpoint.py")]


def test_nothing_is_restored_from_nothing(tmp_path):
    assert restore(tmp_path) is None


def test_the_newest_state_comes_back_bit_by_bit_on_any_mesh(tmp_path):
    save(tmp_path)
    assert_equal(restore(tmp_path), state_of(2))
    many = make_mesh(2, 4)
    restored = restore(tmp_path, state_of(0, many))
    assert_equal(restored, state_of(2))
    assert restored.params["encoder"]["kernel"].addressable_shards[0].data.shape == (64, 16)


def test_a_state_may_be_overwritten_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        state = state_of(1)
        checkpoints.save(1, state)
        overwrite(state)
    assert_equal(restore(tmp_path), state_of(1))


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2, best="knn") as checkpoints:
        for step, knn in enumerate([0.5, 0.9, 0.7, 0.6, 0.8], start=1):
            checkpoints.save(step, state_of(step), {"loss": 10.0, "knn": knn})
        checkpoints.save(6, state_of(6), {"loss": 1.0})  # k-NN was not run at this step
        checkpoints.save(7, state_of(7))
    assert checkpoint_steps(tmp_path / "checkpoints") == [7, 6, 2]


def test_the_best_outlives_a_resume(tmp_path):
    for step, knn in [(1, 0.9), (2, 0.5), (3, 0.6)]:
        with Checkpoints(tmp_path, keep=1, best="knn") as checkpoints:
            checkpoints.restore(like(state_of(0)))
            checkpoints.save(step, state_of(step), {"knn": knn})
    assert checkpoint_steps(tmp_path / "checkpoints") == [3, 1]


def files(folder):
    """Largest first."""
    return sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size, reverse=True)


def truncate(folder):
    for file in files(folder):
        os.truncate(file, file.stat().st_size // 2)


def flip(folder):
    for file in [f for f in files(folder) if "/d/" in str(f)][:1]:
        data = bytearray(file.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 8] = bytes(255 - byte for byte in data[middle : middle + 8])
        file.write_bytes(bytes(data))


def forget_metadata(folder):
    (folder / "state" / "_METADATA").unlink()


def forget_seal(folder):
    for file in files(folder / "seal"):
        file.unlink()


def empty(folder):
    for file in files(folder):
        file.unlink()
    for sub in sorted((f for f in folder.rglob("*") if f.is_dir()), reverse=True):
        sub.rmdir()


@pytest.mark.parametrize("damage", [truncate, flip, forget_metadata, forget_seal, empty])
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_taken(tmp_path, damage, said):
    save(tmp_path)
    damage(tmp_path / "checkpoints" / "2")
    assert_equal(restore(tmp_path), state_of(1))
    assert len(said()) == 1
    assert "checkpoint 2 is damaged" in said()[0]
    assert "\n" not in said()[0]
    assert checkpoint_steps(tmp_path / "checkpoints") == [1]
    assert (tmp_path / "damaged" / "2").is_dir()
    save(tmp_path, [2])
    assert_equal(restore(tmp_path), state_of(2))


def test_a_bit_that_orbax_does_not_notice_is_noticed(tmp_path, monkeypatch):
    """Stands for damage that the file format's own checks let through."""
    save(tmp_path)
    whole = ocp.StandardCheckpointHandler.restore

    def changed(self, folder, *args, **kw):
        state = whole(self, folder, *args, **kw)
        if pathlib.Path(folder).parent.name == "2":
            kernel = state.params["head"]["kernel"]
            state.params["head"]["kernel"] = jax.device_put(kernel.at[3, 3].add(1e-3), kernel.sharding)
        return state

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", changed)
    assert int(restore(tmp_path).step) == 1


def test_what_a_killed_writer_left_is_no_checkpoint(tmp_path, said):
    save(tmp_path)
    leftover = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "half").write_text("x")
    assert_equal(restore(tmp_path), state_of(2))
    save(tmp_path, [3])
    assert not leftover.exists()
    assert_equal(restore(tmp_path), state_of(3))
    assert said() == []


def test_where_all_are_damaged_nothing_is_moved_and_the_error_says_so(tmp_path):
    save(tmp_path)
    for step in "12":
        forget_metadata(tmp_path / "checkpoints" / step)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read") as error:
        restore(tmp_path)
    assert "\n" not in str(error.value)
    assert checkpoint_steps(tmp_path / "checkpoints") == [2, 1]


def test_whole_checkpoints_of_another_method_are_refused_not_set_aside(tmp_path):
    save(tmp_path)
    with pytest.raises(ValueError, match=r"carry/centre is not there in the checkpoint and \[8\] in the state"):
        restore(tmp_path, state_of(0, centre=jnp.zeros(8)))
    assert checkpoint_steps(tmp_path / "checkpoints") == [2, 1]


def test_frozen_weights_are_stored_once_and_checked(tmp_path):
    frozen = {"teacher": {"kernel": jnp.arange(65536.0).reshape(256, 256)}}
    with Checkpoints(tmp_path) as checkpoints:
        for step in 1, 2:
            checkpoints.save(step, state_of(step, frozen=frozen))
    stored = list((tmp_path / "frozen").iterdir())
    assert [folder.name for folder in stored] == [tree_hash(state_of(0, frozen=frozen).carry["frozen"])]
    size = lambda folder: sum(file.stat().st_size for file in files(folder))
    assert size(tmp_path / "checkpoints" / "2") < size(stored[0])
    assert_equal(restore(tmp_path, state_of(0, frozen=frozen)), state_of(2, frozen=frozen))


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, r"frozen weights in .* cannot be read"),
        (flip, r"frozen weights in .* are not those that the run began with"),
        (shutil.rmtree, r"frozen weights of the run are not there"),
    ],
)
def test_damaged_or_lost_frozen_weights_are_an_error_in_one_line(tmp_path, damage, message):
    frozen = {"kernel": jnp.arange(4096.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1, frozen=frozen))
    damage(next((tmp_path / "frozen").iterdir()))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        restore(tmp_path, state_of(0, frozen=frozen))
    assert "\n" not in str(error.value)


def test_a_fingerprint_sees_every_change_and_not_the_number_of_devices():
    one, eight = state_of(3), state_of(3, make_mesh(2, 4))
    assert fingerprint(one) == fingerprint(eight)
    kernel = one.params["encoder"]["kernel"]
    for other in kernel.at[5, 7].add(1), kernel.at[0].set(kernel[1]).at[1].set(kernel[0]), kernel.at[0, 0].mul(-1):
        changed = one._replace(params={**one.params, "encoder": {**one.params["encoder"], "kernel": other}})
        changed = jax.device_put(changed, jax.tree.map(lambda x: x.sharding, one))
        differing = [path for path, value in fingerprint(changed).items() if value != fingerprint(one)[path]]
        assert differing == ["params/encoder/kernel"]


@pytest.fixture
def origins(tmp_path):
    """The same weights as a run directory, an exported encoder and an .npz file."""
    save(tmp_path / "run", [5])
    state = state_of(5)
    arrays = {f"params/encoder/{name}": np.asarray(x) for name, x in state.params["encoder"].items()}
    (tmp_path / "finished" / "encoder").mkdir(parents=True)
    np.savez(tmp_path / "finished" / "encoder" / "weights.npz", **arrays)
    np.savez(tmp_path / "file.npz", **{"net/" + name.rpartition("/")[2]: x for name, x in arrays.items()})
    run, finished = tmp_path / "run", tmp_path / "finished"
    return {
        "run": f"{run}",
        "finished": f"{finished}",
        "encoder": f"{finished}/encoder",
        "file": f"{tmp_path}/file.npz#net",
    }


@pytest.mark.parametrize("origin", ["run", "finished", "encoder", "file"])
def test_weights_come_from_runs_encoders_and_files(origins, origin):
    filled = fill(state_of(0), {"params/encoder": origins[origin]})
    assert_equal(filled.params["encoder"], state_of(5).params["encoder"])
    assert_equal(filled.params["head"], state_of(0).params["head"])
    assert jax.tree.map(lambda x: x.sharding, filled) == jax.tree.map(lambda x: x.sharding, state_of(0))


def test_weights_may_go_to_another_place_than_theirs(origins):
    start = state_of(0, frozen={"teacher": jax.tree.map(jnp.zeros_like, state_of(0).params["encoder"])})
    filled = fill(start, {"carry/frozen/teacher": origins["run"] + "#params/encoder"})
    assert_equal(filled.carry["frozen"]["teacher"], state_of(5).params["encoder"])
    leaf = fill(state_of(0), {"params/encoder/bias": origins["run"] + "#params/encoder/bias"})
    assert_equal(leaf.params["encoder"]["bias"], state_of(5).params["encoder"]["bias"])


def test_frozen_weights_of_another_run_can_be_taken(tmp_path):
    frozen = {"kernel": jnp.arange(64.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1, frozen=frozen))
    blank = state_of(0, frozen=jax.tree.map(jnp.zeros_like, frozen))
    assert_equal(fill(blank, {"carry/frozen": str(tmp_path)}).carry["frozen"], frozen)


@pytest.mark.parametrize(
    "path, there, message",
    [
        ("params/encodr", "#params/encoder", r"the state has no 'params/encodr'; did you mean params/encoder"),
        ("params/encoder", "#params/encodre", r"has no 'params/encodre'; did you mean params/encoder"),
        (
            "params/head",
            "#params/encoder",
            r"has 'bias', for which there is no place in params/head; expected .* kernel",
        ),
        ("params/encoder", "#params/head", r"has no 'bias' for params/encoder/bias; expected one of kernel"),
        ("params/head/kernel", "#params/encoder/kernel", r"params/head/kernel is \[64, 8\], but \[64, 64\] in"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_with_the_near_miss(origins, path, there, message):
    with pytest.raises(ValueError, match=message) as error:
        fill(state_of(0), {path: origins["run"] + there})
    assert "\n" not in str(error.value)


def test_an_origin_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run directory, exported encoder, \.npz file or CLIP"):
        fill(state_of(0), {"params": str(tmp_path / "nowhere")})
