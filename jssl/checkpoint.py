"""Checkpoints: asynchronous, atomic, checked on the way back; and weights taken from other runs."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax import lax
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from jssl.config import nearest
from jssl.sharding import path_of


class Checkpoints:
    """The checkpoints of one run, under WORKDIR/checkpoints/STEP.

    Kept are the last `keep` and the best by the metric `best`. Each holds the state and the fingerprint of every leaf, so
    that a damaged one is known on the way back. Frozen weights (`carry['frozen']`) are stored once beside them.
    """

    def __init__(self, workdir, keep=2, best=None):
        self.folder = pathlib.Path(workdir).absolute()
        keepers = [LatestN(keep)]
        if best:
            keepers.append(BestN(get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(keepers), enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self.manager = ocp.CheckpointManager(self.folder / "checkpoints", options=options)

    def save(self, step, state, metrics=None):
        """Starts writing; returns once the state may be donated again. metrics: {name: float}, for `best`."""
        if step in self.manager.all_steps():
            return
        state, frozen = _split(state)
        if frozen:
            self._save_frozen(frozen)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), fingerprint=ocp.args.JsonSave(fingerprint(state)))
        self.manager.save(step, args=args, metrics=metrics, force=True)

    def restore(self, like):
        """The newest whole state, laid out as `like` (arrays or shapes with shardings); None where there is none.

        A checkpoint that cannot be read, or whose fingerprint is another, is named in the log, removed, and the one before it
        is taken.
        """
        like, frozen = _split(like)
        steps = sorted(self.manager.all_steps(), reverse=True)
        for step in steps:
            try:
                state = self._restore(step, like)
            except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
                state, why = None, (str(error).strip() or type(error).__name__).splitlines()[0]
            if _everyone(state is not None):
                return _join(state, self._restore_frozen(frozen) if frozen else None)
            logging.warning("checkpoint %d is damaged (%s): falling back to the one before", step, why[:200])
            self.manager.delete(step)
        if steps:
            raise ValueError(f"none of the {len(steps)} checkpoints in {self.folder} can be read; start in a new directory")
        return None

    def close(self):
        """Waits for what is being written."""
        self.manager.wait_until_finished()
        self.manager.close()

    def _restore(self, step, like):
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), fingerprint=ocp.args.JsonRestore())
        saved = self.manager.restore(step, args=args)
        found = fingerprint(saved["state"])
        for path, value in saved["fingerprint"].items():
            if found[path] != value:
                raise ValueError(f"{path} has changed on disk")
        return saved["state"]

    def _save_frozen(self, frozen):
        target = self.folder / "frozen"
        if not target.exists():
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(target, frozen)
            if jax.process_index() == 0:
                (self.folder / "frozen.json").write_text(json.dumps({"hash": tree_hash(frozen)}))

    def _restore_frozen(self, like):
        with ocp.StandardCheckpointer() as checkpointer:
            frozen = checkpointer.restore(self.folder / "frozen", like)
        if tree_hash(frozen) != json.loads((self.folder / "frozen.json").read_text())["hash"]:
            raise ValueError(f"the frozen weights in {self.folder / 'frozen'} are not those that the run began with")
        return frozen


def fingerprint(tree):
    """{path: uint32}: a position-weighted sum of each leaf's bits, computed where the leaf lies.

    Exact, so the same for any number of devices.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = np.asarray(_sums([leaf for _, leaf in leaves]))
    return {path_of(path): int(value) for (path, _), value in zip(leaves, sums)}


@jax.jit
def _sums(leaves):
    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if x.dtype == bool or x.dtype.itemsize < 4:
            words = x.view(f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32) if x.dtype != bool else x.astype(jnp.uint32)
        else:
            words = lax.bitcast_convert_type(x, jnp.uint32)
        place = jnp.arange(words.size, dtype=jnp.uint32).reshape(words.shape)
        return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

    return jnp.stack([one(x) for x in leaves])


def tree_hash(tree):
    """SHA-256 over the fingerprints of all leaves: one name for a set of weights."""
    return hashlib.sha256(json.dumps(fingerprint(tree), sort_keys=True).encode()).hexdigest()


def fill(state, init_from):
    """Starting or frozen weights from elsewhere: {state path: 'RUN_OR_FILE[#path there]'} into a state after `init`.

    RUN is a run directory (its newest checkpoint, else its exported encoder); FILE is an .npz of flat paths. The path there is
    the state path itself unless given. Shapes must agree.
    """
    for path, spec in init_from.items():
        origin, _, there = spec.partition("#")
        state = _graft(state, path, _weights(origin, there or path), spec)
    return state


def _graft(state, path, weights, spec):
    used = set()

    def one(leaf_path, leaf):
        name = path_of(leaf_path)
        if name != path and not name.startswith(path + "/"):
            return leaf
        key = name[len(path) :].strip("/")
        if key not in weights:
            raise ValueError(f"init_from: {spec} has no {key!r} for {name}{nearest(key, weights)}")
        if weights[key].shape != leaf.shape:
            raise ValueError(f"init_from: {name} has shape {leaf.shape}, but {spec} has {weights[key].shape}")
        used.add(key)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda i: weights[key][i].astype(leaf.dtype))

    state = jax.tree_util.tree_map_with_path(one, state)
    if not used:
        known = sorted({path_of(p).rsplit("/", 2)[0] for p, _ in jax.tree_util.tree_leaves_with_path(state)})
        raise ValueError(f"init_from: the state has no {path!r}{nearest(path, known)}")
    return state


def _weights(origin, there):
    """{path below `there`: array} of a run directory or an .npz file."""
    origin = pathlib.Path(origin)
    if (origin / "checkpoints").is_dir():
        with ocp.CheckpointManager(origin.absolute() / "checkpoints") as manager:
            saved = manager.restore(manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore()))
        leaves = jax.tree_util.tree_leaves_with_path(saved["state"])
        arrays = {path_of(path): np.asarray(leaf) for path, leaf in leaves}
    elif origin.is_file():
        arrays = dict(np.load(origin))
    else:
        raise FileNotFoundError(f"init_from: {origin} is neither a run directory nor an .npz file")
    found = {key[len(there) :].strip("/"): x for key, x in arrays.items() if key == there or key.startswith(there + "/")}
    if not found:
        raise ValueError(f"init_from: {origin} has no {there!r}{nearest(there, {k.rsplit('/', 1)[0] for k in arrays})}")
    return found


def _split(state):
    """The state without its frozen weights, and those."""
    carry = dict(state.carry)
    frozen = carry.pop("frozen", None)
    return state._replace(carry=carry), frozen


def _join(state, frozen):
    return state if frozen is None else state._replace(carry={**state.carry, "frozen": frozen})


def _everyone(ok):
    """Whether all processes agree that it went well."""
    return bool(ok) if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(ok)).all())
