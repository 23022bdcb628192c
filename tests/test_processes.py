"""Two processes with two devices each do what one process with one device does."""

import contextlib
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from jssl import config as configs
from jssl.writers import read_metrics
from tests.contract import assert_close
from tests.processes import PATIENCE, Started, Training, acquainted, final_state, newest, together

SHORT = {"train.batch_size": 32, "train.steps": 4, "log_every": 1, "eval.every": 4}
METRICS = ("loss", "grad_norm", "param_norm", "lr", "health/std", "health/features_std")


def assert_same(workdir, one, **tolerance):
    """Metrics and final state of a run in several processes against those of one in a single process."""
    a, b = read_metrics(one), read_metrics(workdir)
    assert [row["step"] for row in a] == [row["step"] for row in b]
    for name in METRICS:
        assert_close({name: [row[name] for row in a]}, {name: [row[name] for row in b]}, **tolerance)
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


@pytest.fixture(scope="module")
def every_method(request, tmp_path_factory):
    """name -> {'one': path, 'two': path}, what one process and a pair of them found, waited for.

    They take the methods that are asked for one after the other, and are started once, whatever xdist's workers.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "every_method"
    names = [item.callspec.params["method"] for item in request.session.items if "every_method" in item.fixturenames]
    runs = []
    with contextlib.suppress(FileExistsError):  # another worker's
        folder.mkdir()
        runs = start(folder, names)
    try:
        yield lambda name: results(folder, name, runs)
        if runs and "PYTEST_XDIST_WORKER" in os.environ:  # others wait for the rest
            [run.wait() for run in runs]
    finally:
        for run in runs:
            run.process.kill()


def start(folder, names):
    fast = "--xla_backend_optimization_level=0"  # compiles in half the time
    each = {"one": [(1, {})], "two": [(2, environment) for environment in acquainted()]}
    for out in each:
        (folder / out).mkdir()
    return [
        Started(
            ["-m", "tests.every_method", str(folder / out), *names],
            folder / f"{out}-{i}.log",
            **environment,
            XLA_FLAGS=f"--xla_force_host_platform_device_count={devices} {fast}",
        )
        for out, processes in each.items()
        for i, (devices, environment) in enumerate(processes)
    ]


def results(folder, name, runs):
    """Both results of a method, once they are there; an error where a process has ended, or nothing comes any more."""
    count, since = 0, time.monotonic()
    while True:
        ended = [run for run in runs if run.process.poll() is not None]
        found = [path for path in folder.glob("*/*") if path.suffix in (".npz", ".txt")]
        mine = {path.parent.name: path for path in found if path.stem == name}
        if len(mine) == 2:
            return mine
        if len(found) > count:
            count, since = len(found), time.monotonic()
        if any(run.process.returncode for run in ended) or time.monotonic() - since > PATIENCE:
            said = "\n".join(f"{path.name}:\n{path.read_text()[-4000:]}" for path in folder.glob("*.log"))
            raise AssertionError(f"{name}: no result of {sorted({'one', 'two'} - mine.keys())}\n{said}")
        time.sleep(0.05)


@pytest.mark.parametrize("method", configs.experiments())
def test_every_method_is_the_same_in_two_processes(every_method, method):
    found = every_method(method)
    for path in found.values():
        assert path.suffix == ".npz", f"{method}, in {path.parent.name}:\n{path.read_text()}"
    one, two = (dict(np.load(found[name])) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert_close({method: one}, {method: two})
