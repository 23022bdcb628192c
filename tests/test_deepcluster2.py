"""DeepCluster-v2 against solo-learn, and what its prototypes are; its clusterings are held in test_deepcluster.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from jssl import watch
from jssl.health import measures
from jssl.methods.deepcluster2 import DeepCluster2, cross_entropy
from jssl.nets.mlp import MLP
from tests import oracles
from tests.contract import assert_equal, make_run


@pytest.fixture(scope="module")
def tiny():
    """The tiny variant on one device, before and after its first clustering: (run, start, clustered)."""
    run = make_run("deepcluster2")
    with jax.set_mesh(run.mesh):
        start = run.init(run.rng_init)
        return run, start, run.refresh(start, 0)


def test_loss_of_the_prototypes_is_solo_learns():
    manifest, t = oracles.load("deepcluster_v2")
    scores = jnp.asarray(t["in.outputs"]).swapaxes(1, 2)  # [heads, N, V, K]

    def loss(scores):
        return cross_entropy(scores / manifest["hyper"]["temperature"], jnp.asarray(t["in.assignments"]))

    value, grad = jax.jit(jax.value_and_grad(loss))(scores)
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-6)
    np.testing.assert_allclose(grad.swapaxes(1, 2), t["grad.outputs"], rtol=1e-4, atol=1e-6)


def test_every_crop_must_name_the_centroid_of_its_row_in_every_clustering():
    """By hand, in float64: cosines over the temperature; an image without a label does not count."""
    rs = np.random.RandomState(0)
    method = DeepCluster2(MLP(8, 6), hidden=7, dim=5, heads=3, k=4, temperature=0.2, rows=20)
    views = {"image": rs.randn(6, 2, 12).astype(np.float32), "local": rs.randn(6, 1, 12).astype(np.float32)}
    views["index"] = np.array([13, 2, 19, 7, 0, 5])
    params, carry = method.init(jax.random.key(0), views)
    carry["labels"] = jnp.asarray(rs.randint(4, size=(3, 20))).at[:, 7].set(-1)
    value, (_, out) = method.loss(params, carry, views, jax.random.key(1), None)
    z, c = np.float64(out["embedding"]), np.float64(carry["prototypes"])
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=1e-5)
    losses = []
    for head in range(3):
        for n, row in enumerate(views["index"]):
            for crop in range(3):
                scores = np.exp(c[head] @ z[n, crop] / 0.2)
                if row != 7:
                    losses.append(-np.log(scores[carry["labels"][head, row]] / scores.sum()))
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)


def test_loss_survives_bfloat16():
    logits = np.random.RandomState(0).randn(2, 16, 3, 9).astype(np.float32) * 5
    y = np.random.RandomState(1).randint(9, size=(2, 16))
    ours = cross_entropy(jnp.asarray(logits, jnp.bfloat16), y)
    np.testing.assert_allclose(ours, cross_entropy(logits, y), rtol=1e-2)


def test_heads_cluster_from_starts_of_their_own(tiny):
    labels = np.asarray(tiny[2].carry["labels"])
    assert labels.shape == (2, 256)
    assert 0 < adjusted_rand_score(*labels) < 0.999


def test_prototypes_are_the_centroids_and_no_step_moves_them(tiny):
    run, start, state = tiny
    assert_equal(state.params, start.params)
    with jax.set_mesh(run.mesh), run.feed.items(0, 1) as items:
        after, _, out = run.steps(jax.tree.map(jnp.copy, state), run.feed.held, next(items), run.rng)
    assert_equal(after.carry["prototypes"], state.carry["prototypes"])
    assert_equal(after.carry["labels"], state.carry["labels"])
    assert out["embedding"].shape[:2] == (64, 4)  # two large crops and two small ones


def after_30_steps(run, state, every):
    """-> the last loss, and what health says; a clustering before every `every`-th step."""
    with jax.set_mesh(run.mesh), run.feed.items(0, 1) as items:
        for step in range(30):
            state = run.refresh(state, step) if every and step % every == 0 else state
            state, metrics, out = run.steps(state, run.feed.held, next(items), run.rng)
        return metrics["loss"][0], watch.findings([{name: float(x) for name, x in jax.jit(measures)(out).items()}])


def test_one_cluster_of_all_images_is_a_collapse_and_clusters_that_are_kept_inhabited_are_none():
    """What k-means that lets clusters die ends in; and the same steps with a clustering now and then."""
    run = make_run("deepcluster2", train__steps=60, optim__lr=0.5)
    with jax.set_mesh(run.mesh):
        state, one = run.init(run.rng_init), run.init(run.rng_init)
    one.carry["labels"] = jnp.zeros_like(one.carry["labels"])
    assert after_30_steps(run, one, every=0)[1]["collapse"].startswith("collapse")
    loss, said = after_30_steps(run, state, every=10)
    assert not said
    assert loss < np.log(8) - 0.1
