"""Scores: a mean with its errors, tests of two against each other, the table that people read."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from scipy import stats

RESAMPLES = 10_000  # of a bootstrap and of a permutation test
WIDE = 4  # tasks beside each other in a table of text
LEVEL = 0.05  # below it two encoders are called different
TITLES = {
    "knn": "k-NN",
    "knn-loo": "k-NN, leave one out",
    "linear": "linear probe",
    "linear-sgd": "linear probe, SGD",
    "linear-grid": "linear probe, best of a grid",
    "finetune": "fine-tuned",
    "peft-lora": "LoRA",
    "peft-adapter": "adapters",
    "peft-prompt": "prompts",
    "peft-bias": "biases",
    "dense-linear": "segmentation, linear, mIoU",
    "dense-knn": "segmentation, k-NN, mIoU",
    "depth": "depth within 1.25",
    "depth-rmse": "depth, RMSE",
    "corloc": "CorLoc, LOST",
    "corloc-attention": "CorLoc, attention",
    "anomaly-image": "anomaly, AUROC of images",
    "anomaly-pixel": "anomaly, AUROC of pixels",
    "map": "mAP",
    "rankme": "RankMe",
    "alpha-req": "alpha-ReQ",
    "lidar": "LiDAR",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "neighbours": "neighbours kept",
    "robustness": "corrupted, linear probe",
    "robustness-kept": "kept, linear probe",
    "robustness-knn": "corrupted, k-NN",
    "robustness-knn-kept": "kept, k-NN",
    "fairness-worst": "worst group",
    "fairness-gap": "gap of groups",
    "ood": "out-of-distribution, AUROC by k-NN",
    "ood-softmax": "out-of-distribution, AUROC by softmax",
    "svm": "SVM, 10 folds",
    "nmi": "clusters, NMI",
    "ari": "clusters, ARI",
    "link-auc": "links, AUC",
    "link-ap": "links, AP",
}


class Scored(NamedTuple):
    """What a modality's evaluation found, see `jssl.evals.run.evaluate`.

    scores: list of `entry`; said: of the data, {name: JSON value}, or without scores a text for the user; encoder: the
    trained one; tested: `test`, `labels` and `rows` of `jssl.evals.kept.write`; show: given what `jssl.evals.kept.read`
    gives, draws what else the report is to show.
    """

    scores: list
    said: dict | str
    encoder: Any
    tested: dict = {}
    show: Callable | None = None


def entry(
    task,
    encoder,
    values,
    settings,
    *,
    right=None,
    predictions=None,
    confidence=None,
    rows=None,
    over=None,
    spread=None,
    **more,
):
    """One score, of what was measured once or in several draws.

    Args:
      values: [draws], accuracies or other figures.
      right: [M], how often the draws were right on each test example, of which the interval is and which paired tests
        compare; rows: M, where that is not known; neither: the figure is no accuracy, and one draw of it has no error.
      predictions: int [M], of the first draw; confidence: [M], the probability that the probe gave each of them.
      over: what the draws are of, "draws" of the training set by default.
      spread: low, high and standard error, for a figure that has its own; `settings` then say what they are.
      more: further fields, such as "classes".

    Returns:
      {"encoder", "task", "mean", "stderr", "low", "high", "draws", "settings", **more}, low and high the ends of the
      95 % bootstrap interval or None, and "rows", {"right", "predictions", "confidence"} where there are, which
      `kept.write` keeps apart.
    """
    values = np.asarray(values, float)
    rows = len(right) if right is not None else rows
    low, high, stderr = spread or (None, None, None)
    if not spread and (len(values) > 1 or rows):
        _, stderr, kind = summary(values, rows, over)
        if right is not None or len(values) == 1:
            low, high, words = of_accuracy(_outcomes(values[0], rows) if right is None else right)
        else:
            low, high, words = *bootstrap(values), f"95 %, bootstrap over {over or 'draws'}"
        settings = {**settings, "stderr": kind, "interval": words}
    by_row = {"right": right, "predictions": predictions, "confidence": confidence}
    by_row = {name: np.asarray(x) for name, x in by_row.items() if x is not None}
    return {
        "encoder": encoder,
        "task": task,
        "mean": float(values.mean()),
        "stderr": stderr,
        "low": low,
        "high": high,
        "draws": len(values),
        "settings": settings,
        **more,
        **({"rows": by_row} if by_row else {}),
    }


def summary(accuracies, test_rows, over=None):
    """-> mean, standard error, what the error is: `over` draws, or for a single one binomial over the test rows."""
    mean = float(np.mean(accuracies))
    if len(accuracies) > 1:
        error = float(np.std(accuracies, ddof=1) / len(accuracies) ** 0.5)
        return mean, error, f"over {over or 'draws, same test rows'}"
    return mean, float((mean * (1 - mean) / test_rows) ** 0.5), "binomial, over the test rows"


def _outcomes(accuracy, rows):
    """What to resample where single examples are not known: as many right and wrong ones."""
    return np.arange(rows) < round(float(accuracy) * rows)


def of_accuracy(right, level=0.05):
    """The interval of the mean of how right one was on each test example, [M] -> low, high, and what it is in words.

    The bootstrap's; where all are right, or none, every resample is alike, and it is Wilson's (1927).
    """
    n, mean = len(right), float(np.mean(right))
    if mean not in (0, 1):
        return *bootstrap(right, level), "95 %, bootstrap over test examples"
    width = stats.norm.isf(level / 2) ** 2
    width /= n + width
    low, high = (1 - width, 1.0) if mean else (0.0, width)
    return float(low), float(high), "95 %, Wilson's: all test examples were alike"


def bootstrap(values, level=0.05, seed=0):
    """The percentile bootstrap interval of the mean of `values` [M] -> low, high (Efron, 1979).

    Resamples are drawn as counts of the distinct values, of which accuracies have few: a million rows take no longer.
    """
    return ends(resampled(values, seed), level)


def resampled(values, seed=0):
    """The means of `RESAMPLES` samples with replacement of values [M] or [M, C] -> [RESAMPLES] or [RESAMPLES, C]."""
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(np.asarray(values, float), axis=0, return_counts=True)
    part = max(1, 2**24 // len(distinct))
    sizes = [min(part, RESAMPLES - done) for done in range(0, RESAMPLES, part)]
    draws = (rng.multinomial(len(values), counts / len(values), size) for size in sizes)
    return np.concatenate([drawn @ distinct for drawn in draws]) / len(values)


def ends(found, level=0.05):
    """The ends of the percentile interval of a figure's values in resamples -> low, high."""
    low, high = np.quantile(found, (level / 2, 1 - level / 2))
    return float(low), float(high)


def spread_of_mean(each):
    """Of the mean of figures that are no coins, each [M] -> low, high, and the standard error, None for one of them."""
    return *bootstrap(each), float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else None


def roc_area(bad, good):
    """The area under the ROC curve, of counts by rising score: bad, good [..., B] -> [...]; scores that are equal count
    half."""
    below = np.cumsum(good, -1) - good / 2
    return np.sum(bad * below, -1) / np.maximum(bad.sum(-1) * good.sum(-1), 1)


def paired(a, b, seed=0):
    """Two encoders on the same examples -> {"difference", "low", "high", "p"}, of their means, a minus b.

    a, b: [M], how right each was on each. The interval is a bootstrap's over the examples. p: of the difference or a
    larger one if for each example it were chance which encoder had which result: exact where results are 0 or 1, and so
    McNemar's test, else by `RESAMPLES` random exchanges.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"results on {len(a)} and on {len(b)} examples; expected the same test set for both")
    apart = a - b
    low, high = bootstrap(apart, seed=seed)
    return {"difference": float(apart.mean()), "low": low, "high": high, "p": _exchanged(apart, seed)}


def _exchanged(apart, seed):
    """The two-sided p-value of a sign-flip permutation test of differences [M] against 0."""
    sizes, counts = np.unique(np.abs(apart[apart != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    if len(sizes) == 1:
        return float(stats.binomtest(int((apart > 0).sum()), int(counts[0])).pvalue)
    # Of each size of a difference, the number that are positive is binomial: no need to flip them one by one.
    positive = np.random.default_rng(seed).binomial(counts, 0.5, (RESAMPLES, len(sizes)))
    sums = (2 * positive - counts) @ sizes
    extreme = np.abs(sums) >= abs(apart.sum()) * (1 - 1e-9)
    return float((1 + extreme.sum()) / (1 + RESAMPLES))


def compare(first, second, names):
    """Paired tests of two sets of results on one test set, {task: right [M]}, for the tasks that both have.

    names: of the two -> [{"task", "first", "second", **`paired`, "words"}, ...]
    """
    found = []
    for task in [task for task in first if task in second]:
        test = paired(first[task], second[task])
        found.append({"task": task, "first": names[0], "second": names[1], **test, "words": words(test, names)})
    return found


def words(test, names):
    """A paired test in words: which of the two is better, or that they are not distinguishable."""
    p = "p < 0.001" if test["p"] < 0.001 else f"p = {test['p']:.3f}"
    low, high = (100 * test[end] for end in ("low", "high"))
    if test["p"] >= LEVEL:
        return f"{names[0]} and {names[1]} are not distinguishable ({low:+.1f} to {high:+.1f} points, {p})"
    better, worse = names if test["difference"] > 0 else reversed(names)
    low, high = (low, high) if test["difference"] > 0 else (-high, -low)
    by = abs(100 * test["difference"])
    return f"{better} is better than {worse} by {by:.1f} points ({low:.1f} to {high:.1f}, {p})"


def attempt(what, measure, missing):
    """measure() -> a list; [] where the data do not allow it, such as a class with few examples, and `missing`, a dict,
    is told why, under `what`."""
    try:
        return measure()
    except ValueError as error:
        if missing is None:
            raise
        missing[what] = str(error)
        return []


def timed(what, measure):
    """measure() -> a list; where there is anything in it, the log tells how long that took: some take minutes."""
    began = time.monotonic()
    if found := measure():
        logging.info("%s: %.0f s", what, time.monotonic() - began)
    return found


def title(task):
    """A task of scores.json in words."""
    kind, _, n = task.partition("-")
    if kind == "semi":
        percent, _, way = n.partition("-")
        return f"{'fine-tuned' if way == 'finetune' else 'probe'}, {percent} % of labels"
    if kind == "transfer":
        name, _, way = n.rpartition("-")
        from_run = " of the run's set" if name.endswith("-own") else ""
        return f"{title(way)}{from_run}, {name.removesuffix('-own')}"
    if kind == "recall":
        return f"recall@{n}"
    if kind == "fewshot" and n:
        count, _, way = n.partition("-")
        return f"{'fine-tuned, ' if way else ''}{count} label{'s' if count != '1' else ''} per class"
    if task.startswith("peft-last-"):
        return f"last {task.removeprefix('peft-last-')} blocks"
    return TITLES.get(task, task)


def table(scores, missing=None):
    """Encoders down, tasks across, of many tasks the other way round, per cent with standard errors and intervals:
    plain text of several lines, then what is `missing`, {title: why}."""
    tasks = list(dict.fromkeys(score["task"] for score in scores))
    encoders = list(dict.fromkeys(score["encoder"] for score in scores))
    cells = {(score["encoder"], score["task"]): _cell(score) for score in scores}
    lines = [["% ± stderr", *map(title, tasks)]]
    lines += [[encoder, *(cells.get((encoder, task), "") for task in tasks)] for encoder in encoders]
    if len(tasks) > WIDE:
        lines = [list(column) for column in zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    text = lambda line: "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
    below = [f"{task} is left out: {why}" for task, why in (missing or {}).items()]
    if any(score.get("low") is not None for score in scores):
        below.insert(0, "[ ]: 95 % bootstrap interval; which is over what, and each whole protocol: scores.json")
    return "\n".join([*map(text, lines), *below])


def _cell(score):
    """A score in the table; one that is no share, as its settings say by a "unit", is printed as it is."""
    factor, digits = (1, 3) if "unit" in score.get("settings", {}) else (100, 1)
    show = lambda value: f"{factor * value:.{digits}f}"
    error = "" if score["stderr"] is None else f" ± {show(score['stderr'])}"
    between = "" if score.get("low") is None else f" [{show(score['low'])}, {show(score['high'])}]"
    return f"{show(score['mean'])}{error}{between}"
