"""A few steps of a method's `tiny` variant, on any mesh, through the engine's own `Run`."""

import functools
import re

import jax
import numpy as np

from jssl import config as configs
from jssl import encoder
from jssl.experiment import fill, open_data
from jssl.method import LABELS
from jssl.probe import Probed, own
from jssl.sharding import flatten, make_mesh
from jssl.train import Run, due

STEPS = 4
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def make_run(name, mesh=(1, 1), workdir=None, **overrides):
    """The engine's `Run` of a `tiny` variant on a (data, fsdp) mesh; train__accumulate overrides `train.accumulate`."""
    devices = jax.devices()[: mesh[0] * mesh[1]]
    overrides = {"mesh.data": mesh[0], "mesh.fsdp": mesh[1], **overrides}
    config = configs.load(f"{name}:tiny", {path.replace("__", "."): value for path, value in overrides.items()})
    source = open_data(config)
    config, _ = fill(config, source, devices)
    mesh = make_mesh(*mesh, devices)
    with jax.set_mesh(mesh):
        return Run(config, source, mesh, workdir)


def begin(run):
    """The state before the first step, its clusters found where it has any."""
    state = run.begin()
    return run.refresh(state, 0) if due(0, run.config.train.refresh_every) else state


class Trained:
    """`steps` steps on a (data, fsdp) mesh: the start, the end, the losses and the compiled program."""

    def __init__(self, name, mesh=(1, 1), workdir=None, steps=STEPS, **overrides):
        self.run = make_run(name, mesh, workdir, **overrides)
        self.config, self.mesh, self.experiment = self.run.config, self.run.mesh, self.run.experiment
        self.method = self.experiment.method
        with jax.set_mesh(self.mesh):
            state = begin(self.run)
            self.start = jax.device_get(state)
            losses, self.out = [], None
            with self.run.feed.items(0, 1) as items:
                for _ in range(steps):
                    state, metrics, self.out = self.run.steps(state, self.run.feed.held, next(items), self.run.rng)
                    losses.append(float(metrics["loss"][0]))
        self.state, self.losses, self.metrics = state, losses, jax.device_get(metrics)
        self.end = jax.device_get(state)

    @functools.cached_property
    def text(self):
        """The compiled step."""
        with jax.set_mesh(self.mesh), self.run.feed.items(0, 1) as items:
            return self.run.steps.lower(self.state, self.run.feed.held, next(items), self.run.rng).compile().as_text()

    def collectives(self):
        """[(kind, elements of the largest operand)] of the compiled step."""
        found = []
        for line in self.text.splitlines():
            if match := COLLECTIVE.search(line):
                shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
                found.append((match[2], max(int(np.prod([int(d) for d in s.split(",") if d])) for s in shapes)))
        return found

    @functools.cached_property
    def fixed_loss(self):
        """(params, carry) -> loss on the views below, and its gradient with respect to the carry."""
        time, views = self.experiment.time._replace(step=0), self.views

        def loss(carry, params):
            return self.method.loss(params, carry, views, jax.random.key(1), time)[0]

        compiled = jax.jit(jax.value_and_grad(loss, allow_int=True))
        return lambda params, carry: compiled(carry, params)

    def embed(self, rows):
        """Features of these rows of the source, by the trained encoder, through the engine."""
        with jax.set_mesh(self.mesh):
            state, preprocess = self.state, self.experiment.preprocess
            return encoder.embed(
                self.run.embedder, state.params, state.carry, self.run.source.take(rows), preprocess, len(rows)
            )

    @functools.cached_property
    def batch(self):
        """One batch of real images, on the mesh."""
        with jax.set_mesh(self.mesh), self.run.feed.items(0, 1) as items:
            return self.run.feed.fetch(self.run.feed.held, jax.tree.map(lambda x: x[0], next(items)))

    def compared(self):
        """What views of that batch differ in: [N, V, ...]."""
        if "image" in self.views:
            return np.asarray(self.views["image"])
        parts = [np.asarray(self.views[name]) for name in ("x", "nodes", "edges")]
        return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], 2)

    @functools.cached_property
    def views(self):
        """The views of that batch."""
        with jax.set_mesh(self.mesh):
            return jax.jit(self.experiment.augment)(self.run.rng, self.batch)


@functools.cache
def trained(name, mesh=(1, 1), **overrides):
    """A `Trained`, shared by all tests of the process."""
    return Trained(name, mesh, **overrides)


def assert_probe_changes_nothing(alone, probed):
    """All that a training is, beside one with an online probe: the same but for the last bits, since XLA may fuse the
    two programs otherwise and then adds in another order."""
    assert isinstance(probed.method, Probed)
    assert not isinstance(alone.method, Probed)
    without = lambda tree, name: {key: value for key, value in tree.items() if key != name}
    assert_close(alone.losses, probed.losses)
    assert_close(alone.end.params, own(probed.end.params))
    assert_close(without(alone.end.carry, LABELS), without(probed.end.carry, LABELS))
    assert_close(dict(alone.out), probed.out)
    for metric in alone.metrics.keys() - {"grad_norm", "param_norm"}:
        assert_close(alone.metrics[metric], probed.metrics[metric])


def pairs(a, b):
    """[(path, leaf of a, leaf of b)] of trees with the same leaves, whatever holds them."""
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    return [(path, x, b[path]) for path, x in a.items()]


def assert_close(a, b, tolerance=1e-5):
    """|a - b| <= tolerance * (max|a| + 1), leaf by leaf; by default what the order of float32 sums may change."""
    for path, x, y in pairs(a, b):
        assert np.shape(x) == np.shape(y), path
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        apart = np.abs(x - y).max(initial=0)
        assert apart <= tolerance * (np.abs(x).max(initial=0) + 1), f"{path}: {apart}"


def assert_equal(a, b):
    """Bit by bit."""
    for path, x, y in pairs(a, b):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=path)
