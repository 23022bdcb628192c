"""Features with labels: checks that end in one clear line, and seeded stratified draws."""

import hashlib

import jax.numpy as jnp
import numpy as np

from jssl.files import NAMES


def check(features, labels, split, unknown=False):
    """-> features float32 [N, D] (jax), labels int32 [N] (numpy); `split` names them in errors.

    Raises ValueError for what `check_labels` does not take and features that are not finite.
    """
    labels = check_labels(labels, split, features, unknown)
    features = jnp.asarray(features, jnp.float32)
    if not jnp.isfinite(features).all():
        raise ValueError(f"the {split} features hold NaN or infinity; expected finite numbers: did training diverge?")
    return features, labels


def check_labels(labels, split, features=None, unknown=False):
    """-> labels int32 [N] (numpy), those of `features` [N, D], of which the shape is looked at where there is one.

    Raises ValueError for missing or negative labels (-1 is one where some may be `unknown`), other shapes, no rows.
    """
    if labels is None:
        raise ValueError(f"the {split} set has no labels; this protocol needs one class per example")
    labels = np.asarray(labels)
    shape = np.shape(features) if hasattr(features, "__len__") else (*labels.shape[:1], 1)
    if labels.ndim != 1 or len(shape) != 2 or shape[0] != len(labels) or not len(labels):
        shapes = f"features {list(shape)} and labels {list(labels.shape)}"
        raise ValueError(f"the {split} set has {shapes}; expected [N, D] and [N] with N >= 1")
    if labels.dtype.kind not in "iub":
        raise ValueError(f"the {split} labels are {labels.dtype}; expected class numbers from 0, as integers")
    if labels.min() < (-1 if unknown else 0):
        or_none = ", or -1 for none" if unknown else ""
        raise ValueError(f"the {split} labels go down to {labels.min()}; expected class numbers from 0{or_none}")
    return labels.astype(np.int32)


def check_classes(train, test, classes):
    """Both label arrays against `classes`; at least two classes must be in `train`."""
    top = int(max(train.max(), test.max()))
    if top >= classes:
        raise ValueError(f"label {top} does not fit {classes} classes; expected labels from 0 to {classes - 1}")
    if len(np.unique(train)) < 2:
        raise ValueError(f"all {len(train)} training labels are class {train[0]}; expected at least two classes")


def name_of(c, names):
    """The text that class `c` goes by, or None; names: those of the first classes, or None."""
    return str(names[c]) if names is not None and c < len(names) else None


def called(c, names):
    """A class as a message names it."""
    name = name_of(c, names)
    return f"class {c}" if name is None else f"class {name!r}"


def per_class(names, labels, count, draws, label_names=None):
    """`count` rows of every class that occurs, by a hash of the examples' names -> int64 [draws, classes * count], each
    draw sorted. The same for every method, seed and order of the rows; those of a smaller count are among them."""
    classes, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < count:
        few = called(classes[sizes.argmin()], label_names)
        raise ValueError(f"{few} has {sizes.min()} training examples; expected at least {count} per class")
    return each_count(names, labels, [count], draws)[count]


def each_count(names, labels, counts, draws):
    """`per_class` of several counts, of which all names are hashed and sorted once -> {count: int64 [draws, classes *
    count]}, without counts below 1 and those that some class has not."""
    sizes = np.unique(labels, return_counts=True)[1]
    found = {count: [] for count in counts if 1 <= count <= sizes.min()}
    keys, starts = np.array([_hash(str(name)) for name in names], np.uint64), np.cumsum(sizes) - sizes
    for draw in range(draws if found else 0):
        place = np.lexsort((_mixed(keys ^ np.uint64(_hash(f"draw {draw}"))), labels))
        for count, rows in found.items():
            rows.append(np.sort(place[(starts[:, None] + np.arange(count)).ravel()]))
    return {count: np.stack(rows) for count, rows in found.items()}


def _hash(text):
    return int.from_bytes(hashlib.blake2b(text.encode(errors=NAMES), digest_size=8).digest())


def _mixed(x):
    """Other random numbers of random numbers, uint64 [N]: splitmix64's last steps (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def share(labels, part, rng):
    """Picks the rounded `part` of every class at random -> bool [N]. The size depends on `labels` and `part` alone."""
    chosen = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        chosen[rng.permutation(members)[: round(part * len(members))]] = True
    return chosen


def by_hash(names, labels, part, draw):
    """Picks the rounded `part` of every class, one example at least, by a hash of the examples' names -> bool [N].

    The same for every method, seed and order of the rows: draw 0 is one fixed split, draw 1 another.
    """
    return of_order(hashed(names, draw), labels, part)


def hashed(names, draw):
    """The order of the examples by a hash of their names, of which each draw has another, int64 [N]."""
    return np.argsort(np.array([_hash(f"{draw}/{name}") for name in names], np.uint64), kind="stable")


def of_order(place, labels, part):
    """The first examples of every class in an order [N], the rounded `part` of it, one at least -> bool [N]."""
    chosen = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = place[labels[place] == c]
        chosen[members[: max(1, round(part * len(members)))]] = True
    return chosen


def by_class(predictions, labels, names=None):
    """What became of each class: [{"class", "name" where known, "count", "recall", "precision", "f1"}, ...].

    predictions, labels: int [M], from 0; names: texts, those of the first classes, or None. Classes that neither occur
    nor are predicted are left out. A ratio without a denominator is None: the recall of a class that does not occur,
    the precision of one that is never predicted.
    """
    size = int(max(predictions.max(), labels.max())) + 1
    right = np.bincount(labels[predictions == labels], minlength=size)
    count, predicted = np.bincount(labels, minlength=size), np.bincount(predictions, minlength=size)
    ratio = lambda a, b: float(a / b) if b else None
    return [
        {
            "class": int(c),
            **({} if (name := name_of(c, names)) is None else {"name": name}),
            "count": int(count[c]),
            "recall": ratio(right[c], count[c]),
            "precision": ratio(right[c], predicted[c]),
            "f1": ratio(2 * right[c], count[c] + predicted[c]),
        }
        for c in np.flatnonzero(count + predicted)
    ]
