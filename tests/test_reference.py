"""The committed curves of good runs are of today's recipes."""

import json

import numpy as np
import pytest

from jssl import compare
from jssl import config as configs

REFERENCES = {name: json.loads(path.read_text()) for name, path in compare.references().items()}
# What a run begins with by its data and its device. Fields that are new have defaults that change nothing.
CHOSEN = ("dtype", "data.rows", "method.rows", "train.steps: ", "train.per_epoch", "train.refresh_every")
CHOSEN += ("train.steps_per_call",)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_is_of_a_recipe_as_it_is_now(name):
    band = REFERENCES[name]
    assert name == f"{band['method']}-{band['variant']}"
    now = configs.plain(configs.load(f"{band['method']}:{band['variant']}"))
    found = [line for line in compare.differences(band, now) if ": absent -> " not in line]
    assert not [line for line in found if not (line.startswith(CHOSEN) and line.endswith(("-> None", "-> absent")))]
    assert compare.find(None, now)[0] == name


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_has_bands_up_to_the_last_step(name):
    band = REFERENCES[name]
    assert {"loss", "knn"} <= band["curves"].keys() <= compare.MEASURES.keys()
    for curve in band["curves"].values():
        steps, low, high = (np.array(curve[key], float) for key in ("steps", "low", "high"))
        assert (np.diff(steps) > 0).all()
        assert steps[-1] == band["config"]["train"]["steps"]
        assert (low <= high).all()
        assert np.isfinite(low).all()


def test_every_method_has_one():
    """But distillation, which needs another run first."""
    without = {f"{name}-demo" for name in configs.experiments()} - REFERENCES.keys()
    assert without == {"dinov2_distill-demo"}
