"""Few labels per class: how far an encoder carries when almost nothing is labelled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.evals.labels import called, check, check_classes, per_class
from jssl.evals.linear import logits, solve
from jssl.transforms import unit

DRAWS = 100  # of the labelled examples, for each number of shots
AT_ONCE = 2**27  # numbers that the training features of the draws of one call may hold together (512 MiB)


def fewshot(
    train,
    train_labels,
    test,
    test_labels,
    *,
    classes,
    shots=1,
    draws=DRAWS,
    names=None,
    rows=None,
    C=1.0,
    label_names=None,
):
    """Test accuracy of logistic regressions on `shots` labelled examples per class, for `draws` draws of them by a hash
    of their `names`, or numbers: the same for every encoder and seed.

    Features are centred by the mean of all training features, which needs no label, and scaled to unit length
    (SimpleShot's CL2N: Wang et al., 2019; arXiv:1911.04623). No label is left to pick a penalty: it is fixed at
    scikit-learn's default, C * sum(CE) + |W|^2 / 2 with C = 1, as in Tian et al. (2020; arXiv:2003.11539).

    Args:
      train, test: features [N, D], [M, D]; train_labels, test_labels: int [N], [M] in 0 ... classes - 1.
      rows: int [draws, n]: the draws, where `labels.each_count` has made them already; `draws` and `names` are not
        looked at then.
      label_names: of the classes, for errors, or None.

    Returns:
      {"accuracy": mean over draws, "accuracies": [draws], "predictions": int32 [draws, M], "settings": {...}}.

    Raises:
      ValueError: where a class has fewer than `shots` training examples.
    """
    if shots < 1 or draws < 1:
        raise ValueError(f"shots is {shots} and draws is {draws}; expected at least 1 of each")
    train, train_labels = check(train, train_labels, "training")
    test, test_labels = check(test, test_labels, "test")
    check_classes(train_labels, test_labels, classes)
    missing = np.setdiff1d(test_labels, train_labels)
    if len(missing):
        none = called(missing[0], label_names)
        raise ValueError(f"{none} has 0 training examples; expected at least {shots} per class")
    if rows is None:
        names = range(len(train_labels)) if names is None else names
        rows = per_class(names, train_labels, shots, draws, label_names)
    predictions = of_rows(train, train_labels, test, rows, classes=classes, C=C)
    accuracies = np.mean(predictions == test_labels, 1)
    return {
        "accuracy": float(accuracies.mean()),
        "accuracies": accuracies,
        "predictions": predictions,
        "settings": {
            **described(C),
            "shots": shots,
            "draw": drawn(shots),
        },
    }


def of_rows(train, train_labels, test, rows, *, classes, C=1.0):
    """What such classifiers predict, int32 [draws, M], each from the training rows int [draws, n] of one draw alone."""
    centre = train.mean(0)
    x, test = unit(train - centre), unit(test - centre)
    at_once = max(1, AT_ONCE // (rows.shape[1] * x.shape[1]))
    parts = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
    return np.concatenate([np.asarray(_draws(x, train_labels, test, p, C, classes)) for p in parts])


def drawn(shots):
    """What a draw is, in words."""
    return f"{shots} training examples per class, by a hash of their names"


def described(C=1.0):
    """The settings of these classifiers, in words."""
    return {
        "classifier": "logistic regression, L-BFGS, C * sum(CE) + |W|^2 / 2, intercept free",
        "C": C,
        "features": "centred by the mean of all training features, then unit length",
    }


@functools.partial(jax.jit, static_argnames="classes")
def _draws(x, labels, test, rows, C, classes):
    def fit(rows):
        n, dim = len(rows), x.shape[1]
        start = jnp.zeros((dim + 1, classes))
        return solve(x[rows], labels[rows], jnp.ones(n), 1 / (C * n), start, 1e-4, 200)

    predict = lambda model: jnp.argmax(logits(model, test), -1).astype(jnp.int32)
    return lax.map(predict, jax.vmap(fit)(rows))
