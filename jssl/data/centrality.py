"""How much each edge and feature of a graph matters, for views that spare what does (GCA, Zhu et al., 2020;
arXiv:2010.14945, section 3.2)."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import eigs, eigsh

from jssl.config import nearest

DAMPING, ROUNDS = 0.85, 200  # of PageRank
FEW = 32  # nodes, up to which eigenvectors are those of a dense matrix


def degree(edges, n):
    """Edges into every node. edges: int [E, 2], sender and receiver -> float64 [n]"""
    return np.bincount(edges[:, 1], minlength=n).astype(float)


def pagerank(edges, n):
    """As in the authors' code: 200 rounds of a lazy walk from 1 at every node -> float64 [n]"""
    out = np.maximum(np.bincount(edges[:, 0], minlength=n), 1)
    x = np.ones(n)
    for _ in range(ROUNDS):
        x = (1 - DAMPING) * x + DAMPING * np.bincount(edges[:, 1], (x / out)[edges[:, 0]], minlength=n)
    return x


def eigenvector(edges, n):
    """The adjacency matrix's leading eigenvector, of positive sum: a node's is in proportion to the sum of those that
    send to it -> float64 [n]"""
    matrix = coo_matrix((np.ones(len(edges)), (edges[:, 1], edges[:, 0])), (n, n)).tocsr()
    symmetric = (matrix != matrix.T).nnz == 0
    if n <= FEW:
        values, vectors = np.linalg.eigh(matrix.toarray()) if symmetric else np.linalg.eig(matrix.toarray())
        x = vectors[:, np.argmax(values.real)].real
    elif symmetric:
        x = eigsh(matrix, 1, which="LA", v0=np.ones(n))[1][:, 0]
    else:
        x = eigs(matrix, 1, which="LR", v0=np.ones(n))[1][:, 0].real
    return x * np.sign(x.sum())


KINDS = {"degree": degree, "pagerank": pagerank, "eigenvector": eigenvector}


def weights(x, edges, kind):
    """What the probabilities of being dropped are multiplied by, of mean 1: the less it matters, the larger.

    x: float [n, F]; edges: int [E, 2]; kind: of `KINDS` -> float32 [E] by an edge's receiver, float32 [F] by the nodes
    that have a feature.
    """
    if kind not in KINDS:
        raise ValueError(f"centrality is {kind!r}{nearest(kind, KINDS)}")
    centrality = KINDS[kind](edges, len(x))
    return _unimportance(centrality[edges[:, 1]]), _unimportance(np.abs(x).T @ centrality)


def _unimportance(score):
    """(max - s) / (max - mean) of s = log score, divided by its mean."""
    s = np.log(np.maximum(score, 1e-8))
    w = s.max() - s
    return (w / max(w.mean(), 1e-12)).astype(np.float32) if w.any() else np.ones(len(s), np.float32)
