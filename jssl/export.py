"""`jssl export`: the encoder of a checkpoint, of a run that is finished or not, in a run directory of its own."""

import pathlib
import shutil

import jax
import numpy as np

from jssl.checkpoint import checkpoint_steps, fingerprint, line, read_seal, read_state, scores_of
from jssl.encoder import FOLDER
from jssl.files import whole
from jssl.sharding import make_mesh, replicated

COPIED = ("config.json", f"{FOLDER}/config.json", f"{FOLDER}/untrained.npz")  # what every run has from step 0 on


def export(workdir, checkpoint, out):
    """Writes the config and the encoder of one checkpoint to OUT, beside the untrained one -> a line of text.

    workdir: a run directory; checkpoint: a step, "last", or "best" by its `checkpoint.best`; out: a new folder, which
    then is a run directory to whatever reads an encoder. Raises ValueError or FileNotFoundError, one line.
    """
    workdir, out = pathlib.Path(workdir).absolute(), pathlib.Path(out)
    step = step_of(workdir / "checkpoints", checkpoint)
    if missing := [path for path in COPIED if not (workdir / path).is_file()]:
        raise FileNotFoundError(f"{workdir} has no {missing[0]}: expected a run directory, as `jssl train` leaves it")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty; expected a new folder")
    with np.load(workdir / FOLDER / "untrained.npz") as untrained:
        arrays = checked(workdir, step, list(untrained))
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for path in COPIED:
        shutil.copyfile(workdir / path, out / path)
    with whole(out / FOLDER / "weights.npz", "wb") as file:
        np.savez(file, **arrays)
    return f"the encoder of step {step:,} is in {out}: jssl eval --workdir {out}"


def step_of(folder, checkpoint):
    """The step of a checkpoint there: "last" is the newest, "best" that of the highest score."""
    steps, scores = checkpoint_steps(folder), scores_of(folder)
    if not steps:
        raise FileNotFoundError(f"there is no checkpoint in {folder}; expected a run directory with one")
    named = {str(step): step for step in steps} | {"last": steps[0]}
    named |= {"best": max(scores, key=scores.get)} if scores else {}
    if checkpoint not in named:
        why = " has a score: k-NN needs eval.every and labels" if checkpoint == "best" else f" is named {checkpoint!r}"
        raise ValueError(f"no checkpoint in {folder}{why}; expected one of {', '.join(named)}")
    return named[checkpoint]


def checked(workdir, step, paths):
    """{path: array} of what a checkpoint has there, held to its seal."""
    folder = workdir / "checkpoints" / str(step)
    try:
        state = read_state(workdir, step)
        arrays = {path: state[path] for path in paths}
    except KeyError as error:
        raise ValueError(f"{folder} has no {error}, which the run's encoder reads") from None
    except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
        raise ValueError(f"{folder} cannot be read ({line(error)}); expected another checkpoint") from None
    seal = read_seal(folder).get("leaves", {})
    found = fingerprint(jax.device_put(arrays, replicated(make_mesh())))
    if changed := [path for path, value in found.items() if seal.get(path, value) != value]:
        raise ValueError(f"{folder}: {changed[0]} has changed on disk; expected another checkpoint")
    return arrays
