"""The protocols of graphs: what picks, what is tested, and one line for each thing that cannot be."""

import functools
import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import normalize
from sklearn.svm import SVC

from jssl.data.graph import build
from jssl.evals import graphs, links, nodes
from jssl.evals.cluster import cluster
from jssl.evals.svm import COSTS, svm


def blobs(n, seed=0, spread=1.5, dim=6, classes=3):
    """Overlapping clouds: features float32 [n, dim], labels int32 [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels


def refused(message, call, *args, **kw):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call(*args, **kw)
    assert "\n" not in str(error.value)


# ---- SVM
X, Y = blobs(90)


def searched(x, y, train, test):
    """scikit-learn's own search -> the cost, the classes of the test rows."""
    search = GridSearchCV(SVC(), {"C": list(COSTS)}, cv=5).fit(x[train].astype(float), y[train])
    return search.best_params_["C"], search.predict(x[test])


def test_the_svm_is_scikit_learn_s_grid_search_in_every_fold():
    found = svm(X, Y, seeds=(0, 3))
    for s, seed in enumerate((0, 3)):
        accuracies = []
        for fold, (train, test) in enumerate(StratifiedKFold(10, shuffle=True, random_state=seed).split(X, Y)):
            cost, predicted = searched(X, Y, train, test)
            assert found["settings"]["cost"][s][fold] == cost
            np.testing.assert_array_equal(found["predictions"][s, test], predicted)
            accuracies.append(np.mean(predicted == Y[test]))
        np.testing.assert_allclose(found["fold_accuracies"][s], accuracies)
        assert found["accuracies"][s] == pytest.approx(np.mean(accuracies))
    assert len({cost for costs in found["settings"]["cost"] for cost in costs}) > 1
    assert found["accuracy"] == pytest.approx(found["accuracies"].mean())


def test_given_folds_are_tested_and_graphs_in_none_are_trained_on():
    folds = np.random.default_rng(1).integers(-1, 3, len(Y))
    found = svm(X, Y, folds=folds)
    for fold in range(3):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        cost, predicted = searched(X, Y, train, test)
        assert found["settings"]["cost"][0][fold] == cost
        np.testing.assert_array_equal(found["predictions"][0, test], predicted)
        assert found["fold_accuracies"][0, fold] == np.mean(predicted == Y[test])
    assert (found["predictions"][0, folds < 0] == -1).all()
    assert found["settings"]["test_rows"] == (folds >= 0).sum()


def test_labels_of_a_test_fold_change_neither_its_cost_nor_its_predictions():
    folds = np.where(np.arange(len(Y)) % 4, -1, 0)
    wrong = np.where(folds == 0, (Y + 1) % 3, Y)
    found, other = svm(X, Y, folds=folds), svm(X, wrong, folds=folds)
    assert other["settings"] == found["settings"]
    np.testing.assert_array_equal(other["predictions"], found["predictions"])
    assert other["accuracy"] < found["accuracy"]


def test_collapsed_graphs_score_as_the_largest_class():
    labels = np.repeat([0, 1], [40, 20])
    assert svm(np.ones((60, 4)), labels, seeds=[0])["accuracy"] == pytest.approx(2 / 3)


def test_what_is_wrong_with_graphs_is_one_line():
    refused("class 2 has 4 graphs; expected at least 10", svm, X, np.where(np.arange(90) < 4, 2, Y % 2))
    refused("the whole set has features [90, 6] and labels [89]", svm, X, Y[1:])
    refused("features hold NaN", svm, np.full_like(X, np.nan), Y)
    refused("expected one whole number for each of 90", svm, X, Y, folds=np.zeros(89, int))
    refused("folds go from -1 to -1", svm, X, Y, folds=np.full(90, -1))
    refused("a fold leaves graphs of 0 classes", svm, X, Y, folds=np.zeros(90, int))
    rare = np.where(np.arange(90) < 8, 2, Y % 2)
    refused("a fold leaves 4 graphs of class 2", svm, X, rare, folds=np.arange(90) % 2)
    refused("costs are [0.0]", svm, X, Y, costs=[0])
    refused("there are no seeds", svm, X, Y, seeds=())


def test_the_machine_is_of_the_graphs_with_a_label(monkeypatch):
    monkeypatch.setattr(graphs.svm, "svm", quick := functools.partial(svm, seeds=(0, 1), costs=(1.0,)))
    labels = np.insert(Y, [0, 50, 90], -1)
    pack = build("here", np.ones((186, 1)), np.array([[0, 1]]), offsets=2 * np.arange(94), labels=labels)
    (score,) = graphs.machine("trained", np.insert(X, [0, 50, 90], 1e3, axis=0), pack)
    assert score["mean"] == quick(X, Y)["accuracy"]
    assert sum(one["count"] for one in score["classes"]) == 90


# ---- nodes
NODES, CLASSES = blobs(400, spread=2.0)
SPLITS = nodes.random_splits(CLASSES, count=3, train=0.2, val=0.2)


def test_random_splits_part_the_labelled_nodes_and_repeat():
    labels = np.where(np.arange(400) % 4, CLASSES, -1)
    splits = nodes.random_splits(labels, count=3)
    for split in splits:
        assert [len(split[part]) for part in ("train", "val", "test")] == [30, 30, 240]
        np.testing.assert_array_equal(np.sort(np.concatenate(list(split.values()))), np.flatnonzero(labels >= 0))
    more = nodes.random_splits(labels, count=5)
    for split, same in zip(splits, more, strict=False):
        np.testing.assert_array_equal(split["train"], same["train"])
    assert not np.array_equal(splits[0]["train"], splits[1]["train"])
    assert not np.array_equal(splits[0]["train"], nodes.random_splits(labels, seed=1)[0]["train"])


def test_test_nodes_choose_nothing():
    found = nodes.probe(NODES, CLASSES, SPLITS[:1])
    test = SPLITS[0]["test"]
    wrong = CLASSES.copy()
    wrong[test] = np.random.default_rng(0).permutation(wrong[test])
    other = nodes.probe(NODES, wrong, SPLITS[:1])
    assert other["settings"] == found["settings"]
    np.testing.assert_array_equal(other["predictions"], found["predictions"])
    assert other["accuracy"] < found["accuracy"] - 0.1


def test_validation_nodes_pick_and_teach_nothing():
    """With one penalty there is nothing to pick: their labels are then without effect."""
    wrong = CLASSES.copy()
    wrong[SPLITS[0]["val"]] = 0
    found, other = (nodes.probe(NODES, y, SPLITS[:1], penalties=[0.01])["predictions"] for y in (CLASSES, wrong))
    np.testing.assert_array_equal(other, found)


def test_the_penalty_is_the_one_that_serves_the_validation_nodes():
    noise = np.random.default_rng(3).normal(size=(400, 40)).astype(np.float32)  # a weak penalty overfits
    x = np.concatenate([NODES, noise], 1)
    found = nodes.probe(x, CLASSES, SPLITS, forms=["standardised"])
    z = (x - x.mean(0)) / x.std(0)
    for i, split in enumerate(SPLITS):
        train, val, test = (split[part] for part in ("train", "val", "test"))
        models = [
            LogisticRegression(C=1 / (penalty * len(train)), max_iter=5000, tol=1e-6).fit(z[train], CLASSES[train])
            for penalty in nodes.PENALTIES
        ]
        scores = [model.score(z[val], CLASSES[val]) for model in models]
        best = int(np.argmax(scores))
        assert len(set(scores)) > 1
        assert found["settings"]["penalty"][i] == nodes.PENALTIES[best]
        assert found["accuracies"][i] == pytest.approx(models[best].score(z[test], CLASSES[test]), abs=0.005)
    assert found["accuracy"] == pytest.approx(found["accuracies"].mean())
    assert found["std"] == pytest.approx(found["accuracies"].std(ddof=1))


def test_the_form_is_the_one_that_serves_the_validation_nodes():
    x = NODES.copy()
    x[:, :4] *= 1000 * np.random.default_rng(1).random((400, 1))  # an example's scale that its class is not of
    orders = (["raw", "unit", "standardised"], ["unit", "standardised", "raw"])
    found = [nodes.probe(x, CLASSES, SPLITS, forms=order) for order in orders]
    single = {form: nodes.probe(x, CLASSES, SPLITS, forms=[form]) for form in nodes.FORMS}
    for i in range(len(SPLITS)):
        scores = {form: one["settings"]["validation_accuracy"][i] for form, one in single.items()}
        for order, one in zip(orders, found, strict=True):
            picked = next(form for form in order if scores[form] == max(scores.values()))
            assert one["settings"]["form"][i] == picked
            assert one["settings"]["penalty"][i] == single[picked]["settings"]["penalty"][i]
            assert one["accuracies"][i] == single[picked]["accuracies"][i]
        assert len(set(scores.values())) > 1
    np.testing.assert_array_equal(found[0]["predictions"], single[found[0]["settings"]["form"][0]]["predictions"])


def test_forms_are_of_mean_square_one():
    x = 100 * NODES + 7
    for form in nodes.FORMS:
        assert np.mean(np.square(nodes.formed(x, form))) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(nodes.formed(x, "unit"), normalize(x) * 6**0.5, atol=1e-5)
    np.testing.assert_allclose(nodes.formed(x, "standardised"), (x - x.mean(0)) / x.std(0), atol=1e-4)
    assert not np.any(nodes.formed(np.zeros((4, 2)), "unit"))


def test_the_scale_of_raw_features_is_without_effect():
    small, large = (nodes.probe(scale * NODES, CLASSES, SPLITS[:1], forms=["raw"]) for scale in (0.25, 4096))
    assert small["accuracy"] == large["accuracy"]


def of_nodes(splits):
    return build("here", NODES, np.array([[0, 1], [1, 2]]), labels=CLASSES, splits=splits)


def test_splits_that_come_with_a_graph_are_all_used():
    parts = [nodes.random_splits(CLASSES, 2, 0.2, 0.2, seed)[0] for seed in range(2)]
    together = {name: np.stack([part[name] for part in parts]) for name in nodes.PARTS}
    graph = of_nodes(together)
    for made, given in zip(graphs.node_splits(graph, 7, 0), parts, strict=True):
        for name in nodes.PARTS:
            np.testing.assert_array_equal(made[name], given[name])
    (score,) = graphs.linear("trained", NODES, graph, None, 0)
    assert score["draws"] == 2
    assert score["settings"]["split"] == "that came with the graph"


def test_without_validation_nodes_a_fifth_of_the_training_nodes_are():
    [given] = nodes.random_splits(CLASSES, 1, 0.4, 0.1)
    graph = of_nodes({"train": given["train"], "test": given["test"]})
    [made] = graphs.node_splits(graph, 7, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([made["train"], made["val"]])), given["train"])
    assert 0.1 < len(made["val"]) / len(given["train"]) < 0.3
    assert "a stratified fifth" in graphs.linear("trained", NODES, graph, None, 0)[0]["settings"]["split"]
    assert len(graphs.node_splits(of_nodes({}), 7, 0)) == 7


def test_raw_features_of_a_graph_are_the_sum_of_its_nodes_and_of_none_nothing():
    x = np.arange(10.0).reshape(5, 2)
    made = build("here", x, np.array([[0, 1], [3, 4]]), offsets=[0, 2, 2, 5, 5])
    np.testing.assert_array_equal(graphs.raw(made), [x[:2].sum(0), [0, 0], x[2:].sum(0), [0, 0]])


def test_what_is_wrong_with_splits_is_one_line():
    split = SPLITS[0]
    wrong = lambda **parts: [{**split, **parts}]
    some = split["train"][0]
    unlabelled = np.where(np.arange(400) == some, -1, CLASSES)
    refused("split 0 has no 'val'", nodes.probe, NODES, CLASSES, [{"train": [0, 1], "test": [2]}])
    refused("'test' names node 400; expected 0 to 399", nodes.probe, NODES, CLASSES, wrong(test=[3, 400]))
    refused(f"names node {some} more than once", nodes.probe, NODES, CLASSES, wrong(test=[some]))
    refused(f"node {some} of 'train' has no label", nodes.probe, NODES, unlabelled, [split])
    refused("'val' is float64 [0]", nodes.probe, NODES, CLASSES, wrong(val=[]))
    refused("there are no splits", nodes.probe, NODES, CLASSES, [])
    refused("go down to -2; expected class numbers from 0, or -1", nodes.probe, NODES, CLASSES - 2, [split])
    refused("did you mean unit?", nodes.probe, NODES, CLASSES, SPLITS, forms=["units"])
    refused("shares of 0.1 and 0.1 leave a part of 9 labelled nodes empty", nodes.random_splits, CLASSES[:9])


# ---- clusters
def test_clusters_far_apart_are_the_classes_whatever_their_names():
    x, labels = blobs(120, spread=0.05)
    found = cluster(x, labels, seeds=(0, 1))
    assert found["nmi"] == pytest.approx(1)
    assert found["ari"] == pytest.approx(1)
    mixed, y = blobs(120, spread=1.0)
    found, renamed = (cluster(mixed, names[y], seeds=(0, 1)) for names in (np.arange(3), np.array([5, 0, 9])))
    assert 0.05 < found["nmi"] < 0.95
    np.testing.assert_allclose(renamed["nmis"], found["nmis"])
    np.testing.assert_allclose(renamed["aris"], found["aris"])


def test_clusters_say_nothing_of_random_classes():
    x, labels = blobs(600)
    found = cluster(x, np.random.default_rng(5).permutation(labels), seeds=range(3), starts=2)
    assert abs(found["ari"]) < 0.02
    assert found["nmi"] < 0.02
    assert found["ari"] == pytest.approx(found["aris"].mean())
    assert found["ari_std"] == pytest.approx(found["aris"].std(ddof=1))


def test_rows_without_a_class_are_clustered_and_not_scored():
    x, labels = blobs(120, spread=1.0)
    some = np.where(np.arange(120) < 60, labels, -1)
    found, whole = cluster(x, some, seeds=[0]), cluster(x, labels, seeds=[0])
    np.testing.assert_array_equal(found["clusters"], whole["clusters"])
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels[:60], found["clusters"][:60]))
    assert found["ari"] == pytest.approx(adjusted_rand_score(labels[:60], found["clusters"][:60]))
    assert found["settings"]["rows"] == 60


def test_what_is_wrong_with_classes_is_one_line():
    refused("the labels hold 1 classes", cluster, X, np.zeros(90, int))
    refused("the labels hold 0 classes", cluster, X, np.full(90, -1))
    refused("there are no seeds", cluster, X, Y, seeds=())


# ---- links
def random_graph(n=60, edges=200, seed=0, directed=False):
    pairs = np.random.default_rng(seed).integers(0, n, (edges, 2))
    return build("here", np.eye(n), pairs, directed=directed)


def as_set(pairs):
    return set(map(tuple, np.asarray(pairs).tolist()))


@pytest.mark.parametrize("directed", [False, True])
def test_hidden_edges_are_in_no_direction_among_the_kept_and_negatives_are_none_of_the_graph(directed):
    graph = random_graph(directed=directed)
    kept, positive, negative = links.hold_out(graph.edges, 60)
    full, left, hidden, none = map(as_set, (graph.edges, kept, positive, negative))
    both = hidden | as_set(positive[:, ::-1])
    assert left | (both & full) == full
    assert not left & both
    joined = {(min(edge), max(edge)) for edge in full}
    assert hidden < joined
    assert len(hidden) == len(positive) == len(none) == len(negative) == round(0.1 * len(joined))
    assert not (none | as_set(negative[:, ::-1])) & full
    assert (negative[:, 0] != negative[:, 1]).all()
    assert kept.dtype == np.int32
    np.testing.assert_array_equal(kept, kept[np.lexsort((kept[:, 0], kept[:, 1]))])
    again = links.hold_out(graph.edges, 60)
    np.testing.assert_array_equal(again[2], negative)
    assert as_set(links.hold_out(graph.edges, 60, seed=1)[1]) != hidden


@pytest.mark.parametrize("directed", [False, True])
def test_every_non_edge_is_as_likely(directed):
    graph = random_graph(n=7, edges=12, directed=directed)
    edges = as_set(graph.edges) | as_set(graph.edges[:, ::-1])
    free = {(u, v) for v in range(7) for u in range(v)} - edges
    drawn = [links.hold_out(graph.edges, 7, 0.3, seed)[2] for seed in range(2000)]
    pairs, counts = np.unique(np.concatenate(drawn), axis=0, return_counts=True)
    assert as_set(pairs) == free
    expected = counts.sum() / len(free)
    assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_pairs_are_counted_without_a_gap_in_either_order():
    pairs = np.array([(u, v) for v in range(9) for u in range(v)])
    numbers = links.number(pairs)
    np.testing.assert_array_equal(np.sort(numbers), np.arange(len(pairs)))
    np.testing.assert_array_equal(links.number(pairs[:, ::-1]), numbers)
    np.testing.assert_array_equal(links.pairs_of(numbers), pairs)
    last = np.array([[0, 30_000_000], [29_999_999, 30_000_000]])  # where a square root is a last bit off, ends go wrong
    np.testing.assert_array_equal(links.pairs_of(links.number(last)), last)


def test_a_graph_without_its_hidden_edges():
    for directed in (False, True):
        graph = random_graph(directed=directed)
        rest, positive, negative = links.without(graph, seed=2)
        for found, expected in zip((rest.edges, positive, negative), links.hold_out(graph.edges, 60, 0.1, 2)):
            np.testing.assert_array_equal(found, expected)
        assert rest.said[-1] == f"{len(graph.edges) - len(rest.edges)} directed edges hidden, to be predicted"
        assert rest.arrays["edges"].sum() == len(rest.edges)


def test_degrees_that_are_features_do_not_tell_of_hidden_edges():
    graph = build("here", None, random_graph().edges)
    rest, *_ = links.without(graph)
    np.testing.assert_array_equal(rest.x.argmax(1), np.bincount(rest.edges[:, 1], minlength=60))
    assert rest.x.shape == graph.x.shape


def communities(n=120, seed=0):
    """A graph of pairs within two communities, and each node's community, -1 or 1."""
    rng = np.random.default_rng(seed)
    side = np.arange(n) % 2
    pairs = rng.integers(0, n, (3 * n, 2))
    return build("here", np.eye(n), pairs[side[pairs[:, 0]] == side[pairs[:, 1]]]), 2.0 * side - 1


def test_edges_that_embeddings_tell_apart_have_an_auc_of_one():
    positive, negative = np.array([[0, 2], [1, 3], [2, 0]]), np.array([[0, 1], [2, 3]])
    x = np.array([[1, 1], [-1, 0.9], [2, 2.1], [-3, 2.8]])
    for kind in ("cosine", "dot"):
        found = links.scores(x, positive, negative, kind=kind)
        assert found["auc"] == found["ap"] == 1
        assert links.scores(x, negative, positive, kind=kind)["auc"] == 0
    assert links.scores(np.ones((4, 2)), positive, negative)["auc"] == 0.5  # collapse is chance


def test_random_embeddings_are_near_chance():
    graph = random_graph(n=300, edges=3000)
    _, positive, negative = links.hold_out(graph.edges, 300, 0.5)
    found = links.scores(np.random.default_rng(1).normal(size=(300, 8)), positive, negative)
    assert found["auc"] == pytest.approx(0.5, abs=0.04)
    assert found["ap"] == pytest.approx(0.5, abs=0.05)


def test_the_cosine_does_not_see_the_length_that_the_dot_product_sees():
    rng = np.random.default_rng(0)
    x, pairs = rng.normal(size=(40, 3)) + 1, rng.permutation(40).reshape(20, 2)
    longer = x * rng.uniform(0.1, 10, (40, 1))
    auc = lambda x, kind: links.scores(x, pairs[:10], pairs[10:], kind=kind)["auc"]
    assert auc(longer, "cosine") == auc(x, "cosine")
    assert auc(longer, "dot") != auc(x, "dot")
    truth, dots = np.arange(20) < 10, np.sum(x[pairs[:, 0]] * x[pairs[:, 1]], 1)
    assert auc(x, "dot") == pytest.approx(roc_auc_score(truth, dots))


def test_a_trained_score_finds_the_numbers_that_tell_edges_and_held_pairs_teach_nothing():
    graph, side = communities()
    kept, positive, negative = links.hold_out(graph.edges, 120, 0.3)
    x = np.concatenate([side[:, None], 3 * np.random.default_rng(1).normal(size=(120, 12))], 1)
    trained = links.scores(x, positive, negative, kind="trained", edges=kept)
    assert trained["auc"] > 0.7 > links.scores(x, positive, negative)["auc"] + 0.1
    swapped = links.scores(x, negative, positive, kind="trained", edges=kept)
    assert swapped["auc"] == pytest.approx(1 - trained["auc"])
    assert swapped["settings"] == trained["settings"]


def test_what_is_wrong_with_links_is_one_line():
    graph, x = random_graph(), np.eye(60)
    _, positive, negative = links.hold_out(graph.edges, 60)
    refused("a share of 0.001 hides 0 of", links.hold_out, graph.edges, 60, 0.001)
    full = np.array([(u, v) for v in range(4) for u in range(4) if u != v])
    refused("4 nodes have 0 pairs without an edge; expected at least 3", links.hold_out, full, 4, 0.5)
    refused("edges hold 3 and 3; expected two different nodes of 0 to 59", links.hold_out, [[0, 1], [3, 3]], 60)
    refused("positive pairs hold 0 and 60", links.scores, x, [[0, 60]], negative)
    refused("negative pairs are float64 [0]; expected whole numbers [P, 2]", links.scores, x, positive, [])
    refused("did you mean cosine?", links.scores, x, positive, negative, kind="cosin")
    refused("learns from kept edges", links.scores, x, positive, negative, kind="trained")
    refused("1 kept edges are too few", links.scores, x, positive, negative, kind="trained", edges=[[0, 1], [1, 0]])
    refused("features are [60]", links.scores, x[0], positive, negative)
    refused("features hold NaN", links.scores, x * np.nan, positive, negative)
    two = build("here", np.eye(4), np.array([[0, 1], [2, 3]]), offsets=[0, 2, 4])
    refused("here has 2 graphs; expected one", links.without, two)
    config = {"data": {"source": "digits", "held_edges": 0.0}, "seed": 0}
    other = "digits holds 1,297 images, but the encoder is trained on data of another kind"
    refused(other, graphs.of_encoders, None, {}, config)
