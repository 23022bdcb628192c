"""Node classification on frozen embeddings: logistic regression over many splits of one graph's nodes."""

import jax.numpy as jnp
import numpy as np

from jssl.config import nearest
from jssl.evals import linear
from jssl.evals.labels import check
from jssl.transforms import unit

PARTS = ("train", "val", "test")
PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-5)  # few nodes: often a strong one
FORMS = {
    "standardised": lambda x: linear.standardiser(x)(x),
    "unit": unit,
    "raw": lambda x: x,
}


def probe(features, labels, splits, *, forms=tuple(FORMS), penalties=PENALTIES, tol=1e-4, max_steps=500):
    """Test accuracy of `linear.probe` on every split; its validation nodes pick the penalty and the features' form.

    The model is fitted on the training nodes alone, test nodes choose nothing. A tie goes to the first form.

    Args:
      features: [n, D] of all nodes; labels: int [n], -1 where unknown.
      splits: [{"train", "val", "test": node numbers}, ...], as of `random_splits`.
      forms: to pick from, see `formed`.

    Returns:
      {"accuracy": mean over splits, "std": over splits, "accuracies": [splits], "predictions": int32 [n], each
      node's class by the first split's model, "settings": {...}}.

    Raises:
      ValueError: for a split that lacks a part, names a node twice or one without a label, or trains on one class.
    """
    x, labels = check(features, labels, "whole", unknown=True)
    splits = [_check_split(i, split, labels) for i, split in enumerate(splits)]
    if not splits:
        raise ValueError("there are no splits; expected at least one, as `random_splits` makes them")
    classes, found = int(labels.max()) + 1, []
    formed_x = {form: formed(x, form) for form in forms}
    for train, val, test in splits:
        seen = np.concatenate([train, val])
        fits = {
            form: linear.probe(
                *(x[seen], labels[seen], x, np.maximum(labels, 0)),
                classes=classes,
                penalties=penalties,
                standardise=False,
                held=np.arange(len(seen))[None] >= len(train),
                tol=tol,
                max_steps=max_steps,
            )
            for form, x in formed_x.items()
        }
        form = max(fits, key=lambda form: fits[form]["settings"]["validation_accuracy"][0])  # the first of equal ones
        found.append({"form": form, "test": test, **fits[form]})
    right = lambda one: np.mean(one["predictions"][0, one["test"]] == labels[one["test"]])
    accuracies = np.array([right(one) for one in found])
    settings = found[0]["settings"]
    return {
        "accuracy": float(accuracies.mean()),
        "std": float(accuracies.std(ddof=1)) if len(splits) > 1 else 0.0,
        "accuracies": accuracies,
        "predictions": found[0]["predictions"][0],
        "settings": {
            **{key: settings[key] for key in ("classifier", "penalties", "tol", "max_steps")},
            "penalty": [one["settings"]["penalty"][0] for one in found],
            "form": [one["form"] for one in found],
            "validation_accuracy": [one["settings"]["validation_accuracy"][0] for one in found],
            "picked_by": "accuracy on the validation nodes; fitted on the training nodes alone",
            "features": f"{', '.join(forms)}; of mean square 1",
            "splits": len(splits),
            **{f"{part}_rows": len(rows) for part, rows in zip(PARTS, splits[0], strict=True)},
        },
    }


def random_splits(labels, count=20, train=0.1, val=0.1, seed=0):
    """Random splits of the labelled nodes, not stratified, as GCA and BGRL draw them -> [{"train", ...}, ...].

    labels: int [n], -1 where unknown; train, val: shares, the rest is for testing. Split i depends on `seed` and i.
    """
    labels = np.asarray(labels)
    nodes = np.flatnonzero(labels >= 0)
    cuts = [int(train * len(nodes)), int(train * len(nodes)) + int(val * len(nodes))]
    if not 0 < cuts[0] < cuts[1] < len(nodes):
        raise ValueError(
            f"shares of {train} and {val} leave a part of {len(nodes)} labelled nodes empty; expected nodes to train "
            "on, to validate and to test"
        )
    draws = [np.random.default_rng((seed, i)).permutation(nodes) for i in range(count)]
    return [dict(zip(PARTS, map(np.sort, np.split(draw, cuts)), strict=True)) for draw in draws]


def formed(features, form):
    """Features [n, D] of all nodes in one of `FORMS`, then divided by one number so that their mean square is 1.

    The last step lets penalties mean the same for every form. "standardised": zero mean and unit variance of each
    dimension over all nodes, which needs no label; "unit": rows of unit length, as GRACE, GCA and BGRL take them;
    "raw": as they are.

    Only standardised features cannot be hurt by any offset and scale of a dimension. Embeddings of Cora by DGI, GRACE
    and BGRL scored alike in every form, within the deviation over six random splits; with DGI's dimensions scaled at
    random, by a log-normal factor of deviation ln 10, "standardised" kept its 83.3 %, "unit" had 76.8 %, "raw" 77.3 %.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form of features {form!r}{nearest(form, FORMS)}")
    x = FORMS[form](jnp.asarray(features, jnp.float32))
    square = jnp.mean(x * x)
    return x / jnp.where(square > 0, jnp.sqrt(square), 1)


def _check_split(i, split, labels):
    """-> the node numbers of its three parts."""
    for part in PARTS:
        if part not in split:
            raise ValueError(f"split {i} has no {part!r}; expected {', '.join(PARTS)}, as `random_splits` makes them")
        nodes = np.asarray(split[part])
        if nodes.ndim != 1 or nodes.dtype.kind not in "iu" or not len(nodes):
            raise ValueError(f"split {i}: {part!r} is {nodes.dtype} {list(nodes.shape)}; expected numbers of nodes")
        if nodes.min() < 0 or nodes.max() >= len(labels):
            wrong = nodes[(nodes < 0) | (nodes >= len(labels))][0]
            raise ValueError(f"split {i}: {part!r} names node {wrong}; expected 0 to {len(labels) - 1}")
        if (labels[nodes] < 0).any():
            raise ValueError(f"split {i}: node {nodes[labels[nodes] < 0][0]} of {part!r} has no label")
    parts = [np.asarray(split[part]) for part in PARTS]
    names, sizes = np.unique(np.concatenate(parts), return_counts=True)
    if sizes.max() > 1:
        raise ValueError(f"split {i} names node {names[sizes.argmax()]} more than once; expected parts without overlap")
    return parts
