"""DeepCluster-v2 against solo-learn, and what its prototypes are; its clusterings are held in test_deepcluster.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from jssl.health import measures, warning
from jssl.methods.deepcluster2 import cross_entropy
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


def test_loss_survives_bfloat16():
    logits = np.random.RandomState(0).randn(2, 16, 3, 9).astype(np.float32) * 5
    y = np.random.RandomState(1).randint(9, size=(2, 16))
    ours = cross_entropy(jnp.asarray(logits, jnp.bfloat16), y)
    np.testing.assert_allclose(ours, cross_entropy(logits, y), rtol=1e-2)


def test_heads_cluster_from_starts_of_their_own(tiny):
    labels = np.asarray(tiny[2].carry["labels"])
    assert labels.shape == (2, 1297)
    assert 0 < adjusted_rand_score(*labels) < 0.999


def test_prototypes_are_the_centroids_and_no_step_moves_them(tiny):
    run, start, state = tiny
    assert_equal(state.params, start.params)
    with jax.set_mesh(run.mesh), run.feed.items(0, 1) as items:
        after, _, out = run.steps(jax.tree.map(jnp.copy, state), run.feed.images, next(items), run.rng)
    assert_equal(after.carry["prototypes"], state.carry["prototypes"])
    assert_equal(after.carry["labels"], state.carry["labels"])
    assert out["embedding"].shape[:2] == (64, 4)  # two large crops and two small ones


def after_30_steps(run, state, every):
    """-> the last loss, and what health says; a clustering before every `every`-th step."""
    with jax.set_mesh(run.mesh), run.feed.items(0, 1) as items:
        for step in range(30):
            state = run.refresh(state, step) if every and step % every == 0 else state
            state, metrics, out = run.steps(state, run.feed.images, next(items), run.rng)
        return metrics["loss"][0], warning({name: float(x) for name, x in jax.jit(measures)(out).items()})


def test_one_cluster_of_all_images_is_a_collapse_and_clusters_that_are_kept_inhabited_are_none():
    """What k-means that lets clusters die ends in; and the same steps with a clustering now and then."""
    run = make_run("deepcluster2", train__steps=60, optim__lr=0.5)
    with jax.set_mesh(run.mesh):
        state, one = run.init(run.rng_init), run.init(run.rng_init)
    one.carry["labels"] = jnp.zeros_like(one.carry["labels"])
    assert after_30_steps(run, one, every=0)[1].startswith("collapse")
    loss, said = after_30_steps(run, state, every=10)
    assert said is None
    assert loss < np.log(8) - 0.1
