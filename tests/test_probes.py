"""Protocols of frozen features on a run: what they score, how they say what they did, and what chance is."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jssl import data
from jssl.config import load
from jssl.encoder import Encoder
from jssl.evals import table
from jssl.evals.run import embed, evaluate
from jssl.evals.subject import of_run, pixels
from jssl.search import search
from jssl.train import train

HOW = {"data": "digits@[:300]", "test": "digits@test[:100]"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A vision transformer after two steps."""
    path = tmp_path_factory.mktemp("runs") / "mae"
    train(load("experiments/mae.py:tiny", {"train.steps": 2, "eval.every": 0, "checkpoint.every": 2}), path)
    return path


@pytest.fixture(scope="module")
def subject(workdir):
    return of_run(workdir, **HOW)


def scored(subject, name):
    return {(score["encoder"], score["task"]): score for score in table.find(name)(subject)}


def test_features_that_do_not_fit_lie_in_a_file_and_k_nn_reads_them_there(subject, monkeypatch):
    monkeypatch.setattr("jssl.encoder.HELD", 1000)
    bank = subject.encoders["trained"].embed(subject.splits["train"])
    assert isinstance(bank, np.memmap)
    np.testing.assert_array_equal(bank, subject.features["trained"]["train"])
    other = dataclasses.replace(subject)
    object.__setattr__(other, "features", {"trained": {**subject.features["trained"], "train": bank}})
    assert scored(other, "knn")["trained", "knn"]["mean"] == scored(subject, "knn")["trained", "knn"]["mean"]
    images = subject.splits["train"].images
    raw = pixels(subject.splits["train"])
    assert isinstance(raw, np.memmap)
    np.testing.assert_allclose(raw, images.reshape(len(images), -1) / 255, rtol=1e-6)


def test_knn_s_headline_is_the_config_s_and_the_grid_is_kept_beside_it(subject):
    score = scored(subject, "knn")["trained", "knn"]
    settings = score["settings"]
    assert (settings["k"], settings["temperature"]) == (20, 0.07)
    cells = {(cell["k"], cell["temperature"]): cell["accuracy"] for cell in settings["grid"]}
    assert cells[20, 0.07] == pytest.approx(score["mean"])
    assert set(cells) == {(k, T) for k in (5, 10, 20, 200) for T in (0.07, 0.1, None)}
    assert "no accuracy of the encoder" in settings["picked_by"]


def test_with_one_source_every_image_is_also_classified_by_all_others(subject):
    one = {part: dataclasses.replace(source, spec="digits") for part, source in subject.splits.items()}
    found = scored(dataclasses.replace(subject, splits=one), "knn")
    assert {task for _, task in found} == {"knn", "knn-loo"}
    assert len(found["trained", "knn-loo"]["rows"]["right"]) == 400
    found = scored(dataclasses.replace(subject, splits=one), "retrieval")
    assert len(found["trained", "recall-1"]["rows"]["right"]) == 400


def test_linear_grid_says_what_it_picked(subject):
    found = scored(subject, "linear-grid")
    assert set(found) == {("trained", "linear-grid"), ("untrained", "linear-grid")}
    settings = found["trained", "linear-grid"]["settings"]
    assert {(cell["layers"], cell["pooling"]) for cell in settings["grid"]} >= {
        (1, "cls"),
        (1, "mean"),
        (2, "cls+mean"),
    }
    assert settings["picked"][0]["validation_accuracy"] == max(
        cell["validation_accuracy"][0] for cell in settings["grid"]
    )
    assert np.mean(found["trained", "linear-grid"]["rows"]["right"]) == found["trained", "linear-grid"]["mean"]


def test_retrieval_scores_every_query(subject):
    found = scored(subject, "retrieval")
    assert {task for _, task in found} == {"recall-1", "recall-5", "recall-10", "map"}
    assert len({name for name, _ in found}) == 3
    recall = [found["raw pixels", f"recall-{k}"]["mean"] for k in (1, 5, 10)]
    assert 0.8 < recall[0] <= recall[1] <= recall[2]
    precision = found["raw pixels", "map"]
    assert precision["stderr"] == pytest.approx(np.std(precision["rows"]["right"], ddof=1) / 10)
    assert precision["settings"]["index_rows"] == 300


# ---- search
def cosines(features, row):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit[row]


def test_the_nearest_are_found_and_a_query_of_the_index_does_not_find_itself(workdir, photos, tmp_path):
    Image.open(photos / "07.png").save(tmp_path / "copy.png")
    source = data.open_source(f"folder:{photos}", channels=1)
    features = Encoder(workdir).embed(source)
    expected = np.argsort(-cosines(features, 7), kind="stable")[:4]
    how = {"workdir": workdir, "index": f"folder:{photos}", "count": 3, "out": tmp_path / "found.png"}
    text = search(queries=[photos / "07.png", tmp_path / "copy.png"], **how)
    _, own, other = (part.splitlines() for part in text.split("\n\n"))
    names = lambda lines: [line.split()[1] for line in lines[1:]]
    assert names(own) == [source.names[row] for row in expected[1:]]
    assert names(other) == [source.names[row] for row in expected[:3]]
    assert other[1].split() == ["1.000", "07.png"]
    assert Image.open(tmp_path / "found.png").size == (8 + 4 * 136, 40 + 2 * 176)


def test_features_of_the_index_are_kept_until_images_or_weights_change(workdir, photos, tmp_path, monkeypatch):
    for name in ("00.png", "01.png", "02.png"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    how = {"workdir": workdir, "index": f"folder:{tmp_path}", "queries": [photos / "09.png"]}
    how["out"] = tmp_path / "found.html"
    embedded, embed = [], Encoder.embed
    counted = lambda self, source, *how: embedded.append(len(source)) or embed(self, source, *how)
    monkeypatch.setattr(Encoder, "embed", counted)
    first = search(**how)
    assert embedded == [3, 1]
    assert search(**how) == first
    assert embedded == [3, 1, 1]
    (tmp_path / "03.png").write_bytes((photos / "03.png").read_bytes())
    assert "4 images of" in search(**how)
    assert embedded == [3, 1, 1, 4, 1]
    assert (tmp_path / "found.html").read_text().count("<figure") == 5


def test_what_is_wrong_is_one_line(workdir, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    asked = {"workdir": workdir, "index": f"folder:{photos}", "queries": [photos / "00.png"], "out": "x.html"}

    def refused(match, error=ValueError, **changed):
        with pytest.raises(error, match=match) as found:
            search(**asked | changed)
        assert "\n" not in str(found.value)

    refused("there is no such file; did you mean 60.png", FileNotFoundError, queries=[photos / "0.png"])
    refused("there is no such file, expected an image$", FileNotFoundError, queries=[photos / "none-of-them.jpeg"])
    refused("broken.png is a file, expected a folder", out=tmp_path / "broken.png" / "x.html")
    refused("broken.png cannot be decoded: not an image", queries=[tmp_path / "broken.png"])
    refused("is a folder; expected one image file", queries=[photos])
    refused("no images below", index=f"folder:{tmp_path}/empty")
    refused("cannot draw .gif, expected .html or .png", out="x.gif")
    refused("--count 0", count=0)
    with pytest.raises(ValueError, match=r"holds a graph of .* expected a source of modality 'image'"):
        of_run(workdir, data="knn:digits@[:50]")


def test_classes_that_do_not_fit_are_refused_before_anything_is_embedded(workdir, tmp_path, monkeypatch):
    digits = data.open_source("digits@test[:20]")
    np.savez(tmp_path / "others.npz", image=digits.images, label=digits.labels, label_names=list("abcdefghij"))
    monkeypatch.setattr(Encoder, "embed", None)
    with pytest.raises(ValueError, match="has the class 'a', which is none of the 10 classes of digits"):
        evaluate(workdir, "rank", data="digits", test=f"npz:{tmp_path}/others.npz")


def test_without_labels_it_is_said_of_which_set(workdir, tmp_path):
    np.savez(tmp_path / "bare.npz", image=data.open_source("digits@test[:20]").images)
    said = evaluate(workdir, data="digits@[:20]", test=f"npz:{tmp_path}/bare.npz")
    assert f"no labels in npz:{tmp_path}/bare.npz: k-NN and probes need them" in said


def test_the_folder_of_what_is_asked_for_is_made(workdir, photos, tmp_path):
    how = {"workdir": workdir, "index": f"folder:{photos}", "queries": [photos / "09.png"]}
    search(**how, out=tmp_path / "new" / "found.html")
    embed(workdir, "digits@[:4]", tmp_path / "other" / "x.npz")
    assert sorted(file.name for file in tmp_path.glob("*/*")) == ["found.html", "x.npz"]


def test_rank_needs_no_labels(workdir):
    """Of every image run; raw pixels have no views by the encoder's augmentations."""
    options = {"rank": {"images": "16", "views": "3", "k": "4"}}
    subject = of_run(workdir, **HOW, options=options)
    bare = {part: dataclasses.replace(source, labels=None) for part, source in subject.splits.items()}
    subject = dataclasses.replace(subject, splits=bare)
    found = scored(subject, "rank")
    tasks = {"rankme", "alpha-req", "lidar", "alignment", "uniformity", "neighbours"}
    assert set(found) == {(name, task) for name in ("trained", "untrained") for task in tasks}
    value = lambda task: found["trained", task]["mean"]
    assert 1 <= value("rankme") <= 16
    assert 1 <= value("lidar") <= 15
    assert 0 < value("alignment") < 4
    assert -8 < value("uniformity") < 0
    assert 0 < value("neighbours") < 1
    means = lambda scores: {key: score["mean"] for key, score in scores.items()}
    assert means(scored(subject, "rank")) == means(found)
    with pytest.raises(ValueError, match="k=16: expected at least 2 images"):
        scored(dataclasses.replace(subject, options={"rank": {"images": "16", "k": "16"}}), "rank")
    alone = dataclasses.replace(subject, config={**subject.config, "augment": {"name": None}})
    with pytest.raises(ValueError, match="without the augmentations of its run"):
        scored(alone, "rank")
    found = scored(dataclasses.replace(alone, missing=(missing := {})), "rank")
    assert {task for _, task in found} == {"rankme", "alpha-req"}
    assert list(missing) == ["what is measured of views (LiDAR, alignment, uniformity, neighbours kept)"]
