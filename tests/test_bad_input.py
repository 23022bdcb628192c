"""What a user may get wrong with the protocols that need classes: each said in one line."""

import dataclasses
import shutil

import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl.encoder import Encoder
from jssl.evals import run, table
from jssl.evals.subject import Subject, of_run

DIGITS = data.open_source("digits@[:60]")
CLASSIFY = ("knn", "linear", "linear-sgd", "fewshot", "robustness", "fairness")


@pytest.fixture(scope="module")
def workdir(simclr_copy):
    return simclr_copy


def subject(train, test=DIGITS):
    """Sources with labels and groups, and features that are noise."""
    test = dataclasses.replace(test, groups=np.arange(len(test), dtype=np.int32) % 2)
    rng = np.random.default_rng(0)
    found = Subject(None, configs.plain(configs.base()), {}, {"train": train, "test": test})
    of = lambda source: rng.normal(size=(len(source), 4)).astype(np.float32)
    vars(found)["features"] = {"trained": {"train": of(train), "test": of(test)}}
    return found


def labelled(labels):
    return dataclasses.replace(DIGITS, labels=None if labels is None else np.asarray(labels, np.int32))


@pytest.mark.parametrize("name", CLASSIFY)
def test_no_labels_one_class_and_classes_that_training_has_not(name):
    protocol = table.find(name)
    with pytest.raises(ValueError, match="has no labels; this protocol needs one class per train image"):
        protocol(subject(labelled(None)))
    with pytest.raises(ValueError, match="has no labels; this protocol needs one class per test image"):
        protocol(subject(DIGITS, labelled(None)))
    with pytest.raises(ValueError, match="all 60 training labels are class 3; expected at least two classes"):
        protocol(subject(labelled(np.full(60, 3))))
    with pytest.raises(ValueError, match=r"has images of class '3', of which digits@\[:60\] has none to learn from"):
        protocol(subject(DIGITS.take(np.flatnonzero(DIGITS.labels != 3))))


def test_a_class_with_one_image_is_too_few_for_more_shots_alone(tmp_path):
    labels = np.where(DIGITS.labels == 9, 8, DIGITS.labels)
    labels[0] = 9
    rare = subject(labelled(labels), labelled(labels))
    with pytest.raises(ValueError, match="class '9' has 1 training examples; expected at least 5 per class"):
        table.find("fewshot")(rare)
    rare = dataclasses.replace(rare, missing={}, workdir=tmp_path)
    vars(rare)["features"] = {"trained": {part: np.eye(10, dtype=np.float32)[labels] for part in ("train", "test")}}
    for name in ("linear", "fewshot"):
        assert table.find(name)(rare)[0]["mean"] > 0.95
    assert list(rare.missing) == ["5 labels per class", "10 labels per class"]


def test_features_that_are_not_finite_are_a_diverged_training(workdir, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(workdir, broken)
    weights = dict(np.load(broken / "encoder/weights.npz"))
    np.savez(broken / "encoder/weights.npz", **{name: np.full_like(x, np.nan) for name, x in weights.items()})
    with pytest.raises(ValueError, match="features are not finite: the encoder has diverged"):
        run.evaluate(broken, "knn", data="digits@[:60]", test="digits@test[:20]")


def test_a_run_without_an_encoder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has no weights.npz: expected the directory of a finished `jssl train`"
    ):
        run.evaluate(tmp_path, "knn")


def test_images_of_another_size_and_colour_are_brought_to_the_encoders(workdir, tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (12, 20, 14, 3), np.uint8)
    np.savez(tmp_path / "colour.npz", image=colour, label=np.arange(12) % 2)
    found = of_run(workdir, f"npz:{tmp_path}/colour.npz", f"npz:{tmp_path}/colour.npz")
    assert found.splits["train"].shape == (20, 14, 1)
    assert np.isfinite(found.features["trained"]["test"]).all()
    with pytest.raises(ValueError, match=r"images are uint8 \(12, 20, 14, 3\), expected uint8 \[N, H, W, 1\]"):
        Encoder(workdir)(colour)
    np.savez(tmp_path / "four.npz", image=rng.integers(0, 256, (4, 8, 8, 4), np.uint8), label=np.arange(4) % 2)
    with pytest.raises(ValueError, match="images have 4 channels, which cannot become 1"):
        of_run(workdir, f"npz:{tmp_path}/four.npz")
