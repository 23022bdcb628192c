"""A third modality, sounds of one length, as anyone would add it: this file, and nothing is edited."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jssl import data
from jssl.config import complete
from jssl.encoder import Encoder
from jssl.evals import frozen
from jssl.evals.scores import Scored

EVALUATE = "tests.modality.wave:evaluate"
sheet = None


@dataclasses.dataclass(frozen=True)
class Waves:
    """Sines of two pitches in noise: float32 [N, T]."""

    spec: str
    waves: np.ndarray
    labels: np.ndarray

    modality = "wave"
    label_names = ("low", "high")
    said = ()

    def __len__(self):
        return len(self.waves)

    examples = property(__len__)
    names = property(lambda self: [str(row) for row in range(len(self))])
    train_labels = property(lambda self: self.labels)
    contents = property(lambda self: f"{len(self)} waves")
    arrays = property(lambda self: {"wave": self.waves})

    def blank(self, size=None):
        return {"wave": np.zeros_like(self.waves[:1])}

    def leading(self, batch_size, rows=None):
        return batch_size

    def shapes(self, batch_size, leading, crops=None):
        return {"index": ((leading,), np.int32), "wave": ((leading, self.waves.shape[1]), np.float32)}

    def stream(self, *, batch_size, seed, start, leading, rows, **how):
        rows_at = data.order(len(self), seed)
        numbers = (rows_at(step, batch_size)[rows] for step in range(start, 1_000_000))
        return data.Batches({"index": index, "wave": self.waves[index]} for index in numbers)

    def every(self, *, batch_size, leading, rows, workers=0):
        """Backwards, and the last batch padded: rows go where their numbers say."""
        numbers = np.full(-(-len(self) // leading) * leading, -1, np.int32)
        numbers[: len(self)] = np.arange(len(self))[::-1]
        parts = numbers.reshape(-1, leading)[:, rows]
        return data.Batches({"index": index, "wave": self.waves[index]} for index in parts)

    def take(self, rows):
        return dataclasses.replace(self, waves=self.waves[rows], labels=self.labels[rows])


def open_data(fields, seed):
    rng, labels = np.random.default_rng(seed), np.arange(int(fields.source.partition(":")[2]), dtype=np.int32) % 2
    time = np.linspace(0, 1, 64)
    waves = np.sin(2 * np.pi * (3 + 4 * labels[:, None]) * time + rng.uniform(0, 6, (len(labels), 1)))
    return Waves(fields.source, (waves + rng.normal(0, 0.3, waves.shape)).astype(np.float32), labels)


def open_source(text, kept):
    return open_data(_Fields(text), 0)


def fill(config, source, choose, devices):
    complete(config)
    choose("train.batch_size", 32, source.contents)


def check(config, source):
    if source.waves.shape[1] < 2:
        raise ValueError(f"{source.spec} holds waves of {source.waves.shape[1]} samples; expected 2 or more")


def example(source, fields):
    return {"samples": source.waves.shape[1]}


def ready(source, kept):
    if source.waves.shape[1] != kept["samples"]:
        raise ValueError(f"{source.spec} holds waves of {source.waves.shape[1]} samples; expected {kept['samples']}")
    return source


def evaluate(workdir, config, protocol=None, draws=None, data=None, test=None, options=None):
    source = open_data(_Fields(data or config["data"]["source"]), config["seed"])
    encoders = {name: Encoder(workdir, of) for name, of in (("trained", "weights"), ("untrained", "untrained"))}
    part = {"train": slice(0, None, 4), "test": slice(1, None, 4)}
    parts = {name: np.arange(len(source)).reshape(-1, 2)[rows].ravel() for name, rows in part.items()}
    labels = {name: source.labels[rows] for name, rows in parts.items()}
    scores = []
    for name, encoder in encoders.items():
        found = {which: encoder.embed(source)[rows] for which, rows in parts.items()}
        scores += frozen.evaluate(found, labels, encoder=name, protocols=("knn",))
    return Scored(scores, {"waves": source.spec}, encoders["trained"])


@dataclasses.dataclass
class _Fields:
    source: str


@dataclasses.dataclass(frozen=True)
class Noise:
    """Two views: each wave shifted in time and in noise."""

    def __call__(self, rng, batch):
        wave = batch["wave"]
        at, noise = jax.random.split(rng)
        shift = jax.random.randint(at, (len(wave), 2), 0, wave.shape[1])
        turned = jax.vmap(jax.vmap(jnp.roll, (None, 0)))(wave, shift)
        return {"image": turned + 0.2 * jax.random.normal(noise, turned.shape)}


@dataclasses.dataclass(frozen=True)
class Inputs:
    reads = {}

    def __call__(self, batch):
        return {"image": batch["wave"]}
