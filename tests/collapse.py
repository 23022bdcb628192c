"""What the health measures say after a few steps at a rate that lets a method collapse, if nothing keeps it from it."""

import jax

from jssl import health
from tests.contract import make_run


def measured(name, steps, **overrides):
    """-> (warning or None, metrics) after `steps` steps of a `tiny` variant with AdamW; overrides as in `make_run`."""
    fields = {"optim__name": "adamw", "optim__lr": 0.04, "train__steps": 10 * steps, **overrides}  # 0.01 of 64 images
    run = make_run(name, **fields)
    with jax.set_mesh(run.mesh), run.feed.items(0, 1) as items:
        state = run.init(run.rng_init)
        for _ in range(steps):
            state, metrics, out = run.steps(state, run.feed.images, next(items), run.rng)
        metrics = {key: float(value[-1]) for key, value in metrics.items()}
        metrics |= {key: float(value) for key, value in run.measures(out).items()}
    return health.warning(metrics), metrics
