"""A few steps of each method's `tiny` variant, in as many processes as the environment says: one npz per method.

    python -m tests.every_method FOLDER NAME...

FOLDER/NAME.npz holds the losses and every leaf of the final state; FOLDER/NAME.txt, in its place, the error.
"""

import os
import pathlib
import sys
import traceback

import jax
import numpy as np

from jssl.sharding import distribute, flatten, replicated
from tests.contract import STEPS, begin, make_run


def main(folder, *names):
    distribute()
    for name in names:
        result = pathlib.Path(folder, f"{name}.npz")
        try:
            found = steps(name)
        except Exception:
            found, result = traceback.format_exc(), result.with_suffix(".txt")
        if jax.process_index() == 0:
            write(result, found)
        jax.clear_caches()  # a process of hundreds of compiled programs runs out of memory maps


def steps(name):
    """{path: array} of the losses and the final state, on all devices there are; pairs of them share parameters."""
    fsdp = min(2, jax.device_count())
    run = make_run(name, (jax.device_count() // fsdp, fsdp))
    losses = []
    with jax.set_mesh(run.mesh), run.feed.items(0, 1) as items:
        state = begin(run)
        for _ in range(STEPS):
            state, metrics, _ = run.steps(state, run.feed.held, next(items), run.rng)
            losses.append(float(metrics["loss"][0]))
        state = jax.jit(lambda x: x, out_shardings=replicated(run.mesh))(state)
    return {"losses": np.array(losses)} | flatten(jax.device_get(state))


def write(path, found):
    """Whole or not at all: someone waits for the file."""
    part = path.with_name(f"{path.name}.part")
    if isinstance(found, str):
        part.write_text(found)
    else:
        with open(part, "wb") as file:
            np.savez(file, **found)
    os.replace(part, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
