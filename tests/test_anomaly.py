"""Defects in parts: what is far from every patch of the good ones."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import pairwise_distances, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from jssl import data
from jssl.evals import anomaly, patches
from jssl.evals.scores import roc_area
from jssl.evals.subject import Subject
from tests import tiny

SIDE = 32


def weave(rng):
    """A woven texture at a random offset, uint8 [S, S, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE] + rng.uniform(0, 8, (2, 1, 1))
    threads = 110 + 30 * np.sin(2 * np.pi * y / 8) + 30 * np.sin(2 * np.pi * x / 8)
    return np.clip(threads[..., None] * [1, 0.9, 0.7] + rng.normal(0, 4, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def planted(rng, kind):
    """The texture with a stain or a cut in it -> image, mask uint8 [S, S], 255 at the defect."""
    image, mask = weave(rng), np.zeros((SIDE, SIDE), np.uint8)
    y, x = rng.integers(4, SIDE - 12, 2)
    inside = np.s_[y : y + 8, x : x + 8] if kind == "stain" else np.s_[y : y + 3, x : x + 12]
    mask[inside] = 255
    image[inside] = image[inside] // 4 if kind == "stain" else [230, 230, 240]
    return image, mask


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Textures of the layout of MVTec AD, with planted defects of two kinds -> the folder."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)

    def save(image, *names):
        path = folder.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)

    for i in range(10):
        save(weave(rng), "train", "good", f"{i:03}.png")
    for i in range(5):
        save(weave(rng), "test", "good", f"{i:03}.png")
        for kind in ("stain", "cut"):
            image, mask = planted(rng, kind)
            save(image, "test", kind, f"{i:03}.png")
            save(mask, "ground_truth", kind, f"{i:03}_mask.png")
    return folder


@pytest.fixture(scope="module")
def splits(parts):
    return {split: data.open_source(f"mvtec:{parts}@{split}") for split in ("train", "test")}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return tiny.encoder(tmp_path_factory.mktemp("encoder"), "simclr:tiny")


# ---- data
def test_good_parts_have_no_defect_and_the_others_their_mask(splits):
    train, test = splits["train"], splits["test"]
    assert (len(train), len(test)) == (10, 15)
    assert not anomaly.defective(train).any()
    assert [name.split("/")[0] != "good" for name in test.names] == anomaly.defective(test).tolist()
    assert set(np.unique(test.masks(0))) == {0, 1}
    assert test.label_names == ("cut", "good", "stain")
    assert len(data.open_source(f"{test.spec}[:7]")) == 7


def test_a_part_without_its_mask_is_named(parts, tmp_path):
    for kind in ("good", "cut"):
        (tmp_path / "test" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / kind / "000.png")
    with pytest.raises(FileNotFoundError, match=r"expected ground_truth/cut/000_mask.png"):
        data.open_source(f"mvtec:{tmp_path}@test")
    with pytest.raises(FileNotFoundError, match="expected train/good and test/KIND"):
        data.open_source(f"mvtec:{tmp_path}")


# ---- the memory bank
def test_distances_are_scikit_learn_s():
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(n, 6)).astype(np.float32) for n in (90, 41))
    queries[3] = bank[7] + 1e-4
    for k in (1, 5):
        expected = NearestNeighbors(n_neighbors=k).fit(bank).kneighbors(queries)[0].mean(1)
        np.testing.assert_allclose(anomaly.distances(bank, queries, k, block=16), expected, rtol=1e-4)


def test_the_coreset_takes_the_farthest_row_each_time():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    rows = anomaly.coreset(x, 12)
    apart = pairwise_distances(x)
    for i in range(1, 12):
        assert rows[i] == apart[rows[:i]].min(0).argmax()


def test_a_coreset_of_clusters_has_one_row_of_each():
    x = np.repeat(100 * np.eye(5, 200, dtype=np.float32), 9, 0)
    rows = anomaly.coreset(x + np.random.default_rng(0).normal(size=x.shape).astype(np.float32), 5)
    assert sorted(rows // 9) == [0, 1, 2, 3, 4]


def test_features_are_means_of_neighbouring_patches():
    tokens = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    found = anomaly.smoothed(tokens, 3)
    np.testing.assert_allclose(found[1, 2, 1], tokens[1, 1:4, 0:3].mean((0, 1)), atol=1e-6)
    np.testing.assert_array_equal(anomaly.smoothed(tokens, 1), tokens)


# ---- areas
def test_areas_are_scikit_learn_s_with_equal_scores_too():
    rng = np.random.default_rng(0)
    scores, bad = rng.integers(0, 12, 200) + 0.0, rng.random(200) < 0.3
    scores[bad] += 2
    area, low, high, error = anomaly.of_images(scores, bad)
    assert area == roc_auc_score(bad, scores)
    counts = np.eye(20)[scores.astype(int)]
    assert roc_area((counts * bad[:, None]).sum(0), (counts * ~bad[:, None]).sum(0)) == pytest.approx(area)
    assert low < area < high
    assert 0 < error < 0.1


def test_areas_of_pixels_leave_out_what_nobody_knows():
    rng = np.random.default_rng(0)
    maps, truth = rng.random((9, 20, 20)).astype(np.float32), (rng.random((9, 20, 20)) < 0.1).astype(np.uint8)
    maps[truth == 1] += 0.3
    maps[:, :5], truth[:, :5] = 9, anomaly.VOID
    area, low, high, _ = anomaly.of_pixels(maps, truth)
    assert area == pytest.approx(roc_auc_score(truth[:, 5:].ravel(), maps[:, 5:].ravel()))
    assert low < area < high


# ---- the whole
@pytest.fixture(scope="module")
def scores(encoders, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    options = {"anomaly": {"layer": "stage1", "coreset": "0.5"}}
    return anomaly.protocol(Subject(folder, {}, encoders, splits, options=options)), folder


def test_planted_defects_are_found_and_lie_where_they_are(scores):
    found = {(score["encoder"], score["task"]): score for score in scores[0]}
    assert len(found) == 6
    for (encoder, task), score in found.items():
        if encoder == "raw pixels":
            assert score["mean"] > 0.85, task
        assert score["low"] <= score["mean"] <= score["high"]
    one = found["trained", "anomaly-image"]
    assert [row["kind"] for row in one["kinds"]] == ["cut", "stain"]
    assert one["settings"]["kept_by_greedy_coreset"] == one["settings"]["patches_of_good_parts"] // 2
    assert (scores[1] / "anomaly.png").exists()


def test_good_parts_against_good_parts_end_at_chance(encoders, splits):
    raw = patches.readers({"trained": encoders["trained"]}, splits["train"])[-1]
    good = splits["test"].take(np.flatnonzero(~anomaly.defective(splits["test"])))
    found = anomaly.detect(raw, splits["train"], good, anomaly.Settings())
    marked = np.zeros(found["maps"].shape, np.uint8)
    marked[:, :16] = 1
    assert abs(anomaly.of_pixels(found["maps"], marked)[0] - 0.5) < 0.15


@pytest.mark.parametrize(
    "pick, said",
    [
        (lambda train, test: (train, test.take(np.flatnonzero(~anomaly.defective(test)))), "has no defect; expected"),
        (lambda train, test: (train, test.take(np.flatnonzero(anomaly.defective(test)))), "has no good part; expected"),
        (lambda train, test: (test, test.take([0, 1])), r"to hold good parts alone, but cut/000.png and 9 others"),
        (lambda train, test: (train, train), "would be both good parts and test set"),
        (lambda train, test: (train, data.open_source("digits@test")), "has no masks of defects"),
    ],
)
def test_data_that_do_not_fit_are_one_line(splits, pick, said):
    with pytest.raises(ValueError, match=said):
        anomaly.check(*pick(splits["train"], splits["test"]))
