"""Where arrays lie: the mesh, the rules for the state, and the batch's way onto the devices."""

import os
import re

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

ROWS = ("data", "fsdp")  # a batch is cut over all devices, whatever the parameters do

# The first rule whose pattern is found in a leaf's path decides. "fsdp" cuts the leaf's largest axis that divides.
RULES = (
    (r"^params/", "fsdp"),
    (r"^opt/", "fsdp"),
    (r"^carry/target/", "fsdp"),
    (r"^carry/frozen/", "fsdp"),
    (r"", "replicate"),
)


def distribute():
    """Joins the other processes, if the environment says that there are any.

    Read are JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or what Slurm, Open MPI and TPU pods set.
    """
    if jax.distributed.is_initialized():
        return
    environment = os.environ
    if "JAX_COORDINATOR_ADDRESS" in environment:
        jax.distributed.initialize(
            environment["JAX_COORDINATOR_ADDRESS"],
            int(environment["JAX_NUM_PROCESSES"]),
            int(environment["JAX_PROCESS_ID"]),
        )
    elif (
        int(environment.get("SLURM_NTASKS", 1)) > 1
        or int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()


def make_mesh(data=-1, fsdp=1, devices=None):
    """A (data, fsdp) mesh; data=-1 takes all devices.

    Axes are Auto: with the default, Explicit, Linen modules fail on sharded parameters.
    """
    devices = jax.devices() if devices is None else devices
    if data == -1:
        data = max(len(devices) // fsdp, 1)
    if data * fsdp != len(devices):
        raise ValueError(
            f"mesh.data={data} x mesh.fsdp={fsdp} does not make {len(devices)} devices; "
            f"expected a divisor of {len(devices)} for mesh.fsdp and mesh.data=-1"
        )
    return jax.make_mesh((data, fsdp), ROWS, axis_types=(AxisType.Auto,) * 2, devices=devices)


def path_of(path):
    """A pytree key path as text: 'params/encoder/stem/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree):
    """{'params/encoder/stem/kernel': leaf, ...}"""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(flat):
    """Nested dicts of {'params/encoder/stem/kernel': value, ...}, the inverse of `flatten` for them."""
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def state_shardings(mesh, shapes, rules=RULES):
    """A NamedSharding for every leaf of the state, by the first rule that matches its path."""

    def one(path, leaf):
        layout = next(layout for pattern, layout in rules if re.search(pattern, path_of(path)))
        sizes = [(size, axis) for axis, size in enumerate(leaf.shape) if size % mesh.shape["fsdp"] == 0]
        if layout == "replicate" or not sizes:
            return replicated(mesh)
        longest = max(sizes)[1]
        return NamedSharding(mesh, P(*("fsdp" if axis == longest else None for axis in range(leaf.ndim))))

    return jax.tree_util.tree_map_with_path(one, shapes)


def replicated(mesh):
    return NamedSharding(mesh, P())


def everywhere(mesh, tree):
    """Arrays that every process holds whole -> global arrays, whole on every device.

    `device_put` would first send each process's copy to all the others, to compare them.
    """

    def one(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, replicated(mesh), lambda index: x[index])

    return jax.tree.map(one, tree)


def fetched(mesh, tree):
    """Global arrays, cut in whichever way -> numpy arrays, whole, on every process."""
    return jax.tree.map(np.asarray, jax.device_put(tree, replicated(mesh)))


def rows_here(mesh, batch_size):
    """The rows of the global batch that this process's devices hold, int64 [rows], in order."""
    if batch_size == 1:
        return np.arange(1)
    pieces = NamedSharding(mesh, P(ROWS)).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[piece] for piece in pieces]))


def put(mesh, batch, batch_size, axis=0):
    """This process's rows {name: [.., rows, ..]} -> global arrays, cut over all devices along `axis`.

    A batch of one is replicated.
    """
    spec = P(*[None] * axis, ROWS) if batch_size > 1 else P()

    def one(rows):
        shape = rows.shape[:axis] + (batch_size,) + rows.shape[axis + 1 :]
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), np.asarray(rows), shape)

    return jax.tree.map(one, batch)
