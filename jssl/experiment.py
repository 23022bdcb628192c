"""From a config to the objects of a run, and the fields that are chosen from the data and the device."""

import functools
import importlib.metadata
import math
import pathlib
import shlex
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jssl
from jssl import data, modalities, probe, watch
from jssl.config import build, nearest
from jssl.method import Method, Time
from jssl.optim import optimizer, schedule
from jssl.start import ENCODER

RESIDENT_SHARE = 0.25  # of a device's memory that images may take
RESIDENT_CPU = 2**30  # bytes, where a device does not tell its memory
IMAGES = {True: 20e6, False: 150e3}  # seen in a run whose length nobody chose, with and without an accelerator
PARTS = {"log_every": 100, "eval.every": 10, "checkpoint.every": 5}  # of a run, where a cadence is None
DTYPES = ("float32", "bfloat16")
CADENCES = ("log_every", "train.refresh_every", "eval.every", "checkpoint.every")


class Experiment(NamedTuple):
    """What a config means."""

    method: Method
    augment: Any  # (rng, batch) -> views
    preprocess: Any  # batch -> inputs
    tx: optax.GradientTransformation
    rate: Any  # step -> learning rate
    time: Time


def open_data(config):
    """The training source of a config: what `config.data` says, for its modality."""
    return modalities.find(config.modality).open_data(config.data, config.seed)


def prepare(config, source=None):
    """The objects of a complete config (no field left to choose). source: what a probe, if any, finds labels in."""
    encoder = build(config.encoder, dtype=jnp.dtype(config.dtype))
    epochs = config.train.per_epoch if config.train.epochs is not None else 1.0
    rate = schedule(config.optim, config.train.steps, config.train.batch_size, epochs)
    method, optim = build(config.method, encoder=encoder), config.optim
    wait = round(config.init.warmup * config.train.steps) if config.init.encoder else 0
    if classes := probe.classes_of(config, source):
        method = probe.Probed(method, classes, len(source.labels))
        optim = optim.copy_and_resolve_references()
        peak = float(rate(round(optim.warmup * epochs)))
        batch = len(source.labels) if len(source) == 1 else config.train.batch_size  # of one graph, its nodes
        optim.groups = (probe.group(config, peak, batch), *optim.groups)
    return Experiment(
        method=method,
        augment=build(config.augment),
        preprocess=build(config.preprocess),
        tx=optimizer(optim, rate, epochs, config.train.steps, held=(ENCODER, wait) if wait else None),
        rate=rate,
        time=Time(0, config.train.steps, config.train.per_epoch),
    )


def fill(config, source, devices=None):
    """Chooses every field that is None from the data and the device; returns the config and what was chosen, as text.

    Also works out `train.steps` and `train.per_epoch`, and checks what hangs together.
    """
    devices = jax.devices() if devices is None else devices
    config = config.copy_and_resolve_references()
    accelerator = devices[0].platform != "cpu"
    chosen = {}
    _check_given(config)

    def choose(path, value, why):
        section, _, key = path.rpartition(".")
        section = config[section] if section else config
        if section.get(key) is None:
            section[key] = value
            chosen[path] = f"{path} = {value} ({why})"

    n, device = len(source), devices[0].device_kind
    if config.method.get("rows", 0) is None:
        choose("method.rows", n, "of the data")
    if config.method.get("classes", 0) is None:
        if source.labels is None:
            raise ValueError(f"{config.method.name} needs labels, but {source.spec} has none; or give method.classes")
        choose("method.classes", int(source.labels.max()) + 1, "of the data")
    choose("dtype", "bfloat16" if accelerator else "float32", f"device: {device}")
    modalities.expect(source, config.modality, config.method.name)
    modalities.find(config.modality).fill(config, source, choose, devices)

    train = config.train
    train.per_epoch = n / train.batch_size
    if train.steps is None:
        choose("train.epochs", _epochs(n, accelerator), source.contents)
    steps = train.steps or max(round(train.epochs * train.per_epoch), 1)
    for path, parts in PARTS.items():
        choose(path, _one_of(steps, parts), f"{steps:,} steps")
    length = steps if train.epochs is None else steps / train.per_epoch
    choose("optim.warmup", length / 20, "a twentieth of the run")

    held = source.arrays
    fits = held is not None and sum(x.nbytes for x in held.values()) <= _room(devices)
    choose("data.resident", fits, "the data fit on the device" if fits else "the data stay on the host")
    choose("data.workers", 0 if held is not None else data.default_workers(), "cores")
    choose("train.steps_per_call", _steps_per_call(config, accelerator), "divides every cadence")
    choose("train.refresh_every", _multiple(train.per_epoch, train.steps_per_call), "about an epoch")
    if train.steps is None:
        train.steps = max(steps - steps % train.steps_per_call, train.steps_per_call)
    check(config, source, devices)
    return config, list(chosen.values())


def _check_given(config):
    """One line for a number or a dtype that is none, before anything is reckoned from it."""
    train = config.train
    for key in ("batch_size", "steps", "accumulate", "steps_per_call"):
        if train[key] is not None and train[key] < 1:
            raise ValueError(f"train.{key}={train[key]}: expected a whole number of at least 1")
    if train.epochs is not None and not train.epochs > 0:
        raise ValueError(f"train.epochs={train.epochs:g}: expected more than 0")
    if config.dtype not in (None, *DTYPES):
        raise ValueError(f"dtype={config.dtype!r}: expected {' or '.join(DTYPES)}{nearest(config.dtype, DTYPES)}")


def check(config, source, devices):
    """One line for each thing that cannot be."""
    train, calls = config.train, config.train.steps_per_call
    watch.check(config.watch)
    if not 0 <= config.init.warmup < 1:
        raise ValueError(f"init.warmup={config.init.warmup}; expected a share of the steps, from 0 to below 1")
    modalities.find(config.modality).check(config, source)
    if len(source) < train.batch_size:
        raise ValueError(
            f"{config.data.source} has {len(source)} {source.modality}s, fewer than one batch: "
            f"train.batch_size={train.batch_size}"
        )
    pieces, leading = train.accumulate * len(devices), source.leading(train.batch_size, config.data.rows)
    if leading % pieces and (leading, train.accumulate) != (1, 1):  # a batch of one is replicated
        field = "train.batch_size" if leading == train.batch_size else "data.rows"
        raise ValueError(
            f"{field}={leading} cannot be cut into {train.accumulate} micro-batches on {len(devices)} devices; "
            f"the nearest that can is {_multiple(leading, pieces)}"
        )
    for path in (*CADENCES, "train.steps"):
        section, _, key = path.rpartition(".")
        value = (config[section] if section else config)[key]
        if value % calls:
            raise ValueError(
                f"train.steps_per_call={calls} must divide {path}={value}; "
                f"the nearest that it does is {_multiple(value, calls)}"
            )
    if config.data.resident and source.arrays is None:
        raise ValueError("data.resident=True needs examples in memory, all of one size; expected None or False")


def provenance():
    """What a result needs to be made again: versions, commit, command, devices."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "versions": {"jssl": jssl.__version__, **versions, "python": sys.version.split()[0]},
        "commit": commit(),
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
    }


@functools.cache
def commit():
    """The commit of the code in memory, or None: read once, since a checkout can move on while a process runs."""
    git = ["git", "-C", jssl.__path__[0], "describe", "--always", "--dirty", "--abbrev=40"]
    found = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return found or None


def preflight(config, source, state):
    """Before the first compile: how large all of it is, as lines of text. state: arrays or shapes."""
    train, devices = config.train, jax.device_count()
    count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
    size = lambda tree: sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 2**20
    name = config.method.name.rpartition(":")[2]
    epochs = train.steps / train.per_epoch
    micro = f" in {train.accumulate} micro-batches" if train.accumulate > 1 else ""
    return [
        f"{name} on {config.data.source}: {source.contents}, "
        f"{devices} x {jax.devices()[0].device_kind}, {config.dtype}",
        *([f"{source.spec}: {', '.join(source.said)}"] if source.said else []),
        f"{count(state.params):,} parameters; state {size(state):,.1f} MiB ({size(state.params):,.1f} parameters, "
        f"{size(state.carry):,.1f} carry, {size(state.opt):,.1f} optimizer)",
        f"batch {train.batch_size:,} ({train.batch_size // devices:,} per device){micro}, {train.steps:,} steps, "
        f"{epochs:,.1f} epochs, {train.steps_per_call} steps per dispatch",
        *_probe(config, source),
    ]


def _probe(config, source):
    if not config.eval.probe_lr:
        return []
    classes = probe.classes_of(config, source)
    return [f"online probe on {classes} classes" if classes else "no online probe: it needs labels of two classes"]


def _epochs(n, accelerator):
    """So many that a run ends: within the hour on a CPU, however large the data; on an accelerator 10 at least."""
    epochs = min(800.0, IMAGES[accelerator] / n)
    return max(10.0, float(round(epochs))) if accelerator else round(epochs, 0 if epochs > 10 else 2)


def _one_of(steps, parts):
    """A round number of steps (1, 2, 5, 10, 20, ...) that falls at least `parts` times into a run, or every step."""
    most = max(steps // parts, 1)
    tens = 10 ** (len(str(most)) - 1)
    return max(tens * k for k in (1, 2, 5) if tens * k <= most)


def _room(devices):
    here = next(device for device in devices if device.process_index == jax.process_index())
    memory = (here.memory_stats() or {}).get("bytes_limit")
    return memory * RESIDENT_SHARE if memory else RESIDENT_CPU


def _steps_per_call(config, accelerator):
    """Small resident images on an accelerator: as many steps per dispatch, up to 10, as divide every cadence.

    A CPU takes one: its dispatch is short beside the step, and `step.scan` is unrolled there.
    """
    if not config.data.resident or not accelerator:
        return 1
    values = [config.log_every, config.train.refresh_every or 0, config.eval.every, config.checkpoint.every]
    values += [config.train.steps] if config.train.steps is not None else []
    common = math.gcd(*values)
    return max(k for k in range(1, 11) if common % k == 0)


def _multiple(value, of):
    return max(round(value / of), 1) * of
