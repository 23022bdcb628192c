"""Retrieval by class against scikit-learn, and the search of a folder."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jssl.evals import retrieval as module
from jssl.evals.retrieval import average_precision, retrieval

RNG = np.random.default_rng(0)
INDEX, QUERIES = RNG.normal(size=(90, 6)).astype(np.float32), RNG.normal(size=(30, 6)).astype(np.float32)
LABELS = (INDEX[:, 0] > 0.5).astype(int) + (INDEX[:, 1] > 0)
QUERY_LABELS = (QUERIES[:, 0] > 0.5).astype(int) + (QUERIES[:, 1] > 0)


def cosines(a, b):
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit(a) @ unit(b).T


@pytest.mark.parametrize("at_once", [2**25, 90 * 7])
def test_precision_is_scikit_learn_s_and_recall_what_it_says(monkeypatch, at_once):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    found = retrieval(INDEX, LABELS, QUERIES, QUERY_LABELS)
    similarity = cosines(QUERIES, INDEX)
    same = QUERY_LABELS[:, None] == LABELS
    expected = [average_precision_score(*pair) for pair in zip(same, similarity, strict=True)]
    np.testing.assert_allclose(found["ap"], expected, rtol=1e-6)
    ranked = np.take_along_axis(same, np.argsort(-similarity, 1), 1)
    for k in (1, 5, 10):
        np.testing.assert_array_equal(found["recall"][k], ranked[:, :k].any(1))
    assert 0 < found["recall"][1].mean() < found["recall"][10].mean()


def test_without_queries_no_row_finds_itself():
    found = retrieval(INDEX, LABELS)
    similarity = cosines(INDEX, INDEX)
    for row in range(90):
        others = np.arange(90) != row
        same = LABELS[others] == LABELS[row]
        assert found["ap"][row] == pytest.approx(average_precision_score(same, similarity[row, others]), rel=1e-5)
        assert found["recall"][1][row] == same[similarity[row, others].argmax()]


def test_equal_similarities_are_one_place():
    similarity, same = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 0, 1], bool)
    assert average_precision(similarity, same) == pytest.approx(average_precision_score(same, similarity))
    assert average_precision(similarity, same) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)


def test_a_class_that_the_index_does_not_hold_is_no_precision():
    found = retrieval(INDEX, LABELS, QUERIES[:2], np.array([QUERY_LABELS[0], 7]))
    assert np.isfinite(found["ap"]).tolist() == [True, False]
