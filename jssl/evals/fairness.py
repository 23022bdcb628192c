"""Accuracy by group of people or places, the group for which it is worst, and how far apart groups are."""

import numpy as np

from jssl.evals import linear
from jssl.evals.scores import RESAMPLES, entry, of_accuracy

LEAST = 20  # test images of a group, below which nothing is said of it
WHERE = "an array `groups` in an .npz, or a column `group` in the manifest of folder:MANIFEST.csv"


def protocol(subject):
    """The linear probe of all training images, judged group by group -> scores; groups are looked at in nothing else.

    "fairness-worst": the least accuracy of a group; "fairness-gap": the best group's accuracy minus the worst one's.
    Raises ValueError where the test images have no groups, or fewer than two of `LEAST` images.
    """
    test, labels = subject.splits["test"], subject.labels
    if test.groups is None:
        raise ValueError(f"{test.spec} has no groups; fairness needs {WHERE}")
    sizes = np.bincount(test.groups)
    judged = np.flatnonzero(sizes >= LEAST)
    if len(judged) < 2:
        most = ", ".join(str(size) for size in sorted(sizes)[:-6:-1])
        raise ValueError(
            f"{test.spec} has {len(judged)} groups of {LEAST} test images or more (the largest have {most}); fairness "
            "needs two"
        )
    scores = []
    for encoder, features in subject.features.items():
        data = (features["train"], labels["train"], features["test"], labels["test"])
        found = linear.probe(*data, classes=subject.classes, seed=subject.seed)
        right = found["predictions"][0] == labels["test"]
        scores += of_groups(encoder, right, test.groups, judged, test.group_names, found["settings"])
    return scores


def of_groups(encoder, right, groups, judged, names, settings):
    """The two scores of one classifier. right: bool [M]; groups: int [M]; judged: the groups that are large enough."""
    name = lambda group: names[group] if names else str(group)
    by_group = {}
    for group in np.unique(groups):
        own = right[groups == group]
        by_group[name(group)] = {"test_rows": len(own), "accuracy": float(own.mean())}
        if group in judged:
            by_group[name(group)] |= dict(zip(("low", "high"), of_accuracy(own)))
        else:
            by_group[name(group)]["too_few"] = f"fewer than {LEAST} test images: left out of worst and gap"
    sizes, counts = (np.array([values[groups == group].sum() for group in judged]) for values in (right | True, right))
    shares = counts / sizes
    worst, best = judged[shares.argmin()], judged[shares.argmax()]
    low, high, p = gap_test(counts, sizes)
    said = {**settings, "by group": by_group, "worst": name(worst), "best": name(best), "accuracy": float(right.mean())}
    interval = "95 %, of the worst group's test images, by bootstrap, or Wilson's where all or none are right"
    spread = *(by_group[name(worst)][key] for key in ("low", "high")), None
    first = entry("fairness-worst", encoder, [shares.min()], {**said, "interval": interval}, spread=spread)
    said |= {
        "figure": "accuracy of the best group minus that of the worst",
        "interval": "95 %, for all differences of two groups at once, by a studentised bootstrap; from 0 on",
        "p": p,
        "p_of": "a gap as large if it were chance which images are of which group, by permutation",
        "words": "more than chance" if p < 0.05 else "no more than chance makes of groups that are alike",
    }
    return [first, entry("fairness-gap", encoder, [np.ptp(shares)], said, spread=(low, high, None))]


def gap_test(counts, sizes, level=0.05, seed=0):
    """The gap of the best and the worst group -> low, high: its interval; p: how often as large a
    gap comes about when the right answers are dealt to the groups at random. counts: right ones [G], sizes: [G].

    The best and the worst of groups that are alike lie apart by chance, the more so the more groups there are: so there
    is an interval for all differences of two groups at once (Tukey's), and that of the gap ends where the largest low
    and the largest high one are, from 0 on. Half widths are standard errors times the quantile of the largest error of
    a difference, in standard errors, in bootstrap resamples, whose share is (right + 1) / (all + 2): a group without
    mistakes has an error too.
    """
    rng = np.random.default_rng(seed)
    shares, smooth = counts / sizes, (counts + 1) / (sizes + 2)
    drawn = rng.binomial(sizes, smooth, (RESAMPLES, len(sizes)))
    largest = np.zeros(RESAMPLES)
    error, variance = drawn / sizes - smooth, _variance(drawn, sizes)
    for g in range(1, len(sizes)):
        apart = np.abs(error[:, :g] - error[:, [g]]) / np.sqrt(variance[:, :g] + variance[:, [g]])
        largest = np.maximum(largest, apart.max(1))
    variance = _variance(counts, sizes)
    width = np.quantile(largest, 1 - level) * np.sqrt(variance[:, None] + variance)
    np.fill_diagonal(width, 0)
    difference = shares[:, None] - shares
    low, high = float((difference - width).max()), min(1.0, float((difference + width).max()))
    dealt = rng.multivariate_hypergeometric(sizes, counts.sum(), RESAMPLES)
    as_large = np.ptp(dealt / sizes, axis=1) >= np.ptp(shares) * (1 - 1e-9)
    return low, high, float((1 + as_large.sum()) / (1 + RESAMPLES))


def _variance(counts, sizes):
    """Of a share, by the smoothed one."""
    p = (counts + 1) / (sizes + 2)
    return p * (1 - p) / sizes
