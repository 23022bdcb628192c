"""Graph layers against torch_geometric's figures; nothing depends on the order of nodes or on padding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nets.graph import GAT, GCN, GIN, GNN, SAGE, dropout, readout
from jssl.nets.net import apply_net, init_net
from tests import oracles
from tests.graphs import batch, rings

MANIFEST, TENSORS = oracles.load("graph_layers")
WEIGHTS = {name.removeprefix("model."): value for name, value in TENSORS.items() if name.startswith("model.")}
KINDS = ("gcn", "sage", "gin", "gat")


def reference(weighted=False, **padding):
    weights = TENSORS["in.edge_weight"] if weighted else None
    return batch(TENSORS["in.x"], *TENSORS["in.edge_index"], weights, TENSORS["in.batch"], **padding)


def linear(name):
    found = {"kernel": WEIGHTS[f"{name}.weight"].T}
    return found | ({"bias": WEIGHTS[f"{name}.bias"]} if f"{name}.bias" in WEIGHTS else {})


THEIRS = {
    "gcn": (GCN(6), {"dense": linear("gcn.lin"), "bias": WEIGHTS["gcn.bias"]}),
    "gcn_weighted": (GCN(6), {"dense": linear("gcn_weighted.lin"), "bias": WEIGHTS["gcn_weighted.bias"]}),
    "sage_mean": (SAGE(6), {"neighbours": linear("sage_mean.lin_l"), "self": linear("sage_mean.lin_r")}),
    "gin": (GIN(6, eps=WEIGHTS["gin.eps"].item()), {"dense0": linear("gin.nn.0"), "dense1": linear("gin.nn.2")}),
    "gat": (
        GAT(6, heads=2),
        {
            "kernel": linear("gat.lin")["kernel"],
            "source": WEIGHTS["gat.att_src"][0],
            "target": WEIGHTS["gat.att_dst"][0],
            "bias": WEIGHTS["gat.bias"],
        },
    ),
}


@pytest.mark.parametrize("padding", [{}, {"nodes": 4, "edges": 11}], ids=["as it is", "padded"])
@pytest.mark.parametrize("name", THEIRS)
def test_layer_is_torch_geometrics(name, padding):
    layer, params = THEIRS[name]
    graph = reference(name == "gcn_weighted", **padding)
    y = jax.jit(lambda graph: layer.apply({"params": params}, graph, graph["x"]))(graph)
    np.testing.assert_allclose(y[0, :9], TENSORS[f"out.{name}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [GCN(32), GAT(32, heads=2)], ids=["gcn", "gat"])
def test_neighbours_are_summed_before_or_after_the_layer_widens_them(layer):
    """Which of the two depends on the widths alone: columns of zeros turn it round and change no number."""
    graph, rng = reference(), np.random.RandomState(0)
    width = graph["x"].shape[-1]
    params = layer.init(jax.random.key(0), graph, graph["x"])["params"]
    params = {**params, "bias": rng.randn(32).astype(np.float32)}
    wide = np.pad(graph["x"], [(0, 0), (0, 0), (0, 64)])
    grow = lambda x: jnp.pad(x, [(0, 64), (0, 0)]) if x.shape == (width, 32) else x
    run = jax.jit(lambda params, x: layer.apply({"params": params}, graph, x))
    np.testing.assert_allclose(run(jax.tree.map(grow, params), wide), run(params, graph["x"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_hides_its_share_and_keeps_the_mean(rate):
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return dropout(self, graph, x, rate)

    graph = rings(150, 150)
    x = jnp.full((1, 300, 301), 3.0)
    y = np.asarray(Dropped().apply({}, x, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y.round(4))) == {0.0, np.float32(3 / (1 - rate)).round(4)}
    assert (y == 0).mean() == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize("kind, name", [("sum", "add"), ("mean", "mean"), ("max", "max")])
def test_readout_is_torch_geometrics(kind, name):
    graph = reference(nodes=3)
    graph["x"][:, 9:] = 99.0  # what padding holds does not count
    np.testing.assert_allclose(readout(graph, graph["x"], kind)[0], TENSORS[f"out.pool_{name}"], rtol=1e-6)


@pytest.fixture(params=KINDS)
def network(request):
    net = GNN(request.param, dims=(8, 6), norm=True, jumping=True, heads=2, activation="prelu", pool="mean")
    graph = reference()
    params, stats = init_net(net, jax.random.key(0), graph)
    return jax.jit(lambda graph: apply_net(net, params, stats, graph, train=True)), graph


def test_more_padding_gives_the_same_numbers_and_statistics(network):
    run, graph = network
    y, out, stats = run(graph)
    padded = reference(nodes=5, edges=9)
    padded["x"][:, 9:] = 7.0
    again, more, same = run(padded)
    np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(more["nodes"][:, :9], out["nodes"], rtol=1e-5, atol=1e-6)
    assert not np.asarray(more["nodes"][:, 9:]).any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), stats, same)


def test_renaming_nodes_renames_their_outputs(network):
    run, graph = network
    senders, receivers = TENSORS["in.edge_index"]
    order = np.concatenate(
        [np.random.RandomState(0).permutation(np.flatnonzero(TENSORS["in.batch"] == g)) for g in range(3)]
    )
    place = np.argsort(order)
    moved = batch(TENSORS["in.x"][order], place[senders], place[receivers], graph=TENSORS["in.batch"])
    (y, out, _), (again, renamed, _) = run(graph), run(moved)
    np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(renamed["nodes"][0], np.asarray(out["nodes"])[0, order], rtol=1e-5, atol=1e-5)


def test_an_edge_of_weight_zero_is_no_edge(network):
    run, graph = network
    gone = np.random.RandomState(1).rand(32) < 0.4
    masked = {**graph, "edges": graph["edges"] * ~gone}
    there = np.flatnonzero(~gone)
    fewer = {name: value[:, there] if value.shape[1] == 32 else value for name, value in graph.items()}
    (y, *_), (again, *_) = run(masked), run(fewer)
    np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_nodes_are_alone_and_edges_masked(kind):
    net = GNN(kind, (4, 4), heads=2, pool="max")
    graph = reference(nodes=2, edges=3)
    graph["edges"][:] = 0
    params, stats = init_net(net, jax.random.key(0), graph)
    loss = lambda params, x: jnp.sum(apply_net(net, params, stats, {**graph, "x": x}, train=True)[0] ** 2)
    grads = jax.jit(jax.grad(loss, (0, 1)))(params, graph["x"])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_to_float32(kind):
    graph = reference()
    nets = [GNN(kind, (8, 8), heads=2, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    params, stats = init_net(nets[0], jax.random.key(0), graph)
    whole, half = (apply_net(net, params, stats, graph)[0] for net in nets)
    assert half.dtype == jnp.float32
    assert np.abs(whole - half).max() < 0.05 * np.abs(whole).max()


def test_dropout_is_of_training_alone():
    net, graph = GNN("gat", (8,), heads=2, dropout=0.5, attention_dropout=0.5), reference()
    params, stats = init_net(net, jax.random.key(0), graph)
    run = lambda seed, train: apply_net(net, params, stats, graph, train=train, rng=jax.random.key(seed))[0]
    np.testing.assert_array_equal(run(0, False), run(1, False))
    assert np.abs(run(0, True) - run(1, True)).max() > 0.01


def test_gain_is_of_all_initial_weights_of_gat_in_every_layer():
    graph = reference()
    one, two = (init_net(GNN("gat", (6, 4), heads=2, gain=gain), jax.random.key(0), graph)[0] for gain in (1.0, 2.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 2 * a, rtol=1e-6), one, two)
    layer = GAT(2560, heads=10).init(jax.random.key(0), graph, graph["x"])["params"]
    assert float(jnp.std(layer["source"])) == pytest.approx((2 / (2560 + 256)) ** 0.5, rel=0.05)
    deviation = float(jnp.std(GAT(256).init(jax.random.key(0), graph, graph["x"])["params"]["kernel"]))
    assert deviation == pytest.approx((2 / (graph["x"].shape[-1] + 256)) ** 0.5, rel=0.05)  # Glorot's


def test_unknown_layer_and_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="layer is 'gcnn'; did you mean gcn"):
        GNN("gcnn")
    graph = reference()
    with pytest.raises(ValueError, match="GAT of 6 dimensions cannot have 4 heads: expected a divisor"):
        init_net(GAT(6, heads=4), jax.random.key(0), graph, graph["x"])
