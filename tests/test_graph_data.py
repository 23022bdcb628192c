"""Sources of graphs: every format, what is cleaned and said, and one line for each thing that cannot be."""

import copyreg
import os
import pickle
import re
from collections import defaultdict

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from jssl.data.graph import build, each_split, open_graphs
from jssl.data.planetoid import ALLOWED

TRIANGLE = [[0, 1], [1, 2], [2, 0]]
BOTH = [[1, 0], [2, 0], [0, 1], [2, 1], [0, 2], [1, 2]]


def graphs_of(edges, n=3, **more):
    return build("here", np.eye(n), np.array(edges), **more)


def test_undirected_edges_go_both_ways_in_the_order_of_their_receivers():
    graphs = graphs_of(TRIANGLE)
    np.testing.assert_array_equal(graphs.edges, BOTH)
    assert graphs.said == ()
    assert graphs.x.dtype == np.float32
    assert len(graphs) == 1


def test_both_directions_are_one_edge_and_no_duplicate():
    graphs = graphs_of(BOTH)
    np.testing.assert_array_equal(graphs.edges, BOTH)
    assert graphs.said == ()


def test_self_loops_duplicates_and_lonely_nodes_are_said():
    graphs = graphs_of([*TRIANGLE, [1, 1], [0, 1]], n=5)
    np.testing.assert_array_equal(graphs.edges, BOTH)
    assert graphs.said == ("1 self-loops left out", "1 duplicate edges left out", "2 nodes have no edges")


def test_directed_edges_stay_as_they_are():
    graphs = graphs_of([*TRIANGLE, [0, 1]], directed=True)
    np.testing.assert_array_equal(graphs.edges, [[2, 0], [0, 1], [1, 2]])
    assert graphs.said == ("edges are directed", "1 duplicate edges left out")


@pytest.mark.parametrize(
    "x, edges, offsets, message",
    [
        (np.eye(3), [[0, 3]], None, "here: edge 0 joins 0 and 3, but nodes are 0 to 2"),
        (np.eye(3), [[0, 1], [-1, 2]], None, "here: edge 1 joins -1 and 2, but nodes are 0 to 2"),
        (np.array([[1.0, np.nan]] * 2), [[0, 1]], None, "here: feature 1 of node 0 is nan, expected finite numbers"),
        (np.eye(3), np.zeros((0, 2), int), None, "here: there are no edges, expected at least one"),
        (np.eye(3), [[0.0, 1.0]], None, "here: edges are float64 [1, 2], expected whole numbers [E, 2]"),
        (np.eye(3), [[0, 1, 2]], None, "here: edges are int64 [1, 3], expected whole numbers [E, 2]"),
        (np.eye(4), [[0, 1], [1, 2]], [0, 2, 4], "here: edge 1 joins nodes of two graphs, 0 and 1"),
        (np.ones(3), [[0, 1]], None, "here: features of nodes are float64 [3], expected numbers [n, F], F >= 1"),
        (np.ones((3, 0)), [[0, 1]], None, "here: features of nodes are float64 [3, 0], expected numbers [n, F]"),
        (np.array([["a"], ["b"]]), [[0, 1]], None, "here: features of nodes are <U1 [2, 1], expected numbers [n, F]"),
        (np.eye(3), [[1, 1], [2, 2]], None, "here: all 2 edges are self-loops, expected edges between nodes"),
    ],
)
def test_what_cannot_be_is_one_line(x, edges, offsets, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build("here", x, np.array(edges), offsets=offsets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"labels": [0.0, 0.5, 1.0]}, "labels are float64, expected class numbers from 0, or -1 for none"),
        ({"labels": [0.0, np.nan, 1.0]}, "labels are float64, expected class numbers from 0, or -1 for none"),
        ({"labels": [0, -2, 1]}, "labels are int64, expected class numbers from 0, or -1 for none"),
        ({"labels": [0, 1]}, "labels have 2 rows, expected one for each of the 3 nodes"),
        ({"splits": {"train": [0]}}, "there is a split but no labels, expected both or neither"),
        ({"labels": [0, 1, 0], "splits": {"train": [3]}}, "'train' of the split names node 3, but nodes are 0 to 2"),
        ({"labels": [0, 1, 0], "splits": {"val": [-1]}}, "'val' of the split names node -1, but nodes are 0 to 2"),
        ({"labels": [0, 1, 0], "splits": {"val": [0.5]}}, "'val' of the split is float64 [1], expected node numbers"),
        (
            {"labels": [0, 1, 0], "splits": {"train": [0, 1], "test": [2, 1]}},
            "'train' and 'test' of the split share 1,",
        ),
        ({"folds": np.zeros(2, int)}, "folds are [2], expected one for each of the 3 nodes"),
    ],
)
def test_labels_and_splits_that_cannot_be_are_one_line(more, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build("here", np.eye(3), np.array(TRIANGLE), **more)
    assert "\n" not in str(error.value)


def test_several_splits_lie_in_rows():
    splits = {"train": np.array([[0, 1], [2, -1]]), "val": np.array([[3], [4]]), "test": np.array([5, 6])}
    first, second = each_split(splits)
    assert {name: rows.tolist() for name, rows in first.items()} == {"train": [0, 1], "val": [3], "test": [5, 6]}
    assert {name: rows.tolist() for name, rows in second.items()} == {"train": [2], "val": [4], "test": [5, 6]}
    assert each_split({}) == []
    graphs = build("here", np.eye(7), np.array(TRIANGLE), labels=np.arange(7), splits=splits)
    np.testing.assert_array_equal(graphs.train_labels, [0, 1, -1, -1, -1, -1, -1])


def test_labels_of_nothing_are_none():
    graphs = build("here", np.eye(3), np.array(TRIANGLE), labels=[-1, -1, -1])
    assert graphs.labels is None
    assert graphs.said == ("none of the nodes has a label",)


def test_images_become_the_graph_of_their_nearest():
    graphs = open_graphs("knn:digits@test")
    assert (graphs.x.shape, graphs.labels.shape) == ((500, 64), (500,))
    senders, receivers = graphs.edges.T
    apart = np.linalg.norm(graphs.x[:, None] - graphs.x[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    furthest = np.sort(apart, 1)[:, 5 - 1]  # of each image's five nearest, up to equally near ones
    assert (apart[senders, receivers] <= np.maximum(furthest[senders], furthest[receivers]) + 1e-6).all()
    assert np.bincount(receivers).min() == 5
    assert (graphs.labels[senders] == graphs.labels[receivers]).mean() > 0.8


@pytest.fixture
def planetoid(tmp_path):
    """Files as Python 2 wrote them, of seven nodes: three with labels for training, two for testing, in odd order."""
    x, y = np.eye(7, dtype=np.float32), np.eye(2)[[0, 1, 0, 1, 1, 0, 1]]
    test = [6, 5]
    graph = defaultdict(list, {0: [1], 1: [0, 2], 2: [1, 3], 3: [2, 4], 4: [3, 5, 6], 5: [4], 6: [4]})
    parts = {"x": csr_matrix(x[:3]), "y": y[:3], "allx": csr_matrix(x[:5]), "ally": y[:5], "graph": graph}
    parts |= {"tx": csr_matrix(x[test]), "ty": y[test]}
    for name, value in parts.items():
        (tmp_path / f"ind.small.{name}").write_bytes(pickle.dumps(value, protocol=2))
    (tmp_path / "ind.small.test.index").write_text("6\n5\n")
    return tmp_path


def test_planetoid_puts_test_nodes_into_their_places(planetoid):
    graphs = open_graphs(f"planetoid:{planetoid}@small")
    np.testing.assert_array_equal(graphs.x, np.eye(7))
    np.testing.assert_array_equal(graphs.labels, [0, 1, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(graphs.splits["train"], [0, 1, 2])
    np.testing.assert_array_equal(graphs.splits["test"], [5, 6])
    assert len(graphs.edges) == 12
    assert len(open_graphs(f"planetoid:{planetoid}").edges) == 12


def test_planetoid_nodes_that_the_files_leave_out_have_nothing(planetoid):
    (planetoid / "ind.small.test.index").write_text("7\n5\n")  # 6 is nowhere
    graphs = open_graphs(f"planetoid:{planetoid}")
    assert not graphs.x[6].any()
    np.testing.assert_array_equal(graphs.labels, [0, 1, 0, 1, 1, 0, -1, 1])


class Attack:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("call", [os.system, eval, __import__, getattr], ids=lambda call: call.__name__)
@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "in a dict"])
def test_a_pickle_that_asks_for_code_is_refused_and_nothing_runs(planetoid, call, hidden):
    trace = planetoid / "ran"
    arguments = {"system": (f"touch {trace}",), "eval": (f"open({str(trace)!r}, 'w')",), "__import__": ("os",)}
    attack = Attack(call, *arguments.get(call.__name__, (os, "system")))
    if call is getattr:
        attack = Attack(getattr, "text", "upper")
    payload = {0: [attack]} if hidden else attack
    (planetoid / "ind.small.graph").write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(ValueError, match=r"ind\.small\.graph is not one of planetoid's files .asks for ") as error:
        open_graphs(f"planetoid:{planetoid}")
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_a_pickle_cannot_change_what_it_builds_with(planetoid):
    """The opcode BUILD sets attributes of whatever is on the stack: of a class, or of a function, by name in a pair of
    states or by the object's own dict in a plain one."""
    pair, plain = b"(N}X\x05\x00\x00\x00shapeK\x01stb.", b"}X\x05\x00\x00\x00shapeK\x01sb."
    for name in b"scipy.sparse.csr\ncsr_matrix", b"_codecs\nencode", b"copy_reg\n_reconstructor", b"numpy\nndarray":
        for state in pair, plain:
            (planetoid / "ind.small.graph").write_bytes(b"\x80\x02c" + name + b"\n" + state)
            with pytest.raises(ValueError, match=r"ind\.small\.graph is not one of planetoid's files"):
                open_graphs(f"planetoid:{planetoid}")
    for name in ("scipy.sparse.csr", "csr_matrix"), ("_codecs", "encode"), ("copy_reg", "_reconstructor"):
        assert not hasattr(ALLOWED[name], "shape")
    assert not hasattr(copyreg._reconstructor, "shape")


@pytest.mark.parametrize(
    "part, value, message",
    [
        ("ally", np.eye(2)[[0, 1, 0]], "ind.small.ally has 3 rows, expected one for each of the 5 nodes that it is of"),
        ("y", np.eye(2), "ind.small.y has 2 rows, expected one for each of the 3 nodes that it is of"),
        ("tx", csr_matrix(np.eye(1, 7)), "ind.small.ty has 2 rows, expected one for each of the 1 nodes"),
        ("tx", csr_matrix(np.eye(2, 5)), "ind.small.tx has 5 columns, expected 7, as many as allx"),
        ("ty", np.eye(2, 3), "ind.small.ty has 3 columns, expected 2, as many as ally"),
        ("ally", np.arange(5), "ind.small.ally is int64 [5], expected numbers in rows and columns"),
        ("allx", np.array(3.0), "ind.small.allx is float64 [], expected numbers in rows and columns"),
        ("graph", {0: [2**70]}, "the graph is not a dict of every node's list of neighbours' numbers"),
        ("graph", {0: 3}, "the graph is not a dict of every node's list of neighbours' numbers"),
        ("graph", {"anna": ["bert"]}, "the graph is not a dict of every node's list of neighbours' numbers"),
        ("test.index", "6\n6\n", "test.index must name different nodes, from 5, which follow those of allx"),
        ("test.index", "-1\n6\n", "test.index must name different nodes, from 5, which follow those of allx"),
        ("test.index", "6\n", "ind.small.test.index has 1 rows, expected one for each of the 2 nodes"),
        ("test.index", "6\n5.5\n", "line 2 of test.index is [5.5], expected whole numbers"),
    ],
)
def test_planetoid_files_that_do_not_fit_are_one_line(planetoid, part, value, message):
    content = value.encode() if isinstance(value, str) else pickle.dumps(value, protocol=2)
    (planetoid / f"ind.small.{part}").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_graphs(f"planetoid:{planetoid}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02}q\x00."], ids=["empty", "garbage", "another thing"])
def test_planetoid_files_that_are_none_are_one_line(planetoid, content):
    (planetoid / "ind.small.tx").write_bytes(content)
    with pytest.raises(ValueError, match=r"ind\.small\.tx"):
        open_graphs(f"planetoid:{planetoid}")


def test_planetoid_folder_without_files_or_with_another_set(planetoid, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"there is no set 'smal'.*did you mean small"):
        open_graphs(f"planetoid:{planetoid}@smal")
    with pytest.raises(FileNotFoundError, match="no planetoid files in"):
        open_graphs(f"planetoid:{tmp_path_factory.mktemp('empty')}")
    (planetoid / "ind.small.ty").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no ind\.small\.ty"):
        open_graphs(f"planetoid:{planetoid}")


@pytest.fixture
def tu(tmp_path):
    """A triangle and an edge."""
    files = {
        "A": "1, 2\n2, 1\n2, 3\n3, 2\n3, 1\n1, 3\n4, 5\n5, 4\n",
        "graph_indicator": "1\n1\n1\n2\n2\n",
        "graph_labels": "-1\n1\n",
        "node_labels": "0\n2\n0\n2\n7\n",
        "node_attributes": "0.5, 1\n1, 2\n1.5, 3\n2, 4\n2.5, 5\n",
    }
    for name, text in files.items():
        (tmp_path / f"TWO_{name}.txt").write_text(text)
    return tmp_path


KINDS, ATTRIBUTES = np.eye(3)[[0, 1, 0, 1, 2]], np.array([[0.5, 1], [1, 2], [1.5, 3], [2, 4], [2.5, 5]])


def test_tu_reads_labels_and_graphs(tu):
    graphs = open_graphs(f"tu:{tu}")
    assert len(graphs) == 2
    np.testing.assert_array_equal(graphs.offsets, [0, 3, 5])
    np.testing.assert_array_equal(graphs.x, KINDS)
    assert graphs.said == (f"node labels alone are features; node attributes as well: tu:{tu},attributes",)
    np.testing.assert_array_equal(graphs.labels, [0, 1])
    assert graphs.label_names == ("-1", "1")
    assert len(graphs.edges) == 8


def test_tu_attributes_are_features_where_they_are_asked_for_or_there_is_nothing_else(tu):
    np.testing.assert_array_equal(open_graphs(f"tu:{tu},attributes").x, np.concatenate([KINDS, ATTRIBUTES], 1))
    (tu / "TWO_node_labels.txt").unlink()
    for spec in f"tu:{tu}", f"tu:{tu},attributes":
        np.testing.assert_array_equal(open_graphs(spec).x, ATTRIBUTES)
        assert open_graphs(spec).said == ()
    (tu / "TWO_node_attributes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no TWO_node_attributes\.txt"):
        open_graphs(f"tu:{tu},attributes")


def test_tu_without_features_has_degrees_and_says_so(tu):
    (tu / "TWO_node_labels.txt").unlink()
    (tu / "TWO_node_attributes.txt").unlink()
    graphs = open_graphs(f"tu:{tu}")
    np.testing.assert_array_equal(graphs.x, np.eye(3)[[2, 2, 2, 1, 1]])
    assert graphs.said == ("no features: one-hot degrees",)


def test_degrees_are_told_apart_up_to_a_highest_one(monkeypatch):
    monkeypatch.setattr("jssl.data.graph.MOST", 2)
    star = build("here", None, np.array([[0, 1], [0, 2], [0, 3], [1, 2], [3, 3]]), offsets=[0, 5])
    np.testing.assert_array_equal(star.x, np.eye(3)[[2, 2, 2, 1, 0]])
    assert star.said[-1] == "no features: one-hot degrees, those above 2 as 2"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("graph_labels", "1\n", "TWO_graph_labels.txt has 1 rows, expected one for each of the 2 graphs"),
        ("node_labels", "1\n2\n", "TWO_node_labels.txt has 2 rows, expected one for each of the 5 nodes"),
        ("A", "1, 9\n", "TWO_A.txt joins 1 and 9, but nodes are 1 to 5"),
        ("A", "1, 2\n0, 1\n", "TWO_A.txt joins 0 and 1, but nodes are 1 to 5"),
        ("A", "1, 4\n", "edge 0 joins nodes of two graphs, 0 and 1"),
        ("A", "1, two\n", "line 1 of TWO_A.txt is '1, two', expected numbers"),
        ("A", "1, 2\n1\n", "line 2 of TWO_A.txt has 1 numbers, the first 2"),
        ("A", "1, 9, 1\n", "TWO_A.txt has 3 numbers in a line, expected 2"),
        ("graph_indicator", "1, 1\n1, 1\n", "TWO_graph_indicator.txt has 2 numbers in a line, expected 1"),
        ("A", "", "TWO_A.txt is empty"),
        ("graph_indicator", "2\n1\n1\n2\n2\n", "does not count up from 1"),
    ],
)
def test_tu_mistakes_are_one_line(tu, name, text, message):
    (tu / f"TWO_{name}.txt").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_graphs(f"tu:{tu}")
    assert "\n" not in str(error.value)


def test_of_several_tu_sets_in_a_folder_one_is_named(tu):
    for part in "A", "graph_indicator":
        (tu / f"ONE_{part}.txt").write_text("1, 2\n" if part == "A" else "1\n1\n")
    with pytest.raises(ValueError, match=r"several sets in .*, expected @NAME with one of ONE, TWO"):
        open_graphs(f"tu:{tu}")
    assert len(open_graphs(f"tu:{tu}@ONE").x) == 2
    assert open_graphs(f"tu:{tu}@TWO,attributes").x.shape == (5, 5)
    with pytest.raises(FileNotFoundError, match=r"there is no set 'TW'.*did you mean TWO"):
        open_graphs(f"tu:{tu}@TW")


def test_tu_folder_without_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no TU files in"):
        open_graphs(f"tu:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_graphs(f"tu:{tmp_path / 'nowhere'}")


def saved(path, **arrays):
    np.savez(path / "graphs.npz", **arrays)
    return f"npz:{path / 'graphs.npz'}"


def test_npz_of_one_graph_has_sparse_features_labels_and_splits(tmp_path):
    x = csr_matrix(np.array([[0, 2.0], [1, 0], [0, 0]]))
    sparse = {"x_data": x.data, "x_indices": x.indices, "x_indptr": x.indptr, "x_shape": x.shape}
    spec = saved(tmp_path, edges=TRIANGLE, label=[1, 0, -1], train_idx=[0], test_idx=[1], **sparse)
    graphs = open_graphs(spec)
    np.testing.assert_array_equal(graphs.x, x.toarray())
    np.testing.assert_array_equal(graphs.labels, [1, 0, -1])
    assert graphs.splits.keys() == {"train", "test"}
    np.testing.assert_array_equal(graphs.edges, BOTH)


def test_npz_of_many_graphs_has_offsets_and_folds(tmp_path):
    spec = saved(
        tmp_path,
        edges=[*TRIANGLE, [3, 4]],
        node_offsets=[0, 3, 5],
        node_label=[0, 1, 0, 1, 2],
        graph_label=[1, 0],
        fold=[0, -1],
    )
    graphs = open_graphs(spec)
    assert len(graphs) == 2
    assert graphs.x.shape == (5, 3)
    np.testing.assert_array_equal(graphs.labels, [1, 0])
    np.testing.assert_array_equal(graphs.folds, [0, -1])


@pytest.mark.parametrize("kind", [np.uint8, np.uint32, np.uint64])
def test_npz_of_whole_numbers_without_a_sign(tmp_path, kind):
    edges, label = np.array(TRIANGLE, kind), np.array([1, 0, 1], kind)
    np.testing.assert_array_equal(open_graphs(saved(tmp_path, edges=edges, x=np.eye(3), label=label)).labels, [1, 0, 1])
    np.testing.assert_array_equal(open_graphs(saved(tmp_path, edges=edges)).edges, BOTH)


def test_npz_of_directed_edges(tmp_path):
    assert len(open_graphs(saved(tmp_path, edges=TRIANGLE, x=np.eye(3), directed=True)).edges) == 3


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": np.eye(3)}, "expected an array `edges`, found x"),
        ({"x": np.eye(3), "edges": TRIANGLE, "label": [0]}, "labels have 1 rows, expected one for each of the 3 nodes"),
        ({"x": np.eye(3), "edges": TRIANGLE, "node_offsets": [1, 3]}, "expected whole numbers [G + 1] rising from 0"),
        ({"x": np.eye(3), "edges": TRIANGLE, "node_offsets": 3}, "`node_offsets` is int64 [], expected whole numbers"),
        ({"x": np.eye(4), "edges": TRIANGLE, "node_offsets": [0, 3.0, 4]}, "`node_offsets` is float64 [3], expected"),
        ({"x": np.eye(4), "edges": TRIANGLE, "node_offsets": [0, 3, 5]}, "`node_offsets` ends at 5, expected the"),
        ({"x": np.eye(5), "edges": TRIANGLE, "node_offsets": [0, 3, 4]}, "ends at 4, expected the number of nodes, 5"),
        (
            {"edges": TRIANGLE, "node_label": [0, 1, 0, 1], "node_offsets": np.array([0, 3, 2, 4], np.uint8)},
            "`node_offsets` is uint8 [4], expected whole numbers [G + 1] rising from 0",
        ),
        (
            {"edges": TRIANGLE, "x_data": [1.0], "x_indices": [5], "x_indptr": [0, 1], "x_shape": [1, 2]},
            "features in compressed rows name column 5 of 2",
        ),
        (
            {"edges": TRIANGLE, "x_data": [1.0], "x_indices": [0], "x_indptr": [0, 1], "x_shape": [3, 2]},
            "features in compressed rows do not fit their shape [3, 2]",
        ),
        (
            {"edges": TRIANGLE, "x_data": [1.0], "x_indices": [0], "x_indptr": [0, 2, 1, 1], "x_shape": [3, 2]},
            "features in compressed rows do not fit their shape [3, 2]",
        ),
    ],
)
def test_npz_mistakes_are_one_line(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_graphs(saved(tmp_path, **arrays))
    assert "\n" not in str(error.value)


SPARSE = {"x_data": [1.0, 2.0, 3.0], "x_indices": [0, 1, 0], "x_indptr": [0, 1, 2, 3], "x_shape": [3, 2]}


@pytest.mark.parametrize(
    "arrays, message",
    [
        (SPARSE | {"x_indptr": 3}, "data [3], indices [3], indptr [], shape [2]; expected [k], [k], [n + 1] and [2]"),
        (SPARSE | {"x_shape": [3]}, "data [3], indices [3], indptr [4], shape [1]; expected [k], [k], [n + 1] and [2]"),
        (SPARSE | {"x_indices": [0.0, 1, 0]}, "indices float64, indptr int64, shape int64; expected numbers, all else"),
        (SPARSE | {"x_data": ["a", "b", "c"]}, "rows are data <U1, indices int64, indptr int64, shape int64; expected"),
        (SPARSE | {"x_indices": [0, -1, 0]}, "features in compressed rows name column -1 of 2"),
        ({"node_label": [0, np.nan, 1]}, "`node_label` is float64 [3], expected a kind for each node, without NaN"),
        ({"node_label": [[0], [1], [1]]}, "`node_label` is int64 [3, 1], expected a kind for each node, without NaN"),
        ({"edges": [["a", "b"]]}, "edges are <U1 [1, 2], expected whole numbers [E, 2]"),
    ],
)
def test_npz_arrays_of_other_kinds_are_one_line(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_graphs(saved(tmp_path, **{"edges": TRIANGLE} | arrays))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({"edges": 1})], ids=["empty", "torn", "a pickle"])
def test_npz_files_that_are_none_are_one_line(tmp_path, content):
    (tmp_path / "graphs.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz of arrays; Python objects are not read") as error:
        open_graphs(f"npz:{tmp_path / 'graphs.npz'}")
    assert "\n" not in str(error.value)


def written(path, name, text):
    (path / name).write_text(text)
    return str(path / name)


def test_edges_name_their_nodes(tmp_path):
    path = written(tmp_path, "edges.csv", "source,target\nanna,bert\nbert,carl\n")
    graphs = open_graphs(f"edges:{path}")
    assert graphs.names == ("anna", "bert", "carl")
    assert len(graphs.edges) == 4
    np.testing.assert_array_equal(graphs.x, np.eye(3)[[1, 2, 1]])
    assert graphs.said == ("no features: one-hot degrees",)


def test_a_row_of_words_above_numbers_is_a_header(tmp_path):
    path = written(tmp_path, "edges.csv", "citing,cited\n10,20\n20,30\n")
    assert open_graphs(f"edges:{path}").names == ("10", "20", "30")
    path = written(tmp_path, "words.csv", "citing,cited\nanna,20\n")
    assert open_graphs(f"edges:{path}").names == ("citing", "cited", "anna", "20")


def test_weights_of_edges_are_not_read_and_that_is_said(tmp_path):
    path = written(tmp_path, "edges.csv", "source,target,weight\nanna,bert,0.5\nbert,carl,2\n")
    graphs = open_graphs(f"edges:{path}")
    assert graphs.said[0] == "columns of edges after the second, such as weights, are not read"
    assert graphs.names == ("anna", "bert", "carl")


def test_edges_may_be_directed(tmp_path):
    edges = written(tmp_path, "edges.csv", "anna,bert\nbert,carl\n")
    nodes = written(tmp_path, "nodes.csv", "id,age\nanna,1\nbert,2\ncarl,3\n")
    for spec in f"edges:{edges},directed", f"edges:{edges},{nodes},directed":
        graphs = open_graphs(spec)
        np.testing.assert_array_equal(graphs.edges, [[0, 1], [1, 2]])
        assert "edges are directed" in graphs.said


def test_a_file_of_bytes_is_no_table(tmp_path):
    (tmp_path / "edges.csv").write_bytes(b"\xff\xfe\x00a,b\n")
    with pytest.raises(ValueError, match=r"edges\.csv is not text, expected a CSV in UTF-8"):
        open_graphs(f"edges:{tmp_path / 'edges.csv'}")


def test_edges_with_a_table_of_nodes(tmp_path):
    edges = written(tmp_path, "edges.csv", "anna,bert\n")
    nodes = written(tmp_path, "nodes.csv", "id,age,label,height\ncarl,1,x,2\nanna,3,,4\nbert,5,y,6\n")
    graphs = open_graphs(f"edges:{edges},{nodes}")
    assert graphs.names == ("carl", "anna", "bert")
    np.testing.assert_array_equal(graphs.x, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(graphs.labels, [0, -1, 1])
    assert graphs.label_names == ("x", "y")
    assert graphs.said == ("1 nodes have no edges",)


@pytest.mark.parametrize(
    "edges, nodes, message",
    [
        ("a,d\n", "id,f\na,1\nb,2\n", "the edge a,d names a node 'd' that is not in "),
        ("a\n", None, "line 1 of the edges is 'a', expected two names of nodes"),
        ("", None, "there are no edges, expected at least one"),
        ("a,b\n", "name,f\na,1\n", "the nodes' first line is 'name,f', expected a header with id"),
        ("a,b\n", "id,f\na,1\nb\n", "line 3 of the nodes has 1 cells, expected 2"),
        ("a,b\n", "id,f\na,1\na,2\n", "node 'a' is there twice"),
        ("a,b\n", f"name{',f' * 999}\n", "the nodes' first line is 'name,f,f"),
        ("a,b\n", "id,f\na,1\nb,nan\n", "feature 0 of node 1 is nan, expected finite numbers"),
    ],
)
def test_edges_mistakes_are_one_line(tmp_path, edges, nodes, message):
    spec = f"edges:{written(tmp_path, 'edges.csv', edges)}"
    spec += f",{written(tmp_path, 'nodes.csv', nodes)}" if nodes else ""
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_graphs(spec)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 120 + len(spec) + len(str(tmp_path))


@pytest.mark.parametrize("spec", ["graph:somewhere", "tu", "npz:nowhere.npz", "edges:nowhere.csv", "knn:digit"])
def test_sources_that_are_none_are_one_line(spec):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_graphs(spec)
    assert "\n" not in str(error.value)
