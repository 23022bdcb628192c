"""Protocols over frozen features: k-NN, linear probes, few labels per class."""

import dataclasses
import functools

import numpy as np

from jssl.config import nearest
from jssl.evals import fewshot, kept, knn, linear, table
from jssl.evals.labels import by_class, check, check_classes, check_labels, each_count, share
from jssl.evals.scores import attempt, entry, title

PROTOCOLS = ("knn", "linear", "linear-sgd", "fewshot")
PART = 0.8  # of the training set, in each of several draws


@dataclasses.dataclass(frozen=True)
class Knn:
    """By default the run's own, of its config's `eval`."""

    k: int = 20
    temperature: float | None = 0.07  # None: equal votes


@dataclasses.dataclass(frozen=True)
class Linear:
    penalties: tuple[float, ...] = linear.PENALTIES  # of which validation rows pick one


@dataclasses.dataclass(frozen=True)
class LinearSgd:
    rates: tuple[float, ...] = linear.RATES  # per 256 images, of which validation rows pick one
    epochs: int = 100


@dataclasses.dataclass(frozen=True)
class FewShot:
    shots: tuple[int, ...] = (1, 5, 10)  # labelled images per class
    finetune: bool = False  # whether encoders are trained on those of the first draws, see `jssl.evals.tuned.shots`


def evaluate(
    features,
    labels,
    *,
    encoder="trained",
    protocols=("knn", "linear", "fewshot"),
    shots=(1, 5, 10),
    draws=1,
    fewshot_draws=fewshot.DRAWS,
    seed=0,
    k=20,
    temperature=0.07,
    penalties=linear.PENALTIES,
    rates=linear.RATES,
    epochs=100,
    label_names=None,
    names=None,
    few=None,
    missing=None,
):
    """Scores one encoder's frozen features -> [score, ...], each as of `jssl.evals.scores.entry`.

    All but fewshot also have "classes", see `labels.by_class`: those of the first draw, on all test rows.

    Args:
      features: {"train": [N, D], "test": [M, D]}; labels: {"train": int [N], "test": int [M]}, from 0.
      encoder: the name of the row: "trained", "untrained", "pixels", ...
      protocols: of PROTOCOLS; "fewshot" gives one task per entry of `shots` ("fewshot-1", ...).
      draws: of "knn", "linear" and "linear-sgd". 1: the whole training set, with the binomial standard error of the
        test set. More: each draw has a stratified 80 % of it, the standard error is that of the mean over draws.
      fewshot_draws: random choices of the labelled examples, per number of shots.
      k, temperature: of "knn"; penalties: of "linear"; rates, epochs: of "linear-sgd".
      label_names: the names of the classes, for people, or None; names: of the training rows, of which fewshot's draws
        are, or None for their numbers; few: {shots: int [draws, n]}, these draws as of `labels.each_count`, so that
        they are made once for all encoders, or None.
      missing: a dict that is told what the data do not allow, which is then left out, see `attempt`; or None.

    `mean` is an accuracy in [0, 1]. Test labels choose nothing. Raises ValueError, one line, for an unknown protocol,
    missing labels, a single class, or a class with too few examples.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ValueError(f"unknown protocol {unknown[0]!r}{nearest(unknown[0], PROTOCOLS)}")
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    x = features.get("train")
    y = check_labels(labels.get("train"), "training", x)
    if set(protocols) != {"knn"}:  # which reads it block by block, and checks it there
        x, y = check(x, y, "training")
    test, test_y = check(features.get("test"), labels.get("test"), "test")
    classes = int(max(y.max(), test_y.max())) + 1
    check_classes(y, test_y, classes)
    data = (x, y, test, test_y)
    rows, drawn = drawn_rows(y, draws, seed)

    scores = []
    for name in protocols:
        if name == "fewshot":
            how = {"classes": classes, "draws": fewshot_draws, "names": names, "label_names": label_names}
            fit = functools.partial(fewshot.fewshot, *data, **how)
            for n in shots:
                task, rows = f"fewshot-{n}", (few or {}).get(n)
                for found in attempt(title(task), lambda fit=fit, n=n, rows=rows: [fit(shots=n, rows=rows)], missing):
                    scores.append(score(task, encoder, found, test_y, found["settings"]))
            continue
        if name == "knn":
            found = _knn(data, rows, classes, k, temperature)
        elif name == "linear":
            found = linear.probe(*data, classes=classes, rows=rows, seed=seed, penalties=penalties)
        else:
            found = linear.sgd(*data, classes=classes, rows=rows, seed=seed, rates=rates, epochs=epochs)
        settings = {**drawn, "seed": seed, **found["settings"]}
        by = by_class(found["predictions"][0], test_y, label_names)
        scores.append(score(name, encoder, found, test_y, settings, by))
    return scores


def of(subject, name, **more):
    """The scores of one protocol for all that the subject has features of."""
    how, scores = asked(subject, name) | more, []
    for encoder, found in subject.features.items():
        scores += evaluate(
            found,
            subject.labels,
            encoder=encoder,
            protocols=(name,),
            draws=subject.draws or 1,
            seed=subject.seed,
            label_names=subject.splits["train"].label_names,
            names=subject.splits["train"].names,
            missing=subject.missing,
            **how,
        )
    return scores


def asked(subject, name):
    """What `evaluate` takes for one protocol, of the user's settings and the run's config."""
    measure = subject.config["eval"]
    default = Knn(measure["k"], measure["temperature"]) if name == "knn" else table.settings(name)
    fields = dataclasses.asdict(subject.settings(name, default))
    fields.pop("finetune", None)
    return fields


linear_of, sgd_of = (functools.partial(of, name=name) for name in ("linear", "linear-sgd"))


def fewshot_of(subject):
    """Few labels per class; which, is in splits.json."""
    train, shots = subject.splits["train"], asked(subject, "fewshot")["shots"]
    few = each_count(train.names, subject.labels["train"], shots, fewshot.DRAWS)
    scores = of(subject, "fewshot", few=few)
    for task in dict.fromkeys(score["task"] for score in scores):
        kept.list_split(subject.workdir, task, train, few[int(task.rpartition("-")[2])])
    return scores


def knn_of(subject):
    """k-NN; where the test images were held out of the only source there is, also each of all by all others."""
    scores = of(subject, "knn")
    if subject.splits["train"].spec != subject.splits["test"].spec:
        return scores
    how = asked(subject, "knn")
    labels = np.concatenate([subject.labels["train"], subject.labels["test"]])
    for encoder, found in subject.features.items():
        every = np.concatenate([found["train"], found["test"]])
        found = _votes(every, labels, classes=subject.classes, **how)
        settings = {"draw": "each image by all others", **_knn_settings([found], len(every) - 1, how["temperature"])}
        right = found["predictions"] == labels
        scores.append(
            entry("knn-loo", encoder, [found["accuracy"]], {**settings, "test_rows": len(every)}, right=right)
        )
    return scores


def drawn_rows(labels, draws, seed):
    """-> bool [draws, N], the training rows of each draw; {"draw": what that is, in words}.

    They are the same for every encoder and protocol, so that scores can be compared draw by draw.
    """
    part = PART if draws > 1 else 1
    rows = np.stack([share(labels, part, np.random.default_rng((seed, d))) for d in range(draws)])
    return rows, {"draw": f"a stratified {PART:.0%} of the training set" if draws > 1 else "the whole training set"}


def score(task, encoder, found, labels, settings, classes=None):
    """The score of what a protocol found, {"accuracies": [draws], "predictions": int [draws, M]}."""
    predictions = found["predictions"]
    more = {} if classes is None else {"classes": classes}
    settings = {**settings, "test_rows": len(labels)}
    return entry(
        task,
        encoder,
        found["accuracies"],
        settings,
        right=np.mean(predictions == labels, 0),
        predictions=predictions[0],
        confidence=found.get("confidence"),
        **more,
    )


def _knn(data, rows, classes, k, temperature):
    x, y, test, test_y = data
    found = [
        _votes(x if d.all() else x[d], y[d], test, test_y, classes=classes, k=k, temperature=temperature) for d in rows
    ]
    accuracies, predictions = (np.array([one[key] for one in found]) for key in ("accuracy", "predictions"))
    settings = _knn_settings(found, int(rows[0].sum()), temperature)
    return {"accuracies": accuracies, "predictions": predictions, "settings": settings}


def _votes(*data, **how):
    return knn.knn(*data, **how, ks=knn.KS, temperatures=knn.TEMPERATURES)


def _knn_settings(found, train_rows, temperature):
    """found: what `knn` gave, of each draw"""
    cells = zip(*(one["grid"] for one in found), strict=True)
    return {
        **knn.described(found[0]["k"], temperature),
        "train_rows": train_rows,
        "picked_by": "k and T are given, the grid is of test images: its best is no accuracy of the encoder",
        "grid": [{**draws[0], "accuracy": float(np.mean([one["accuracy"] for one in draws]))} for draws in cells],
    }
