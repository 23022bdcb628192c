"""Continued training: a run whose encoder starts from another's, as far as it fits, whatever method that was."""

import pathlib
import zipfile

import jax
import numpy as np

from jssl.checkpoint import checkpoint_steps, read_arrays
from jssl.nets.resize import resized
from jssl.sharding import flatten, path_of

TABLES = ("positions", "table")  # on a grid of patches, and so of any resolution
ENCODER = r"^encoder(/|$)"  # where every method keeps it, in params


def start(state, origin, there=None):
    """The state before step 0 with the encoder of another run in every place of its own, averages too.

    origin: a run directory (its exported encoder, else its newest checkpoint), an encoder's folder, or an .npz file of
    arrays under flat paths. Taken is what has the name and the shape; tables of positions of another resolution are
    resized. there: what `arrays` has read of it. -> (the state, lines that say what was loaded, and all that was not).

    Raises ValueError or FileNotFoundError, one line, where there is nothing, or nothing that fits.
    """
    there, new, lines = arrays(origin) if there is None else there, {}, []
    here = {"params": state.params, "carry": state.carry}
    for what, like in (("encoder", state.params["encoder"]), ("batch statistics", _stats(state))):
        if not like:
            continue
        names = flatten(like)
        prefix = _prefix(there, names)
        taken, said = _taken(there, prefix, names)
        if not taken and what == "encoder":
            raise ValueError(
                f"init.encoder: nothing in {origin} fits this run's encoder: it has {_few(there)}; expected such as "
                f"{_few(names)}"
            )
        lines += [f"{len(taken)} of {len(names)} arrays of the {what} are from {origin} ({prefix or '/'})", *said]
        new |= {"/".join((*keys, path)): x for keys in places(here, like) for path, x in taken.items()}

    def one(path, leaf):
        value = new.get(path_of(path))
        if value is None:
            return leaf
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda i: value[i].astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(one, state), lines


def places(tree, like, keys=()):
    """The keys to every subtree with the paths and shapes of `like`, but for weights that nobody writes."""
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    if jax.tree.structure(tree) == jax.tree.structure(like) and shapes(tree) == shapes(like):
        return [keys]
    inner = {key: below for key, below in tree.items() if isinstance(below, dict) and key != "frozen"}
    return [found for key, below in inner.items() for found in places(below, like, (*keys, key))]


def _taken(there, prefix, like):
    """-> ({path: array} of what fits, lines on what does not)."""
    below = {name.removeprefix(prefix).strip("/"): x for name, x in there.items() if _inside(name, prefix)}
    taken, changed, first = {}, [], {}
    for path, leaf in like.items():
        x = below.get(path)
        if x is None:
            first[path] = "not there"
        elif x.shape == leaf.shape:
            taken[path] = x
        elif path.rpartition("/")[2] in TABLES and x.ndim == 3 and x.shape[-1] == leaf.shape[-1]:
            taken[path] = np.asarray(resized(x, *leaf.shape[:2]))
            changed.append(f"{path} {_shape(x)} to {_shape(leaf)}")
        else:
            first[path] = f"{_shape(x)} there, {_shape(leaf)} here"
    left = {path: "" for path in below if path not in like}
    said = {"resized": ", ".join(changed), "not loaded": _listed(first), "no place here for": _listed(left)}
    return taken, [f"  {what}: {text}" for what, text in said.items() if text]


def _listed(reasons):
    """{path: reason} as text: those of one block with one reason together."""
    groups = {}
    for path, reason in reasons.items():
        groups.setdefault((path.partition("/")[0], reason), []).append(path)
    names = lambda top, paths: paths[0] if len(paths) == 1 else f"{top}/* ({len(paths)})"
    return ", ".join(names(top, paths) + (f" ({why})" if why else "") for (top, why), paths in groups.items())


def _prefix(there, like):
    """The path below which most of `like` {path: array} is found, by name and shape, then by name alone; of several
    such, parameters before averages of them."""
    scores = {}
    for name, x in there.items():
        parts = name.split("/")
        for i in range(len(parts)):
            path = "/".join(parts[i:])
            if path in like:
                score = scores.setdefault("/".join(parts[:i]), [0, 0])
                score[0] += x.shape == like[path].shape
                score[1] += 1
    return max(sorted(scores, key=lambda p: (not p.startswith("params"), p)), key=scores.get, default="")


def _stats(state):
    return state.carry.get("stats", {}).get("encoder", {})


def arrays(origin):
    """{path: array} of a run directory, an encoder's folder or an .npz file; raises as `start` where there are none."""
    folder = pathlib.Path(origin).expanduser().absolute()
    files = (folder / "encoder" / "weights.npz", folder / "weights.npz", folder)
    file = next((file for file in files if file.is_file()), None)
    steps = checkpoint_steps(folder / "checkpoints")
    if file:
        try:
            return {name: x for name, x in np.load(file).items() if x.dtype.kind == "f"}
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile):
            raise ValueError(f"init.encoder: {file} cannot be read; expected an .npz file of arrays") from None
    if not steps:
        raise FileNotFoundError(
            f"init.encoder: there is no encoder or checkpoint in {origin}; expected a run directory, an encoder's "
            "folder or an .npz file"
        )
    found = read_arrays(folder / "checkpoints" / str(steps[0]) / "state")
    return {name: x for name, x in found.items() if name.startswith(("params/", "carry/"))}


def _inside(name, prefix):
    return not prefix or name.startswith(f"{prefix}/")


def _shape(x):
    return " x ".join(map(str, x.shape)) or "a number"


def _few(found):
    named = [f"{path} {_shape(x)}" for path, x in list(found.items())[:3]]
    return ", ".join(named) + (", ..." if len(found) > 3 else "") if named else "no arrays"
