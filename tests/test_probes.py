"""Protocols of frozen features on a run: what they score, how they say what they did, and what chance is."""

import numpy as np
import pytest

from jssl.config import load
from jssl.evals import table
from jssl.evals.subject import of_run
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


def test_knn_s_headline_is_the_config_s_and_the_grid_is_kept_beside_it(subject):
    score = scored(subject, "knn")["trained", "knn"]
    settings = score["settings"]
    assert (settings["k"], settings["temperature"]) == (20, 0.07)
    cells = {(cell["k"], cell["temperature"]): cell["accuracy"] for cell in settings["grid"]}
    assert cells[20, 0.07] == pytest.approx(score["mean"])
    assert set(cells) == {(k, T) for k in (5, 10, 20, 200) for T in (0.07, 0.1, None)}
    assert "no accuracy of the encoder" in settings["picked_by"]


def test_with_one_source_every_image_is_also_classified_by_all_others(workdir):
    found = scored(of_run(workdir, data="digits@[:300]", test="digits@[:300]"), "knn")
    assert set(found) == {
        (name, task) for name in ("trained", "untrained", "raw pixels") for task in ("knn", "knn-loo")
    }


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
