"""k-nearest-neighbour classification by cosine, weighted (Wu et al., 2018; arXiv:1805.01978, section 3.4) and plain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jssl.evals.labels import check, check_classes, check_labels
from jssl.evals.neighbours import BLOCK, neighbours

KS = (5, 10, 20, 200)
TEMPERATURES = (0.07, 0.1, None)
AT_ONCE = 2**26  # votes that are counted together (256 MiB)


def knn(
    train,
    train_labels,
    test=None,
    test_labels=None,
    *,
    classes,
    k=20,
    temperature=0.07,
    ks=(),
    temperatures=(),
    block=BLOCK,
):
    """Classifies every test row by a vote of its `k` most similar training rows, each with weight exp(cos / T).

    Args:
      train, test: features, [N, D] and [M, D]; any float type, any length of the vectors. train may be memory-mapped,
        or an iterator over its blocks, as `neighbours` has it. Without a test set every training row is classified by
        the others: leave one out.
      train_labels, test_labels: int [N] and [M], 0 ... classes - 1.
      k: neighbours that vote; at most all there are.
      temperature: T; None counts every neighbour the same.
      ks, temperatures: further votes of the same neighbours, every k with every T. They are figures of the test set: to
        report the best of them as the encoder's accuracy would be to choose on test labels.
      block: rows of the bank on the devices at a time.

    Returns:
      {"accuracy": float in [0, 1], "predictions": int32 [M], "neighbours": int32 [M, k], "similarities": float32
      [M, k], "k": int, "grid": [{"k", "temperature", "accuracy"}, ...]}, nearest first. Equal similarities come in the
      order of the training rows, equal votes go to the smallest class, as in scikit-learn.
    """
    for T in (temperature, *temperatures):
        if T is not None and not T > 0:
            raise ValueError(f"temperature is {T}; expected a positive number, or None for equal votes")
    if min(k, *ks, k) < 1:
        raise ValueError(f"k is {min(k, *ks, k)}; expected at least 1 neighbour")
    train_labels = check_labels(train_labels, "training", train)
    if test is None:
        test_labels = train_labels
    else:
        test, test_labels = check(test, test_labels, "test")
    check_classes(train_labels, test_labels, classes)
    bank = train if hasattr(train, "shape") else _counted(train, len(train_labels))
    similarity, index = neighbours(bank, test, max(k, *ks, k), block=block)
    most = index.shape[1]
    k, ks = min(k, most), sorted({min(one, most) for one in ks})
    vote = lambda ks, T: votes(train_labels[index[:, : ks[-1]]], similarity[:, : ks[-1]], ks, T, classes)
    right = lambda predictions: float(np.mean(predictions == test_labels))
    (predictions,) = vote([k], temperature)
    return {
        "accuracy": right(predictions),
        "predictions": predictions,
        "neighbours": index[:, :k],
        "similarities": similarity[:, :k],
        "k": k,
        "grid": [
            {"k": n, "temperature": T, "accuracy": right(found)}
            for T in (temperatures if ks else ())
            for n, found in zip(ks, vote(ks, T), strict=True)
        ],
    }


def votes(labels, similarity, ks, temperature, classes):
    """What the first k neighbours vote, for every k of the ascending `ks` -> int32 [len(ks), M].

    labels, similarity: of the neighbours, [M, K], nearest first. A neighbour is counted once, for every k it is within.
    """
    size = max(1, AT_ONCE // classes)
    some = lambda i: (jnp.asarray(labels[i : i + size]), jnp.asarray(similarity[i : i + size]))
    T = np.float32(temperature or np.inf)
    found = [np.asarray(_votes(*some(i), T, tuple(ks), classes)) for i in range(0, len(labels), size)]
    return np.concatenate(found, 1)


@functools.partial(jax.jit, static_argnames=("ks", "classes"))
def _votes(labels, similarity, temperature, ks, classes):
    # The largest weight of a row becomes 1: the vote is the same and a small T cannot overflow.
    weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
    rows, counted, found = jnp.arange(len(labels))[:, None], 0, []
    count = jnp.zeros((len(labels), classes))  # [M, classes]
    for k in ks:
        count = count.at[rows, labels[:, counted:k]].add(weight[:, counted:k])
        counted = k
        found.append(jnp.argmax(count, 1).astype(jnp.int32))
    return jnp.stack(found)


def _counted(blocks, n):
    """The blocks of a bank, which have to make up as many rows as there are labels."""
    seen = 0
    for rows in blocks:
        seen += len(rows)
        yield rows
    if seen != n:
        raise ValueError(f"the training set has {seen} features and {n} labels; expected one label for each")


def described(k, temperature):
    """The settings of these classifiers, in words."""
    weights = "weights exp(cos / T)" if temperature else "equal weights"
    return {"classifier": f"k-NN, cosine, {weights}", "k": k, "temperature": temperature}
