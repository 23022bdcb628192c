"""`jssl eval` gives the same scores in two processes, and on eight devices, as in one process of one device."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from tests import scored
from tests.contract import assert_close
from tests.processes import Started, acquainted


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder with {"one", "two", "eight": what so many processes, or devices, made}, and what each process said."""
    base = tmp_path_factory.mktemp("scored")
    (base / "eight").mkdir()
    scored.prepare(base / "eight")
    for name in ("one", "two"):
        shutil.copytree(base / "eight", base / name)
    assert jax.device_count() == 8
    scored.main(base / "eight")  # first: programs of one device, which are most, are then compiled for all
    start = lambda name, i, more: Started(["-m", "tests.scored", str(base / name)], base / f"{name}{i}.log", **more)
    processes = [start("one", 0, {}), *(start("two", i, more) for i, more in enumerate(acquainted()))]
    assert [process.wait() for process in processes] == [0, 0, 0]
    return base, [process.said for process in processes]


def scores(folder, run):
    found = json.loads((folder / run / "scores.json").read_text())["scores"]
    return {(score["encoder"], score["task"]): score["mean"] for score in found}


@pytest.mark.parametrize("name", ["two", "eight"])
def test_processes_and_devices_change_no_score(folders, name):
    base, _ = folders
    expected, found = (scores(base / one, "images") | scores(base / one, "scenes") for one in ("one", name))
    asked = {*scored.PROTOCOLS, "corloc"} - {"retrieval", "rank"} | {"map", "recall", "lidar", "rankme", "neighbours"}
    assert asked <= {task.partition("-")[0] for _, task in expected}
    assert found.keys() == expected.keys()
    for score, mean in expected.items():
        assert found[score] == pytest.approx(mean, rel=1e-3, abs=1.01 / 51), score  # rounding may turn an image

    arrays = [dict(np.load(base / one / "images" / "predictions.npz")) for one in ("one", name)]
    for key, predicted in arrays[0].items():
        if key.endswith("/predictions"):
            assert np.mean(predicted == arrays[1][key]) > 0.94, key
    for file in ("features.npz", "images/peft/bias.npz"):
        one, other = (
            {key: x for key, x in np.load(base / run / file).items() if x.dtype.kind == "f"} for run in ("one", name)
        )
        assert_close(one, other, tolerance=1e-3)


def test_the_first_process_writes_each_file_and_speaks(folders):
    base, (alone, first, second) = folders
    there = lambda name: sorted(str(path.relative_to(base / name)) for path in (base / name).rglob("*"))
    assert there("two") == there("one")
    assert not [path for path in there("two") if path.endswith(".part")]
    for said in first, alone:
        assert "knn: " in said  # how long it took
        assert "51 x 16 features" in said
    assert not re.search("k-?nn|features|robustness", second, re.IGNORECASE)  # all that it may say is Gloo's
