"""What a finished run leaves behind: an encoder that loads alone, scores, features and a report."""

import dataclasses
import json

import numpy as np
import pytest

from jssl import data
from jssl.checkpoint import Checkpoints
from jssl.config import load
from jssl.encoder import Encoder
from jssl.evals import run as evals
from jssl.evals import subject
from jssl.report import report
from jssl.train import train
from tests import tiny

TINY = {"train.steps": 20, "eval.every": 10, "checkpoint.every": 10, "log_every": 10, "train.batch_size": 64}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(load("simclr:tiny", TINY), workdir)
    return workdir


@pytest.fixture(scope="module")
def test_images():
    return data.open_source("digits@test")


def test_encoder_is_the_trained_one(workdir, test_images):
    """Its weights are those of the last checkpoint, and the projector stays behind."""
    weights = np.load(workdir / "encoder" / "weights.npz")
    checkpoints = Checkpoints(workdir)
    state = checkpoints.manager.restore(20)["state"]
    checkpoints.close()
    np.testing.assert_array_equal(weights["params/encoder/conv1/kernel"], state["params"]["encoder"]["conv1"]["kernel"])
    assert not [name for name in weights if "projector" in name or name.startswith("opt")]
    assert "carry/stats/encoder/norm1/mean" in weights


def test_untrained_encoder_is_the_one_before_step_0(workdir):
    trained, untrained = (np.load(workdir / "encoder" / f"{name}.npz") for name in ("weights", "untrained"))
    assert set(trained) == set(untrained)
    assert (trained["params/encoder/conv1/kernel"] != untrained["params/encoder/conv1/kernel"]).any()
    assert not untrained["carry/stats/encoder/norm1/mean"].any()


def test_encoder_maps_images_to_features_whatever_the_batch(workdir, test_images):
    encoder = Encoder(workdir)
    features = encoder(test_images.images)
    assert features.shape == (500, 16)
    np.testing.assert_allclose(encoder(test_images.images[:7]), features[:7], atol=1e-6)
    np.testing.assert_array_equal(encoder.embed(test_images, batch_size=64), encoder.embed(test_images, batch_size=64))


def test_encoder_moves_as_a_folder(workdir, test_images, tmp_path):
    (workdir / "encoder").rename(tmp_path / "elsewhere")
    features = Encoder(tmp_path / "elsewhere")(test_images.images[:8])
    (tmp_path / "elsewhere").rename(workdir / "encoder")
    np.testing.assert_array_equal(features, Encoder(workdir)(test_images.images[:8]))


def test_wrong_images_are_one_clear_line(workdir):
    with pytest.raises(ValueError, match=r"float64 \(2, 8, 8, 1\), expected uint8 \[N, H, W, 1\]"):
        Encoder(workdir)(np.zeros((2, 8, 8, 1)))


def test_no_encoder_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the directory of a finished `jssl train`"):
        Encoder(tmp_path)


def test_eval_scores_all_three_and_writes_the_whole_protocol(workdir):
    table = evals.evaluate(workdir, protocol="knn,fewshot")
    scores = json.loads((workdir / "scores.json").read_text())
    assert [line.split("  ")[0] for line in table.splitlines()[2:5]] == ["trained", "untrained", "raw pixels"]
    assert {score["task"] for score in scores["scores"]} == {"knn", "fewshot-1", "fewshot-5", "fewshot-10"}
    assert all(score["settings"] and score["stderr"] > 0 for score in scores["scores"])
    assert scores["protocol"]["data"] == {"train": "digits", "test": "digits@test", "encoder_saw_test_images": False}
    assert scores["run"]["versions"]["jax"]
    pixels = next(s for s in scores["scores"] if s["encoder"] == "raw pixels" and s["task"] == "knn")
    assert pixels["mean"] > 0.9


def test_without_a_test_set_a_fifth_of_the_labels_is_held_out():
    source = data.open_source("digits")
    splits = subject.held_out(source)
    names = [set(split.names) for split in splits.values()]
    assert not names[0] & names[1]
    assert names[0] | names[1] == set(source.names)
    assert abs(len(names[1]) / len(source) - 0.2) < 0.01
    turned = subject.held_out(source.take(np.arange(len(source))[::-1]))
    assert set(turned["test"].names) == names[1]  # whatever the order of the rows


def test_of_a_class_of_one_image_none_is_held_out():
    source = dataclasses.replace(data.open_source("digits@[:7]"), labels=np.array([0, 0, 0, 1, 1, 1, 2], np.int32))
    splits = subject.held_out(source)
    assert sorted(splits["train"].labels) == [0, 0, 1, 1, 2]
    assert sorted(splits["test"].labels) == [0, 1]
    pairs = dataclasses.replace(source.take(np.arange(6)), labels=np.array([0, 0, 1, 1, 2, 2], np.int32))
    assert [sorted(part.labels) for part in subject.held_out(pairs).values()] == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(ValueError, match=r"digits@.* has one image of each class, none for testing; expected"):
        subject.held_out(dataclasses.replace(source, labels=np.arange(7, dtype=np.int32)))


def test_without_labels_eval_says_what_can_be_said(workdir, tmp_path):
    np.savez(tmp_path / "bare.npz", image=data.open_source("digits").images[:300])
    said = evals.evaluate(workdir, data=f"npz:{tmp_path}/bare.npz", test=f"npz:{tmp_path}/bare.npz")
    assert "no labels" in said
    assert "RankMe" in said
    shown = np.load(workdir / "map.npz")
    assert len(shown["features"]) == 300
    assert len(shown["thumbs"]) == len(shown["thumb_index"])


def test_raw_pixels_are_the_images_themselves(test_images):
    features = subject.pixels(test_images)
    np.testing.assert_allclose(features, test_images.images.reshape(500, -1) / 255, atol=1e-7)


def test_large_raw_pixels_are_brought_to_one_size():
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 60, 3), np.uint8)
    source = data.Source(spec="x", names=range(3), channels=3, images=images)
    assert subject.pixels(source).shape == (3, 32 * 32 * 3)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embed_writes_features_with_their_names(workdir, test_images, tmp_path, suffix):
    out = tmp_path / f"features.{suffix}"
    evals.embed(workdir, "digits@test", out)
    if suffix == "npz":
        columns = dict(np.load(out))
    else:
        import pyarrow.parquet

        columns = {name: np.array(list(x)) for name, x in pyarrow.parquet.read_table(out).to_pydict().items()}
    np.testing.assert_allclose(columns["features"], Encoder(workdir).embed(test_images), atol=1e-6)
    assert list(columns["names"]) == list(test_images.names)
    np.testing.assert_array_equal(columns["labels"], test_images.labels)


def test_report_is_made_from_the_run(workdir):
    evals.evaluate(workdir, protocol="knn")
    page = report(workdir).read_text()
    for part in ("Scores", "Nearest neighbours", "Map of the embeddings", "Training curves", "Views", "raw pixels"):
        assert part in page


def test_an_encoder_that_does_not_say_its_modality_is_of_what_its_channels_say(tmp_path):
    tiny.encoder(tmp_path, "simclr:tiny", channels=1)
    path = tmp_path / "encoder" / "config.json"
    content = json.loads(path.read_text())
    assert content.pop("modality") == "image"
    path.write_text(json.dumps(content))
    assert Encoder(tmp_path).modality == "image"
