"""Protocols that train the encoder: fine-tuning on all labels, and on few of them beside a probe of frozen features."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from jssl import config as configs
from jssl.evals import fewshot
from jssl.evals import protocol as protocols
from jssl.evals.finetune import Settings, finetune
from jssl.evals.labels import by_class, by_hash, check_classes, share

PARTS = (0.01, 0.1)  # of the labels
DRAWS = 5  # of them
RULES = "AdamW, all weights, cross-entropy; the last weights' average, nothing picked by accuracy"


def settings_of(fields):
    """`Settings` with {field: value or text}; ValueError for what is no field of theirs, with the near misses."""
    config = ConfigDict(dataclasses.asdict(Settings()), type_safe=False)
    for name, value in (fields or {}).items():
        configs.override(config, name, value)
    return Settings(**config)


def of_all(encoders, features, splits, *, draws=None, settings=None, **how):
    """Fine-tuning on the whole training set, or on `draws` stratified parts of it -> scores as of `protocol.evaluate`.

    encoders: {"trained": ..., "untrained": ...}, the latter trained from scratch; splits: {"train", "test": source};
    how: as `finetune` has them. Test labels are read by the scores alone.
    """
    labels, part = splits["train"].labels, protocols.PART
    if (draws or 1) > 1:
        rows = [share(labels, part, np.random.default_rng((how["seed"], d))) for d in range(draws)]
        said = f"a stratified {part:.0%} of the training set"
    else:
        rows, said = [np.ones(len(labels), bool)], "the whole training set"
    return [_score("finetune", name, encoders[name], splits, rows, said, settings, how) for name in encoders]


def few(encoders, features, splits, *, draws=None, settings=None, parts=None, **how):
    """`parts` of the labels, 1 % and 10 %, `draws` times, the same images for every run -> scores as of `of_all`.

    A probe of each of the frozen `features`, {name: {"train": [N, D], "test": [M, D]}}, as `fewshot` has it, and each
    of the encoders fine-tuned.
    """
    train, test = splits["train"], splits["test"]
    classes = _classes(splits)
    scores = []
    for part in parts or PARTS:
        rows = [by_hash(train.names, train.labels, part, draw) for draw in range(draws or DRAWS)]
        said = f"{part:.0%} of each class, one at least, by a hash of the images' names"
        task = f"semi-{round(100 * part)}"
        for name, found in features.items():
            data = (found["train"], train.labels, found["test"], test.labels)
            picked = np.stack([np.flatnonzero(chosen) for chosen in rows])
            accuracies = fewshot.of_rows(*data, picked, classes=classes)
            fields = {**fewshot.described(), "train_rows": picked.shape[1]}
            scores.append(_entry(f"{task}-probe", name, accuracies, len(test), said, fields))
        for name, encoder in encoders.items():
            scores.append(_score(f"{task}-finetune", name, encoder, splits, rows, said, settings, how))
    return scores


PROTOCOLS = {"finetune": of_all, "semi": few}


def _score(task, name, encoder, splits, rows, said, settings, how):
    """Fine-tunes one encoder on each of the draws, bool [draws, N]."""
    train, test = splits["train"], splits["test"]
    predictions = []
    for draw, chosen in enumerate(rows):
        part = train.take(np.flatnonzero(chosen))
        more = {**how, "classes": _classes(splits), "settings": settings, "seed": how["seed"] + draw}
        found = finetune(encoder, part, test, pretrained=name == "trained", **more)
        predictions.append(found["predictions"])
    accuracies = np.mean(np.array(predictions) == test.labels, 1)
    fields = {"classifier": RULES, **found["settings"], "seed": how["seed"]}
    score = _entry(task, name, accuracies, len(test), said, fields)
    return {**score, "classes": by_class(predictions[0], test.labels, train.label_names)}


def _entry(task, name, accuracies, test_rows, said, settings):
    mean, stderr, kind = protocols.summary(accuracies, test_rows)
    settings = {"draw": said, **settings, "test_rows": test_rows, "stderr": kind}
    return {
        "encoder": name,
        "task": task,
        "mean": mean,
        "stderr": stderr,
        "draws": len(accuracies),
        "settings": settings,
    }


def _classes(splits):
    labels = [splits[part].labels for part in ("train", "test")]
    classes = int(max(one.max() for one in labels)) + 1
    check_classes(*labels, classes)
    return classes
