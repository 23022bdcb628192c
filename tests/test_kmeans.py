"""k-means against scikit-learn, and on any number of devices."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from jssl.kmeans import by_row, collect, kmeans, whiten
from jssl.sharding import make_mesh, put
from tests import oracles
from tests.contract import COLLECTIVE

KEY = jax.random.key(0)


def blocks(x, width=16, padding=0.0):
    """Rows [N, D] as blocks [S, width, D], and their weights, 0 for the padding."""
    n = len(x)
    s = -(-n // width)
    padded = np.full((s * width, *x.shape[1:]), padding, np.float32)
    padded[:n] = x
    return padded.reshape(s, width, *x.shape[1:]), (np.arange(s * width) < n).reshape(s, width).astype(np.float32)


def flat(labels, n):
    return np.asarray(labels).reshape(-1)[:n]


def blobs(n=500, k=7, dim=5, apart=10.0, seed=0):
    rng = np.random.RandomState(seed)
    y = np.concatenate([np.arange(k), rng.randint(k, size=n - k)])
    return (apart * rng.randn(k, dim)[y] + rng.randn(n, dim)).astype(np.float32), y


def of_sklearn(x, start, iterations):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        return KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(x)


def test_from_the_same_start_it_is_scikit_learns():
    manifest, t = oracles.load("kmeans")
    x, w = blocks(t["in.x"])
    one = kmeans(x, KEY, 4, weights=w, iterations=1, centroids=t["in.init"])
    np.testing.assert_allclose(one.centroids, t["out.centers_after_1_iter"], rtol=1e-5, atol=1e-5)
    end = kmeans(x, KEY, 4, weights=w, iterations=10, centroids=t["in.init"])
    np.testing.assert_allclose(end.centroids, t["out.centers"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(flat(end.labels, 90), t["out.labels"])
    np.testing.assert_allclose(end.inertia, manifest["scalars"]["inertia"], rtol=1e-5)
    np.testing.assert_array_equal(end.sizes, np.bincount(t["out.labels"]))


@pytest.mark.parametrize("iterations", [1, 3, 15])
def test_where_clusters_overlap_it_is_scikit_learns_at_every_iteration(iterations):
    x, _ = blobs(n=300, k=12, apart=1.0, seed=3)
    start = x[np.random.RandomState(1).permutation(300)[:12]]
    cut, w = blocks(x, 32)
    ours, theirs = (
        kmeans(cut, KEY, 12, weights=w, iterations=iterations, centroids=start),
        of_sklearn(x, start, iterations),
    )
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(flat(ours.labels, 300), theirs.labels_)


def test_whitening_is_scikit_learns():
    _, t = oracles.load("kmeans")
    x, w = blocks(t["in.x"])
    white = np.asarray(whiten(x, 3, weights=w)).reshape(-1, 3)[:90]
    np.testing.assert_allclose(np.abs(white), t["out.pca_whitened_abs"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=1e-4)


def test_whitening_drops_directions_that_hold_nothing():
    x = np.random.RandomState(0).randn(1, 50, 4).astype(np.float32)
    x = np.concatenate([x, x[..., :1] * 2, np.zeros((1, 50, 1), np.float32)], -1)  # rank 4 of 6
    white = np.asarray(whiten(x, 6))[0]
    np.testing.assert_allclose(np.diag(np.cov(white.T)), [1, 1, 1, 1, 0, 0], atol=1e-4)


@pytest.mark.parametrize("spherical", [False, True])
def test_blobs_are_found_from_a_drawn_start(spherical):
    x, y = blobs(apart=20.0)
    cut, w = blocks(x, 64)
    found = kmeans(cut, KEY, 7, weights=w, spherical=spherical)
    assert adjusted_rand_score(y, flat(found.labels, 500)) > 0.99
    if spherical:
        np.testing.assert_allclose(jnp.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)
        rows = x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_array_equal(flat(found.labels, 500), (rows @ np.asarray(found.centroids).T).argmax(1))


@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_the_start_is_distinct_rows_of_the_data_and_never_padding(start):
    x, _ = blobs(n=40)
    cut, w = blocks(x, 16, padding=1e6)
    c = np.asarray(kmeans(cut, KEY, 20, weights=w, iterations=0, start=start).centroids)
    nearest = np.abs(c[:, None] - x).sum(-1)
    assert (nearest.min(1) == 0).all()
    assert len(set(nearest.argmin(1))) == 20


def test_k_means_plus_plus_prefers_rows_that_are_far_from_those_it_has():
    """One row in fifty lies far away; a random start of two takes it once in 25 times."""
    x = np.random.RandomState(0).randn(1, 50, 3).astype(np.float32)
    x[0, 17] += 1000
    found = [kmeans(x, jax.random.key(i), 2, iterations=0).centroids for i in range(10)]
    assert all((np.asarray(c) > 500).any() for c in found)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="start='kmeans', expected one of k-means"):
        kmeans(np.zeros((1, 4, 2)), KEY, 2, start="kmeans")


@pytest.mark.parametrize("spherical", [False, True])
def test_empty_clusters_are_filled(spherical):
    """All centroids start at one place: one cluster holds every row, eleven hold none."""
    x, _ = blobs(n=600, k=12)
    cut, w = blocks(x, 64)
    found = kmeans(cut, KEY, 12, weights=w, centroids=np.ones((12, 5)), spherical=spherical)
    assert (np.asarray(found.sizes) > 0).all()
    assert found.sizes.sum() == 600


def test_fewer_distinct_rows_than_clusters_end_without_a_fault():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, 0)[None]
    found = kmeans(x, KEY, 5)
    assert np.isfinite(found.centroids).all()
    assert (np.asarray(found.sizes) > 0).sum() >= 3


def test_padded_rows_are_ignored():
    x, _ = blobs(n=100)
    start = x[:7]
    clean, w = blocks(x, 20)
    plain = kmeans(clean, KEY, 7, weights=w, centroids=start)
    cut, w = blocks(x, 16, padding=1e4)
    padded = kmeans(cut, KEY, 7, weights=w, centroids=start)
    np.testing.assert_allclose(plain.centroids, padded.centroids, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(flat(plain.labels, 100), flat(padded.labels, 100))
    assert (np.asarray(padded.labels).reshape(-1)[100:] == -1).all()
    np.testing.assert_allclose(plain.inertia, padded.inertia, rtol=1e-5)


def on(mesh, x, w):
    """Two start points and spherical or not, on a mesh."""
    with jax.set_mesh(mesh):
        x, w = (put(mesh, a, a.shape[1], axis=1) for a in (x, w))
        return [
            jax.device_get(kmeans(whiten(x, 4, weights=w), KEY, 9, weights=w, start=start, spherical=spherical))
            for start, spherical in [("k-means++", False), ("random", True)]
        ]


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)], ids=["8 devices", "2 x 4"])
def test_number_of_devices_changes_no_assignment(mesh):
    x, w = blocks(blobs(n=430, k=9, apart=2.0)[0], 32)
    one = on(make_mesh(1, 1, jax.devices()[:1]), x, w)
    for a, b in zip(one, on(make_mesh(*mesh), x, w)):
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.sizes, b.sizes)
        np.testing.assert_allclose(a.centroids, b.centroids, rtol=1e-4, atol=1e-5)


def test_an_iteration_exchanges_sums_alone_and_rows_stay_where_they_are():
    mesh = make_mesh(8, 1)
    x, w = blocks(blobs(n=1024)[0], 64)
    with jax.set_mesh(mesh):
        x, w = (put(mesh, a, a.shape[1], axis=1) for a in (x, w))
        text = kmeans.lower(x, KEY, 6, weights=w).compile().as_text()
    found = [match[2] for line in text.splitlines() if (match := COLLECTIVE.search(line))]
    assert set(found) <= {"all-reduce", "all-gather"}
    shapes = [match[1] for line in text.splitlines() if (match := COLLECTIVE.search(line)) and match[2] == "all-gather"]
    assert not [shape for shape in shapes if ",5]" in shape], shapes  # no rows


def test_rows_are_collected_as_blocks_and_their_labels_come_back_in_the_order_of_the_data():
    mesh = make_mesh(8, 1)
    index = np.r_[np.arange(20), np.full(4, -1)].astype(np.int32).reshape(3, 8)
    index[1, 3] = -1  # cannot be decoded
    with jax.set_mesh(mesh):
        batches = [put(mesh, {"x": i[:, None] * np.ones(2, np.float32), "index": i}, 8) for i in index]
        x, seen = collect(lambda batch: batch["x"], iter(batches), 20)
        labels = by_row(seen * 10, seen, 20)
    np.testing.assert_array_equal(seen, index)
    np.testing.assert_array_equal(x[..., 1], index)
    np.testing.assert_array_equal(labels, [-1 if i == 11 else 10 * i for i in range(20)])
