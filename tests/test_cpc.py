"""CPC: what the context sees, what it has to name among what, and the patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jssl.augment.patches import cpc, cut_patches, patch_sizes
from jssl.method import Time
from jssl.methods.cpc import CPC, DIRECTIONS, nce
from jssl.nets.context import Context
from jssl.nets.conv import convnet
from jssl.nets.net import apply_net, init_net
from jssl.nets.resnet import ResNet
from tests.trajectories import close

SMALL = CPC(convnet((4, 6), norm="layer"), 4, 2, dim=5, width=6, depth=2, ignore=0, steps=2, scale=0.5, directions=1)
IMAGES = np.random.RandomState(0).randn(4, 8, 8, 2).astype(np.float32)  # 3 x 3 patches
VIEWS = {"image": cut_patches(IMAGES, 4, 2), "index": np.arange(4, dtype=np.int32)}
START = Time(0, 100, 10.0)


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


def loss(method, params, carry, views=VIEWS):
    return jax.jit(lambda p, c, v: method.loss(p, c, v, jax.random.key(1), START))(params, carry, views)


def test_the_context_of_a_row_never_sees_the_rows_below_it():
    net, x = Context(width=6, depth=3), jax.random.normal(jax.random.key(0), (2, 4, 4, 5))
    params, _ = init_net(net, jax.random.key(1), x)
    rows = jax.jacobian(lambda x: apply_net(net, params, {}, x)[0].sum((2, 3)))(x)  # [N, R, N, R, K, D]
    seen = np.abs(rows).sum((4, 5))[np.arange(2), :, np.arange(2)]  # [N, row of the context, row of the input]
    assert (seen[:, ~np.tril(np.ones((4, 4), bool))] == 0).all()
    assert (seen[:, np.tril(np.ones((4, 4), bool))] > 0).all()


def test_patches_overlap_and_lie_row_by_row():
    patches = np.asarray(cut_patches(IMAGES, 4, 2))
    assert patches.shape == (4, 9, 4, 4, 2)
    for i in range(9):
        row, column = 2 * (i // 3), 2 * (i % 3)
        np.testing.assert_array_equal(patches[:, i], IMAGES[:, row : row + 4, column : column + 4])


def test_patches_that_nobody_chose_are_those_of_the_first_paper():
    assert patch_sizes(256) == (64, 32, 7)
    assert patch_sizes(260, 80, 36) == (80, 36, 6)
    with pytest.raises(ValueError, match="patches of 20 pixels every 10 do not fit an image of 16"):
        patch_sizes(16, 20)


def test_loss_is_the_cross_entropy_of_naming_the_patch_below_by_hand(state):
    """Every place, distance and candidate by itself, in float64, from the networks' own outputs."""
    params, carry = state
    value, (_, out) = loss(SMALL, params, carry)
    z, y = np.asarray(out["features"]), np.float64(out["embedding"])  # [N, L, D], [N, L, E]
    nets = SMALL.heads["down"]
    context = apply_net(nets["context"], params["down"]["context"], {}, z.reshape(4, 3, 3, -1))[0]
    w, b = (np.float64(params["down"]["predictor"]["dense0"][name]) for name in ("kernel", "bias"))

    total = 0.0
    for k in (1, 2):  # columns of the maps: first those of k = 1, then those of k = 2
        losses = []
        for n in range(4):
            for row in range(3 - k):
                for column in range(3):
                    guess = np.float64(context[n, row, column]) @ w[:, 5 * (k - 1) : 5 * k] + b[5 * (k - 1) : 5 * k]
                    scores = 0.5 * y @ guess  # [N, L]: all places of all images, the positive once among them
                    losses.append(np.log(np.exp(scores).sum()) - scores[n, 3 * (row + k) + column])
        total += np.mean(losses)
    np.testing.assert_allclose(value, total, rtol=1e-5)


def test_positives_and_negatives_are_learned_from_too(state):
    """No stop-gradient: the gradient of the targets' map is the slope of the loss itself."""
    params, carry = state
    of_target = jax.jit(lambda target: loss(SMALL, {**params, "target": target}, carry)[0])
    check_grads(of_target, (params["target"],), order=1, modes=["rev"], eps=1e-2, atol=1e-3, rtol=1e-2)


def test_the_positive_is_counted_once_and_is_no_negative():
    """Patches at right angles: the one that was meant scores 3, the seven others 0."""
    y = 3.0 * jnp.eye(8).reshape(2, 2, 2, 8)
    value = nce(y[:, 1:] / 3, y[:, 1:], y)
    np.testing.assert_allclose(value, np.log(np.exp(3.0) + 7) - 3, rtol=1e-6)


def test_rows_that_are_ignored_are_not_predicted(state):
    params, carry = state
    near, far = (dataclasses.replace(SMALL, ignore=i, steps=i + 1) for i in (0, 1))
    predictor = params["down"]["predictor"]["dense0"]

    def own(columns):  # the maps of one distance alone
        return {
            **params,
            "down": {**params["down"], "predictor": {"dense0": {k: v[..., columns] for k, v in predictor.items()}}},
        }

    parts = [loss(method, own(np.arange(5) + 5 * i), carry)[0] for i, method in enumerate((near, far))]
    np.testing.assert_allclose(sum(parts), loss(SMALL, params, carry)[0], rtol=1e-5)


def test_a_direction_is_the_downward_one_of_the_turned_grid(state):
    """With what predicts shared: the mean over the directions is that over the turned grids, each read downwards."""
    params, carry = state
    every = dataclasses.replace(SMALL, directions=4)
    params = {**params, **dict.fromkeys(DIRECTIONS, params["down"])}
    grid = VIEWS["image"].reshape(4, 3, 3, 4, 4, 2)
    turned = lambda k: {**VIEWS, "image": jnp.rot90(grid, k, (1, 2)).reshape(4, 9, 4, 4, 2)}
    parts = [loss(SMALL, params, carry, turned(k))[0] for k in DIRECTIONS.values()]
    np.testing.assert_allclose(loss(every, params, carry)[0], np.mean(parts), rtol=1e-5)
    assert np.std(parts) > 1e-4


def test_every_patch_is_encoded_alone(state):
    params, carry = state
    other = np.array(VIEWS["image"])
    other[0, 4] += 1.0
    before, after = (
        loss(SMALL, params, carry, {**VIEWS, "image": x})[1][1]["features"] for x in (VIEWS["image"], other)
    )
    changed = np.abs(before - after).max(-1) > 1e-6
    assert changed[0, 4]
    assert changed.sum() == 1


def test_features_are_the_mean_of_the_patches_encodings(state):
    params, carry = state
    _, (_, out) = loss(SMALL, params, carry)
    found = SMALL.embed(params, carry, {"image": IMAGES})
    close(found["tokens"], out["features"])
    close(found["features"], out["features"].mean(1))
    close(SMALL.embed(params, {}, {"image": IMAGES})["features"], found["features"])  # as exported: nothing is carried


def test_grids_that_are_too_small_are_refused():
    method = dataclasses.replace(SMALL, steps=3)
    with pytest.raises(ValueError, match=r"9 patches are no square grid of more than steps=3 rows"):
        jax.eval_shape(method.init, jax.random.key(0), VIEWS)
    with pytest.raises(ValueError, match="directions=3"):
        dataclasses.replace(SMALL, directions=3)


def test_bfloat16_costs_its_rounding_and_no_more(state):
    params, carry = state
    half = dataclasses.replace(SMALL, encoder=dataclasses.replace(SMALL.encoder, dtype=jnp.bfloat16))
    value, (_, out) = loss(half, params, carry)
    assert out["embedding"].dtype == jnp.float32
    np.testing.assert_allclose(value, loss(SMALL, params, carry)[0], rtol=0.02)
    grads = jax.grad(lambda params: loss(half, params, carry)[0])(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_patches_are_distorted_each_by_itself_and_lie_where_they_were():
    images = np.random.RandomState(0).randint(0, 256, (4, 16, 16, 3), np.uint8)
    batch = {"image": images, "index": np.arange(4, dtype=np.int32)}
    plain = cpc(16, 8, 4, area=(1.0, 1.0), flip=0.0, jitter=(0.0,) * 4, gray=0.0)
    still = jax.jit(plain)(jax.random.key(0), batch)
    np.testing.assert_allclose(still["image"], cut_patches((images / 255 - 0.5) / 0.25, 8, 4), atol=1e-5)
    np.testing.assert_array_equal(still["index"], batch["index"])

    gray = cpc(16, 8, 4, area=(1.0, 1.0), flip=0.0, jitter=(0.0,) * 4, gray=0.5)
    x = np.asarray(jax.jit(gray)(jax.random.key(0), batch)["image"])
    grey = np.ptp(x, -1).max((2, 3)) < 1e-5  # [N, L]
    assert 0 < grey.mean() < 1
    assert (grey.any(1) & ~grey.all(1)).any()  # patches of one image differ
    np.testing.assert_allclose(x[~grey], np.asarray(still["image"])[~grey], atol=0.01)


@pytest.mark.parametrize("net", [convnet((4, 6), norm="layer"), ResNet((1, 1), True, widths=(4, 8), norm="layer")])
def test_layer_norm_keeps_samples_apart_and_has_no_statistics(net):
    x = np.random.RandomState(0).randn(3, 16, 16, 2).astype(np.float32)
    params, stats = init_net(net, jax.random.key(0), x)
    assert not jax.tree.leaves(stats)
    run = jax.jit(lambda x: apply_net(net, params, stats, x, train=True)[0])
    close(run(x)[:1], run(x[:1]))


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm is 'group', expected batch or layer"):
        init_net(convnet((4,), norm="group"), jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32))
