"""Protocols that train the encoder: fine-tuning on all labels, and on few of them beside a probe of frozen features."""

import dataclasses

import numpy as np

from jssl.evals import fewshot, frozen, kept
from jssl.evals.finetune import Settings, finetune
from jssl.evals.labels import by_class, each_count, hashed, of_order, share
from jssl.evals.scores import entry

DRAWS = 5  # of them
RULES = "AdamW, all weights, cross-entropy; the last weights' average, nothing picked by accuracy"


@dataclasses.dataclass(frozen=True)
class Semi:
    shares: tuple[float, ...] = (0.01, 0.1)  # of the labels


def of_all(subject):
    """Fine-tuning on the whole training set, or on several stratified parts of it -> scores.

    The untrained encoder is trained too, from scratch. Test labels are read by the scores alone.
    """
    rows, said = training_rows(subject)
    return [_score("finetune", name, subject, rows, said) for name in subject.encoders]


def few(subject):
    """1 % and 10 % of the labels, or other shares, several times, the same images for every run, listed in splits.json
    -> scores.

    A probe of all frozen features, as `fewshot` has it, and each of the encoders fine-tuned.
    """
    scores, shares = [], subject.settings("semi", Semi()).shares
    if not shares or not all(0 < part <= 1 for part in shares):
        raise ValueError(f"semi.shares={shares}: expected one or more shares of the labels, above 0 and at most 1")
    labels, names = subject.labels["train"], subject.splits["train"].names
    orders = [hashed(names, draw) for draw in range(subject.draws or DRAWS)]
    for part in shares:
        rows = [of_order(order, labels, part) for order in orders]
        said = f"{100 * part:g} % of each class, one at least, by a hash of the images' names"
        task = f"semi-{100 * part:g}"
        kept.list_split(subject.workdir, task, subject.splits["train"], np.stack([np.flatnonzero(one) for one in rows]))
        for name, found in subject.features.items():
            picked = np.stack([np.flatnonzero(chosen) for chosen in rows])
            predictions = fewshot.of_rows(found["train"], labels, found["test"], picked, classes=subject.classes)
            fields = {**fewshot.described(), "train_rows": picked.shape[1]}
            scores.append(_entry(f"{task}-probe", name, predictions, subject, said, fields))
        for name in subject.encoders:
            scores.append(_score(f"{task}-finetune", name, subject, rows, said))
    return scores


def shots(subject):
    """`frozen.fewshot_of`; and, where --fewshot.finetune asks for it, each of the encoders fine-tuned on the images of
    the first draws, as of `few` -> scores."""
    scores, how = frozen.fewshot_of(subject), subject.settings("fewshot", frozen.FewShot())
    labels, draws = subject.labels["train"], subject.draws or DRAWS
    drawn = each_count(subject.splits["train"].names, labels, how.shots if how.finetune else (), draws)
    for count, picked in drawn.items():
        rows = np.zeros((draws, len(labels)), bool)
        np.put_along_axis(rows, picked, True, 1)
        said = fewshot.drawn(count)
        scores += [_score(f"fewshot-{count}-finetune", name, subject, rows, said) for name in subject.encoders]
    return scores


def training_rows(subject):
    """The labelled images of each draw, bool [draws, N], and what they are: all, or of several draws a part each."""
    labels = subject.labels["train"]
    if (subject.draws or 1) == 1:
        return [np.ones(len(labels), bool)], "the whole training set"
    rows = [share(labels, frozen.PART, np.random.default_rng((subject.seed, d))) for d in range(subject.draws)]
    return rows, f"a stratified {frozen.PART:.0%} of the training set"


def of_draws(name, subject, rows, **how):
    """What `finetune` makes of one encoder on each of the draws, bool [draws, N]; how: as it has them. Weights are kept
    of the first alone."""
    train = subject.splits["train"]
    shared = {"classes": subject.classes, "pretrained": name == "trained", "workers": subject.workers}
    shared["flip"] = subject.config["augment"].get("flip") or 0.0
    results = []
    for draw, chosen in enumerate(rows):
        part, test = train.take(np.flatnonzero(chosen)), subject.splits["test"]
        found = finetune(subject.encoders[name], part, test, seed=subject.seed + draw, **shared, **how)
        results.append(found if draw == 0 else {**found, "trained": None})
    return results


def score(task, name, subject, said, found, fields):
    """One score of what `of_draws` found. said: of the draws, in words; fields: of the settings."""
    predictions = np.stack([one["predictions"] for one in found])
    fields = {**found[0]["settings"], **fields, "seed": subject.seed}
    by = by_class(predictions[0], subject.labels["test"], subject.splits["train"].label_names)
    return _entry(task, name, predictions, subject, said, fields, classes=by)


def _score(task, name, subject, rows, said):
    found = of_draws(name, subject, rows, settings=subject.settings("finetune", Settings()))
    return score(task, name, subject, said, found, {"classifier": RULES})


def _entry(task, name, predictions, subject, said, settings, **more):
    hits = predictions == subject.labels["test"]
    settings = {"draw": said, **settings, "test_rows": hits.shape[1]}
    return entry(task, name, hits.mean(1), settings, right=hits.mean(0), predictions=predictions[0], **more)
