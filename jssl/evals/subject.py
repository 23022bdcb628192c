"""What a protocol is given: one run's encoders, the images to learn from and to test on, and features of both."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jssl import config as configs
from jssl import data as sources
from jssl import modalities
from jssl.encoder import Encoder, gathered
from jssl.evals.finetune import initial
from jssl.evals.kept import identity
from jssl.evals.labels import by_hash, called, check_classes
from jssl.evals.scores import attempt
from jssl.method import LABELS

PIXELS = 32  # side to which larger images are brought before they count as raw pixels
BATCH = 256
RAW = "raw pixels"
PART = 0.2  # of a source without a test set, held out for testing


@dataclasses.dataclass(frozen=True)
class Subject:
    """One run, or an encoder from elsewhere, and the data to judge it by. Nothing is embedded before it is asked for.

    encoders: {"trained", "untrained", of the weights that were kept or else of new ones: Encoder}; splits: {"train",
    "test": Source}; draws: how many the user asked for, or None; options: {protocol: {field: text}}; missing: a dict
    that is told what the data do not allow, which is then left out, or None, and then that is an error.
    """

    workdir: pathlib.Path
    config: dict
    encoders: dict
    splits: dict
    draws: int | None = None
    seed: int = 0
    workers: int = 0
    options: dict = dataclasses.field(default_factory=dict)
    missing: dict | None = None

    @functools.cached_property
    def features(self):
        """{"trained", "untrained", "raw pixels": {"train": float32 [N, D], "test": float32 [M, D]}}"""
        return {name: {part: self.embedded(name, part) for part in self.splits} for name in (*self.encoders, RAW)}

    def embedded(self, name, part):
        """The features of one of these for one part of the data, made once."""
        if (name, part) not in self._embedded:
            source, encoder = self.splits[part], self.encoders.get(name)
            made = encoder.embed(source, BATCH, self.workers) if encoder else pixels(source, self.workers)
            self._embedded[name, part] = made
        return self._embedded[name, part]

    @functools.cached_property
    def _embedded(self):
        return {}

    @functools.cached_property
    def labels(self):
        """{"train": int32 [N], "test": int32 [M]}, in the numbers of the training set's classes.

        Raises ValueError where there are none, or where a class of the test set is none of the training set.
        """
        train, test = self.splits["train"], self.splits["test"]
        for part, source in self.splits.items():
            if source.labels is None:
                raise ValueError(f"{source.spec} has no labels; this protocol needs one class per {part} image")
        if test.label_names and train.label_names and test.label_names != train.label_names:
            there = [name for name in test.label_names if name not in train.label_names]
            if there:
                raise ValueError(
                    f"{test.spec} has the class {there[0]!r}, which is none of the {len(train.label_names)} classes of "
                    f"{train.spec}{configs.nearest(there[0], train.label_names)}"
                )
            numbers = np.array([train.label_names.index(name) for name in test.label_names], np.int32)
            return {"train": train.labels, "test": numbers[test.labels]}
        present = np.unique(train.labels)
        unseen = np.setdiff1d(test.labels, present)
        if len(unseen) and len(present) > 1:
            raise ValueError(
                f"{test.spec} has images of {called(unseen[0], train.label_names)}, of which {train.spec} has none to "
                f"learn from; expected test images of its {len(present)} classes alone"
            )
        return {"train": train.labels, "test": test.labels}

    @property
    def labelled(self):
        """Whether there are labels of all images."""
        return all(source.labels is not None for source in self.splits.values())

    def check(self):
        """Raises as `labels` does where classes do not fit, before minutes of work; without labels there is no need."""
        return self.labels if self.labelled else None

    @property
    def tested(self):
        """The test images as `kept.write` takes them."""
        test = self.splits["test"]
        labels = self.labels["test"] if self.labelled else None
        return {"test": test.spec, "rows": identity(test.spec, test.names), "labels": labels}

    @functools.cached_property
    def classes(self):
        """Their number; ValueError for fewer than two among the training images."""
        classes = int(max(labels.max() for labels in self.labels.values())) + 1
        check_classes(self.labels["train"], self.labels["test"], classes)
        return classes

    def settings(self, protocol, default):
        """`default`, a dataclass, with the fields that the user gave as --PROTOCOL.FIELD=VALUE."""
        return configs.with_fields(default, self.options.get(protocol, {}))


def of_run(folder, data=None, test=None, **more):
    """The subject of a run directory, or of an encoder's folder, for which `data` must be given.

    data, test: sources other than the run's own, of which the test set is for its own data alone. Without a test source
    a fifth of the labelled images is held out, see `held_out`.
    """
    folder = pathlib.Path(folder)
    config = config_of(folder)
    encoders = {"trained": Encoder(folder)}
    if any(path.is_file() for path in (folder / "encoder/untrained.npz", folder / "untrained.npz")):
        encoders["untrained"] = Encoder(folder, "untrained")
    else:
        begin = lambda: [("untrained", initial(encoders["trained"], config["seed"]))]
        encoders |= attempt("the untrained encoder", begin, more.get("missing"))
    if not (data or config["data"]["source"]):
        raise ValueError(f"{folder} is an encoder without a run: expected --data, the labelled images to learn from")
    opened = lambda spec: _images(spec, encoders["trained"].channels, config["data"]["max_bad"])
    if data in (None, config["data"]["source"]):
        test = test or config["data"]["eval_source"]
    train = opened(data or config["data"]["source"])
    splits = {"train": train, "test": opened(test)} if test else held_out(train)
    workers = sources.default_workers()
    return Subject(folder, config, encoders, splits, seed=config["seed"], workers=workers, **more)


def _images(spec, channels, max_bad):
    source = sources.open_source(spec, channels=channels, max_bad=max_bad)
    modalities.expect(source, "image", "the encoder")
    return source


def config_of(folder):
    """The config of a run directory; of an encoder's folder the defaults, without data."""
    path = pathlib.Path(folder, "config.json")
    content = json.loads(path.read_text()) if path.is_file() else {}
    if "config" in content:
        return content["config"]
    config = configs.plain(configs.base()) | {"modality": content.get("modality", "image")}
    config["data"]["source"] = None
    return config


def held_out(source):
    """A fifth of each class for testing, by a hash of the images' names, the same for every run, the rest for training;
    of a class of one image nothing. Without labels all of it for both. ValueError where nothing is left for testing."""
    if source.labels is None:
        return {"train": source, "test": source}
    _, kinds, counts = np.unique(source.labels, return_inverse=True, return_counts=True)
    held = by_hash(source.names, source.labels, PART, 0) & (counts[kinds] > 1)
    if not held.any():
        raise ValueError(f"{source.spec} has one image of each class, none for testing; expected more, or a test set")
    return {"train": source.take(np.flatnonzero(~held)), "test": source.take(np.flatnonzero(held))}


def saw_labels(config, source):
    """Whether labels of `source` reached the weights of a run: by its own loss, or by that of a run whose weights it
    began with or was taught by, as far as that one's directory is still there."""
    if config["data"]["source"] == source.spec:
        network = configs.build(config["encoder"], dtype=jnp.dtype(config["dtype"]))
        if learns_labels(configs.build(config["method"], encoder=network), config, source):
            return True
    given = [*config.get("init_from", {}).values(), config.get("init", {}).get("encoder")]
    folders = {spec.partition("#")[0] for spec in given if spec}
    return any(saw_labels(config_of(folder), source) for folder in folders)


def learns_labels(method, config, source):
    """Whether a method's loss reads the labels of its source. config: that of the run, with its views."""
    if not hasattr(method, "rows"):  # without which it has no place for them
        return False
    augment, size = configs.build(config["augment"]), config["train"]["batch_size"]
    shapes = source.shapes(size, size, getattr(augment, "crops", None))
    batch = {name: jax.ShapeDtypeStruct(*of) for name, of in shapes.items()}
    first = lambda rng, batch: method.init(rng, augment(rng, batch))
    return LABELS in jax.eval_shape(first, jax.random.key(0), batch)[1]


def pixels(source, workers=0):
    """Raw pixels as features, float32 [N, H * W * C] in [0, 1]; larger images are brought to side `PIXELS`."""
    if source.images is not None and max(source.shape[:2]) <= PIXELS:
        batches = source.every(batch_size=BATCH)
        batches = ((batch["index"], batch["image"]) for batch in batches)
    else:
        from jssl.augment.image import evaluation

        shrink = evaluation(PIXELS, crop=1.0, mean=(0.0,), std=(1.0,))
        batches = source.every(batch_size=BATCH, size=PIXELS, crop=1.0, workers=workers)
        batches = ((batch["index"], np.asarray(shrink(batch)["image"]) * 255) for batch in batches)
    flat = lambda images: images.reshape(len(images), -1).astype(np.float32) / 255
    return gathered(((index, flat(images)) for index, images in batches), len(source))
