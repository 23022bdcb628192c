"""Metrics on their way from the device to the writer, with the time that the steps and the data took."""

import contextlib
import time

import jax
import numpy as np

from jssl.watch import FINITE, Diverged, not_finite


class Log:
    """The rows of a run. rate: step -> learning rate; spent: a `cost.Meter`."""

    def __init__(self, rate, batch_size, spent):
        self.rate, self.batch_size, self.spent = rate, batch_size, spent
        self.pending = []  # metrics {name: [K]} of calls that nobody has looked at
        self.restart()

    def restart(self):
        """Time spent since the last row (compiling, evaluating, saving) is not counted as that of steps."""
        self.began, self.waited, self.steps = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self):
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    def add(self, metrics):
        self.pending.append(metrics)
        self.steps += len(metrics["loss"])

    def flush(self, done):
        """The row of step `done`. Raises Diverged where any step since the last row was not finite."""
        pending = jax.device_get(self.pending)
        metrics = {name: np.concatenate([m[name] for m in pending]) for name in pending[0]}
        self.pending = []
        bad = ~np.all([np.isfinite(metrics[name]) for name in FINITE], 0)
        if bad.any():
            at = int(bad.argmax())
            step = done - len(bad) + at + 1
            row = {name: float(x[at]) for name, x in metrics.items()}
            raise Diverged(f"step {step}: {not_finite([row], {})}", done)
        seconds = max(time.monotonic() - self.began, 1e-9)
        row = {name: float(value[-1]) for name, value in metrics.items()} | {"lr": float(self.rate(done - 1))}
        if self.steps:
            row |= {
                "examples_per_s": self.steps * self.batch_size / seconds,
                "data_wait": self.waited / seconds,
            }
        return row | self.spent.so_far(done)
