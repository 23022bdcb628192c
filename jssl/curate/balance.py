"""A sample that takes evenly from clusters, so that what is common in the pool does not fill it."""

import jax
import numpy as np

from jssl.curate.near import nearest
from jssl.kmeans import kmeans

LEARNT = 65_536  # rows that k-means sees: all of a small pool, a sample of a large one
BLOCK = 1024


def balanced(features, rows, count, clusters, seed=0):
    """`count` of `rows`, int [M], as evenly as the clusters' sizes let -> rows, ascending, and the sizes of the
    clusters before and after, int [K] each.

    features: [N, D], any array that can be sliced. Within a cluster chance decides, by the seed.
    """
    rng, clusters = np.random.default_rng(seed), min(clusters, len(rows))
    seen = np.sort(rng.permutation(rows)[:LEARNT])
    x = np.asarray(features[seen], np.float32)
    blocks = -(-len(x) // BLOCK)
    weights = np.zeros(blocks * BLOCK, np.float32)
    weights[: len(x)] = 1
    x = np.pad(x, ((0, len(weights) - len(x)), (0, 0))).reshape(blocks, BLOCK, -1)
    weights = weights.reshape(blocks, BLOCK)
    found = kmeans(x, jax.random.key(seed), clusters, weights=weights, start="k-means++", spherical=True)
    centroids, labels = np.asarray(found.centroids), np.empty(len(rows), np.int32)
    for start in range(0, len(rows), BLOCK):
        labels[start : start + BLOCK] = nearest(centroids, features[rows[start : start + BLOCK]], 1)[1][:, 0]
    sizes = np.bincount(labels, minlength=clusters)
    quotas = shares(sizes, count)
    chosen = [rng.permutation(rows[labels == k])[: quotas[k]] for k in range(clusters)]
    return np.sort(np.concatenate(chosen)), sizes, quotas


def shares(sizes, count):
    """How many to take of each cluster: the same of all that have so many, all of the others. int [K] -> int [K]"""
    quotas = np.zeros_like(sizes)
    while (left := min(count, sizes.sum()) - quotas.sum()) > 0:
        open_ = np.flatnonzero(quotas < sizes)
        each = left // len(open_)
        quotas[open_] += np.minimum(each, (sizes - quotas)[open_]) if each else np.arange(len(open_)) < left
    return quotas
