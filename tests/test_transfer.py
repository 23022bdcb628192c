"""Classifiers on other data sets, and carried over to them."""

import dataclasses
import json

import numpy as np
import pytest

from jssl import data
from jssl.evals import frozen, images, run, scores, transfer
from jssl.evals.subject import config_of, of_run

HOW = {"data": "digits@[:120]", "test": "digits@test[:40]"}


@pytest.fixture(scope="module")
def workdir(simclr_copy):
    return simclr_copy


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """A set of two classes without names, in another size and in colour: upright and level stripes with noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    upright = np.broadcast_to(np.arange(12) % 4 // 2, (12, 12)) * 200
    images = np.where(labels[:, None, None] == 1, upright, upright.T) + rng.integers(0, 50, (60, 12, 12))
    file = tmp_path_factory.mktemp("sets") / "stripes.npz"
    np.savez(file, image=images.astype(np.uint8)[..., None].repeat(3, -1), label=labels)
    return f"npz:{file}"


def of(workdir, **options):
    return transfer.protocol(dataclasses.replace(of_run(workdir, **HOW), options={"transfer": options}))


def test_several_sets_are_one_table(workdir, stripes):
    text = run.evaluate(workdir, "transfer", **HOW, options={"transfer": {"to": f"{stripes},digits@[120:400]"}})
    content = json.loads((workdir / "scores.json").read_text())["scores"]
    found = {(score["encoder"], score["task"]): score for score in content}
    tasks = {task for _, task in found}
    ways = [f"{name}-{way}" for name in ("stripes", "digits", "digits-own") for way in ("knn", "linear")]
    assert tasks == {f"transfer-{way}" for way in ways}  # classes without names are not the digits
    for task in tasks:
        assert scores.title(task) in text
        for encoder in ("trained", "untrained", "raw pixels"):
            assert found[encoder, task]["low"] <= found[encoder, task]["mean"] <= found[encoder, task]["high"]
    assert found["raw pixels", "transfer-stripes-linear"]["mean"] == 1
    assert found["raw pixels", "transfer-stripes-linear"]["settings"]["test_rows"] == 12
    assert scores.title("transfer-digits-own-linear") == "linear probe of the run's set, digits"


def test_a_carried_classifier_is_that_of_the_runs_images(workdir):
    found = {(s["encoder"], s["task"]): s for s in of(workdir, to="digits@[120:400]+digits@test[40:90]")}
    subject = of_run(workdir, data=HOW["data"], test="digits@test[40:90]")
    for expected in frozen.linear_of(subject):
        score = found[expected["encoder"], "transfer-digits-own-linear"]
        assert score["mean"] == pytest.approx(expected["mean"])
        assert score["settings"]["train"] == HOW["data"]


def test_classes_are_the_same_by_name_or_because_the_user_says_so(workdir, stripes):
    tasks = {score["task"] for score in of(workdir, to=stripes, same_classes=True)}
    assert tasks == {f"transfer-stripes-{way}" for way in ("knn", "linear", "own-knn", "own-linear")}
    source, other = data.open_source("digits@[:9]"), data.open_source("digits@test[:9]")
    assert transfer.alike(source, other, False)
    assert not transfer.alike(source, dataclasses.replace(other, label_names=("cat",) * 10), True)
    assert not transfer.alike(source, dataclasses.replace(other, label_names=None), False)
    assert not transfer.alike(dataclasses.replace(source, labels=None), other, True)


def test_a_set_without_a_test_set_is_cut_by_a_hash():
    one, again = (transfer.split("digits@[:200]", 1) for _ in range(2))
    assert one["test"].names == again["test"].names
    assert len(one["test"]) == pytest.approx(40, abs=5)
    assert not set(one["test"].names) & set(one["train"].names)
    assert len(one["train"]) + len(one["test"]) == 200


def test_sets_are_called_by_their_files():
    specs = ["npz:/a/pets.npz", "folder:/b/cars+folder:/b/cars_test", "digits@[:9]", "npz:/c/pets.npz", "npz:a b!.npz"]
    assert list(transfer.named(specs)) == ["pets", "cars", "digits", "pets.2", "a_b_"]


def test_what_cannot_be_is_said_in_one_line(workdir, tmp_path):
    with pytest.raises(ValueError, match="transfer needs the sets to go to: expected"):
        of(workdir)
    np.savez(tmp_path / "bare.npz", image=np.zeros((9, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"bare\.npz has no labels; transfer needs one class per image"):
        of(workdir, to=f"npz:{tmp_path}/bare.npz")
    np.savez(tmp_path / "same.npz", image=np.zeros((9, 8, 8), np.uint8), label=np.zeros(9, int))
    with pytest.raises(ValueError, match="all 7 training labels are class 0; expected at least two classes"):
        of(workdir, to=f"npz:{tmp_path}/same.npz")


def test_a_protocol_that_was_not_asked_for_is_left_out_under_its_own_name(workdir):
    config = config_of(workdir)
    config["eval"]["protocols"] = "transfer"
    found, said, *_ = images.evaluate(workdir, config, data=HOW["data"], test=HOW["test"])
    assert not found
    assert said["left out"]["transfer"].startswith("transfer needs the sets to go to: ")
