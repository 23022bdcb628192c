"""The engine on a graph: a batch of one, whose nodes are the examples."""

import json

import jax
import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl import train as loop
from jssl.encoder import Encoder
from jssl.evals.run import evaluate
from jssl.experiment import fill
from jssl.report import report
from jssl.sharding import make_mesh
from jssl.train import Run, Stop, train
from jssl.writers import read_metrics
from tests.contract import assert_close, assert_equal

SOURCE = "knn:digits@test"  # 500 nodes


def config():
    made = configs.base()
    made.dtype = "float32"
    made.method = {"name": "jssl.methods.dgi:DGI"}
    made.encoder = {"name": "jssl.nets.graph:GNN", "dims": (16,), "activation": "prelu"}
    made.augment = {"name": "jssl.augment.graph:Whole"}
    made.preprocess = {"name": "jssl.augment.graph:whole"}
    made.data.source = SOURCE
    made.train.update({"batch_size": None, "steps": 8})
    made.optim.update({"name": "adamw", "lr": 0.01, "scale": "none"})
    made.update({"log_every": 2})
    made.checkpoint.every = made.eval.every = 4
    configs.complete(made)
    return made


def after(mesh, steps=4):
    """The state after a few steps on a (data, fsdp) mesh."""
    source = data.open_source(SOURCE)
    made, _ = fill(config(), source, jax.devices()[: mesh[0] * mesh[1]])
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


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
def test_number_of_devices_changes_nothing(mesh):
    assert_close(after((1, 1)), after(mesh))


def test_a_graph_is_one_batch_on_the_device_and_its_run_says_so(trained):
    workdir, _ = trained
    written = json.loads((workdir / "config.json").read_text())
    assert written["config"]["train"]["batch_size"] == 1
    assert written["config"]["train"]["per_epoch"] == 1
    assert written["config"]["data"]["resident"] is True
    assert "a graph of 500 nodes and" in written["preflight"][-3]
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


def test_exported_encoder_gives_features_of_every_node(trained):
    workdir, state = trained
    graph = data.open_source(SOURCE)
    features = Encoder(workdir).embed(graph)
    assert features.shape == (500, 16)
    assert np.abs(features - Encoder(workdir, "untrained").embed(graph)).max() > 1e-3
    exported = np.load(workdir / "encoder" / "weights.npz")
    assert not [name for name in exported if "discriminator" in name]
    np.testing.assert_array_equal(
        exported["params/encoder/layer0/dense/kernel"], state.params["encoder"]["layer0"]["dense"]["kernel"]
    )


def test_a_graph_is_scored_beside_its_raw_features_and_reported(trained):
    workdir, _ = trained
    table = evaluate(workdir, protocol="knn,fewshot")
    for said in "raw features", "untrained", "5 labels per class":
        assert said in table
    written = json.loads((workdir / "scores.json").read_text())
    assert written["protocol"]["data"]["graph"] == SOURCE
    assert all(0.3 < score["mean"] <= 1 for score in written["scores"])
    page = report(workdir).read_text()
    assert "Map of the embeddings" in page


def test_accumulation_of_one_graph_is_refused():
    source = data.open_source(SOURCE)
    made = config()
    made.train.accumulate = 2
    with pytest.raises(ValueError, match=r"train\.batch_size=1 cannot be cut into 2 micro-batches"):
        fill(made, source)
