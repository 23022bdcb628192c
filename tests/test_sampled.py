"""Small graphs sampled around the nodes of a large one: what they are, and that the engine trains on them."""

import gc
import json
import pathlib
import pickle
import re

import jax
import numpy as np
import pytest
from absl import logging

from jssl import config as configs
from jssl import data
from jssl import train as loop
from jssl.augment.graph import Drop, Evaluation, Whole
from jssl.data.graph import build
from jssl.data.large import subsets
from jssl.data.sampled import keys, sample
from jssl.encoder import Encoder
from jssl.evals.run import evaluate
from jssl.experiment import fill, open_data
from jssl.method import LABELS, Time
from jssl.methods.bgrl import BGRL
from jssl.methods.dgi import DGI
from jssl.methods.grace import GRACE
from jssl.nets.graph import GNN, readout
from jssl.nets.net import apply_net, init_net
from jssl.sharding import make_mesh
from jssl.train import train
from jssl.writers import read_metrics
from tests.contract import assert_close, assert_equal
from tests.graphs import rings

SOURCE = "knn:digits@test"  # 500 nodes
EVERYTHING = (500, 500)
KINDS = ("neighbours", "walk")


@pytest.fixture(scope="module")
def graph():
    return data.open_source(SOURCE)


def random_graph(n=60, edges=180, directed=True):
    """A graph with hubs, and with nodes that have no edges at all."""
    rng = np.random.default_rng(0)
    pairs = (rng.random((edges, 2)) ** 2 * (n - 6)).astype(int)
    x = np.arange(n)[:, None] + np.linspace(0, 0.5, 3)  # a node's number can be read off its features
    return build("here", x, pairs, directed=directed, labels=np.arange(n, dtype=np.int32) % 4)


def batches(source, count=1, *, start=0, rows=(0, 1), workers=0, seed=3, batch_size=32):
    how = {"batch_size": batch_size, "seed": seed, "start": start, "leading": 2, "rows": np.array(rows)}
    with source.stream(**how, workers=workers) as stream:
        return [next(stream) for _ in range(count)]


def parts(batch):
    """(example, numbers of its nodes, its edges as pairs of numbers, their weights) of every graph in a batch."""
    numbers = np.rint(batch["x"][..., 0]).astype(int)
    for r, index in enumerate(batch["index"]):
        there = batch["edges"][r] > 0
        senders, receivers = batch["senders"][r][there], batch["receivers"][r][there]
        for g, example in enumerate(index):
            mine = (batch["graph"][r] == g) & (batch["nodes"][r] > 0)
            own = mine[receivers]
            assert (mine[senders] == own).all()  # no edge leads from one graph to another
            pairs = np.stack([numbers[r][senders[own]], numbers[r][receivers[own]]], 1)
            yield example, numbers[r][mine], pairs, batch["edges"][r][there][own]


def edges_of(graph):
    return set(map(tuple, graph.edges.tolist()))


@pytest.mark.parametrize("directed", [True, False], ids=["directed", "undirected"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_begins_with_its_root_and_has_nodes_and_edges_of_the_large_one_once_each(kind, directed):
    graph = random_graph(directed=directed)
    alone = set(range(60)) - set(graph.edges.ravel())
    assert len(alone) >= 6
    seen, larger = set(), 0
    for batch in batches(sample(graph, kind, (3, 2), (2, 4)), 4):
        for root, nodes, pairs, _ in parts(batch):
            assert nodes[0] == root
            assert len(set(nodes)) == len(nodes)
            assert set(map(tuple, pairs.tolist())) <= edges_of(graph)
            assert len(set(map(tuple, pairs.tolist()))) == len(pairs)
            assert set(pairs.ravel()) <= set(nodes)
            assert set(nodes[1:]) <= set(pairs[:, 0])  # each other node sends to one that was there
            if root in alone:
                assert len(nodes) == 1
            seen.add(root)
            larger += len(nodes) > 4
    assert alone & seen
    assert larger > 20


def test_fan_outs_bound_how_many_edges_a_node_has_and_weights_make_up_for_the_rest():
    graph = random_graph()
    degree = np.bincount(graph.edges[:, 1], minlength=60)
    assert degree.max() > 5
    cut = 0
    for batch in batches(sample(graph, "neighbours", (3, 2)), 4):
        for root, nodes, pairs, weights in parts(batch):
            drawn = {node: (pairs[:, 1] == node).sum() for node in nodes}
            assert drawn[root] == min(degree[root], 3)
            inner = [sender for sender, receiver in pairs if receiver == root]
            assert all(drawn[node] == min(degree[node], 2) for node in inner)
            assert all(drawn[node] == 0 for node in set(nodes) - set(inner) - {root})  # of the last hop
            for node in {root, *inner} - {n for n in nodes if not degree[n]}:
                assert weights[pairs[:, 1] == node].sum() == pytest.approx(degree[node])
            cut += degree[root] > 3
    assert cut > 3


def test_a_walk_has_all_edges_between_the_nodes_it_visits():
    graph = random_graph(directed=False)
    for batch in batches(sample(graph, "walk", walks=(3, 4)), 2):
        for _, nodes, pairs, weights in parts(batch):
            within = {(a, b) for a, b in edges_of(graph) if {a, b} <= set(nodes)}
            assert set(map(tuple, pairs.tolist())) == within
            assert (weights == 1).all()
            assert len(nodes) <= 1 + 3 * 4


def test_a_walk_goes_as_far_as_its_steps():
    """On a ring each step is to one of two sides; against its direction there is one way alone."""
    ring = np.stack([np.arange(40), (np.arange(40) + 1) % 40], 1)
    numbered = np.arange(40)[:, None]
    for directed in True, False:
        graph = build("ring", numbered, ring, directed=directed)
        for batch in batches(sample(graph, "walk", walks=(1, 5)), 1):
            for root, nodes, _, _ in parts(batch):
                back = (root - nodes) % 40
                assert (set(back) == set(range(6))) if directed else (np.minimum(back, 40 - back).max() <= 5)


def test_every_subset_is_as_likely_as_the_others():
    drawn = np.sort(subsets(keys(0, 0, np.arange(30_000)), np.full(30_000, 5), 3), 1)
    found, count = np.unique(drawn, axis=0, return_counts=True)
    assert len(found) == 10  # of 5 things 3
    assert np.abs(count - 3000).max() < 4 * np.sqrt(3000 * 0.9)


def layers(kind, hops, graphs):
    """(at the root with all neighbours of so many hops, on the whole graph), of a network of two layers."""
    net = GNN(kind, dims=(8, 6), activation="elu", heads=2, jumping=True)
    whole = graphs.arrays
    params, stats = init_net(net, jax.random.key(0), whole)
    source = sample(graphs, "neighbours", (500,) * hops)
    run = jax.jit(lambda graph: apply_net(net, params, stats, graph)[0])
    (batch,) = source.every(batch_size=len(source), leading=1, rows=np.arange(1))
    assert batch["index"].tolist() == [list(range(len(source)))]
    return readout(batch, run(batch), "first")[0], run(whole)[0]


@pytest.mark.parametrize(
    "kind, hops, directed",
    [("sage", 2, True), ("sage", 2, False), ("gin", 2, True), ("gat", 2, True), ("gcn", 3, True)],
)
def test_with_all_neighbours_the_root_has_what_the_whole_graph_gives_it(kind, hops, directed):
    graphs = random_graph(directed=directed)
    mine, whole = layers(kind, hops, graphs)
    np.testing.assert_allclose(mine, whole, rtol=2e-5, atol=2e-5)


def test_gcn_needs_one_hop_more_than_layers_since_senders_have_degrees_too():
    mine, whole = layers("gcn", 2, random_graph())
    assert np.abs(mine - whole).max() > 0.01


def test_first_is_the_first_node_of_every_graph_and_zero_where_a_view_leaves_it_out():
    graph = rings(4, 3, 5, nodes=2)
    h = np.asarray(graph["x"])
    np.testing.assert_array_equal(readout(graph, h, "first")[0], h[0, [0, 4, 7]])
    graph["nodes"][0, 4] = 0
    np.testing.assert_array_equal(readout(graph, h, "first")[0], [h[0, 0], h[0, 0] * 0, h[0, 7]])
    for padding in 0, 2:
        graph = rings(4, 3, 5, nodes=padding)
        graph["index"] = np.array([[0, 1, 2, -1]], np.int32)  # room for one more
        graph["graph"][0, 12:] = 4
        h = np.asarray(graph["x"])
        np.testing.assert_array_equal(readout(graph, h, "first")[0], [*h[0, [0, 4, 7]], h[0, 0] * 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_same_from_any_step_and_host_and_worker(graph, kind):
    source = sample(graph, kind, (4, 3), (2, 4))
    whole = batches(source, 3)
    for one, other in zip(whole[1:], batches(source, 2, start=1, workers=1)):
        assert_equal(one, other)
    for row in 0, 1:
        (alone,) = batches(source, start=2, rows=[row])
        assert_equal({name: x[[row]] for name, x in whole[2].items()}, alone)
    assert whole[0]["index"].T.ravel().tolist() == data.order(500, 3)(0, 32).tolist()  # to one row after the other
    (other,) = batches(source, seed=4)
    assert (other["index"] != whole[0]["index"]).any()


def test_the_graph_is_sent_to_workers_as_files_that_they_map(graph):
    large = sample(graph, "neighbours").large
    before = {name: np.array(getattr(large, name)) for name in ("x", "offsets", "senders")}
    sent = pickle.dumps(large)
    folder = pathlib.Path(large.folder)
    assert len(sent) < 300 < sum(file.stat().st_size for file in folder.iterdir())
    assert pickle.dumps(large) == sent
    for one in large, pickle.loads(sent):
        for name, x in before.items():
            found = getattr(one, name)
            np.testing.assert_array_equal(found, x)
            assert isinstance(found.base, np.memmap)
    del large, one
    gc.collect()
    assert not folder.exists()


def test_the_same_root_has_other_neighbours_in_another_epoch_but_not_in_evaluation(graph):
    source = sample(graph, "neighbours", (4, 3))
    found = [
        {
            root: sorted(map(tuple, pairs.tolist()))
            for batch in epoch
            for root, _, pairs, _ in parts(numbered(batch, graph))
        }
        for epoch in (batches(source, 25, batch_size=20), batches(source, 25, start=25, batch_size=20))
    ]
    assert found[0].keys() == found[1].keys() == set(range(500))
    assert sum(found[0][root] != found[1][root] for root in range(500)) > 450
    once, of_some = (
        {root: pairs.tolist() for batch in every for root, _, pairs, _ in parts(numbered(batch, graph))}
        for every in (evaluated(source, 64), evaluated(source.take(np.arange(100, 200)), 7))
    )
    assert all(once[100 + i] == of_some[i] for i in range(100))


def evaluated(source, batch_size):
    return list(source.every(batch_size=batch_size, leading=2, rows=np.arange(2)))


def numbered(batch, graph):
    """The batch with the nodes' numbers in place of their features, which must tell them apart."""
    number = {x.tobytes(): i for i, x in enumerate(graph.x)}
    assert len(number) == len(graph.x)
    x = [[number.get(x.tobytes(), -1) for x in row] for row in batch["x"]]
    return {**batch, "x": np.array(x)[..., None]}


def test_evaluation_takes_every_example_once_in_order_and_pads_the_last_batch(graph):
    made = evaluated(sample(graph, "neighbours"), 64)
    index = np.concatenate([batch["index"].ravel() for batch in made])
    assert index[:500].tolist() == list(range(500))
    assert set(index[500:]) == {-1}
    assert not made[-1]["nodes"][made[-1]["graph"] == 32].any()


def test_all_training_batches_have_one_shape_and_what_finds_no_room_is_said_once(graph, monkeypatch, caplog):
    logging.get_absl_logger().propagate = True
    source = sample(graph, "neighbours", (4, 3))
    shapes = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in source.shapes(32, 2).items()}
    for batch in batches(source, 8):
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == shapes
    assert "left out" not in caplog.text
    whole = batches(source, 3)

    monkeypatch.setattr("jssl.data.sampled.DEVIATIONS", -3.0)
    small = sample(graph, "neighbours", (4, 3))
    short = {name: shape for name, (shape, _) in small.shapes(32, 2).items()}
    assert short["x"][1] < shapes["x"][0][1]
    made = batches(small, 3)
    assert all({name: x.shape for name, x in batch.items()} == short for batch in made)
    assert caplog.text.count("the farthest are left out") == 1
    for batch, all_of_it in zip(made, whole):
        kept, full = (list(parts(numbered(b, graph))) for b in (batch, all_of_it))
        assert sum(len(nodes) for _, nodes, _, _ in kept) < sum(len(nodes) for _, nodes, _, _ in full)
        for (root, nodes, pairs, _), (same, more, before, _) in zip(kept, full, strict=True):
            assert root == same == nodes[0]
            near = set(before[before[:, 1] == root][:, 0])
            assert near <= set(nodes) <= set(more)
            assert set(map(tuple, pairs)) <= set(map(tuple, before))


def test_weights_of_edges_and_features_come_along(graph):
    weighted = graph.weighted("degree")
    (batch,) = batches(sample(weighted, "neighbours", (4, 3)))
    of = {tuple(pair): w for pair, w in zip(graph.edges.tolist(), weighted.weights["edges"])}
    senders, receivers = (
        np.take_along_axis(numbered(batch, graph)["x"][..., 0], np.minimum(batch[name], batch["x"].shape[1] - 1), 1)
        for name in ("senders", "receivers")
    )
    there = batch["edges"] > 0
    expected = [of[pair] for pair in zip(senders[there].tolist(), receivers[there].tolist())]
    np.testing.assert_array_equal(batch["edge_weight"][there], expected)
    np.testing.assert_array_equal(batch["feature_weight"], np.tile(weighted.weights["features"], (2, 1)))


def test_examples_of_a_part_keep_their_labels_names_and_numbers():
    graphs = random_graph()
    part = sample(graphs, "neighbours").take(np.array([7, 3])).take(np.array([1]))
    assert (len(part), part.labels.tolist(), part.x[:, 0].tolist()) == (1, [3], [3.0])
    ((root, nodes, _, _),) = parts(part.blank())
    assert (root, nodes[0]) == (0, 3)


def test_a_pack_of_graphs_images_and_a_kind_that_is_none_are_one_line():
    pack, one = data.open_source("pixels:digits@test[:20]"), random_graph()
    cases = [
        (pack, {"kind": "walk"}, "data.sample='walk' is of one graph, but pixels:digits@test[:20] holds 20 graphs of"),
        (data.open_source("digits"), {"kind": "walk"}, "is of one graph, but digits holds 1,297 images"),
        (one, {"kind": "neighbour"}, "data.sample is 'neighbour'; did you mean neighbours?"),
        (one, {"kind": "neighbours", "fanouts": (0,)}, "data.fanouts=(0,): expected a number above 0 for each hop"),
        (one, {"kind": "walk", "walks": (2, -1)}, "data.walks=(2, -1): expected how many and how long"),
    ]
    for source, how, says in cases:
        with pytest.raises(ValueError, match=re.escape(says)) as error:
            sample(source, **how)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=re.escape("data.rows=3 does not divide train.batch_size=32")):
        sample(one, "walk").shapes(32, 3)


# ---- training


def config(method="dgi", **overrides):
    overrides = {
        "data.source": SOURCE,
        "data.fanouts": (5, 4),
        "encoder.dims": (16, 16),
        "train.steps": 12,
        "train.batch_size": 64,
        "log_every": 6,
        "eval.every": 6,
        "checkpoint.every": 6,
        **overrides,
    }
    return configs.load(f"{method}:{'sampled' if method == 'dgi' else 'demo'}", overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sampled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
        return workdir, jax.device_get(train(config(), workdir))


def test_dgi_trains_and_embeds_every_node_in_order(trained, graph):
    workdir, state = trained
    rows = read_metrics(workdir)
    assert [row["step"] for row in rows] == [6, 12]
    assert all(np.isfinite(row["loss"]) and row["knn"] > 0.3 for row in rows)
    encoder = Encoder(workdir)
    features = encoder.embed(graph)
    assert features.shape == (500, 16)

    # Fan-outs of all there is: the embeddings of the whole graph, each in its node's place.
    (batch,) = sample(graph, "neighbours", (500, 500)).every(batch_size=500, leading=1, rows=np.arange(1))
    net = encoder.method.encoder
    params, stats = state.params["encoder"], state.carry["stats"]
    of_roots, _, _ = apply_net(net, params, stats, Evaluation()(batch))
    of_nodes, _, _ = apply_net(net.clone(pool=None), params, stats, Evaluation()(graph.arrays))
    np.testing.assert_allclose(of_roots[0], of_nodes[0], rtol=1e-4, atol=1e-4)
    alike = features / np.linalg.norm(features, axis=1, keepdims=True)
    whole = np.asarray(of_nodes[0]) / np.linalg.norm(of_nodes[0], axis=1, keepdims=True)
    assert (alike * whole).sum(1).mean() > 0.9
    assert (np.argmax(alike @ whole.T, 1) == np.arange(500)).mean() > 0.2

    some = np.array([400, 3, 77])
    np.testing.assert_allclose(encoder.embed(sample(graph, "neighbours", (5, 4)).take(some)), features[some], atol=1e-5)


def test_the_run_says_what_it_samples_and_is_scored_beside_raw_features(trained):
    workdir, _ = trained
    written = json.loads((workdir / "config.json").read_text())
    assert "500 sampled graphs of " in written["preflight"][-4]
    assert written["config"]["data"]["resident"] is False
    table = evaluate(workdir, protocol="knn")
    assert "raw features" in table


@pytest.mark.parametrize("method", [DGI, GRACE, BGRL])
def test_the_loss_of_sampled_graphs_is_of_their_roots_alone(method, graph):
    """A network of one layer gives roots the same without the second hop, where a graph's features are all the same."""
    source = sample(graph, "neighbours", (4, 3)).take(np.arange(40))
    (two,) = source.every(batch_size=40, leading=2, rows=np.arange(2))
    of_graphs = np.random.default_rng(0).normal(size=(2, 21, graph.x.shape[1])).astype(np.float32)
    two["x"] = np.take_along_axis(of_graphs, two["graph"][..., None], 1) * two["nodes"][..., None]
    one = {**two, "nodes": np.zeros_like(two["nodes"]), "edges": np.zeros_like(two["edges"])}
    for r in range(2):
        roots = np.searchsorted(two["graph"][r], np.arange(20))
        into = np.isin(two["receivers"][r], roots)
        one["edges"][r, into] = two["edges"][r, into]
        one["nodes"][r, np.concatenate([roots, two["senders"][r, into]])] = 1
    assert one["nodes"].sum() < two["nodes"].sum()

    views = Whole() if method is DGI else Drop(edges=(0.0, 0.0), features=(0.0, 0.0))
    for pool, same in ("first", True), (None, False):
        made = method(GNN("sage", dims=(8,), activation="elu", pool=pool))

        @jax.jit
        def loss(batch, made=made):
            rng = jax.random.key(0)
            params, carry = made.init(rng, views(rng, batch))
            return made.loss(params, carry, views(rng, batch), rng, Time(0, 10, 1.0))[0]

        assert (float(loss(one)) == pytest.approx(float(loss(two)), rel=1e-5)) == same


def test_any_recipe_of_nodes_takes_sampled_graphs():
    of_walks = {"data.sample": "walk", "data.walks": (2, 4), "train.batch_size": 16}
    made = config("grace", **of_walks, **{"eval.probe_lr": 0.1})
    source = open_data(made)
    source.splits["train"] = np.arange(250)
    made, chosen = fill(made, source, jax.devices()[:1])
    assert made.encoder.pool == "first"
    assert any(line.startswith("encoder.pool = first") for line in chosen)
    mesh = make_mesh(1, 1, jax.devices()[:1])
    with jax.set_mesh(mesh):
        run = loop.Run(made, source, mesh, None)
        state = run.begin()
        with run.feed.items(0, 1) as items:
            state, metrics, out = run.steps(state, run.feed.held, next(items), run.rng)
        assert np.isfinite(metrics["probe/loss"]).all()
        assert (state.carry[LABELS] >= 0).sum() == 250  # those of the training nodes
        assert out["embedding"].shape[:2] == out["features"].shape[:2] == (16, 2)


def test_the_number_of_devices_changes_nothing():
    assert_close(after((1, 1)), after((2, 2)))


def after(mesh):
    made = config(**{"data.rows": 4, "train.batch_size": 32})
    source = open_data(made)
    devices = jax.devices()[: mesh[0] * mesh[1]]
    made, _ = fill(made, source, devices)
    mesh = make_mesh(*mesh, devices)
    with jax.set_mesh(mesh):
        run = loop.Run(made, source, mesh, None)
        state = run.begin()
        with run.feed.items(0, 1) as items:
            for _ in range(3):
                state, metrics, _ = run.steps(state, run.feed.held, next(items), run.rng)
    return jax.device_get((state, metrics))
