"""The engine on a graph: a batch of one, whose nodes are the examples."""

import json

import jax
import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl import train as loop
from jssl.encoder import Encoder
from jssl.evals.kept import read
from jssl.evals.rank import rankme
from jssl.evals.run import embed, evaluate
from jssl.experiment import fill, open_data
from jssl.method import LABELS
from jssl.modalities.graph import open_graph
from jssl.report import report
from jssl.sharding import make_mesh
from jssl.train import Run, Stop, train
from jssl.writers import read_metrics
from tests.contract import assert_close, assert_equal

SOURCE = "knn:digits@test"  # 500 nodes


def config():
    made = configs.base()
    made.update({"dtype": "float32", "modality": "graph"})
    made.method = {"name": "jssl.methods.dgi:DGI"}
    made.encoder = {"name": "jssl.nets.graph:GNN", "dims": (16,), "activation": "prelu"}
    made.augment = {"name": "jssl.augment.graph:Whole"}
    made.preprocess = {"name": "jssl.augment.graph:Evaluation"}
    made.data.source = SOURCE
    made.train.update({"batch_size": None, "steps": 8})
    made.optim.update({"name": "adamw", "lr": 0.01, "scale": "none"})
    made.update({"log_every": 2})
    made.checkpoint.every = made.eval.every = 4
    configs.complete(made)
    return made


OF_GRAPHS = ("graphcl", "infograph")  # whose examples are graphs
NODE_METHODS = [name for name in configs.experiments("graph") if name not in OF_GRAPHS]


def after(name, mesh, steps=3):
    """The state after a few steps of a method's demo, made small, on a (data, fsdp) mesh."""
    less = {"data.source": SOURCE, "train.steps": 8, "log_every": 2, "eval.every": 0, "checkpoint.every": 4}
    made = configs.load(f"{name}:demo", less)
    made.encoder.dims = (16,) * len(made.encoder.dims)
    made.optim.warmup = 0.0
    source = open_data(made)
    made, _ = fill(made, source, jax.devices()[: mesh[0] * mesh[1]])
    mesh = make_mesh(*mesh, jax.devices()[: mesh[0] * mesh[1]])
    with jax.set_mesh(mesh):
        run = Run(made, source, mesh, None)
        state = run.begin()
        with run.feed.items(0, 1) as items:
            for _ in range(steps):
                state, metrics, _ = run.steps(state, run.feed.held, next(items), run.rng)
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("graph")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
        return workdir, jax.device_get(train(config(), workdir))


@pytest.mark.parametrize("name", NODE_METHODS)
def test_number_of_devices_changes_nothing(name):
    one = after(name, (1, 1))
    assert np.isfinite(one[1]["loss"]).all()
    assert_close(one, after(name, (2, 4)), tolerance=1e-4)  # Adam divides by what is near 0


def test_nodes_or_graphs_are_what_the_encoder_is_of():
    for name, source, message in (
        ("graphcl", SOURCE, r"a graph of 500 nodes.*expected encoder\.pool to be None: nodes are"),
        ("dgi", "pixels:digits@test", r"500 graphs.*expected encoder\.pool to be sum, mean or max"),
    ):
        made = configs.load(name, {"data.source": source})
        with pytest.raises(ValueError, match=message):
            fill(made, open_data(made))
    made = configs.load("gca", {"data.source": "digits"})
    with pytest.raises(ValueError, match=r"digits holds 1,297 images.*expected a source of modality 'graph'"):
        fill(made, open_data(made))


def test_a_probe_beside_sees_the_labels_of_training_nodes_alone():
    graph = data.open_source(SOURCE)
    graph.splits.update({"train": np.arange(20), "test": np.arange(20, 500)})
    made, _ = fill(configs.load("dgi", {"data.source": SOURCE, "eval.probe_lr": 1.0}), graph)
    mesh = make_mesh(1, 1, jax.devices()[:1])
    with jax.set_mesh(mesh):
        run = Run(made, graph, mesh, None)
        state = run.begin()
        assert (np.flatnonzero(np.asarray(state.carry[LABELS]) >= 0) == np.arange(20)).all()
        with run.feed.items(0, 1) as items:
            item = next(items)
            for _ in range(20):
                state, metrics, _ = run.steps(state, run.feed.held, item, run.rng)
    assert metrics["probe/accuracy"][0] > 0.5


def test_a_graph_is_one_batch_on_the_device_and_its_run_says_so(trained):
    workdir, _ = trained
    written = json.loads((workdir / "config.json").read_text())
    assert written["config"]["train"]["batch_size"] == 1
    assert written["config"]["train"]["per_epoch"] == 1
    assert written["config"]["data"]["resident"] is True
    assert "a graph of 500 nodes and" in written["preflight"][-4]
    assert written["preflight"][-3] == f"{SOURCE}: each image joined to its 5 nearest"
    rows = read_metrics(workdir)
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert rows[-1]["knn"] > 0.8
    assert "health/features_std" in rows[-1]


def test_a_stopped_run_goes_on_bit_by_bit(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self, call: call == 3)
        assert train(config(), tmp_path) is None
    assert_equal(trained[1], train(config(), tmp_path))


def test_knn_counts_the_training_nodes_of_a_split_alone():
    source = data.open_source(SOURCE)
    of = loop.probe_rows(source, rows=100, seed=0)
    assert (len(of[1]), of[2]) == (100, 80)
    split = {"train": np.arange(20), "test": np.arange(20, 500)}
    source.splits.update(split)
    _, nodes, bank = loop.probe_rows(source, rows=100, seed=0)
    assert sorted(nodes) == list(range(20))
    assert bank == 16


def test_training_looks_at_the_labels_of_a_split_s_training_graphs_alone():
    source = data.open_source("pixels:digits@test[:40]")
    source.splits.update({"train": np.arange(20), "test": np.arange(20, 40)})
    np.testing.assert_array_equal(np.flatnonzero(source.train_labels >= 0), np.arange(20))
    part, _, bank = loop.probe_rows(source, rows=100, seed=0)
    np.testing.assert_array_equal(np.sort(part.labels), np.sort(source.labels[:20]))
    assert (part.train_labels >= 0).all()
    assert bank == 16


def test_exported_encoder_gives_features_of_every_node(trained):
    workdir, state = trained
    graph = data.open_source(SOURCE)
    features = Encoder(workdir).embed(graph)
    assert features.shape == (500, 16)
    assert np.abs(features - Encoder(workdir, "untrained").embed(graph)).max() > 1e-3
    with pytest.raises(ValueError, match=r"this encoder is not of images: expected encoder\.embed"):
        Encoder(workdir)(np.zeros((1, 8, 8, 1), np.uint8))
    assert embed(workdir, SOURCE, workdir / "nodes.npz").startswith("500 x 16 features")
    written = np.load(workdir / "nodes.npz")
    np.testing.assert_array_equal(written["features"], features)
    assert list(written["names"]) == list(graph.names)
    exported = np.load(workdir / "encoder" / "weights.npz")
    assert not [name for name in exported if "discriminator" in name]
    np.testing.assert_array_equal(
        exported["params/encoder/layer0/dense/kernel"], state.params["encoder"]["layer0"]["dense"]["kernel"]
    )


def test_a_graph_is_scored_beside_its_raw_features_and_reported(trained):
    workdir, _ = trained
    table = evaluate(workdir, draws=2)
    for said in "raw features", "untrained", "5 labels per class", "linear probe", "clusters, NMI", "RankMe":
        assert said in table
    assert "alignment, uniformity, neighbours kept) is left out: it is of images alone" in table
    written = json.loads((workdir / "scores.json").read_text())
    assert written["protocol"]["data"]["graph"] == SOURCE
    assert {"knn", "fewshot-1"} <= set(read(workdir)["other"]["trained"])  # on which nodes, for runs of other seeds
    assert all(0.3 < score["mean"] <= 1 for score in written["scores"] if "unit" not in score["settings"])
    linear = next(score for score in written["scores"] if score["task"] == "linear")
    assert (linear["draws"], linear["settings"]["test_rows"]) == (2, 400)
    assert [row["name"] for row in written["scores"][0]["classes"]] == list("0123456789")
    page = report(workdir).read_text()
    for section in "Per class", "The graph", "Map of the embeddings":
        assert f"<h2>{section}</h2>" in page
    assert "The method compares no two views of an example, which alignment and uniformity need." in page
    assert "Not made yet" not in page


def test_the_rank_of_nodes_needs_no_labels(trained, tmp_path):
    workdir, _ = trained
    graph = data.open_source(SOURCE)
    np.savez(tmp_path / "bare.npz", x=graph.x, edges=graph.edges)
    assert "no labels" in evaluate(workdir, data=f"npz:{tmp_path}/bare.npz")
    assert "RankMe" in evaluate(workdir, protocol="rank", data=f"npz:{tmp_path}/bare.npz")
    scores = json.loads((workdir / "scores.json").read_text())["scores"]
    found = {(score["encoder"], score["task"]): score["mean"] for score in scores}
    assert found.keys() == {(name, task) for name in ("trained", "untrained") for task in ("rankme", "alpha-req")}
    assert found["trained", "rankme"] == pytest.approx(rankme(Encoder(workdir).embed(graph)), rel=1e-5)
    assert 1 < found["trained", "rankme"] <= 16


def test_what_does_not_suit_the_encoder_is_one_line(trained, tmp_path):
    workdir, _ = trained
    with pytest.raises(ValueError, match=r"digits holds .* images, but the encoder is trained on data"):
        embed(workdir, "digits", tmp_path / "x.npz")
    np.savez(tmp_path / "narrow.npz", x=np.eye(3), edges=[[0, 1], [1, 2]], label=[0, 1, 0])
    with pytest.raises(ValueError, match="has nodes of 3 features; expected 64, as the encoder was trained on"):
        evaluate(workdir, data=f"npz:{tmp_path}/narrow.npz")
    np.savez(tmp_path / "two.npz", x=np.eye(64), edges=[[0, 1], [62, 63]], node_offsets=[0, 9, 64])
    with pytest.raises(ValueError, match=r"the encoder embeds nodes; expected encoder\.pool to be sum, mean or max"):
        embed(workdir, f"npz:{tmp_path}/two.npz", tmp_path / "x.npz")
    with pytest.raises(ValueError, match="--test digits: test nodes come with a graph"):
        evaluate(workdir, test="digits")
    with pytest.raises(ValueError, match=r"--knn\.k: the protocols of graphs have no settings"):
        evaluate(workdir, options={"knn": {"k": "3"}})
    with pytest.raises(ValueError, match="--draws 2: draws are of random splits, for the linear probe of nodes"):
        evaluate(workdir, protocol="knn", draws=2)
    for name, value in ("share", 0.5), ("eval_source", "digits"):
        made = config()
        made.data[name] = value
        with pytest.raises(ValueError, match=rf"data\.{name}=.* is for images"):
            open_data(made)


def test_accumulation_of_one_graph_is_refused():
    source = data.open_source(SOURCE)
    made = config()
    made.train.accumulate = 2
    with pytest.raises(ValueError, match=r"train\.batch_size=1 cannot be cut into 2 micro-batches"):
        fill(made, source)


def test_many_graphs_are_scored_by_a_machine_in_folds(tmp_path):
    less = {"data.source": "pixels:digits@test[:200]", "train.steps": 4, "train.epochs": "None", "train.batch_size": 64}
    made = configs.load("graphcl:demo", less | {"checkpoint.every": 4, "eval.every": 4, "log_every": 4})
    made.encoder.dims = (8, 8)
    train(made, tmp_path)
    table = evaluate(tmp_path, protocol="svm,cluster")
    for said in "SVM, 10 folds", "clusters, ARI", "untrained", "raw features":
        assert said in table
    with pytest.raises(ValueError, match=r"unknown protocol 'svn' of 200 graphs.*did you mean svm"):
        evaluate(tmp_path, protocol="svn")
    with pytest.raises(ValueError, match=r"unknown protocol .links. of 200 graphs"):
        evaluate(tmp_path, protocol="links")
    np.savez(tmp_path / "one.npz", x=np.eye(30, 3), edges=[[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"a graph of.*the encoder embeds graphs; expected encoder\.pool to be None"):
        embed(tmp_path, f"npz:{tmp_path}/one.npz", tmp_path / "x.npz")


def test_edges_that_are_predicted_are_hidden_from_training(tmp_path):
    made = configs.load("dgi:demo", {"data.source": SOURCE, "data.held_edges": 0.2, "train.steps": 2})
    made.checkpoint.every = made.eval.every = made.log_every = 2
    made.encoder.dims = (16,)
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop, "Run", lambda config, source, *rest: seen.update(source=source) or Run(config, source, *rest)
        )
        train(made, tmp_path)
    whole = data.open_source(SOURCE).edges
    _, positive, negative = open_graph(made.data, made.seed)
    trained_on = {tuple(edge) for edge in seen["source"].edges.tolist()}
    hidden = {tuple(edge) for edge in whole.tolist()} - trained_on
    assert hidden == {tuple(edge) for edge in np.concatenate([positive, positive[:, ::-1]]).tolist()}
    assert len(hidden) == pytest.approx(0.2 * len(whole), rel=0.01)
    assert not {tuple(edge) for edge in negative.tolist()} & (trained_on | hidden)
    assert "links, AUC" in evaluate(tmp_path, protocol="links")


def test_links_need_edges_that_training_has_not_seen(trained):
    with pytest.raises(ValueError, match=r"training has seen every edge.*--config\.data\.held_edges=0\.1"):
        evaluate(trained[0], protocol="links")


@pytest.mark.parametrize("name", ["dgi", "graphcl"])
def test_a_refresh_sees_every_example_once(name):
    made = configs.load(f"{name}:tiny", {"eval.batch_size": 7})
    source = open_data(made)
    made, _ = fill(made, source)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        batches = list(Run(made, source, mesh, None).every_batch())
    index = np.concatenate([np.asarray(batch["index"]).ravel() for batch in batches])
    assert sorted(index[index >= 0]) == list(range(len(source)))
    assert sum(np.asarray(batch["nodes"]).sum() for batch in batches) == len(source.x)
