"""Weighted k-nearest-neighbour classification by cosine similarity (Wu et al., 2018; arXiv:1805.01978, section 3.4)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.evals.labels import check, check_classes
from jssl.transforms import unit


def knn(train, train_labels, test, test_labels, *, classes, k=20, temperature=0.07, block=2048):
    """Classifies every test row by a vote of its `k` most similar training rows, each with weight exp(cos / T).

    Args:
      train, test: features, [N, D] and [M, D]; any float type, any length of the vectors.
      train_labels, test_labels: int [N] and [M], 0 ... classes - 1.
      k: neighbours that vote; at most N of them exist.
      temperature: T; None counts every neighbour the same.
      block: rows per block; the largest intermediate is [block, block + k].

    Returns:
      {"accuracy": float in [0, 1], "predictions": int32 [M], "neighbours": int32 [M, k], "similarities": float32
      [M, k], "k": int}, nearest first. Equal similarities come in the order of the training rows, equal votes go to the
      smallest class, as in scikit-learn.
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number, or None for equal votes")
    train, train_labels = check(train, train_labels, "training")
    test, test_labels = check(test, test_labels, "test")
    check_classes(train_labels, test_labels, classes)
    similarity, index = neighbours(train, test, k, block=block)
    # The largest weight of a row becomes 1: the vote is the same and a small T cannot overflow.
    weight = jnp.exp((similarity - similarity[:, :1]) / (temperature or jnp.inf))
    predictions = np.asarray(_vote(jnp.asarray(train_labels)[index], weight, classes))
    return {
        "accuracy": float(np.mean(predictions == test_labels)),
        "predictions": predictions,
        "neighbours": np.asarray(index),
        "similarities": np.asarray(similarity),
        "k": index.shape[1],
    }


def neighbours(bank, queries, k, *, block=2048):
    """The `k` rows of `bank` [N, D] nearest by cosine to each of `queries` [M, D] -> similarity, index: [M, min(k, N)].

    Exact; blocks of queries against blocks of the bank with a running top-k, so that memory grows with N + M only.
    Sorted from the nearest; of equal ones the first row of the bank comes first.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1 neighbour")
    return _neighbours(jnp.asarray(bank), jnp.asarray(queries), min(int(k), len(bank)), int(block))


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _neighbours(bank, queries, k, block):
    banks, rows = _blocks(unit(bank), block), _blocks(unit(queries), block)
    count, size, _ = banks.shape
    index = jnp.arange(count * size, dtype=jnp.int32).reshape(count, size)

    def nearest(queries):  # [q, D]
        def merge(best, other):
            bank, index = other
            similarity = jnp.matmul(queries, bank.T, precision=lax.Precision.HIGHEST)  # [q, size]
            similarity = jnp.where(index < n, similarity, -jnp.inf)  # the padding is never near
            # The best so far stand first and top_k is stable: ties keep the order of the bank.
            pool = jnp.concatenate([best[0], similarity], 1)
            where = jnp.concatenate([best[1], jnp.broadcast_to(index, similarity.shape)], 1)
            top, chosen = lax.top_k(pool, k)
            return (top, jnp.take_along_axis(where, chosen, 1)), None

        none = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
        return lax.scan(merge, none, (banks, index))[0]

    n = len(bank)
    similarity, found = lax.map(nearest, rows)  # [blocks, q, k]
    return similarity.reshape(-1, k)[: len(queries)], found.reshape(-1, k)[: len(queries)]


def _blocks(x, block):
    """[N, D] -> [blocks, rows, D], in blocks of equal size, padded with zeros."""
    count = -(-len(x) // block)
    size = -(-len(x) // count)
    return jnp.pad(x, ((0, count * size - len(x)), (0, 0))).reshape(count, size, -1)


@functools.partial(jax.jit, static_argnames="classes")
def _vote(labels, weight, classes):
    rows = jnp.arange(len(labels))[:, None]
    votes = jnp.zeros((len(labels), classes)).at[rows, labels].add(weight)  # [M, classes]
    return jnp.argmax(votes, 1).astype(jnp.int32)
