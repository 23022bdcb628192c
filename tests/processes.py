"""`jssl train` as a user runs it: in processes of its own, which may be killed."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np

from jssl.checkpoint import checkpoint_steps, read_arrays
from tests.conftest import FLAGS

PATIENCE = 300  # seconds until a test gives up waiting
MEASURED = ("examples_per_s", "data_wait", "device_hours")  # entries of a row that two equal runs do not share


class Started:
    """A started Python process. arguments: of the interpreter; log: the file of what it says; devices: simulated; more:
    environment."""

    def __init__(self, arguments, log, devices=1, **more):
        self.log = pathlib.Path(log)
        environment = {
            **os.environ,
            "XLA_FLAGS": " ".join([f"--xla_force_host_platform_device_count={devices}", *FLAGS[1:]]),  # one cache
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **more,
        }
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=log, stderr=log)

    @property
    def said(self):
        return self.log.read_text()

    def wait(self):
        """The exit status; what the process said is shown where a test fails."""
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            sys.stdout.write(self.said)

    def until(self, happened):
        """Waits until `happened()`, or the end of the process."""
        began = time.monotonic()
        while self.process.poll() is None and not happened():
            assert time.monotonic() - began < PATIENCE, self.said
            time.sleep(0.01)


class Training(Started):
    """A started `jssl train`. before: Python to run first; devices and more: as for `Started`."""

    def __init__(self, config, workdir, overrides=(), devices=1, before="", **more):
        self.workdir = pathlib.Path(workdir)
        log = self.workdir.with_name(f"{self.workdir.name}-{time.monotonic_ns()}.log")
        arguments = ["-c", f"{before}\nfrom jssl.cli import main\nmain()", "train", "--config", config]
        arguments += [
            "--workdir",
            str(workdir),
            *(f"--config.{name}={value}" for name, value in dict(overrides).items()),
        ]
        super().__init__(arguments, log, devices, **more)

    def until_saved(self, after=-1):
        """Waits until a checkpoint later than step `after` is on disk."""
        self.until(lambda: newest(self.workdir) > after)


def together(config, workdir, overrides, processes=2, devices=2, before=""):
    """`jssl train` in several processes that know of each other."""
    return [Training(config, workdir, overrides, devices, before, **more) for more in acquainted(processes)]


def acquainted(processes=2):
    """The environments of several processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    return [{**shared, "JAX_PROCESS_ID": str(i)} for i in range(processes)]


def newest(workdir):
    """The newest checkpoint's step, or -1."""
    return max(checkpoint_steps(workdir / "checkpoints"), default=-1)


def final_state(workdir):
    """{path: array} of the newest checkpoint."""
    return read_arrays(workdir / "checkpoints" / str(newest(workdir)) / "state")


def assert_same_end(one, other):
    """The final states of two runs, bit by bit."""
    assert newest(one) == newest(other)
    a, b = final_state(one), final_state(other)
    assert a.keys() == b.keys()
    for path, value in a.items():
        np.testing.assert_array_equal(value, b[path], err_msg=path)


def told(rows):
    """Rows of metrics.jsonl without what the clock says."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def children(pid):
    """The processes that `pid` started."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pids):
    """Those that still run; a zombie does not."""
    return [pid for pid in pids if (stat := _stat(pid)) and stat.rpartition(")")[2].split()[0] != "Z"]


def _stat(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
