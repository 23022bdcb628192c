"""Several processes that are started alike, as on a pod: which of them writes and speaks. Needs no jax."""

import os
import sys

NUMBERS = {  # how many there are: which of them this is
    "JAX_NUM_PROCESSES": "JAX_PROCESS_ID",
    "SLURM_NTASKS": "SLURM_PROCID",
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
}


def first():
    """Whether this process writes and speaks: of those that have joined, see `sharding.distribute`, the first."""
    jax = sys.modules.get("jax")  # who has not imported it, such as processes that decode, has not joined any
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def number():
    """The number of this process among those that the environment speaks of, which need not have joined; 0 of one."""
    environment = os.environ
    for count, own in NUMBERS.items():
        if int(environment.get(count, 1)) > 1:
            return int(environment.get(own, 0))
    return int(environment.get("TPU_WORKER_ID", 0)) if "," in environment.get("TPU_WORKER_HOSTNAMES", "") else 0
