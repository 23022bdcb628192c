"""Protocols that train the encoder: fine-tuning on all labels, and on few of them beside a probe of frozen features."""

import numpy as np

from jssl.evals import fewshot
from jssl.evals.finetune import Settings, finetune
from jssl.evals.frozen import PART
from jssl.evals.labels import by_class, by_hash, share
from jssl.evals.scores import entry

PARTS = (0.01, 0.1)  # of the labels
DRAWS = 5  # of them
RULES = "AdamW, all weights, cross-entropy; the last weights' average, nothing picked by accuracy"


def of_all(subject):
    """Fine-tuning on the whole training set, or on several stratified parts of it -> scores.

    The untrained encoder is trained too, from scratch. Test labels are read by the scores alone.
    """
    labels = subject.labels["train"]
    if (subject.draws or 1) > 1:
        rows = [share(labels, PART, np.random.default_rng((subject.seed, d))) for d in range(subject.draws)]
        said = f"a stratified {PART:.0%} of the training set"
    else:
        rows, said = [np.ones(len(labels), bool)], "the whole training set"
    return [_score("finetune", name, subject, rows, said) for name in subject.encoders]


def few(subject, parts=None):
    """`parts` of the labels, 1 % and 10 %, several times, the same images for every run -> scores.

    A probe of all frozen features, as `fewshot` has it, and each of the encoders fine-tuned.
    """
    scores = []
    for part in parts or PARTS:
        labels, names = subject.labels["train"], subject.splits["train"].names
        rows = [by_hash(names, labels, part, draw) for draw in range(subject.draws or DRAWS)]
        said = f"{part:.0%} of each class, one at least, by a hash of the images' names"
        task = f"semi-{round(100 * part)}"
        for name, found in subject.features.items():
            picked = np.stack([np.flatnonzero(chosen) for chosen in rows])
            predictions = fewshot.of_rows(found["train"], labels, found["test"], picked, classes=subject.classes)
            fields = {**fewshot.described(), "train_rows": picked.shape[1]}
            scores.append(_entry(f"{task}-probe", name, predictions, subject, said, fields))
        for name in subject.encoders:
            scores.append(_score(f"{task}-finetune", name, subject, rows, said))
    return scores


def _score(task, name, subject, rows, said):
    """Fine-tunes one encoder on each of the draws, bool [draws, N]."""
    train, test = subject.splits["train"], subject.splits["test"]
    settings = subject.settings("finetune", Settings())
    flip = subject.config["augment"].get("flip") or 0.0
    predictions = []
    for draw, chosen in enumerate(rows):
        found = finetune(
            subject.encoders[name],
            train.take(np.flatnonzero(chosen)),
            test,
            classes=subject.classes,
            settings=settings,
            pretrained=name == "trained",
            flip=flip,
            seed=subject.seed + draw,
            workers=subject.workers,
        )
        predictions.append(found["predictions"])
    fields = {"classifier": RULES, **found["settings"], "seed": subject.seed}
    by = by_class(predictions[0], subject.labels["test"], train.label_names)
    return _entry(task, name, np.stack(predictions), subject, said, fields, classes=by)


def _entry(task, name, predictions, subject, said, settings, **more):
    hits = predictions == subject.labels["test"]
    settings = {"draw": said, **settings, "test_rows": hits.shape[1]}
    return entry(task, name, hits.mean(1), settings, right=hits.mean(0), predictions=predictions[0], **more)
