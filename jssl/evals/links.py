"""Link prediction on frozen embeddings: some edges of a graph are hidden from the encoder, then told from non-edges."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from jssl.config import nearest
from jssl.data.graph import degrees
from jssl.evals import linear
from jssl.evals.labels import share as part
from jssl.evals.nodes import formed

KINDS = ("cosine", "dot", "trained")
MOST = 20_000  # kept edges, and as many non-edges, that the trained score learns from


def hold_out(edges, n, share=0.1, seed=0):
    """Hides a random share of the pairs of nodes that a graph joins, as VGAE does (arXiv:1611.07308).

    A pair has no direction, as the scores have none: of directed edges, too, both ways are hidden together.

    Args:
      edges: int [E, 2] of n nodes as of `Graphs`, ordered by receiver.

    Returns:
      kept edges [E', 2], in their order; positive int64 [P, 2], the hidden pairs, each once, from the lower node;
      negative int64 [P, 2], as many distinct pairs of different nodes drawn uniformly from those that no edge of the
      whole graph joins.

    Raises:
      ValueError: where too few edges or non-edges are there.
    """
    edges = _check_pairs("edges", edges, n)
    names = number(edges)
    pairs = np.unique(names)
    size = round(share * len(pairs))
    if not 0 < size < len(pairs):
        raise ValueError(f"a share of {share} hides {size} of {len(pairs)} edges; expected to hide some and keep some")
    rng = np.random.default_rng(seed)
    hidden = rng.choice(pairs, size, replace=False)
    negative = _non_edges(pairs, n, size, rng)
    return edges[~np.isin(names, hidden)], pairs_of(hidden), pairs_of(negative)


def without(graph, share=0.1, seed=0):
    """`hold_out` of a `Graphs` of one graph -> the graph without the hidden edges, positive [P, 2], negative [P, 2]."""
    if not graph.single:
        raise ValueError(f"{graph.spec} has {len(graph)} graphs; expected one to predict the links of")
    n = len(graph.x)
    kept, positive, negative = hold_out(graph.edges, n, share, seed)
    x = degrees(kept, n, graph.x.shape[1] - 1) if graph.by_degree else graph.x  # which would tell of hidden edges
    said = f"{len(graph.edges) - len(kept):,} directed edges hidden, to be predicted"
    return dataclasses.replace(graph, x=x, edges=kept, said=(*graph.said, said)), positive, negative


def scores(features, positive, negative, *, kind="cosine", edges=None, seed=0):
    """How well a score of two nodes' embeddings tells edges from non-edges -> {"auc", "ap", "settings": {...}}.

    kind: "cosine" of the two embeddings, as contrastive methods compare them; "dot", VGAE's inner product (its sigmoid
    changes no order); "trained", a logistic regression on the products of the embeddings' numbers (node2vec's Hadamard
    operator, arXiv:1607.00653), which learns from kept `edges` and random non-edges beside them.

    Args:
      features: [n, D], of an encoder that saw the kept edges only.
      positive, negative: int [P, 2], [Q, 2], of `hold_out`.
      edges: the kept edges [E', 2], for "trained"; seed: of its draws.

    An AUC of 0.5 is chance; so is an average precision of P / (P + Q).
    """
    if np.ndim(features) != 2 or not len(features):
        raise ValueError(f"features are {list(np.shape(features))}; expected [n, D], a row for each node")
    features = jnp.asarray(features, jnp.float32)
    if not jnp.isfinite(features).all():
        raise ValueError("features hold NaN or infinity; expected finite numbers: did training diverge?")
    if kind not in KINDS:
        raise ValueError(f"unknown score {kind!r}{nearest(kind, KINDS)}")
    n = len(features)
    pairs = [_check_pairs("positive pairs", positive, n), _check_pairs("negative pairs", negative, n)]
    if kind == "trained":
        if edges is None:
            raise ValueError("the trained score learns from kept edges; expected `edges`, as `hold_out` keeps them")
        x = formed(features, "standardised")
        weights, more = _trained(x, _check_pairs("edges", edges, n), seed)
    else:
        x, weights, more = formed(features, "unit" if kind == "cosine" else "raw"), 1, {}
    truth = np.repeat([True, False], [len(part) for part in pairs])
    found = np.asarray(jnp.sum(_products(x, np.concatenate(pairs)) * weights, 1))
    return {
        "auc": float(roc_auc_score(truth, found)),
        "ap": float(average_precision_score(truth, found)),
        "settings": {"score": kind, "positive": len(pairs[0]), "negative": len(pairs[1]), **more},
    }


def number(pairs):
    """Counts pairs of different nodes [P, 2] off, in either order, without a gap -> int64 [P], of n nodes below
    n * (n - 1) / 2."""
    low, high = np.sort(np.asarray(pairs, np.int64), 1).T
    return high * (high - 1) // 2 + low


def pairs_of(numbers):
    """The inverse of `number` -> int64 [P, 2], the lower node first."""
    high = ((1 + np.sqrt(1 + 8 * numbers)) // 2).astype(np.int64)  # exact to 2^53, of 47 million nodes
    return np.stack([numbers - high * (high - 1) // 2, high], 1)


def _non_edges(edges, n, size, rng):
    """Distinct pairs without an edge, all as likely, by number. edges: the numbers of those with one, rising."""
    free = n * (n - 1) // 2 - len(edges)
    if free < size:
        raise ValueError(f"{n} nodes have {free} pairs without an edge; expected at least {size}, as many as edges")
    ranks = rng.choice(free, size, replace=False)
    # The r-th number that is no edge: r and as many as there are edges below it.
    return ranks + np.searchsorted(edges - np.arange(len(edges)), ranks, side="right")


def _trained(x, edges, seed):
    """Logistic regression on products, its penalty picked by AUC on a fifth of the pairs -> weights [D], settings."""
    rng, n = np.random.default_rng(seed), len(x)
    names = np.unique(number(edges))
    linked = rng.permutation(names)[:MOST]
    free = _non_edges(names, n, len(linked), rng)
    truth = np.repeat([1, 0], len(linked))
    held = part(truth, 0.2, rng)
    if not held.any():
        raise ValueError(f"{len(linked)} kept edges are too few to learn a score from; expected at least 3")
    products = _products(x, pairs_of(np.concatenate([linked, free])))
    best = (-1.0, None, None)
    for penalty in sorted(linear.PENALTIES, reverse=True):
        w, _ = linear.logistic(products[~held], truth[~held], classes=2, penalty=penalty, tol=1e-4)
        weights = w[:, 1] - w[:, 0]
        auc = roc_auc_score(truth[held], np.asarray(products[held] @ weights))
        best = max(best, (auc, penalty, weights), key=lambda one: one[0])  # the first of equal ones: the strongest
    return best[2], {"penalty": best[1], "learned_from": len(truth)}


def _products(x, pairs):
    return x[pairs[:, 0]] * x[pairs[:, 1]]


def _check_pairs(name, pairs, n):
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu" or not len(pairs):
        raise ValueError(f"{name} are {pairs.dtype} {list(pairs.shape)}; expected whole numbers [P, 2]")
    wrong = ((pairs < 0) | (pairs >= n)).any(1) | (pairs[:, 0] == pairs[:, 1])
    if wrong.any():
        u, v = pairs[wrong][0]
        raise ValueError(f"{name} hold {u} and {v}; expected two different nodes of 0 to {n - 1}")
    return pairs
