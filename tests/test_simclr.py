"""SimCLR against lightly's training, and the statements of the paper about its batch norm and its collapse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.losses import nt_xent
from jssl.method import Method, Time
from jssl.methods.simclr import SimCLR
from jssl.nets.net import apply_nets
from tests import oracles
from tests.trajectories import BACKBONE, assert_statistics, close, sgd, train, weights

SMALL = SimCLR(BACKBONE, hidden=12, dim=5, temperature=0.5)
VIEWS = np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Separately(Method):
    """SimCLR with batch norm over one view at a time, which is what lightly's example does; the authors' code, and
    ours, normalises both views together. Networks, loss, train step and optimizer are the same."""

    simclr: SimCLR

    def init(self, rng, views):
        return self.simclr.init(rng, views)

    def loss(self, params, carry, views, rng, time):
        stats, projections = carry["stats"], []
        for v in range(views["image"].shape[1]):
            out, stats = apply_nets(self.simclr.nets, params, stats, views["image"][:, v])
            projections.append(out["projector"])
        return nt_xent(jnp.stack(projections, 1), self.simclr.temperature), ({"stats": stats}, {"metrics": {}})

    def embed(self, params, carry, inputs):
        return self.simclr.embed(params, carry, inputs)


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), {"image": VIEWS})


@jax.jit
def loss(params, carry, x):
    return SMALL.loss(params, carry, {"image": x}, jax.random.key(1), Time(0, 100, 10.0))


def test_training_with_the_views_normalised_separately_is_lightlys():
    """Losses, weights and batch norm of five steps. The manifest leaves out the temperature; 0.3 gives the first loss
    to seven digits, and the other figures follow."""
    manifest, tensors = oracles.load("train_simclr")
    params, start = weights(tensors, "model.")
    method = Separately(dataclasses.replace(SMALL, temperature=0.3))
    losses, state = train(method, sgd(manifest["hyper"]), params, {"stats": start}, tensors["in.x"])
    close(losses, tensors["out.losses"])
    params, stats = weights(tensors, "out.final.")
    jax.tree.map(close, state.params, params)
    assert_statistics(state.carry["stats"], stats, start, passes=10, n=8)


def test_batch_norm_sees_both_views_together(state):
    params, carry = state
    _, (after, _) = loss(params, carry, VIEWS)
    seen = VIEWS.reshape(16, 6) @ params["encoder"]["dense0"]["kernel"]
    close(after["stats"]["encoder"]["norm0"]["mean"], 0.1 * seen.mean(0))
    close(after["stats"]["encoder"]["norm0"]["var"], 0.9 + 0.1 * seen.var(0))


def test_loss_is_the_cross_entropy_of_the_projections_that_it_returns(state):
    value, (_, out) = loss(*state, VIEWS)
    assert out["embedding"].shape == (8, 2, 5)
    assert out["features"].shape == (8, 2, 10)
    np.testing.assert_allclose(value, jax.jit(nt_xent)(out["embedding"], 0.5), rtol=1e-6)


def test_views_of_an_image_stay_together(state):
    """The embedding of view v of image i lies at [i, v], and other pairs have another loss."""
    params, carry = state
    value, (_, out) = loss(params, carry, VIEWS)
    run = jax.jit(lambda x: apply_nets(SMALL.nets, params, carry["stats"], x)[0])
    outputs = run(np.concatenate([VIEWS[:, 0], VIEWS[:, 1]]))
    close(out["embedding"], np.stack(np.split(outputs["projector"], 2), 1))
    close(out["features"], np.stack(np.split(outputs["encoder"], 2), 1))
    mixed, _ = loss(params, carry, np.stack([VIEWS[:, 0], np.roll(VIEWS[:, 1], 1, 0)], 1))
    assert np.abs(value - mixed) > 1e-2


def test_collapse_has_the_loss_of_guessing(state):
    value, _ = loss(*state, np.ones_like(VIEWS))
    np.testing.assert_allclose(value, np.log(2 * 8 - 1), rtol=1e-5)


def test_features_come_before_the_projector_and_from_running_statistics(state):
    params, carry = state
    embed = jax.jit(lambda x: SMALL.embed(params, carry, {"image": x})["features"])
    close(embed(VIEWS[:4, 0]), embed(VIEWS[:, 0])[:4])
    assert embed(VIEWS[:, 0]).shape == (8, 10)
