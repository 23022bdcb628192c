"""What the health measures say after a few steps at a rate that lets a method collapse, if nothing keeps it from it."""

import numpy as np

from jssl import watch
from tests.contract import Trained

ADAMW = {"optim__name": "adamw", "optim__lr": 0.04}  # 0.01 for a batch of 64


def judged(name, steps, **overrides):
    """-> (warning or None, measures) after `steps` steps of a `tiny` variant with ReLU; overrides as in `make_run`."""
    one = Trained(name, steps=steps, **{"train__steps": steps, "encoder__activation": "relu", **overrides})
    measures = {**one.metrics, **one.run.measures(one.out)}
    measures = {key: float(np.ravel(value)[-1]) for key, value in measures.items()}
    return next(iter(watch.findings([measures]).values()), None), measures
