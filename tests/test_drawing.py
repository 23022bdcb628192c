"""What the report draws of classes and of a small graph, and where the nodes of one lie."""

import json
import re

import numpy as np
import pytest

from jssl import data, figures
from jssl.evals import frozen, graphs, shown
from jssl.evals.labels import by_class
from jssl.layout import ASPECT, layout
from jssl.report import report
from tests.test_report import EVIL, text_of


def ring(n):
    return np.stack([np.arange(n), np.roll(np.arange(n), -1)], 1)


def grid(n):
    node = np.arange(n * n).reshape(n, n)
    across, down = ((a.ravel(), b.ravel()) for a, b in ((node[:, :-1], node[:, 1:]), (node[:-1], node[1:])))
    return np.concatenate([np.stack(across, 1), np.stack(down, 1)])


def clusters(n):
    """Two clusters of n nodes and some edges between them."""
    same = np.add.outer(np.arange(2 * n) // n, np.arange(2 * n) // n) % 2 == 0
    return np.argwhere(np.triu(np.random.default_rng(0).random((2 * n, 2 * n)) < np.where(same, 0.2, 0.003), 1))


def lengths(xy, pairs):
    return np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1)


def pages(path, scores=(), **arrays):
    """The report's page, of these scores and this graph."""
    if scores:
        (path / "scores.json").write_text(json.dumps({"scores": scores}))
    if arrays:
        np.savez(path / "graph.npz", **arrays)
    return report(path).read_text(encoding="utf-8")


# ---- layout
@pytest.mark.parametrize("n, edges", [(60, ring(60)), (400, grid(20)), (100, clusters(50))])
def test_joined_nodes_are_near_each_other(n, edges):
    xy = layout(n, edges)
    every = np.stack(np.triu_indices(n, 1), 1)
    assert lengths(xy, edges).mean() < 0.5 * lengths(xy, every).mean()
    assert lengths(xy, every).min() > 0.002  # and none on another


def test_clusters_lie_apart():
    xy = layout(100, clusters(50))
    middles = np.stack([xy[:50].mean(0), xy[50:].mean(0)])
    own = np.linalg.norm(xy - np.repeat(middles, 50, 0), axis=1)
    assert np.linalg.norm(middles[0] - middles[1]) > 2 * own.mean()


def parts():
    """A grid, rings, pairs, and nodes without edges, numbered at random."""
    edges, n = [grid(10)], 100
    for part in [ring(12)] * 3 + [np.array([[0, 1]])] * 20:
        edges.append(part + n)
        n += part.max() + 1
    n += 30
    number = np.random.default_rng(0).permutation(n)
    return n, number[np.concatenate(edges)], number


def test_every_node_of_any_part_has_a_place_in_the_frame_and_always_the_same():
    n, edges, _ = parts()
    xy = layout(n, edges)
    assert xy.shape == (n, 2)
    assert np.isfinite(xy).all()
    assert (xy >= 0).all()
    assert (xy <= (ASPECT, 1)).all()
    np.testing.assert_array_equal(xy, layout(n, edges))
    np.testing.assert_array_equal(xy, layout(n, np.concatenate([edges, edges[:, ::-1]])))


def test_small_parts_stand_beside_the_large_one_not_on_it_and_not_far_away():
    n, edges, number = parts()
    xy = layout(n, edges)
    large, small = xy[number[:100]], xy[number[100:]]
    near = np.linalg.norm(large[:, None] - small, axis=-1).min(0)
    spring = lengths(xy, edges).mean()
    assert near.min() > 0.5 * spring
    assert np.ptp(large, 0).prod() > 0.2 * ASPECT


@pytest.mark.parametrize("n, edges", [(0, []), (1, []), (4, []), (2, [[0, 1]]), (3, [[0, 1], [1, 1]]), (3, [[0, 2]])])
def test_the_smallest_graphs_have_a_layout(n, edges):
    xy = layout(n, edges)
    assert xy.shape == (n, 2)
    assert len(np.unique(xy, axis=0)) == n


# ---- the graph
DRAWN = {
    "xy": np.random.default_rng(0).random((6, 2)),
    "edges": ring(6),
    "predicted": np.array([0, 2, 2, 0, 2, 0]),
    "label": np.array([0, 2, 0, 0, 0, -1]),
    "split": np.array(["test", "test", "test", "train", "train", ""]),
    "label_names": np.array(["cat", "unused", "dog"]),
    "classifier": "linear probe",
}


def test_a_wrong_test_node_has_a_ring_and_no_other(tmp_path):
    html = pages(tmp_path, **DRAWN)
    svg = html[html.index('<svg class="network"') : html.index("</svg>")]
    assert svg.count("<circle") == 6
    plain, rings = svg.split('<g class="wrong">')
    (x, y) = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', rings)[0]
    np.testing.assert_allclose((float(x), float(y)), (15, 10) + 460 * DRAWN["xy"][2], atol=0.06)
    assert rings.count("<circle") == 1
    assert f'fill="{figures.colour(1, 2)}"' in rings  # the predicted class, second of the two that there are
    assert "node 2: cat, taken for dog" in rings
    groups = dict(re.findall(r'<g fill="([^"]*)">(.*?)</g>', plain))
    assert [groups[figures.colour(i, 2)].count("<circle") for i in (0, 1)] == [3, 2]
    assert svg.count("M") == 6
    words = text_of(html)
    assert "6 nodes" in words
    assert "2 of the 3 test nodes get theirs (66.7 %)" in words
    assert re.search(r'class="legend">.*cat.*dog.*class="ring"', html)


def test_a_graph_without_wrong_nodes_has_no_ring(tmp_path):
    html = pages(tmp_path, **DRAWN | {"predicted": np.array([0, 2, 0, 0, 0, 0])})
    assert '<g class="wrong"></g>' in html
    assert 'class="ring"' not in html


CONFIG = {"seed": 0, "eval": {"k": 20, "temperature": 0.07}}


@pytest.fixture(scope="module")
def digits():
    return data.open_source("knn:digits@test")


@pytest.mark.parametrize("task, name", [("linear", "linear probe"), ("fewshot", "k-NN")])
def test_the_classes_of_a_graph_s_nodes_are_told_by_the_training_nodes_alone(tmp_path, digits, task, name):
    parts = graphs.node_splits(digits, 1, 0)[0] if task == "linear" else graphs.split(digits, 0)
    shown.save_graph(tmp_path, digits.x, digits, parts, ["knn", task], CONFIG)
    found = dict(np.load(tmp_path / "graph.npz"))
    assert str(found["classifier"]) == name
    np.testing.assert_array_equal(np.flatnonzero(found["split"] == "test"), parts["test"])
    if task == "linear":
        [scored] = graphs.linear("trained", digits.x, digits, 1, 0)
    else:
        of = lambda values: {part: values[rows] for part, rows in parts.items()}
        [scored] = frozen.evaluate(of(digits.x), of(digits.labels), protocols=["knn"])
    right = (found["predicted"] == digits.labels)[parts["test"]]
    assert right.mean() == pytest.approx(scored["mean"])
    assert len(found["edges"]) == len(digits.edges) / 2
    assert "The graph" in report(tmp_path).read_text()


class Raw:
    """An encoder that gives nodes their own features."""

    def embed(self, graph, workers):
        return graph.x


def few_labels(path, train):
    """80 nodes of two classes on a ring -> a config with these of them to train on, 20 to validate, 50 to test."""
    x = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    split = {"train_idx": np.array(train), "val_idx": np.arange(10, 30), "test_idx": np.arange(30, 80)}
    np.savez(path / "few.npz", x=x, edges=ring(80), label=np.arange(80) % 2, **split)
    return {**CONFIG, "data": {"source": f"npz:{path / 'few.npz'}", "held_edges": 0}}


def test_a_graph_of_two_training_nodes_per_class_is_scored_and_drawn_by_the_same_probe(tmp_path):
    config = few_labels(tmp_path, [0, 1, 2, 3])
    (score, _), _ = graphs.of_encoders(tmp_path, {"trained": Raw()}, config, asked=("linear",))
    found = dict(np.load(tmp_path / "graph.npz"))
    assert [np.sum(found["split"] == part) for part in ("train", "val", "test")] == [4, 20, 50]
    assert np.mean((found["predicted"] == found["label"])[30:]) == score["mean"]


def test_scores_are_kept_where_no_classifier_can_draw(tmp_path):
    config = few_labels(tmp_path, [0, 2])  # of one class
    scores, _ = graphs.of_encoders(tmp_path, {"trained": Raw()}, config, asked=("cluster",))
    assert scores
    assert not (tmp_path / "graph.npz").exists()


@pytest.mark.parametrize("limit", [{"nodes": 499}, {"edges": 499}])
def test_a_larger_graph_is_not_drawn_and_not_missed(tmp_path, digits, monkeypatch, limit):
    monkeypatch.setattr(shown, "DRAWN", shown.DRAWN | limit)
    (tmp_path / "graph.npz").write_bytes(b"of another graph")
    (tmp_path / "config.json").write_text('{"config": {"seed": 0}}')
    shown.save_graph(tmp_path, digits.x, digits, graphs.split(digits, 0), ["knn"], CONFIG)
    assert not (tmp_path / "graph.npz").exists()
    assert "The graph" not in report(tmp_path).read_text()


# ---- classes
def scored(encoder, task, predictions, labels, names=None, draws=1):
    classes = by_class(np.array(predictions), np.array(labels), names)
    return {"encoder": encoder, "task": task, "mean": 0.5, "stderr": 0.1, "draws": draws, "classes": classes}


def rows(html):
    """The texts of the cells of every row of every table of classes."""
    tables = re.findall(r'<table class="classes">.*?</table>', html)
    split = lambda table: re.findall(r"<tr><td>.*?</tr>", table)
    return [[[text_of(cell).strip() for cell in row.split("</td>")[:-1]] for row in split(table)] for table in tables]


def test_classes_of_the_trained_encoder_stand_beside_those_of_the_untrained(tmp_path):
    labels, names = [0, 0, 0, 0, 1, 1], ("cat", "dog")
    scores = [
        scored("trained", "knn", [0, 0, 0, 1, 1, 1], labels, names),
        scored("trained", "linear", [0, 0, 0, 0, 0, 1], labels, names),
        scored("untrained", "linear", [0, 1, 1, 1, 0, 0], labels, names),
        scored("raw pixels", "linear", [1, 1, 1, 1, 1, 1], labels, names),
    ]
    html = pages(tmp_path, scores)
    linear, knn = rows(html)
    assert linear[0] == ["cat", "4", "", "100.0 25.0", "80.0 33.3", "88.9 28.6"]
    assert linear[1] == ["dog", "2", "", "50.0 0.0", "100.0 0.0", "66.7 0.0"]
    assert knn[0] == ["cat", "4", "", "75.0", "100.0", "85.7"]
    assert "--now: 100.0%; --before: 25.0%" in html
    assert html.count("<details open>") == 1
    assert "untrained" in text_of(html)


def test_of_many_classes_the_worst_and_the_best_are_shown(tmp_path):
    labels = np.repeat(np.arange(40), 100)
    right = np.tile(np.arange(100), 40) < 2 * (labels + 1)  # class c: 2 (c + 1) per cent
    html = pages(tmp_path, [scored("trained", "knn", np.where(right, labels, (labels + 1) % 40), labels, draws=3)])
    (table,) = rows(html)
    assert [row[0] for row in table] == [*map(str, range(10)), *map(str, range(35, 40))]
    assert "Of 40 classes the 10 with the lowest recall and the 5 with the highest" in text_of(html)
    assert "first of 3 draws" in text_of(html)


def test_scores_without_classes_have_no_such_section_and_nothing_is_missed(tmp_path):
    html = pages(tmp_path, [scored("trained", "knn", [0, 1], [0, 1]) | {"classes": []}])
    assert "<h2>Scores</h2>" in html
    assert "Per class" not in html
    assert "The graph" not in html


def test_names_of_classes_stand_in_the_page_as_text(tmp_path):
    scores = [scored("trained", "knn", [0, 1], [0, 1], [EVIL, EVIL])]
    html = pages(tmp_path, scores, **DRAWN | {"label_names": np.array([EVIL] * 3), "classifier": EVIL})
    assert "<img src=x" not in html
    assert html.count("&lt;img src=x") >= 6
