"""Two processes with two devices each do what one process with one device does."""

import re
import shutil
import signal

import numpy as np
import pytest

from jssl.writers import read_metrics
from tests.contract import assert_close
from tests.processes import Training, final_state, newest, together

SHORT = {"train.batch_size": 32, "train.steps": 4, "log_every": 1, "eval.every": 4}
METRICS = ("loss", "grad_norm", "param_norm", "lr", "health/std", "health/features_std")


def assert_same(workdir, one, **tolerance):
    """Metrics and final state of a run in several processes against those of one in a single process."""
    a, b = read_metrics(one), read_metrics(workdir)
    assert [row["step"] for row in a] == [row["step"] for row in b]
    for name in METRICS:
        assert_close({name: [row[name] for row in a]}, {name: [row[name] for row in b]}, **tolerance)
    assert a[-1].get("knn") == pytest.approx(b[-1].get("knn"), abs=0.01)  # rounding may turn one of 130 images
    assert newest(one) == newest(workdir)
    assert_close(final_state(one), final_state(workdir), **tolerance)


def wait(runs):
    assert [run.wait() for run in runs] == [0] * len(runs)


@pytest.mark.parametrize(
    "config, more",
    [("byol:tiny", {"mesh.fsdp": 2}), ("mae:tiny", {"source": "folder"})],
    ids=["BYOL, sharded parameters", "MAE, a folder"],
)
def test_the_number_of_processes_changes_nothing(tmp_path, photos, config, more):
    overrides = {**SHORT, **more}
    if overrides.pop("source", None):
        overrides |= {"data.source": f"folder:{photos}", "data.workers": 0}
    runs = together(config, tmp_path / "two", overrides)
    wait(runs)
    assert Training(config, tmp_path / "one", {**overrides, "mesh.fsdp": 1}).wait() == 0
    assert_same(tmp_path / "two", tmp_path / "one")

    assert "trained for 4 steps" in runs[0].said
    assert not re.search("step|loss|encoder|warning", runs[1].said)  # all that it may say is Gloo's, its lines torn
    assert (tmp_path / "two" / "views.png").read_bytes() == (tmp_path / "one" / "views.png").read_bytes()
    for name in "weights", "untrained":
        two, one = (dict(np.load(tmp_path / run / "encoder" / f"{name}.npz")) for run in ("two", "one"))
        assert two.keys() == one.keys()
        assert_close(one, two)


def test_sigterm_to_one_process_saves_the_same_step_in_both_and_one_process_goes_on(tmp_path):
    # A rate so low that rounding does not grow over the steps; a lost or repeated batch would show in the momentum. A
    # ReLU whose input is rounding may still open in one run and not in the other, for one step's gradient.
    steps = {"train.steps": 80, "checkpoint.every": 40, "log_every": 4, "eval.every": 40}
    config = {**SHORT, **steps, "optim.lr": 0.0001}
    workdir = tmp_path / "two"
    runs = together("simclr:tiny", workdir, {**config, "train.steps_per_call": 2})
    runs[0].until(lambda: len(read_metrics(workdir)) > 1)
    runs[1].process.send_signal(signal.SIGTERM)
    wait(runs)
    step = newest(workdir)
    assert 0 < step < 80
    assert f"stopped at step {step} and saved" in runs[0].said

    resumed = Training("simclr:tiny", workdir, config)
    assert resumed.wait() == 0
    assert f"resumed at step {step}\n" in resumed.said
    assert Training("simclr:tiny", tmp_path / "one", config).wait() == 0
    assert_same(workdir, tmp_path / "one", tolerance=1e-3)


BROKEN = """
import jax, orbax.checkpoint as ocp
whole = ocp.StandardCheckpointHandler.restore
def restore(self, folder, *args, **kw):
    if jax.process_index() == 1 and folder.parent.name == "4":
        raise OSError("an input/output error")
    return whole(self, folder, *args, **kw)
ocp.StandardCheckpointHandler.restore = restore
"""


def test_all_processes_fall_back_where_one_cannot_read(tmp_path):
    config = {**SHORT, "checkpoint.every": 2, "eval.every": 0}
    assert Training("byol:tiny", tmp_path / "one", config).wait() == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    runs = together("byol:tiny", tmp_path / "two", config, before=BROKEN)
    wait(runs)
    assert "warning: checkpoint 4 is damaged (another process cannot read it)" in runs[0].said
    assert "resumed at step 2\n" in runs[0].said
    assert_same(tmp_path / "two", tmp_path / "one")
