"""What two processes with two devices each make of every method, beside the tests of this one."""

import contextlib
import os
import time

import numpy as np

from tests.processes import PATIENCE, Started, acquainted

TEST = "test_two_processes_change_nothing"


class Pair:
    """Two processes that know of each other and take the methods one after the other: started once, whatever xdist's
    workers, and before anyone asks, for they take as long as the tests of all methods here."""

    def __init__(self, folder, names):
        self.folder, self.runs = folder, []
        if names:
            with contextlib.suppress(FileExistsError):  # another worker's
                folder.mkdir()
                self.runs = [start(folder, i, names, more) for i, more in enumerate(acquainted())]

    def result(self, name):
        """{path: array} as of `every_method.steps`, waited for; an error where a process ended or nothing comes."""
        count, since = 0, time.monotonic()
        while True:
            found = {path.name: path for path in self.folder.iterdir() if path.suffix in (".npz", ".txt")}
            assert f"{name}.txt" not in found, found[f"{name}.txt"].read_text()
            if f"{name}.npz" in found:
                return dict(np.load(found[f"{name}.npz"]))
            if len(found) > count:
                count, since = len(found), time.monotonic()
            if any(run.process.poll() for run in self.runs) or time.monotonic() - since > PATIENCE:
                said = "\n".join(f"{path.name}:\n{path.read_text()[-4000:]}" for path in self.folder.glob("*.log"))
                raise AssertionError(f"no result of {name}\n{said}")
            time.sleep(0.05)

    def end(self):
        if "PYTEST_XDIST_WORKER" in os.environ:  # other workers wait for the rest
            [run.wait() for run in self.runs]
        for run in self.runs:
            run.process.kill()


def start(folder, i, names, more):
    arguments = ["-m", "tests.every_method", str(folder), *names]
    return Started(arguments, folder / f"{i}.log", devices=2, **more)
