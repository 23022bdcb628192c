"""GCA's centralities and weights against PyGCL's."""

import numpy as np
import pytest

from jssl.data import centrality
from tests import oracles

_, TENSORS = oracles.load("gca_weights")
EDGES = TENSORS["in.edge_index"].T


NAMES = [("degree", "degree"), ("pagerank", "pagerank"), ("eigenvector", "eigenvector_centrality")]


@pytest.mark.parametrize("kind, name", NAMES)
def test_centrality_is_pygcls(kind, name):
    np.testing.assert_allclose(centrality.KINDS[kind](EDGES, 9), TENSORS[f"out.{name}"], rtol=1e-5)


@pytest.mark.parametrize("kind", centrality.KINDS)
def test_weights_are_pygcls_divided_by_their_mean(kind):
    edges, _ = centrality.weights(TENSORS["in.x"], EDGES, kind)
    theirs = TENSORS[f"out.{kind}_edge_w"]
    np.testing.assert_allclose(edges, theirs / theirs.mean(), rtol=1e-5, atol=1e-5)
    assert edges.dtype == np.float32


def test_weights_of_features_are_pygcls():
    _, features = centrality.weights(TENSORS["in.x"], EDGES, "degree")
    theirs = TENSORS["out.feature_w"]
    np.testing.assert_allclose(features, theirs / theirs.mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind, name", NAMES)
def test_weights_of_features_are_by_the_same_rule_of_every_centrality(kind, name):
    """PyGCL's figures are by degree alone; the rule, of its centralities: log(|x|^T c), from the largest."""
    _, features = centrality.weights(TENSORS["in.x"], EDGES, kind)
    s = np.log(np.abs(TENSORS["in.x"]).T @ TENSORS[f"out.{name}"])
    np.testing.assert_allclose(features, (s.max() - s) / (s.max() - s).mean(), rtol=1e-4, atol=1e-5)


def test_large_graphs_have_the_same_eigenvector(monkeypatch):
    exact = centrality.eigenvector(EDGES, 9)
    monkeypatch.setattr(centrality, "FEW", 1)
    np.testing.assert_allclose(centrality.eigenvector(EDGES, 9), exact, rtol=1e-6)


@pytest.mark.parametrize("few", [32, 1])
def test_of_directed_edges_the_eigenvector_is_of_what_a_node_receives(monkeypatch, few):
    monkeypatch.setattr(centrality, "FEW", few)
    edges = np.array([(0, 1), (1, 2), (2, 0), (2, 1), (3, 0), (1, 4), (4, 0)])
    x = centrality.eigenvector(edges, 5)
    received = np.bincount(edges[:, 1], x[edges[:, 0]], minlength=5)
    np.testing.assert_allclose(received, received.sum() / x.sum() * x, atol=1e-8)
    assert (x > -1e-8).all()


def test_where_all_matter_alike_weights_are_one():
    ring = np.array([(i, (i + d) % 6) for i in range(6) for d in (1, 5)])
    edges, features = centrality.weights(np.ones((6, 2)), ring, "degree")
    np.testing.assert_array_equal(edges, np.ones(12))
    np.testing.assert_array_equal(features, np.ones(2))


def test_unknown_centrality_is_refused():
    with pytest.raises(ValueError, match="centrality is 'page'; did you mean pagerank"):
        centrality.weights(np.ones((6, 2)), EDGES, "page")
