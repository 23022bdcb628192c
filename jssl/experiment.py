"""From a config to the objects of a run, and the fields that are chosen from the data and the device."""

import math
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jssl
from jssl import data
from jssl.config import build, complete
from jssl.method import Method, Time
from jssl.optim import optimizer, schedule

RESIDENT_SHARE = 0.25  # of a device's memory that images may take
RESIDENT_CPU = 2**30  # bytes, where a device does not tell its memory
CADENCES = ("log_every", "train.refresh_every", "eval.every", "checkpoint.every")


class Experiment(NamedTuple):
    """What a config means."""

    method: Method
    augment: Any  # (rng, batch) -> views
    preprocess: Any  # batch -> inputs
    tx: optax.GradientTransformation
    rate: Any  # step -> learning rate
    time: Time


def prepare(config):
    """The objects of a complete config (no field left to choose)."""
    encoder = build(config.encoder, dtype=jnp.dtype(config.dtype))
    epochs = config.train.per_epoch if config.train.epochs is not None else 1.0
    rate = schedule(config.optim, config.train.steps, config.train.batch_size, epochs)
    return Experiment(
        method=build(config.method, encoder=encoder),
        augment=build(config.augment),
        preprocess=build(config.preprocess),
        tx=optimizer(config.optim, rate, epochs),
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

    def choose(path, value, why):
        section, _, key = path.rpartition(".")
        section = config[section] if section else config
        if section[key] is None:
            section[key] = value
            chosen[path] = f"{path} = {value} ({why})"

    n, device = len(source), devices[0].device_kind
    choose("dtype", "bfloat16" if accelerator else "float32", f"device: {device}")
    choose("encoder.name", *_encoder(config, accelerator))
    complete(config)
    choose("train.batch_size", _batch_size(n, accelerator), f"{n:,} images")
    if config.train.steps is None:
        choose("train.epochs", float(max(10, min(800, round(20e6 / n if accelerator else 150e3 / n)))), f"{n:,} images")
    fits = source.images is not None and source.images.nbytes <= _room(devices[0])
    choose("data.resident", fits, "images fit on the device" if fits else "images stay on the host")
    choose("data.workers", 0 if source.images is not None else data.default_workers(), "cores")
    choose("train.steps_per_call", _steps_per_call(config, accelerator), "divides every cadence")

    config.train.per_epoch = n / config.train.batch_size
    if config.train.steps is None:
        config.train.steps = max(round(config.train.epochs * config.train.per_epoch), 1)
        config.train.steps -= config.train.steps % config.train.steps_per_call
    check(config, source, devices)
    return config, list(chosen.values())


def check(config, source, devices):
    """One line for each thing that cannot be."""
    train, calls = config.train, config.train.steps_per_call
    if len(source) < train.batch_size:
        raise ValueError(
            f"{config.data.source} has {len(source)} images, fewer than one batch: train.batch_size={train.batch_size}"
        )
    if train.batch_size % (train.accumulate * len(devices)):
        raise ValueError(
            f"train.batch_size={train.batch_size} cannot be cut into {train.accumulate} micro-batches on {len(devices)} "
            f"devices; the nearest that can is {_multiple(train.batch_size, train.accumulate * len(devices))}"
        )
    for path in (*CADENCES, "train.steps"):
        section, _, key = path.rpartition(".")
        value = (config[section] if section else config)[key]
        if value % calls:
            raise ValueError(
                f"train.steps_per_call={calls} must divide {path}={value}; the nearest that it does is {_multiple(value, calls)}"
            )
    if config.data.resident and source.images is None:
        raise ValueError("data.resident=True needs images in memory, all of one size; expected None or False")


def provenance():
    """What a result needs to be made again: versions, commit, command, devices."""
    import flax
    import orbax.checkpoint

    folder = jssl.__path__[0]
    git = subprocess.run(["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True)
    packages = (jssl, jax, flax, optax, orbax.checkpoint, np)
    return {
        "versions": {p.__name__: p.__version__ for p in packages} | {"python": sys.version.split()[0]},
        "commit": git.stdout.strip() or None,
        "command": " ".join(sys.argv),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
    }


def preflight(config, source, state):
    """Before the first compile: how large all of it is, as lines of text. state: arrays or shapes."""
    train, devices = config.train, jax.device_count()
    count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
    size = lambda tree: sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 2**20
    name = config.method.name.rpartition(":")[2]
    epochs = train.steps / train.per_epoch
    micro = f" in {train.accumulate} micro-batches" if train.accumulate > 1 else ""
    return [
        f"{name} on {config.data.source}: {len(source):,} images, {devices} x {jax.devices()[0].device_kind}, {config.dtype}",
        f"{count(state.params):,} parameters; state {size(state):,.1f} MiB ({size(state.params):,.1f} parameters, "
        f"{size(state.carry):,.1f} carry, {size(state.opt):,.1f} optimizer)",
        f"batch {train.batch_size:,} ({train.batch_size // devices:,} per device){micro}, {train.steps:,} steps, "
        f"{epochs:,.1f} epochs, {train.steps_per_call} steps per dispatch",
    ]


def _encoder(config, accelerator):
    size = config.augment.get("size", 32)
    if not accelerator:
        return "jssl.nets.conv:convnet", "a CPU trains it"
    if size <= 64:
        return "jssl.nets.resnet:resnet18", f"images of {size} pixels"
    return "jssl.nets.resnet:resnet50", f"images of {size} pixels"


def _batch_size(n, accelerator):
    """A power of two, with at least 4 batches in the data."""
    most = 512 if accelerator else 256
    return max(2, min(most, 2 ** int(math.log2(max(n / 4, 2)))))


def _room(device):
    memory = (device.memory_stats() or {}).get("bytes_limit")
    return memory * RESIDENT_SHARE if memory else RESIDENT_CPU


def _steps_per_call(config, accelerator):
    """Small resident images on an accelerator: as many steps per dispatch, up to 10, as divide every cadence.

    A CPU takes one: its dispatch is short beside the step, and `step.scan` is unrolled there.
    """
    if not config.data.resident or not accelerator:
        return 1
    values = [config.log_every, config.train.refresh_every, config.eval.every, config.checkpoint.every]
    values += [config.train.steps] if config.train.steps is not None else []
    common = math.gcd(*values)
    return max(k for k in range(1, 11) if common % k == 0)


def _multiple(value, of):
    return max(round(value / of), 1) * of
