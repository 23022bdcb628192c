"""Checkpoints: asynchronous, atomic, checked on the way back; and weights taken from other runs."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax import lax
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from jssl.config import nearest
from jssl.interop.clip import read_clip
from jssl.sharding import flatten, path_of, replicated

# Of an array that several devices hold each writes a part, cut out by a program for every shape: not of small ones.
WHOLE = 2**20  # bytes of a part, at least
ARRAYS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=WHOLE))
)


class Checkpoints:
    """The checkpoints of a run, under WORKDIR/checkpoints/STEP. Leaving a `with` block waits for what is being written.

    Kept are the last `keep` and the one whose metric `best` is the largest. Each holds the state and, as its seal, the
    fingerprint of every leaf: a damaged one is known on the way back. Frozen weights (`carry['frozen']`) are stored
    once, under WORKDIR/frozen/HASH.
    """

    def __init__(self, workdir, keep=2, best=None):
        self.workdir = pathlib.Path(workdir).absolute()
        self.folder = self.workdir / "checkpoints"
        self.keep, self.best = keep, best

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        if "manager" in self.__dict__:
            self.manager.close()

    def wait(self):
        """Until all that was saved is on disk."""
        self.manager.wait_until_finished()

    @functools.cached_property
    def manager(self):
        """Orbax's, which writes and deletes. Made late: by then what is damaged is out of its way."""
        self.scores = scores_of(self.folder)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=Keep(self.keep, self.scores), cleanup_tmp_directories=True
        )
        handlers = {"state": _writer(), "seal": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options)

    def save(self, step, state, metrics=None):
        """Starts writing; returns once the state may be donated again. metrics: {name: float} of this very step."""
        manager = self.manager
        state, frozen = _split(state)
        score = (metrics or {}).get(self.best)
        if score is not None:
            self.scores[step] = float(score)
        frozen = self._save_frozen(frozen) if frozen else None
        seal = {"leaves": fingerprint(state), "frozen": frozen, "score": self.scores.get(step)}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), seal=ocp.args.JsonSave(seal))
        manager.save(step, args=args, force=True)

    def restore(self, like):
        """The newest whole state, laid out as `like` (shapes with shardings); None where there is none.

        A checkpoint that cannot be read, or whose fingerprint is another, is named in the log and set aside in
        WORKDIR/damaged, and the one before it is taken. Raises ValueError where none is whole; also where the newest is
        whole, but of another method: that is no damage.
        """
        like, frozen = _split(like)
        damaged = {}
        for step in checkpoint_steps(self.folder):
            state, seal, damaged[step] = self._read(step, like)
            if damaged[step] is None:
                del damaged[step]
                self._set_aside(damaged, step)
                return _join(state, self._restore_frozen(seal["frozen"], frozen) if frozen else frozen)
        if damaged:
            why = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise ValueError(f"no checkpoint in {self.folder} can be read ({why}); expected a new --workdir")
        return None

    def _read(self, step, like):
        """-> state, seal, None; or None, None, and what is wrong. All processes find the same.

        Through orbax' handlers, not its manager: where one process cannot read, that one lets the others wait for it.
        """
        folder = self.folder / str(step)
        state, seal, why = None, None, None
        try:
            saved = _shapes(ocp.StandardCheckpointHandler().metadata(folder / "state").tree)
            seal = read_seal(folder)
            if not seal:
                raise ValueError("it has no seal")
            other = _first_difference(saved, _shapes(like))
            if not other:
                state = ocp.StandardCheckpointHandler().restore(folder / "state", args=ocp.args.StandardRestore(like))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            other, why = None, line(error)
        if not _everyone(why is None):
            return None, None, why or "another process cannot read it"
        if other:
            raise ValueError(
                f"{folder} is of another method: {other}; expected the code that the run began with, or a new --workdir"
            )
        found = fingerprint(state)
        changed = [path for path, value in found.items() if seal["leaves"].get(path) != value]
        return (None, None, f"{changed[0]} has changed on disk") if changed else (state, seal, None)

    def _set_aside(self, damaged, step):
        if not damaged:
            return
        aside = self.workdir / "damaged"
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            for bad, why in damaged.items():
                logging.warning("checkpoint %d is damaged (%s): moved to %s, going on from %d", bad, why, aside, step)
                shutil.rmtree(aside / str(bad), ignore_errors=True)
                os.replace(self.folder / str(bad), aside / str(bad))
        _everyone(True)

    def _save_frozen(self, frozen):
        """-> the name of their folder: nobody writes these weights, so one copy serves all checkpoints."""
        name = tree_hash(frozen)
        if _everyone(not (self.workdir / "frozen" / name).exists()):
            with ocp.Checkpointer(_writer()) as checkpointer:
                checkpointer.save(self.workdir / "frozen" / name, frozen)
        return name

    def _restore_frozen(self, name, like):
        folder = self.workdir / "frozen" / str(name)
        if not folder.is_dir():
            raise FileNotFoundError(f"the frozen weights of the run are not there: expected {folder}")
        try:
            frozen = ocp.StandardCheckpointHandler().restore(folder, args=ocp.args.StandardRestore(like))
        except Exception as error:
            raise ValueError(f"the frozen weights in {folder} cannot be read ({line(error)})") from None
        if tree_hash(frozen) != name:
            raise ValueError(f"the frozen weights in {folder} are not those that the run began with: another hash")
        return frozen


@dataclasses.dataclass(frozen=True)
class Keep(PreservationPolicy):
    """Keeps the last `latest` checkpoints and the one with the highest score {step: score}.

    Orbax's own `BestN` forgets the scores when a run resumes.
    """

    latest: int
    scores: dict

    def should_preserve(self, checkpoints, *, context):
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = max((step for step in steps if step in self.scores), key=self.scores.get, default=None)
        return [step in sorted(steps)[-self.latest :] or step == best for step in steps]


def _writer():
    return ocp.PyTreeCheckpointHandler(type_handler_registry=ARRAYS)


def checkpoint_steps(folder):
    """The steps that were written to the end, newest first."""
    return sorted(ocp.utils.checkpoint_steps(folder), reverse=True) if pathlib.Path(folder).is_dir() else []


def read_seal(folder):
    """{'leaves': fingerprint, 'frozen': hash or None, 'score': number or None}; {} where it cannot be read."""
    try:
        return json.loads((folder / "seal" / "metadata").read_text())
    except (OSError, ValueError):
        return {}


def scores_of(folder):
    """{step: score} of the checkpoints in a folder that have one, oldest first."""
    scores = {step: read_seal(pathlib.Path(folder) / str(step)).get("score") for step in checkpoint_steps(folder)[::-1]}
    return {step: score for step, score in scores.items() if score is not None}


def fingerprint(tree):
    """{path: uint32}: a position-weighted sum of each leaf's bits, computed where the leaf lies.

    Exact, so the same for any number of devices; a change of any one number changes it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    mesh = leaves[0][1].sharding.mesh
    sums = np.asarray(jax.jit(_sums, out_shardings=replicated(mesh))([leaf for _, leaf in leaves]))
    return {path_of(path): int(value) for (path, _), value in zip(leaves, sums)}


def tree_hash(tree):
    """SHA-256 over the fingerprints of all leaves: one name for a set of weights."""
    return hashlib.sha256(json.dumps(fingerprint(tree), sort_keys=True).encode()).hexdigest()


def _sums(leaves):
    def one(x):
        if x.dtype == bool:
            words = x.astype(jnp.uint32)
        elif x.dtype.itemsize < 4:
            words = x.view(f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
        else:
            words = lax.bitcast_convert_type(x, jnp.uint32)
        place = jnp.arange(words.size, dtype=jnp.uint32).reshape(words.shape)
        return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

    return jnp.stack([one(x) for x in leaves])


def fill(state, init_from):
    """Starting or frozen weights from elsewhere: {state path: 'ORIGIN[#path there]'} into a state after `init`.

    ORIGIN is a run directory (its newest checkpoint, else its exported encoder), such an encoder's folder, an .npz file
    of arrays under flat paths, or a folder of CLIP's image encoder (`jssl.interop.clip`), which is at params/encoder
    there. The path there is the state path itself unless given. Names and shapes must agree; raises ValueError or
    FileNotFoundError, in one line.
    """
    for path, spec in init_from.items():
        origin, _, there = spec.partition("#")
        state = _graft(state, path, _weights(origin, there or path), spec)
    return state


def _graft(state, path, weights, spec):
    """The state with `weights` {path below `path`: array} in the place of its own."""
    names = [path_of(leaf_path) for leaf_path, _ in jax.tree_util.tree_leaves_with_path(state)]
    below = _below(path, names)
    if not below:
        raise ValueError(f"init_from: the state has no {path!r}{_near(path, names)}")
    for key in weights.keys() - below.keys():
        raise ValueError(f"init_from: {spec} has {key!r}, for which there is no place in {path}{_near(key, below)}")

    def one(leaf_path, leaf):
        name = path_of(leaf_path)
        key = next((key for key, whole in below.items() if whole == name), None)
        if key is None:
            return leaf
        if key not in weights:
            raise ValueError(f"init_from: {spec} has no {key!r} for {name}{_near(key, weights)}")
        value = weights[key]
        if value.shape != leaf.shape:
            raise ValueError(f"init_from: {name} is {list(leaf.shape)}, but {list(value.shape)} in {spec}")
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda i: value[i].astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(one, state)


def _weights(origin, there):
    """{path below `there`: array} of a run directory, an exported encoder, an .npz file or CLIP's folder."""
    origin = pathlib.Path(origin).expanduser().absolute()
    steps = checkpoint_steps(origin / "checkpoints")
    files = (origin, origin / "weights.npz", origin / "encoder" / "weights.npz")
    exported = next((file for file in files if file.is_file()), None)
    if steps:
        arrays = read_state(origin, steps[0])
    elif exported:
        arrays = dict(np.load(exported))
    elif (origin / "model.safetensors").is_file():
        fields, arrays = read_clip(origin)
        logging.info("init_from: %s is a ViT with the fields %s", origin, tuple(fields.items()))
        arrays = {f"params/encoder/{path}": x for path, x in arrays.items()}
    else:
        raise FileNotFoundError(
            f"init_from: {origin} is no run directory, exported encoder, .npz file or CLIP of transformers"
        )
    found = _below(there, arrays)
    if not found:
        raise ValueError(f"init_from: {origin} has no {there!r}{_near(there, arrays)}")
    return {key: arrays[name] for key, name in found.items()}


def read_state(workdir, step):
    """{path: array} of a checkpoint, frozen weights too."""
    arrays = read_arrays(workdir / "checkpoints" / str(step) / "state")
    for folder in (workdir / "frozen").glob("*"):
        arrays |= {f"carry/frozen/{path}": x for path, x in read_arrays(folder).items()}
    return arrays


def read_arrays(folder):
    """{path: array} of what orbax wrote there."""
    handler = ocp.PyTreeCheckpointHandler()
    whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree)
    leaves = handler.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=whole))
    return flatten(leaves)


def _below(path, names):
    """{rest: name} of the names that are `path`, or lie below it."""
    return {name[len(path) :].strip("/"): name for name in names if name == path or name.startswith(path + "/")}


def _near(path, names):
    """The near misses of a path among the names, cut to its depth."""
    depth = path.count("/") + 1
    return nearest(path, {"/".join(name.split("/")[:depth]) for name in names})


def _split(state):
    """The state without its frozen weights, and those."""
    carry = dict(state.carry)
    frozen = carry.pop("frozen", None)
    return state._replace(carry=carry), frozen


def _join(state, frozen):
    return state if frozen is None else state._replace(carry={**state.carry, "frozen": frozen})


def line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _shapes(tree):
    return {path_of(path): tuple(x.shape) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _first_difference(saved, now):
    for path in sorted(saved.keys() | now.keys()):
        if saved.get(path) != now.get(path):
            there, here = ("not there" if s is None else list(s) for s in (saved.get(path), now.get(path)))
            return f"{path} is {there} in the checkpoint and {here} in the state"
    return None


def _everyone(ok):
    """Whether all processes agree that it went well; also a barrier."""
    return bool(ok) if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(ok)).all())
