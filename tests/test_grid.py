"""Many linear heads in one program are each what they would be alone, and test rows pick none of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.encoder import pools
from jssl.evals import linear
from jssl.evals.grid import grid, sets
from jssl.nets.vit import ViT

RNG = np.random.default_rng(0)


def blobs(n):
    """Class tokens that say little of the class and means of the block before the last that say much."""
    labels = RNG.integers(0, 3, n).astype(np.int32)
    signal = np.eye(3, 6, dtype=np.float32)[labels]
    noise = lambda scale: scale * RNG.normal(size=(n, 6)).astype(np.float32)
    pools = {f"{kind} {i}": signal + noise(3.0) for kind in ("cls", "mean") for i in (1, 2, 3, 4)}
    return {**pools, "mean 2": signal + noise(0.2)}, labels


TRAIN, TEST = blobs(200), blobs(100)
HOW = {"classes": 3, "epochs": 10, "batch_size": 32}


@pytest.fixture(scope="module")
def found():
    return grid(*TRAIN, *TEST, **HOW, rates=[0.1, 1.0])


def test_the_best_cell_on_validation_rows_is_picked_and_alone_tested(found):
    cells, (picked,) = found["settings"]["grid"], found["settings"]["picked"]
    assert [(cell["layers"], cell["pooling"]) for cell in cells[::2]] == [
        (layers, pooling) for layers in (1, 4) for pooling in ("cls", "mean", "cls+mean")
    ]
    assert picked["validation_accuracy"] == max(cell["validation_accuracy"][0] for cell in cells)
    assert (picked["layers"], picked["pooling"]) == (4, "mean")
    assert found["accuracy"] > 0.9
    assert np.median([cell["validation_accuracy"] for cell in cells]) < 0.8


def test_each_head_is_what_sgd_makes_of_it_alone(found):
    (picked,) = found["settings"]["picked"]
    joined = lambda pools: np.concatenate([pools[f"mean {i}"] for i in (1, 2, 3, 4)], 1)
    held = linear.validation_rows(TRAIN[1], np.ones((1, 200), bool), 0.2, 0)[0]
    x = joined(TRAIN[0])
    move = linear.standardiser(x)
    key = jax.random.fold_in(jax.random.key(0), 0)
    model = linear._sgd(move(x), TRAIN[1], np.flatnonzero(~held), key, jnp.array([picked["rate_per_256"]]), 10, 32, 3)
    predictions = linear.predict(model, jnp.asarray(move(joined(TEST[0]))))
    assert (predictions == found["predictions"]).mean() > 0.99
    assert np.mean(linear.predict(model, move(x)[held])[0] == TRAIN[1][held]) == picked["validation_accuracy"]


def test_test_labels_choose_nothing(found):
    other = grid(*TRAIN, TEST[0], RNG.permutation(TEST[1]), **HOW, rates=[0.1, 1.0])
    assert other["settings"] == found["settings"]
    np.testing.assert_array_equal(other["predictions"], found["predictions"])


def test_without_blocks_there_is_one_set_and_with_two_the_last_two():
    assert sets({"features": 0}) == {(1, "features"): ("features",)}
    of_two = sets({"mean 1": 0, "mean 2": 0})  # a Swin has no class token
    assert of_two == {(1, "mean"): ("mean 1",), (2, "mean"): ("mean 1", "mean 2")}
    names = [f"{kind} {i}" for kind in ("cls", "mean") for i in (1, 2, 3, 4)]
    assert sets(dict.fromkeys(names))[4, "cls+mean"] == ("cls 1", "cls 2", "cls 3", "cls 4", "mean 1")
    assert len(sets(dict.fromkeys(names))) == 6


def test_pools_of_the_last_block_are_its_tokens_before_the_norm_s_scale():
    net = ViT(8, 3, 2, patch=4, registers=2)
    x = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    params = net.init(jax.random.key(1), x)
    _, out = net.apply(params, x)
    found = pools({"features": out["cls"], **out}, last=2)
    assert list(found) == ["cls 1", "mean 1", "cls 2", "mean 2"]
    np.testing.assert_allclose(found["cls 1"], out["cls"], atol=1e-4)  # scale 1, offset 0 at first
    np.testing.assert_allclose(found["mean 1"], out["tokens"].mean(1), atol=1e-4)
    before = out["layers"][1][:, 3:]
    before = (before - before.mean(-1, keepdims=True)) / before.std(-1, keepdims=True)
    np.testing.assert_allclose(found["mean 2"], before.mean(1), atol=1e-3)
