"""Reference figures from code that no one here wrote; each folder's manifest names package, version and call."""

import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent


def load(name):
    """-> (manifest, {tensor name: array}); weights, where there are any, are under `model.NAME`."""
    manifest = json.loads((HERE / name / "manifest.json").read_text())
    tensors = dict(np.load(HERE / name / "tensors.npz"))
    weights = HERE / name / "model.npz"
    if weights.exists():
        tensors |= {f"model.{key}": value for key, value in np.load(weights).items()}
    return manifest, tensors
