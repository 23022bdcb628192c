"""From features to scores with their standard errors, the table that people read and the file that says how."""

import functools
import json
import os
import pathlib

import numpy as np

from jssl.config import nearest
from jssl.evals import fewshot, knn, linear
from jssl.evals.labels import by_class, check, check_classes, share

PROTOCOLS = ("knn", "linear", "linear-sgd", "fewshot")
TUNED = ("finetune", "semi")  # of `jssl.evals.tuned`: they train the encoder, so that features are not enough
TITLES = {
    "knn": "k-NN",
    "linear": "linear probe",
    "linear-sgd": "linear probe, SGD",
    "finetune": "fine-tuned",
    "svm": "SVM, 10 folds",
    "nmi": "clusters, NMI",
    "ari": "clusters, ARI",
    "link-auc": "links, AUC",
    "link-ap": "links, AP",
}
PART = 0.8  # of the training set, in each of several draws


def evaluate(
    features,
    labels,
    *,
    encoder="trained",
    protocols=("knn", "linear", "fewshot"),
    shots=(1, 10),
    draws=1,
    fewshot_draws=100,
    seed=0,
    k=20,
    temperature=0.07,
    penalties=linear.PENALTIES,
    rates=linear.RATES,
    epochs=100,
    label_names=None,
    missing=None,
):
    """Scores one encoder's frozen features -> [{"encoder", "task", "mean", "stderr", "draws", "settings"}, ...].

    All but fewshot also have "classes", see `labels.by_class`: those of the first draw, on all test rows.

    Args:
      features: {"train": [N, D], "test": [M, D]}; labels: {"train": int [N], "test": int [M]}, from 0.
      encoder: the name of the row: "trained", "untrained", "pixels", ...
      protocols: of PROTOCOLS; "fewshot" gives one task per entry of `shots` ("fewshot-1", ...).
      draws: of "knn", "linear" and "linear-sgd". 1: the whole training set, with the binomial standard error of the
        test set. More: each draw has a stratified 80 % of it, the standard error is that of the mean over draws.
      fewshot_draws: random choices of the labelled examples, per number of shots.
      k, temperature: of "knn"; penalties: of "linear"; rates, epochs: of "linear-sgd".
      label_names: the names of the classes, for people, or None.
      missing: a dict that is told what the data do not allow, which is then left out, see `attempt`; or None.

    `mean` is an accuracy in [0, 1]. Test labels choose nothing. Raises ValueError, one line, for an unknown protocol,
    missing labels, a single class, or a class with too few examples.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ValueError(f"unknown protocol {unknown[0]!r}{nearest(unknown[0], (*PROTOCOLS, *TUNED))}")
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    x, y = check(features.get("train"), labels.get("train"), "training")
    test, test_y = check(features.get("test"), labels.get("test"), "test")
    classes = int(max(y.max(), test_y.max())) + 1
    check_classes(y, test_y, classes)
    data = (x, y, test, test_y)
    # The same rows for every encoder and protocol, so that scores can be compared draw by draw.
    rows = np.stack([share(y, PART if draws > 1 else 1, np.random.default_rng((seed, d))) for d in range(draws)])

    def entry(task, accuracies, settings):
        mean, stderr, kind = summary(accuracies, len(test_y))
        settings = {**settings, "test_rows": len(test_y), "stderr": kind}
        size = len(accuracies)
        return {"encoder": encoder, "task": task, "mean": mean, "stderr": stderr, "draws": size, "settings": settings}

    scores = []
    drawn = {"draw": f"a stratified {PART:.0%} of the training set" if draws > 1 else "the whole training set"}
    for name in protocols:
        if name == "fewshot":
            few = functools.partial(fewshot.fewshot, *data, classes=classes, draws=fewshot_draws, seed=seed)
            for n in shots:
                task = f"fewshot-{n}"
                for found in attempt(task, lambda few=few, n=n: [few(shots=n)], missing):
                    scores.append(entry(task, found["accuracies"], found["settings"]))
            continue
        if name == "knn":
            found = _knn(data, rows, classes, k, temperature)
        elif name == "linear":
            found = linear.probe(*data, classes=classes, rows=rows, seed=seed, penalties=penalties)
        else:
            found = linear.sgd(*data, classes=classes, rows=rows, seed=seed, rates=rates, epochs=epochs)
        score = entry(name, found["accuracies"], {**drawn, "seed": seed, **found["settings"]})
        scores.append({**score, "classes": by_class(found["predictions"][0], test_y, label_names)})
    return scores


def attempt(task, measure, missing):
    """measure() -> a list; [] where the data do not allow it, such as a class with few examples, and `missing`, a dict,
    is told why."""
    try:
        return measure()
    except ValueError as error:
        if missing is None:
            raise
        missing[title(task)] = str(error)
        return []


def summary(accuracies, test_rows, over=None):
    """-> mean, standard error, what the error is: `over` draws, or for a single one binomial over the test rows."""
    mean = float(np.mean(accuracies))
    if len(accuracies) > 1:
        error = float(np.std(accuracies, ddof=1) / len(accuracies) ** 0.5)
        return mean, error, f"over {over or 'draws, same test rows'}"
    return mean, float((mean * (1 - mean) / test_rows) ** 0.5), "binomial, over the test rows"


def title(task):
    """A task of scores.json in words."""
    kind, _, n = task.partition("-")
    if kind == "semi":
        percent, _, way = n.partition("-")
        return f"{'fine-tuned' if way == 'finetune' else 'probe'}, {percent} % of labels"
    if kind == "fewshot" and n.isdigit():
        return f"{n} label{'s' if n != '1' else ''} per class"
    return TITLES.get(task, task)


def table(scores, missing=None):
    """Encoders down, tasks across, per cent with standard errors: plain text of several lines, then what is `missing`,
    {title: why}."""
    tasks = list(dict.fromkeys(score["task"] for score in scores))
    encoders = list(dict.fromkeys(score["encoder"] for score in scores))
    cells = {(score["encoder"], score["task"]): _cell(score) for score in scores}
    lines = [["% ± stderr", *map(title, tasks)]]
    lines += [[encoder, *(cells.get((encoder, task), "") for task in tasks)] for encoder in encoders]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    text = lambda line: "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
    return "\n".join([*map(text, lines), *(f"{task} is left out: {why}" for task, why in (missing or {}).items())])


def write(path, scores, protocol, run):
    """Writes scores.json: {"protocol": ..., "scores": [...], "run": ...}, whole or not at all."""
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({"protocol": protocol, "scores": scores, "run": run}, indent=1) + "\n")
    os.replace(part, path)


def _knn(data, rows, classes, k, temperature):
    x, y, test, test_y = data
    found = [knn.knn(x[d], y[d], test, test_y, classes=classes, k=k, temperature=temperature) for d in rows]
    settings = {
        "classifier": "k-NN, cosine, weights exp(cos / T)" if temperature else "k-NN, cosine, equal weights",
        "k": found[0]["k"],
        "temperature": temperature,
        "train_rows": int(rows[0].sum()),
    }
    accuracies, predictions = (np.array([one[key] for one in found]) for key in ("accuracy", "predictions"))
    return {"accuracies": accuracies, "predictions": predictions, "settings": settings}


def _cell(score):
    error = "" if score["stderr"] is None else f" ± {100 * score['stderr']:.1f}"
    return f"{100 * score['mean']:.1f}{error}"
