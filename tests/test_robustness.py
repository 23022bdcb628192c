"""Accuracy on corrupted and shifted images, what of it is kept, and images of another kind."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jssl import data
from jssl.augment.corrupt import corrupt
from jssl.evals import linear, robustness, run, scores
from jssl.evals.subject import of_run

HOW = {"data": "digits@[:200]", "test": "digits@test[:48]"}
SOME = {"corruptions": "contrast"}


@pytest.fixture(scope="module")
def workdir(simclr_copy):
    return simclr_copy


@pytest.fixture(scope="module")
def found(workdir):
    """{(encoder, task): score} of one corruption, and of the training digits as images of another kind."""
    run.evaluate(workdir, "robustness", **HOW, options={"robustness": {**SOME, "ood": "digits@[:64]"}})
    content = json.loads((workdir / "scores.json").read_text())["scores"]
    return {(score["encoder"], score["task"]): score for score in content}


def test_every_encoder_has_its_accuracy_for_each_corruption_and_severity(found):
    for encoder in ("trained", "untrained", "raw pixels"):
        for task in ("robustness", "robustness-knn"):
            score, kept = found[encoder, task], found[encoder, f"{task}-kept"]
            cells = score["settings"]["by corruption"]
            assert list(cells) == ["contrast"]
            assert all(len(cell) == 5 for cell in cells.values())
            assert score["mean"] == pytest.approx(np.mean(list(cells.values())))
            assert kept["mean"] == pytest.approx(score["mean"] / score["settings"]["clean"])
            assert kept["low"] < kept["mean"] < kept["high"]
            assert list(score["settings"]["by shift"]) == list(robustness.SHIFTS)
            assert {"classifier", "images", "seed"} <= set(score["settings"])


def test_a_cell_is_the_probe_of_clean_features_on_corrupted_ones(found):
    """Of raw pixels, all by hand."""
    clean, test = data.open_source(HOW["data"]), data.open_source(HOW["test"])
    pixels = lambda images: np.float32(images).reshape(len(images), -1) / 255
    probe = functools.partial(linear.probe, pixels(clean.images), clean.labels, classes=10)
    score = found["raw pixels", "robustness"]["settings"]
    assert score["clean"] == pytest.approx(probe(pixels(test.images), test.labels)["accuracy"])
    flat = pixels(np.asarray(corrupt(test.images, "contrast", 4, jax.random.key(0))))
    assert score["by corruption"]["contrast"][3] == pytest.approx(probe(flat, test.labels)["accuracy"])


def test_images_of_the_same_kind_are_not_told_apart(found):
    score = found["raw pixels", "ood"]
    assert score["settings"]["other_rows"] == 64
    assert score["low"] < score["mean"] < score["high"]
    assert found["raw pixels", "ood-softmax"]["mean"] == pytest.approx(0.5, abs=0.2)


def test_noise_is_another_kind(workdir, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), np.uint8)  # of another size, and in colour
    np.savez(tmp_path / "noise.npz", image=noise)
    subject = of_run(workdir, **HOW)
    rows = {"raw pixels": robustness.rows_of(subject, "raw pixels")}
    nearest, softmax = robustness.out_of_distribution(subject, rows, f"npz:{tmp_path}/noise.npz")
    assert nearest["mean"] > 0.99
    assert softmax["mean"] < nearest["mean"]  # a linear probe is sure of what is far away


def test_the_interval_of_an_auroc_is_that_of_resampled_images():
    rng = np.random.default_rng(0)
    known, unknown = np.round(rng.normal(0, 1, 60), 1), np.round(rng.normal(1, 1, 80), 1)
    pick = lambda values: rng.choice(values, len(values))
    expected = np.quantile([robustness.auroc(pick(known), pick(unknown)) for _ in range(300)], (0.025, 0.975))
    np.testing.assert_allclose(robustness.auroc_interval(known, unknown), expected, atol=0.025)


def test_noise_of_an_image_is_the_same_whatever_its_batch(monkeypatch):
    images = data.open_source("digits@test[:40]").images
    whole = dict(robustness.changes(images, ["gaussian noise"], 0))["gaussian noise", 1]["images"]
    monkeypatch.setattr(robustness, "BATCH", 16)
    parts = dict(robustness.changes(images, ["gaussian noise"], 0))["gaussian noise", 1]["images"]
    np.testing.assert_array_equal(whole, parts)
    assert len(whole) == 40


def test_a_fitted_probe_is_the_probe():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    x, test = rng.normal(size=(90, 4)) + labels[:, None], rng.normal(size=(30, 4)) + 1
    logits, settings = linear.fitted(x, labels, classes=3)
    expected = linear.probe(x, labels, test, np.zeros(30, int), classes=3)
    np.testing.assert_array_equal(logits(test).argmax(-1), expected["predictions"][0])
    assert settings["penalty"] == expected["settings"]["penalty"][0]


def test_the_interval_of_a_ratio_is_scipys():
    rng = np.random.default_rng(0)
    clean = np.float64(rng.random(80) < 0.8)
    corrupted = clean * rng.integers(0, 5, 80) / 4
    ratio = lambda a, b, axis: a.mean(axis) / b.mean(axis)
    expected = stats.bootstrap((corrupted, clean), ratio, paired=True, method="percentile", rng=0).confidence_interval
    np.testing.assert_allclose(robustness.ratio_interval(corrupted, clean), expected, atol=0.01)


# ---- shifts
def test_half_the_resolution_is_pillows():
    image = Image.fromarray(data.open_source("digits@test[:1]").images[0, ..., 0]).resize((32, 32))
    small = image.resize((16, 16), Image.Resampling.BILINEAR).resize((32, 32), Image.Resampling.BILINEAR)
    found = robustness.coarser(np.asarray(image)[None, ..., None])[0, ..., 0]
    assert abs(found.astype(int) - np.asarray(small)).max() <= 2  # both are rounded, after each of two steps


def test_the_middle_is_enlarged_and_what_is_moved_leaves_its_edge():
    images = np.arange(16 * 16, dtype=np.uint8).reshape(1, 16, 16, 1)
    middle = robustness.central(0.5)(images)
    assert middle.shape == images.shape
    assert (middle.min(), middle.max()) == (images[0, 4, 4, 0], images[0, 11, 11, 0])
    down, right = robustness.moved(1)(images), robustness.moved(2)(images)
    np.testing.assert_array_equal(down[:, 2:], images[:, :-2])
    np.testing.assert_array_equal(down[:, :2], images[:, [0, 0]])
    np.testing.assert_array_equal(right[:, :, 2:], images[:, :, :-2])


def test_images_on_disk_are_held_as_their_middle(photos, workdir):
    encoder = of_run(workdir, **HOW).encoders["trained"]
    source = data.open_source(f"folder:{photos}", channels=1, fits=0)
    images = robustness.held(source, encoder)
    side = round(encoder.preprocess.size / encoder.preprocess.crop)
    assert images.shape == (64, side, side, 1)
    assert images.std() > 0


# ---- errors
def test_what_cannot_be_is_said_in_one_line(workdir):
    subject = of_run(workdir, **HOW)
    with pytest.raises(ValueError, match="unknown corruption 'fogg'; did you mean fog"):
        robustness.protocol(dataclasses.replace(subject, options={"robustness": {"corruptions": "fogg"}}))
    with pytest.raises(ValueError, match="did you mean ood"):
        robustness.protocol(dataclasses.replace(subject, options={"robustness": {"odd": "digits"}}))


def test_titles_are_words():
    assert scores.title("robustness-knn-kept") == "kept, k-NN"
