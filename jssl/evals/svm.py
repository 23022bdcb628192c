"""Graph classification on frozen embeddings by a support vector machine, as InfoGraph, GraphCL and GraphMAE do it."""

import numpy as np
from joblib import Parallel, cpu_count, delayed
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from jssl.evals.labels import check

COSTS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
SPLITS, INNER = 10, 5  # folds of the test, and of the search for C within each one's training part
AT_ONCE = 2**32  # bytes that the kernels of the folds under way may hold together


def svm(features, labels, *, folds=None, seeds=(0, 1, 2, 3, 4), costs=COSTS):
    """Accuracy of an SVM in ten-fold cross-validation, its C picked within each training part.

    An RBF kernel exp(-gamma |x - y|^2) with scikit-learn's gamma, 1 / (D * variance of the numbers in the training
    part), on the features as they are. For each fold, C is picked by mean accuracy in a stratified five-fold search in
    its training part, a tie going to the smaller; then the machine is fitted on all of that part. Test folds choose
    nothing. The same numbers as GridSearchCV(SVC(), {"C": costs}, cv=5), from distances that are computed once.

    Args:
      features: [G, D]; labels: int [G], classes from 0.
      folds: int [G], given test folds from 0; a graph in fold -1 is never tested, only trained on. None: ten stratified
        folds for each shuffle of `seeds`.

    Returns:
      {"accuracy": mean over folds and seeds, "std": over seeds, "accuracies": [seeds], "fold_accuracies": [seeds,
      folds], "predictions": int32 [seeds, G], each graph's class by the machine that did not see it, -1 for none,
      "settings": {...}}; given folds count as one seed.

    Raises:
      ValueError: for a class of fewer than ten graphs, or fewer than five in a training part.
    """
    x, y = check(features, labels, "whole")
    x, costs = np.asarray(x, np.float64), sorted(float(c) for c in costs)
    if not costs or costs[0] <= 0:
        raise ValueError(f"costs are {costs}; expected one or more positive numbers")
    tests = _given(folds, len(y)) if folds is not None else _shuffled(y, seeds)
    for rows in (rows for test in tests for rows in test):
        _check_part(np.delete(y, rows))

    distances = _distances(x)
    jobs = max(1, min(cpu_count(), AT_ONCE // (12 * distances.size)))  # float64, and libsvm's copy in float32
    tasks = [delayed(_fold)(x, y, distances, rows, costs) for test in tests for rows in test]
    found = Parallel(jobs, prefer="threads")(tasks)  # libsvm and numpy leave the interpreter free
    per_seed = [found[i : i + len(tests[0])] for i in range(0, len(found), len(tests[0]))]

    predictions = np.full((len(tests), len(y)), -1, np.int32)
    for s, test in enumerate(tests):
        for rows, (_, predicted) in zip(test, per_seed[s], strict=True):
            predictions[s, rows] = predicted
    scores = np.array([[np.mean(predictions[s, rows] == y[rows]) for rows in test] for s, test in enumerate(tests)])
    accuracies = scores.mean(1)
    return {
        "accuracy": float(accuracies.mean()),
        "std": float(accuracies.std(ddof=1)) if len(tests) > 1 else 0.0,
        "accuracies": accuracies,
        "fold_accuracies": scores,
        "predictions": predictions,
        "settings": {
            "classifier": "SVM, RBF kernel, gamma 1 / (D * variance)",
            "features": "as they are",
            "folds": "given" if folds is not None else f"{SPLITS}, stratified, shuffled",
            "seeds": None if folds is not None else list(seeds),
            "picked_by": f"accuracy in {INNER} stratified folds of each training part, then fitted on all of it",
            "costs": costs,
            "cost": [[cost for cost, _ in one] for one in per_seed],
            "test_rows": int((predictions[0] >= 0).sum()),
        },
    }


def _fold(x, labels, distances, test, costs):
    """-> the cost picked without the rows `test`, their classes by the machine of all other rows."""
    train = np.delete(np.arange(len(labels)), test)
    scores = np.empty((len(costs), INNER))
    for i, (fit, held) in enumerate(StratifiedKFold(INNER).split(train, labels[train])):
        predicted = _predict(x, labels, distances, train[fit], train[held], costs)
        scores[:, i] = np.mean(predicted == labels[train[held]], 1)
    best = costs[np.argmax(scores.mean(1))]  # the first of equal ones: the smallest
    return best, _predict(x, labels, distances, train, test, [best])[0]


def _predict(x, labels, distances, train, test, costs):
    """The classes of the rows `test` by machines of the rows `train`, one for each cost, with one kernel."""
    variance = x[train].var()
    kernel = distances[np.ix_(np.concatenate([train, test]), train)]
    kernel *= -1 / (x.shape[1] * variance) if variance else -1
    np.exp(kernel, out=kernel)
    seen, unseen = kernel[: len(train)], kernel[len(train) :]
    machines = [SVC(C=cost, kernel="precomputed", cache_size=1000) for cost in costs]
    return np.stack([machine.fit(seen, labels[train]).predict(unseen) for machine in machines])


def _distances(x):
    """Squared, of all pairs of rows. x: float64 [G, D] -> [G, G]."""
    squares = np.sum(x * x, 1)
    distances = x @ x.T
    distances *= -2
    distances += squares
    distances += squares[:, None]
    return np.maximum(distances, 0, out=distances)


def _shuffled(labels, seeds):
    """The test rows of every fold for every seed."""
    names, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < SPLITS:
        least = names[sizes.argmin()]
        raise ValueError(f"class {least} has {sizes.min()} graphs; expected at least {SPLITS}, one for each fold")
    if not len(seeds):
        raise ValueError("there are no seeds; expected at least one shuffle")
    shuffles = [StratifiedKFold(SPLITS, shuffle=True, random_state=seed) for seed in seeds]
    return [[test for _, test in shuffle.split(labels, labels)] for shuffle in shuffles]


def _given(folds, graphs):
    """The test rows of given folds, as of one seed."""
    folds = np.asarray(folds)
    if folds.shape != (graphs,) or folds.dtype.kind not in "iu":
        raise ValueError(f"folds are {folds.dtype} {list(folds.shape)}; expected one whole number for each of {graphs}")
    if folds.min() < -1 or folds.max() < 0:
        raise ValueError(f"folds go from {folds.min()} to {folds.max()}; expected numbers from 0, or -1 for none")
    return [[np.flatnonzero(folds == fold) for fold in np.unique(folds[folds >= 0])]]


def _check_part(labels):
    """Every class of a training part must be in each part of the search."""
    names, sizes = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"a fold leaves graphs of {len(names)} classes to train on; expected at least two")
    if sizes.min() < INNER:
        least, size = names[sizes.argmin()], sizes.min()
        raise ValueError(f"a fold leaves {size} graphs of class {least} to train on; expected at least {INNER}")
