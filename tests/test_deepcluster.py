"""DeepCluster: its loss; what its and DeepCluster-v2's clusterings write, on one process and on two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from jssl import train as loop
from jssl.config import load
from jssl.kmeans import whiten
from jssl.methods import deepcluster2
from jssl.methods.deepcluster import DeepCluster, sizes, sobel, weighted_cross_entropy
from jssl.methods.deepcluster2 import DeepCluster2
from jssl.nets.mlp import MLP
from jssl.sharding import make_mesh
from jssl.train import Stop, train
from tests.contract import assert_equal, make_run

NAMES = ("deepcluster", "deepcluster2")


@pytest.fixture(scope="module")
def runs():
    """Each method's tiny variant on one device, before and after its first clustering: (run, start, clustered)."""
    made = {}
    for name in NAMES:
        run = make_run(name)
        with jax.set_mesh(run.mesh):
            start = run.init(run.rng_init)
            made[name] = run, start, run.refresh(start, 0)
    return made


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_loss_survives_bfloat16():
    logits = np.random.RandomState(0).randn(16, 3, 9).astype(np.float32) * 5
    y, w = np.random.RandomState(1).randint(9, size=16), np.ones(16, np.float32)
    ours = weighted_cross_entropy(jnp.asarray(logits, jnp.bfloat16), y, w)
    np.testing.assert_allclose(ours, weighted_cross_entropy(logits, y, w), rtol=1e-2)


def test_the_classifiers_loss_is_the_cross_entropy_weighted_by_hand():
    rng = np.random.RandomState(0)
    logits, y, w = rng.randn(10, 2, 4), rng.randint(4, size=10), rng.rand(10)
    each = -np.take_along_axis(log_softmax(logits), y[:, None, None], -1).mean((1, 2))
    ours = weighted_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(y), jnp.asarray(w))
    np.testing.assert_allclose(ours, (w * each).sum() / w.sum(), rtol=1e-5)


def test_clusters_count_alike_however_many_images_they_have(runs):
    """90 images in one cluster and 10 in another: each cluster's mean loss counts half; an image without one, not."""
    run = runs["deepcluster"][0]
    method = dataclasses.replace(run.experiment.method, encoder=MLP(8, 6), k=2, rows=101)
    views = {"image": np.random.RandomState(0).randn(101, 2, 12).astype(np.float32), "index": np.arange(101)}
    params, carry = method.init(jax.random.key(0), views)
    params["classifier"] = jax.tree.map(
        lambda x: x + jax.random.normal(jax.random.key(1), x.shape), params["classifier"]
    )
    labels = np.r_[np.zeros(90), np.ones(10), -1].astype(np.int32)
    carry |= {"labels": labels, "sizes": sizes(labels, 2)}
    np.testing.assert_array_equal(carry["sizes"], [90, 10])
    value, (_, out) = method.loss(params, carry, views, jax.random.key(1), None)

    dense = params["classifier"]["dense0"]
    log_p = log_softmax(np.asarray(out["features"] @ dense["kernel"] + dense["bias"]))
    of = [-log_p[labels == y][..., y].mean() for y in (0, 1)]
    np.testing.assert_allclose(value, np.mean(of), rtol=1e-5)

    moved = np.random.RandomState(1).permutation(101)  # images come in any order, labels by their row
    views = {"image": views["image"][moved], "index": moved}
    np.testing.assert_allclose(method.loss(params, carry, views, jax.random.key(1), None)[0], value, rtol=1e-5)


def test_sobel_is_the_slope_of_the_grey_image_along_both_sides():
    x = np.random.RandomState(0).rand(2, 3, 7, 9, 3).astype(np.float32)
    seen = np.asarray(sobel(x))
    assert seen.shape == (2, 3, 7, 9, 2)
    kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    for i, k in enumerate((kernel, kernel.T)):
        np.testing.assert_allclose(seen[1, 2, ..., i], correlate2d(x[1, 2].mean(-1), k, "same"), atol=1e-5)


def test_an_encoder_may_see_edges_alone():
    run = make_run("deepcluster", method__sobel=True)
    with jax.set_mesh(run.mesh):
        params = run.init(run.rng_init).params
    assert params["encoder"]["conv1"]["kernel"].shape[2] == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_clustering_is_that_of_the_features_of_all_rows(runs, name):
    """The same features in scikit-learn's k-means: clusters that are as tight, and mostly the same images together."""
    run, _, state = runs[name]
    method = run.experiment.method
    inputs = run.experiment.preprocess({"image": run.source.images})
    if name == "deepcluster":
        h = np.asarray(jax.jit(method.embed)(state.params, state.carry, inputs)["features"])
        x = PCA(whiten=True).fit_transform(h.astype(np.float64))
        ours = np.asarray(whiten(h[None], method.dim))[0]
        np.testing.assert_allclose(np.abs(ours), np.abs(x[:, : method.dim]), rtol=0.05, atol=0.02)
        x = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        labels, centroids = state.carry["labels"], state.carry["centroids"]
        np.testing.assert_array_equal(state.carry["sizes"], np.bincount(labels, minlength=method.k))
    else:
        x = np.asarray(deepcluster2.project(method, state.params, state.carry["stats"], inputs))
        labels, centroids = state.carry["labels"][1], state.carry["prototypes"][1]
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    labels, centroids = np.asarray(labels), np.asarray(centroids)
    distances = ((x[:, None] - centroids) ** 2).sum(-1)
    assert (distances.argmin(1) == labels).mean() > 0.999  # rounding apart
    assert (np.bincount(labels, minlength=method.k) > 0).all()
    best = KMeans(method.k, n_init=5, random_state=0).fit(x)
    assert distances.min(1).sum() < 1.25 * best.inertia_


def test_a_clustering_resets_the_classifier_and_nothing_else(runs):
    _, start, state = runs["deepcluster"]
    fresh, old = (s.params["classifier"]["dense0"] for s in (state, start))
    assert (np.asarray(fresh["kernel"]) != np.asarray(old["kernel"])).all()
    assert np.asarray(fresh["kernel"]).std() == pytest.approx(0.01, rel=0.3)
    assert not np.asarray(fresh["bias"]).any()
    assert_equal(state.params["encoder"], start.params["encoder"])
    assert_equal(state.carry["stats"], start.carry["stats"])


@pytest.mark.parametrize("kind", [DeepCluster, DeepCluster2])
def test_more_clusters_than_images_are_refused(kind):
    views = {"image": np.zeros((2, 2, 8, 8, 1), np.float32)}
    for rows in None, 9:
        with pytest.raises(
            ValueError, match=rf"method.rows={rows}: expected the rows of the data, at least method.k=10"
        ):
            kind(MLP(8, 6), k=10, rows=rows).init(jax.random.key(0), views)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_stops_at_a_clustering_goes_on_bit_by_bit(name, tmp_path, monkeypatch):
    """Checkpoint 4 holds the state from before the clustering of step 4, checkpoint 6 the labels that it gave."""
    one = lambda *_: make_mesh(1, 1, jax.devices()[:1])
    cadences = {"train.refresh_every": 4, "train.steps": 8, "checkpoint.every": 2, "eval.every": 0, "log_every": 2}
    config = load(f"{name}:tiny", cadences)
    monkeypatch.setattr(loop, "make_mesh", one)
    whole = train(config, tmp_path / "whole")
    for at in 4, 6:
        with monkeypatch.context() as patch:
            patch.setattr(Stop, "asked", lambda self, call, at=at: call == at)
            assert train(config, tmp_path / str(at)) is None
        assert_equal(whole, train(config, tmp_path / str(at)))
