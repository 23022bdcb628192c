"""Views of graphs: what is left out, how much of it, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.augment.graph import KINDS, RANDOM, Drop, Evaluation, GraphCL, Whole, choose, grown, share
from jssl.data.graph import open_graphs
from jssl.data.packs import Packing, side_by_side
from tests.graphs import rings, rows_of

SIZES = (20, 10, 31)
BATCH = rows_of(rings(*SIZES, nodes=3, edges=20), rings(*SIZES, nodes=3, edges=20, seed=1))
COUNTS = np.stack([np.bincount(graph, minlength=4)[:3] for graph in BATCH["graph"]])


def per_graph(values):
    """Sums over the nodes of each graph: [R, n] -> [R, G]."""
    return np.stack([np.bincount(g, v, minlength=4)[:3] for g, v in zip(BATCH["graph"], np.asarray(values, float))])


def edges_per_graph(values):
    graphs = [np.append(graph, 3)[receivers] for graph, receivers in zip(BATCH["graph"], BATCH["receivers"])]
    return np.stack([np.bincount(g, v, minlength=4)[:3] for g, v in zip(graphs, np.asarray(values, float))])


def made(augment, seed=0, batch=BATCH):
    return jax.jit(augment)(jax.random.key(seed), {**batch, "label": jnp.zeros(2)})


def test_the_whole_graph_is_one_view_and_evaluations():
    views = made(Whole())
    assert "label" not in views
    again = choose(views, 0)
    assert again.keys() == BATCH.keys()
    for name in BATCH:
        np.testing.assert_array_equal(again[name], BATCH[name])
        np.testing.assert_array_equal(Evaluation()({**BATCH, "label": 0})[name], BATCH[name])


def test_edges_and_features_are_dropped_at_their_rates():
    many = rows_of(*[rings(40, 60, features=999, nodes=5, edges=9, seed=i) for i in range(20)])
    views = made(Drop((0.2, 0.6), (0.1, 0.5)), batch=many)
    there = many["edges"] > 0
    for v, (edges, features) in enumerate(((0.2, 0.1), (0.6, 0.5))):
        view = choose(views, v)
        assert np.mean(view["edges"][there] == 0) == pytest.approx(edges, abs=0.03)
        assert not view["edges"][~there].any()
        gone = view["x"][0, 0] == 0  # [F]; whole columns, the same in all rows
        assert np.mean(gone) == pytest.approx(features, abs=0.05)
        np.testing.assert_array_equal(view["x"], np.where(gone, 0, many["x"]))
        np.testing.assert_array_equal(view["nodes"], many["nodes"])
    assert (choose(views, 0)["edges"] != choose(views, 1)["edges"]).any()


def test_adaptive_dropping_follows_the_weights_up_to_the_most():
    row = rings(200, features=1200)
    rows = rows_of(*[row] * 200)
    weight = np.linspace(0, 4, row["edges"].shape[1], dtype=np.float32)
    of_features = np.repeat([0.0, 1.0, 2.0, 9.0], 300)
    rows |= {"edge_weight": np.tile(weight, (200, 1)), "feature_weight": np.tile(of_features, (200, 1))}
    views = made(Drop((0.3, 0.3), (0.2, 0.2), adaptive=True, most=0.7), batch=rows)
    dropped = np.mean(np.asarray(views["edges"]) == 0, (0, 1))
    np.testing.assert_allclose(dropped, np.minimum(0.3 * weight, 0.7), atol=0.1)
    assert np.abs(dropped - np.minimum(0.3 * weight, 0.7)).mean() < 0.03
    features = np.mean((np.asarray(views["x"])[0, :, 0] == 0).reshape(2, 4, 300), (0, 2))
    np.testing.assert_allclose(features, [0, 0.2, 0.4, 0.7], atol=0.07)


ALL = {"Whole": Whole(), "Drop": Drop(), **{kind: GraphCL((kind, "none"), 0.3) for kind in (*KINDS, *RANDOM)}}


@pytest.mark.parametrize("name", ALL)
def test_the_row_that_a_graph_lies_in_changes_nothing_of_its_views(name):
    graphs = open_graphs("pixels:digits@train[:16]")

    def per_graph(leading):
        """{graph: what its nodes and edges became} of the batch in so many rows."""
        packing, found = Packing(graphs.sizes, 16, leading), {}
        layout = packing.deal(np.arange(16))
        batch = side_by_side(graphs, layout, *packing.size([layout]))
        views = jax.device_get(jax.jit(ALL[name])(jax.random.key(0), batch))
        for r, g in np.ndindex(*layout.shape):
            nodes = np.flatnonzero(batch["graph"][r] == g)
            edges = np.flatnonzero(np.isin(batch["receivers"][r], nodes))
            found[layout[r, g]] = [views["x"][r][:, nodes], views["nodes"][r][:, nodes], views["edges"][r][:, edges]]
        return found

    one, many = per_graph(1), per_graph(8)
    for graph in range(16):
        for a, b in zip(one[graph], many[graph], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("part", [0.1, 0.2, 0.5])
def test_a_share_is_of_every_graph_and_rounded_down(part):
    chosen = jax.jit(share, static_argnums=2)(jax.random.key(0), BATCH, part)
    np.testing.assert_array_equal(per_graph(chosen), np.floor(part * COUNTS + 1e-6))
    assert not np.asarray(chosen)[BATCH["nodes"] == 0].any()
    assert (chosen != share(jax.random.key(1), BATCH, part)).any()


def test_dropped_nodes_take_their_edges_with_them():
    view = choose(made(GraphCL(("nodes", "nodes"))), 0)
    left = np.asarray(view["nodes"])
    np.testing.assert_array_equal(per_graph(left), COUNTS - np.floor(0.1 * COUNTS))
    for r in range(2):
        there = np.flatnonzero(view["edges"][r])
        assert left[r, BATCH["senders"][r, there]].all()
        assert left[r, BATCH["receivers"][r, there]].all()
    assert not np.asarray(view["x"])[left == 0].any()


def test_a_tenth_of_every_graphs_edges_is_dropped():
    view = choose(made(GraphCL(("edges", "none"))), 0)
    before = edges_per_graph(BATCH["edges"])
    np.testing.assert_array_equal(before - edges_per_graph(view["edges"]), np.floor(0.1 * before + 1e-6))


def test_masked_attributes_are_noise_in_a_tenth_of_the_nodes():
    view = choose(made(GraphCL(("attributes", "none"))), 0)
    changed = (np.asarray(view["x"]) != BATCH["x"]).all(-1)
    np.testing.assert_array_equal(per_graph(changed), np.floor(0.1 * COUNTS + 1e-6))
    np.testing.assert_array_equal(view["edges"], BATCH["edges"])
    many = rows_of(*[BATCH] * 200)
    noise = made(GraphCL(("attributes", "none"), ratio=0.5), batch=many)["x"][:, 0]
    noise = np.asarray(noise)[np.asarray(noise) != many["x"]]
    assert (noise.mean(), noise.std()) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.5, abs=0.02))


@pytest.mark.parametrize("seed", range(3))
def test_a_grown_subgraph_is_connected_and_as_large_as_asked(seed):
    kept = np.asarray(jax.jit(grown, static_argnums=2)(jax.random.key(seed), BATCH, 0.3))
    np.testing.assert_array_equal(per_graph(kept), np.floor(0.3 * COUNTS))
    for r in range(2):
        inside = kept[r, BATCH["senders"][r]] & np.append(kept[r], False)[BATCH["receivers"][r]]
        for g in range(3):
            nodes = np.flatnonzero(kept[r] & (BATCH["graph"][r] == g))
            reached = {nodes[0]}
            for _ in nodes:
                reached |= {
                    b for a, b in zip(BATCH["senders"][r, inside], BATCH["receivers"][r, inside]) if a in reached
                }
            assert reached == set(nodes)


def test_subgraphs_begin_anywhere():
    grow = jax.jit(lambda rng: grown(rng, BATCH, 0.05))  # one node of each
    found = np.stack([grow(jax.random.key(seed))[0] for seed in range(300)])
    np.testing.assert_array_equal(found.sum(1), 3)
    assert found[:, 20:30].mean(0) == pytest.approx(0.1, abs=0.07)


def test_a_random_kind_is_drawn_for_each_graph():
    many = rows_of(*[BATCH] * 100)  # 600 graphs
    augment = GraphCL(("none", "random4"))
    view = jax.device_get(choose(made(augment, batch=many), 1))
    rng = jax.random.split(jax.random.key(0))[1]
    _, *keys = jax.random.split(rng, 5)
    of = [jax.device_get(augment.view(kind, key, many)) for kind, key in zip(RANDOM["random4"], keys, strict=True)]
    same = lambda a, b, r, nodes: np.allclose(a["x"][r, nodes], b["x"][r, nodes], atol=1e-5)
    counts = np.zeros(4)
    for r, g in np.ndindex(200, 3):
        nodes = np.flatnonzero(many["graph"][r] == g)
        edges = np.isin(many["receivers"][r], nodes)
        fits = [same(view, one, r, nodes) and (view["edges"][r] == one["edges"][r])[edges].all() for one in of]
        assert sum(fits) == 1
        counts += fits
    assert (counts > 100).all()  # of 150


def test_standard_features_have_mean_0_and_deviation_1_over_the_nodes_that_are_there():
    x = np.asarray(Evaluation("standard")(BATCH)["x"])
    there = BATCH["nodes"] > 0
    np.testing.assert_allclose(x[there].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x[there].std(0), 1, atol=1e-5)
    assert not x[~there].any()
    constant = {**BATCH, "x": np.ones_like(BATCH["x"])}
    np.testing.assert_allclose(Evaluation("standard")(constant)["x"], 0, atol=1e-6)
    with pytest.raises(ValueError, match="normalise is 'sum', expected None or one of shares, standard"):
        Evaluation("sum")(BATCH)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_never_change_and_padding_stays_padding(kind):
    views = made(GraphCL((kind, "none")))
    assert views["x"].shape == (2, 2, *BATCH["x"].shape[1:])
    view = choose(views, 0)
    assert not np.asarray(view["nodes"])[BATCH["nodes"] == 0].any()
    assert not np.asarray(view["edges"])[BATCH["edges"] == 0].any()
    assert not np.asarray(view["x"])[BATCH["nodes"] == 0].any()


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="'node' is not one of none, nodes, edges"):
        GraphCL(("node", "edges"))
    with pytest.raises(ValueError, match="expected a probability of each per view"):
        Drop((0.1,), (0.2, 0.3))
    with pytest.raises(ValueError, match="probabilities must be within"):
        Drop((0.1, 1.0), (0.2, 0.3))
