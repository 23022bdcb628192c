"""Graph methods against torch_geometric, DIG and PyGCL, and the statements of their papers."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl.augment.graph import Drop, Whole, choose
from jssl.augment.graph import GraphCL as Views
from jssl.losses import nt_xent
from jssl.method import Time
from jssl.methods import infograph
from jssl.methods.bgrl import BGRL, distance
from jssl.methods.dgi import DGI, jensen_shannon, scores, shuffled
from jssl.methods.grace import GRACE
from jssl.methods.graphcl import GraphCL, contrast
from jssl.methods.graphmae import GraphMAE, scaled_cosine_error
from jssl.methods.infograph import InfoGraph, local_global
from jssl.nets.graph import GNN, of_nodes, readout, roots
from jssl.nets.net import apply_net, init_net
from jssl.transforms import ema
from tests import oracles
from tests.graphs import batch, rings, rows_of

NODES = rings(24, features=6)
SETS = rows_of(*[rings(8, 12, 9, features=5, nodes=3, edges=6, seed=seed) for seed in range(4)])
START = Time(0, 100, 1.0)
METHODS = {
    "dgi": (DGI(GNN("gcn", (8,), activation="prelu")), Whole(), NODES),
    "grace": (GRACE(GNN("gcn", (8, 8)), 8, 8), Drop(), NODES),
    "bgrl": (BGRL(GNN("gcn", (8, 8), norm=True, activation="prelu"), 8), Drop(), NODES),
    "graphcl": (GraphCL(GNN("gin", (8, 8), norm=True, jumping=True, pool="sum"), 8, 8), Views(), SETS),
    "graphmae": (GraphMAE(GNN("gat", (8, 8), heads=2, activation="prelu")), Whole(), NODES),
    "infograph": (InfoGraph(GNN("gin", (8, 8), norm=True, jumping=True, pool="sum")), Whole(), SETS),
    "graphmae, graphs": (GraphMAE(GNN("gin", (8, 8), norm=True, pool="mean"), decoder="gin"), Whole(), SETS),
}


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=METHODS)
def built(request):
    method, augment, graphs = METHODS[request.param]
    views = jax.jit(augment)(jax.random.key(0), graphs)
    params, carry = jax.jit(method.init)(jax.random.key(1), views)
    return method, params, carry, views


@pytest.fixture
def loss(built):
    method, _, _, views = built
    return jax.jit(
        lambda params, carry, views=views, rng=0: method.loss(params, carry, views, jax.random.key(rng), START)
    )


def test_loss_is_finite_and_falls(built, loss):
    _, params, carry, _ = built
    graded = jax.jit(jax.value_and_grad(lambda p: loss(p, carry)[0]))
    before, grads = graded(params)
    after, _ = graded(jax.tree.map(lambda p, g: p - 0.001 * g, params, grads))
    assert np.isfinite(before)
    assert after < before
    moves = {name: max(float(np.abs(g).max()) for g in jax.tree.leaves(tree)) for name, tree in grads.items()}
    assert min(moves.values()) > 0, moves


def test_more_padding_changes_no_loss(built, loss):
    _, params, carry, views = built
    n = views["nodes"].shape[-1]
    wider = {"x": [(0, 0)] * 2 + [(0, 4), (0, 0)], "nodes": [(0, 0)] * 2 + [(0, 4)], "edges": [(0, 0)] * 2 + [(0, 5)]}
    padded = {name: np.pad(views[name], pad) for name, pad in wider.items()}
    padded["senders"] = np.pad(views["senders"], [(0, 0), (0, 5)])
    padded["receivers"] = np.pad(
        np.where(views["receivers"] == n, n + 4, views["receivers"]), [(0, 0), (0, 5)], constant_values=n + 4
    )
    padded["graph"] = np.pad(views["graph"], [(0, 0), (0, 4)], constant_values=views["index"].shape[1])
    padded["index"] = views["index"]
    close(loss(params, carry, padded)[0], loss(params, carry)[0])


def test_embedding_is_of_nodes_or_graphs_and_repeats(built):
    method, params, carry, views = built
    graph = choose(views, 0)
    first, again = (method.embed(params, carry, graph)["features"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape[:2] in (graph["nodes"].shape, graph["index"].shape)


def test_dgi_is_torch_geometrics():
    manifest, tensors = oracles.load("dgi")
    senders, receivers = tensors["in.edge_index"]
    graph = batch(tensors["in.x"], senders, receivers)
    net = GNN("gcn", (6,), last=False)
    w = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    layer = {"dense": {"kernel": w["encoder.conv.lin.weight"].T}, "bias": w["encoder.conv.bias"]}

    def objective(x):
        """Their PReLU has a slope for every dimension, ours one for all: it is theirs that is computed here."""
        run = lambda x: apply_net(net, {"layer0": layer}, {}, {**graph, "x": x[None]})[0]
        prelu = lambda h: jnp.where(h > 0, h, w["encoder.act.weight"] * h)
        h, h_tilde = prelu(run(x)), prelu(run(x[tensors["in.perm"]]))
        s = jax.nn.sigmoid(readout(graph, h, "mean"))
        found = (scores(graph, z, s, w["weight"]) for z in (h, h_tilde))
        return jensen_shannon(*found, graph["nodes"]), (h, h_tilde, s)

    (value, (h, h_tilde, s)), grad = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        jnp.array(tensors["in.x"], jnp.float32)
    )
    close(h[0], tensors["out.pos_z"])
    close(h_tilde[0], tensors["out.neg_z"])
    close(s[0, 0], tensors["out.summary"])
    close(2 * value, manifest["scalars"]["loss"])  # theirs adds the two means, eq. 1 averages over both
    close(2 * grad, tensors["grad.x"])


def test_shuffling_moves_edges_within_their_graph_alone():
    graph = choose(jax.jit(Whole())(jax.random.key(0), SETS), 0)
    edges, to = jax.jit(shuffled)(graph, jax.random.key(1))
    assert (np.sort(to, 1) == np.arange(to.shape[1])).all()
    assert (edges["senders"] != graph["senders"]).any()
    for r in range(4):
        before, after = (np.stack([g[name][r] for name in ("senders", "receivers", "edges")]) for g in (graph, edges))
        assert (np.diff(after[1]) >= 0).all()
        here = [np.sort(graph["graph"][r][ends[:2, ends[2] > 0].astype(int)], 1) for ends in (before, after)]
        np.testing.assert_array_equal(*here)
        assert (here[1][0] == here[1][1]).all()


@pytest.mark.parametrize("layer", ["gcn", "gat"])
def test_shuffling_edges_is_shuffling_features_but_for_the_numbers_of_nodes(layer):
    graph = {**NODES, "edges": np.linspace(1, 2, NODES["edges"].size, dtype=np.float32)[None]}
    edges, to = shuffled(graph, jax.random.key(1))
    net = GNN(layer, (8, 8))
    params, _ = init_net(net, jax.random.key(2), graph)
    run = lambda graph: apply_net(net, params, {}, graph)[0][0]
    close(run({**graph, **edges})[to[0]], run({**graph, "x": graph["x"][:, to[0]]}))


@pytest.mark.parametrize("pool", [None, "first"])
def test_dgis_negatives_are_the_nodes_of_the_graph_with_shuffled_features(pool):
    """The loss again, by the definition: features move, edges stay; of sampled graphs, the first nodes alone."""
    views = jax.jit(Whole())(jax.random.key(0), SETS)
    method, graph, rng = DGI(GNN("gcn", (8,), pool=pool)), choose(views, 0), jax.random.key(3)
    params, carry = method.init(jax.random.key(1), views)
    found, _ = jax.jit(method.loss)(params, carry, views, rng, START)

    _, to = shuffled(graph, jax.random.split(rng)[0])
    encode = lambda x: apply_net(of_nodes(method.encoder), params["encoder"], {}, {**graph, "x": x})[0]
    h, h_tilde = encode(graph["x"]), encode(jnp.take_along_axis(graph["x"], to[..., None], 1))
    if pool:
        graph, h, h_tilde = roots(graph, h, h_tilde)
    s = jax.nn.sigmoid(readout(graph, h, "mean"))
    close(found, jensen_shannon(*(scores(graph, z, s, params["discriminator"]) for z in (h, h_tilde)), graph["nodes"]))


def test_dgi_multiplies_features_by_its_weights_once_for_both_passes():
    views, method = Whole()(jax.random.key(0), NODES), DGI(GNN("gcn", (4,)))
    params, carry = method.init(jax.random.key(0), views)
    graded = jax.jit(jax.grad(lambda params: method.loss(params, carry, views, jax.random.key(0), START)[0]))
    products = re.findall(r"dot_general .*: \((.*)\) -> tensor<(.*)xf32>", graded.lower(params).as_text())
    # Of 24 nodes with 6 features: x W, and its gradient.
    assert [made for of, made in products if "24x6x" in of] in (["24x4", "4x6"], ["24x4", "6x4"])


def test_grace_is_digs():
    """Simclr's loss over nodes: both views' other nodes are negatives."""
    manifest, tensors = oracles.load("grace_infonce")
    z = np.stack([tensors["in.h1"], tensors["in.h2"]], 1).astype(np.float32)
    value, grad = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, 0.4)))(z)
    close(value, manifest["scalars"]["loss"])
    close(grad[:, 0], tensors["grad.h1"])
    close(grad[:, 1], tensors["grad.h2"])


def test_padding_is_nobodys_negative():
    z = np.random.RandomState(0).randn(9, 2, 6).astype(np.float32)
    there = np.arange(9) < 6
    run = jax.jit(lambda z, there: nt_xent(z, 0.4, there=there))
    np.testing.assert_allclose(run(z, there), nt_xent(jnp.array(z[:6]), 0.4), rtol=1e-6)
    grads = jax.grad(lambda z: contrast(z[:, 0], z[:, 1], 0.4, jnp.array(there)))(jnp.array(z))
    assert not np.asarray(grads[6:]).any()
    first, other = jnp.array(z[:, 0]), jnp.array(z[:, 1])
    few = contrast(first[:6], other[:6], 0.4, jnp.ones(6, bool))
    np.testing.assert_allclose(contrast(first, other, 0.4, jnp.array(there)), few, rtol=1e-6)


def test_graphcl_is_digs():
    manifest, tensors = oracles.load("graphcl_ntxent")
    there = jnp.ones(6, bool)
    graded = jax.jit(jax.value_and_grad(lambda a, b: contrast(a, b, 0.4, there), (0, 1)))
    value, grads = graded(tensors["in.g1"], tensors["in.g2"])
    close(value, manifest["scalars"]["loss"])
    for grad, name in zip(grads, ("g1", "g2"), strict=True):
        close(grad, tensors[f"grad.{name}"])


def test_infographs_loss_is_digs():
    manifest, tensors = oracles.load("infograph_jsd")
    of, here, there = jnp.array(tensors["in.batch"]), jnp.ones(9, bool), jnp.ones(3, bool)
    graded = jax.jit(jax.value_and_grad(lambda h, g: local_global(h, g, of, here, there), (0, 1)))
    value, grads = graded(tensors["in.h"], tensors["in.g"])
    close(value - 2 * np.log(2), manifest["scalars"]["loss"])  # theirs moves both parts of the estimator by log 2
    for grad, name in zip(grads, ("h", "g"), strict=True):
        close(grad, tensors[f"grad.{name}"])


def test_a_nodes_own_graph_is_that_of_its_row(monkeypatch):
    """Rows number their graphs from 0; in the batch they go on from row to row, as the summaries lie."""
    method, augment, graphs = METHODS["infograph"]
    views = jax.jit(augment)(jax.random.key(0), graphs)
    params, carry = jax.jit(method.init)(jax.random.key(1), views)
    seen = {}
    monkeypatch.setattr(infograph, "local_global", lambda *given: seen.update(given=given) or jnp.float32(0))
    _, (_, out) = method.loss(params, carry, views, jax.random.key(0), START)
    _, summaries, of, here, _ = seen["given"]
    assert summaries.shape[0] == 12
    expected = [3 * row + graph for row in range(4) for graph in np.repeat([0, 1, 2], [8, 12, 9])]
    np.testing.assert_array_equal(of[here], expected)
    net, graph = of_nodes(method.encoder), choose(views, 0)
    h, _, _ = apply_net(net, params["encoder"], carry["stats"], graph, train=True)
    close(out["features"][:, 0], jnp.zeros((12, 16)).at[of].add(h.reshape(-1, 16)))


def test_graphmaes_error_is_torchs_cosine():
    manifest, tensors = oracles.load("graphmae_sce")
    hidden = jnp.ones((1, 9), bool)
    error = lambda y: scaled_cosine_error(y[None], tensors["in.target"][None], hidden, 2.0)
    value, grad = jax.jit(jax.value_and_grad(error))(tensors["in.pred"])
    close(value, manifest["scalars"]["loss"])
    close(grad, tensors["grad.pred"])


@pytest.fixture(scope="module")
def masked():
    """GraphMAE of a token that can be told, its views and a hidden half."""
    method, augment, graphs = METHODS["graphmae"]
    views = jax.jit(augment)(jax.random.key(0), graphs)
    params, carry = jax.jit(method.init)(jax.random.key(1), views)
    return method, {**params, "mask": jnp.full(6, -5.0)}, carry, views


def test_hidden_nodes_have_the_token_or_the_features_of_another_of_their_graph():
    method = dataclasses.replace(METHODS["graphmae"][0], replace_ratio=0.25)
    graph = choose(jax.jit(Whole())(jax.random.key(0), SETS), 0)
    hidden = (jnp.arange(graph["nodes"].shape[1]) % 2 == 0) & (graph["nodes"] > 0)
    corrupted = jax.jit(lambda rng: method.corrupted(jnp.full(5, -5.0), graph, hidden, rng))
    seen, tokens = np.asarray(graph["x"]), []
    for seed in range(20):
        x = np.asarray(corrupted(jax.random.key(seed)))
        np.testing.assert_array_equal(x[~hidden], seen[~hidden])
        token = (x == -5).all(-1)
        tokens.append(token[hidden].mean())
        for r, node in np.argwhere(hidden & ~token):
            same = np.asarray(graph["graph"][r] == graph["graph"][r, node])
            assert (x[r, node] == seen[r, same]).all(1).any()
    assert np.mean(tokens) == pytest.approx(0.75, abs=0.04)


def test_a_share_of_the_nodes_is_hidden_whichever_graphs_they_are_of():
    method, found = dataclasses.replace(METHODS["graphmae"][0], mask_ratio=0.75), []
    seen = lambda token, graph, hidden, rng: found.append(hidden) or graph["x"]
    graph = rows_of(*[rings(8, 12, 9, features=6, nodes=3, edges=6, seed=seed) for seed in range(4)])
    views = jax.jit(Whole())(jax.random.key(0), graph)
    params, carry = jax.jit(method.init)(jax.random.key(1), views)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GraphMAE, "corrupted", lambda self, *args: seen(*args))
        for seed in range(20):
            method.loss(params, carry, views, jax.random.key(seed), START)
    found = np.stack(found)
    assert not found[:, graph["nodes"] == 0].any()
    assert found[:, graph["nodes"] > 0].mean() == pytest.approx(0.75, abs=0.03)
    first = (found * (graph["graph"] == 0)).sum(2)
    assert first.min() < 6 < first.max()  # of 8 nodes


def test_what_is_hidden_never_reaches_the_loss_but_as_target(masked):
    """Features of hidden nodes change the loss through the targets alone, and visible nodes are no targets."""
    method, params, _, views = masked
    method = dataclasses.replace(method, replace_ratio=0.0)
    hidden = jnp.arange(24)[None] % 2 == 0
    graph = choose(views, 0)
    changed = {**graph, "x": graph["x"] + 3.0 * hidden[..., None]}
    run = lambda graph: method.corrupted(params["mask"], graph, hidden, jax.random.key(0))
    np.testing.assert_array_equal(run(graph), run(changed))
    y = jnp.ones_like(graph["x"])
    error = lambda x: scaled_cosine_error(y, x, hidden, 3.0)
    grads = jax.grad(error)(graph["x"])
    assert not np.asarray(grads)[0, 1::2].any()
    assert np.asarray(grads)[0, ::2].any(1).all()


def test_bgrl_learns_from_its_target_and_moves_it_slowly():
    method, augment, graphs = METHODS["bgrl"]
    views = jax.jit(augment)(jax.random.key(0), graphs)
    params, carry = jax.jit(method.init)(jax.random.key(1), views)
    carry = {**carry, "target": jax.tree.map(lambda x: 0.9 * x + 0.01, carry["target"])}
    loss = jax.jit(lambda p, t: method.loss(p, {**carry, "target": t}, views, jax.random.key(0), START)[0])
    grads = jax.grad(loss, 1)(params, carry["target"])
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads))
    moved = jax.tree.map(lambda x: x - 0.1, params)
    _, after = method.update(moved, carry, START)
    expected = ema(carry["target"], {"encoder": moved["encoder"]}, 0.99)
    jax.tree.map(close, after["target"], expected)
    q = jnp.array(np.random.RandomState(0).randn(1, 5, 4), jnp.float32)
    close(distance(q, q, jnp.ones((1, 5))), 0)
    close(distance(q, -q, jnp.ones((1, 5))), 4)


@pytest.mark.parametrize("name", ["grace", "bgrl", "graphcl"])
def test_the_two_views_differ_and_both_are_used(name):
    method, augment, graphs = METHODS[name]
    views = jax.jit(augment)(jax.random.key(0), graphs)
    params, carry = jax.jit(method.init)(jax.random.key(1), views)
    run = jax.jit(lambda views: method.loss(params, carry, views, jax.random.key(0), START)[0])
    assert (views["edges"][:, 0] != views["edges"][:, 1]).any()
    for v in 0, 1:
        changed = {**views, "x": views["x"].at[:, v].add(2.0)}
        assert np.abs(run(changed) - run(views)) > 1e-5


def test_graphmaes_link_begins_as_torchs_linear_layers_do():
    method = GraphMAE(GNN("gcn", (64,)))
    params, _ = method.init(jax.random.key(0), Whole()(jax.random.key(0), NODES))
    weights = np.asarray(params["link"]["dense0"]["kernel"])  # uniform within 1 / sqrt(64)
    assert 0.124 < np.abs(weights).max() <= 0.125
    np.testing.assert_allclose(weights.std(), 0.125 / 3**0.5, rtol=0.05)


def test_hidden_neighbourhoods_hold_the_bias_of_graphmaes_decoder():
    """Its prediction is 0 where a node has none but hidden neighbours: Adam, once pulled so hard, moves it no more."""
    method = GraphMAE(GNN("gat", (8, 8), heads=2))
    views = Whole()(jax.random.key(0), {**NODES, "edges": np.zeros_like(NODES["edges"])})
    params, carry = method.init(jax.random.key(1), views)
    tx = optax.adam(1e-3)
    opt, start = tx.init(params), params
    graded = jax.jit(jax.grad(lambda params, rng: method.loss(params, carry, views, rng, START)[0]))
    for i in range(60):
        updates, opt = tx.update(graded(params, jax.random.key(i)), opt, params)
        params = optax.apply_updates(params, updates)
    before, after = (of["decoder"]["layer0"]["bias"] for of in (start, params))
    assert 0 < np.abs(after - before).max() < 0.011  # momentum alone: 1e-3 times the sum of 0.9^k; 60 steps are 0.06
