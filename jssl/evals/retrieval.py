"""Retrieval by class: are the images that are nearest to a query of its class?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.evals.labels import check
from jssl.evals.neighbours import neighbours
from jssl.evals.scores import entry, spread_of_mean
from jssl.transforms import unit

KS = (1, 5, 10)
AT_ONCE = 2**25  # similarities that are sorted together (128 MiB)


@dataclasses.dataclass(frozen=True)
class Settings:
    ks: tuple[int, ...] = KS  # nearest images among which one of the query's class counts


def retrieval(index, index_labels, queries=None, query_labels=None, *, ks=KS):
    """What is found for every query by cosine in the whole index, exactly -> {"recall": {k: bool [M]}, "ap": [M]}.

    recall@k: whether any of the k nearest has the query's class (the share of such queries is the score, as in metric
    learning: Jegou et al., 2011; Musgrave et al., 2020, arXiv:2003.08505). AP: the mean of the precision at each image
    of the query's class, over the ranking of all; images of one similarity are one place, as in scikit-learn.

    Args:
      index, queries: features [N, D], [M, D]; index_labels, query_labels: int [N], [M]. Without queries every row of
        the index is one, and is not searched for itself.

    A query whose class the index does not hold has an AP of NaN and no recall.
    """
    index, index_labels = check(index, index_labels, "index")
    alone = queries is None
    if alone:
        queries, query_labels = index, index_labels
    else:
        queries, query_labels = check(queries, query_labels, "query")
    near = neighbours(index, None if alone else queries, max(ks))[1]
    hit = index_labels[near] == query_labels[:, None]  # [M, k]
    bank, block = unit(index), max(1, AT_ONCE // len(index))
    precision = np.full(len(queries), np.nan)
    for i in range(0, len(queries), block):
        similarity = np.asarray(_similarity(queries[i : i + block], bank))
        for row, found in enumerate(similarity, start=i):
            same = index_labels == query_labels[row]
            if alone:
                same[row] = False
                found = np.delete(found, row)
                same = np.delete(same, row)
            precision[row] = average_precision(found, same)
    return {"recall": {k: hit[:, :k].any(1) for k in ks}, "ap": precision}


def average_precision(similarity, same):
    """The mean of the precision at each of the `same`, bool [N], in the order of similarity [N]; NaN where none is.

    Of equal similarities all stand at the place of the last.
    """
    right = np.sort(similarity[same])
    if not len(right):
        return np.nan
    above = lambda found: len(found) - np.searchsorted(found, right)  # how many of `found` are as near, or nearer
    return np.mean(above(right) / above(np.sort(similarity)))


def protocol(subject):
    """Scores of recall@k and mAP: test images are looked up among the training images; where both are held out of one
    source, each of its images among all others."""
    alone = subject.splits["train"].spec == subject.splits["test"].spec
    labels, scores, ks = subject.labels, [], subject.settings("retrieval", Settings()).ks
    if not ks or min(ks) < 1:
        raise ValueError(f"retrieval.ks={ks}: expected one or more numbers of images, from 1")
    for encoder, found in subject.features.items():
        if alone:
            join = lambda parts: np.concatenate([parts["train"], parts["test"]])
            measured, rows = retrieval(join(found), join(labels), ks=ks), len(join(labels)) - 1
        else:
            measured = retrieval(found["train"], labels["train"], found["test"], labels["test"], ks=ks)
            rows = len(labels["train"])
        there = np.isfinite(measured["ap"])
        settings = {
            "queries": "every image" if alone else "test images",
            "index": "all other images" if alone else "training images",
            "index_rows": rows,
            "test_rows": int(there.sum()),
            "left_out": int((~there).sum()),
            "similarity": "cosine of features as they are",
            "seed": subject.seed,
        }
        for k, right in measured["recall"].items():
            how = {**settings, "k": k, "right": "one of the k nearest has the query's class"}
            scores.append(entry(f"recall-{k}", encoder, [right[there].mean()], how, right=right[there]))
        scores.append(_mean_precision(encoder, measured["ap"][there], settings))
    return scores


def _mean_precision(encoder, precision, settings):
    said = {
        **settings,
        "right": "average precision of the whole ranking",
        "stderr": "of the mean over the queries",
        "interval": "95 %, bootstrap over test examples",
    }
    return entry("map", encoder, [precision.mean()], said, right=precision, spread=spread_of_mean(precision))


@jax.jit
def _similarity(queries, bank):
    return jnp.matmul(unit(queries), bank.T, precision=lax.Precision.HIGHEST)
