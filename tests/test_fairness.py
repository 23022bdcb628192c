"""Accuracy by group; where groups come from."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jssl import data
from jssl.evals import fairness, scores
from jssl.evals.subject import Subject

RNG = np.random.default_rng(0)


def subject(groups, right=None, names=("north", "south", "east")):
    """One encoder, two classes, test rows of the given groups; the probe is right where `right` says so."""
    labels = np.arange(len(groups)) % 2
    shown = labels if right is None else np.where(right, labels, 1 - labels)
    source = data.Source(spec="here", names=range(len(groups)), channels=1, labels=labels.astype(np.int32))
    test = dataclasses.replace(source, groups=np.asarray(groups, np.int32), group_names=names)
    at = lambda labels: np.stack([2.0 * labels - 1, np.zeros(len(labels))], 1).astype(np.float32)
    found = Subject(None, {}, {}, {"train": source, "test": test})
    vars(found)["features"] = {"trained": {"train": at(labels), "test": at(shown)}}
    return found


def test_the_worst_group_and_the_gap():
    groups = np.repeat([0, 1, 2], [40, 60, 5])
    right = np.concatenate([np.arange(40) < 36, np.arange(60) < 30, np.zeros(5)]).astype(bool)
    worst, gap = fairness.protocol(subject(groups, right))
    assert worst["mean"] == pytest.approx(0.5)
    assert gap["mean"] == pytest.approx(0.9 - 0.5)
    assert (gap["settings"]["worst"], gap["settings"]["best"]) == ("south", "north")
    by_group = worst["settings"]["by group"]
    assert by_group["north"]["accuracy"] == pytest.approx(0.9)
    assert by_group["east"] == {
        "test_rows": 5,
        "accuracy": 0.0,
        "too_few": "fewer than 20 test images: left out of worst and gap",
    }
    assert worst["low"] < 0.5 < worst["high"]
    assert gap["low"] < 0.4 < gap["high"]
    assert gap["settings"]["p"] < 0.001
    assert gap["settings"]["words"] == "more than chance"
    json.dumps([worst, gap])
    assert scores.title("fairness-worst") == "worst group"


def test_the_interval_of_the_gap_of_two_groups_is_that_of_a_difference():
    low, high, _ = fairness.gap_test(np.array([720, 300]), np.array([800, 500]))
    error = (0.9 * 0.1 / 800 + 0.6 * 0.4 / 500) ** 0.5
    np.testing.assert_allclose((low, high), (0.3 - 1.96 * error, 0.3 + 1.96 * error), atol=0.005)


@pytest.mark.parametrize(("truth", "sizes"), [([0.8] * 2, [100] * 2), ([0.8] * 5, [100] * 5), ([0.9, 0.6], [60, 90])])
def test_the_interval_of_the_gap_holds_the_truth_in_95_of_100_sets(monkeypatch, truth, sizes):
    monkeypatch.setattr(fairness, "RESAMPLES", 1000)
    rng, sizes = np.random.default_rng(0), np.array(sizes)
    found = [fairness.gap_test(rng.binomial(sizes, truth), sizes, seed=seed)[:2] for seed in range(200)]
    assert np.mean([low - 1e-9 <= np.ptp(truth) <= high for low, high in found]) > 0.9


def test_a_group_without_mistakes_has_an_error_too():
    low, high, _ = fairness.gap_test(np.array([30, 30]), np.array([30, 30]))
    assert low == 0 < high


def test_groups_that_are_alike_seldom_differ_by_more_than_chance():
    sizes = np.array([40, 60, 100])
    p = [fairness.gap_test(RNG.binomial(sizes, 0.8), sizes, seed=seed)[2] for seed in range(60)]
    assert np.mean(np.array(p) < 0.05) < 0.2
    assert np.mean(np.array(p) < 0.5) > 0.2


def test_groups_are_read_by_the_scores_alone():
    """Other groups change nothing of what is learned."""
    right = RNG.random(90) < 0.8
    one, other = (fairness.protocol(subject(groups, right)) for groups in (np.arange(90) % 3, np.arange(90) // 30))
    same = lambda score: {key: score["settings"][key] for key in ("accuracy", "penalty", "validation_accuracy")}
    assert same(one[0]) == same(other[0])


def test_what_cannot_be_is_said_in_one_line():
    none = subject(np.zeros(40))
    none.splits["test"] = dataclasses.replace(none.splits["test"], groups=None)
    with pytest.raises(ValueError, match="here has no groups; fairness needs an array `groups`"):
        fairness.protocol(none)
    with pytest.raises(ValueError, match=r"has 1 groups of 20 test images or more \(the largest have 30, 4\)"):
        fairness.protocol(subject(np.repeat([0, 1], [30, 4])))


# ---- where groups come from
def npz(folder, groups, **more):
    images = np.zeros((6, 4, 4), np.uint8)
    np.savez(folder / "x.npz", image=images, label=np.arange(6) % 2, groups=np.asarray(groups), **more)
    return f"npz:{folder}/x.npz"


def test_an_npz_has_groups_by_number_or_by_name(tmp_path):
    source = data.open_source(npz(tmp_path, ["b", "a", "b", "a", "c", "c"]) + "@[1:]")
    assert source.groups.tolist() == [0, 1, 0, 2, 2]
    assert source.group_names == ("a", "b", "c")
    taken = source.take([4, 0])
    assert taken.groups.tolist() == [2, 0]
    source = data.open_source(npz(tmp_path, [0, 1, 1, 0, 1, 1], group_names=["old", "young"]))
    assert source.group_names == ("old", "young")
    assert data.open_source(npz(tmp_path, [0, 2, 1, 0, 1, 1])).group_names == ("0", "1", "2")
    for wrong, said in (
        ([0.5] * 6, "`groups` is float64"),
        ([0, -1, 0, 0, 0, 0], "whole numbers from 0"),
        ([0, 1], r"\[6\]"),
    ):
        with pytest.raises(ValueError, match=said):
            data.open_source(npz(tmp_path, wrong))
    with pytest.raises(ValueError, match="group 2 has no name, `group_names` has 1"):
        data.open_source(npz(tmp_path, [0, 1, 2, 0, 0, 0], group_names=["old"]))


def manifest(folder, groups, size=(4, 4)):
    rows = []
    for i, group in enumerate(groups):
        Image.fromarray(np.full(size, i, np.uint8)).save(folder / f"{i}.png")
        rows.append({"path": f"{i}.png", "label": "xy"[i % 2], "group": group})
    with open(folder / "list.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "group"])
        writer.writeheader()
        writer.writerows(rows)
    return f"folder:{folder}/list.csv"


def test_a_manifest_has_a_column_of_groups(tmp_path):
    source = data.open_source(manifest(tmp_path, ["north", "south", "north", "east"]) + "@[:3]")
    assert source.groups.tolist() == [1, 2, 1]
    assert source.group_names == ("east", "north", "south")
    assert source.labels.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="no group in line 3, expected one in each or no column `group`"):
        data.open_source(manifest(tmp_path, ["north", "", "north", "east"]))
    assert data.open_source(manifest(tmp_path, [""] * 4)).groups is None


def test_groups_of_files_that_are_broken_go_with_them(tmp_path):
    spec = manifest(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "1.png").write_bytes(b"no image")
    source = data.open_source(spec, max_bad=0.5)
    assert [source.group_names[group] for group in source.groups] == ["a", "c", "d"]


def test_no_batch_has_groups(tmp_path):
    source = data.open_source(npz(tmp_path, np.arange(6) % 3))
    assert set(source.arrays) == {"image"}
    (batch,) = source.every(batch_size=6)
    assert set(batch) == {"image", "index"}
    assert set(source.shapes(6, 6)) == {"image", "index"}
    with source.stream(batch_size=3, seed=0, start=0, rows=np.arange(3)) as batches:
        assert set(next(iter(batches))) == {"image", "index"}
