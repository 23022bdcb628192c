"""Eight simulated devices and a compilation cache, set before anything imports jax; which tests share a process."""

import gc
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

# The tests' programs run for seconds and compile for minutes: without these for more than twice as long.
QUICK = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"

FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",  # eight devices on two busy cores wait for each other
    *QUICK,
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


# Files that wait for processes of theirs or take minutes: begun first, so that no worker is left alone with one.
SLOW = ("test_processes.py", "test_notebook.py", "test_resume.py", "test_deepcluster.py", "test_benchmarks.py")


def group(test):
    """What a worker runs without a break: a file, or the contract of one method, whose tests share programs.

    test: a node's id. (Marks of `--dist loadgroup` are lost between pytest 9.2 and xdist 3.8, without a word.)
    """
    file, _, rest = test.partition("::")
    name = re.search(r"\[(\w+)", rest)
    return f"{file}[{name[1]}]" if file.endswith("test_contract.py") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group(nodeid)

    return Grouped(config, log)


def pytest_collection_modifyitems(items):
    slow = lambda item: item.path.name in SLOW
    items.sort(key=lambda item: (not slow(item), group(item.nodeid)))  # stable: the order within a group stays


def pytest_collection_finish():
    """What the imports made stays to the end, and programs are traced from many small objects: looking through them all
    for garbage was 6 % of a worker's time, and is 2 % so."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_runtest_teardown(item, nextitem):
    """Programs of a finished group go: each holds memory maps, of which a process may have 65,530 (Linux)."""
    if nextitem is None or group(nextitem.nodeid) != group(item.nodeid):
        import jax

        from tests.contract import trained

        trained.cache_clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def pair(request, tmp_path_factory):
    """`tests.pair.Pair` of the methods whose two processes are asked for."""
    from tests.pair import TEST, Pair

    asked = [item for item in request.session.items if getattr(item, "originalname", "") == TEST]
    names = [item.callspec.params["name"] for item in asked]
    folder = tmp_path_factory.getbasetemp()
    both = Pair((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "pair", names)
    yield both
    both.end()


@pytest.fixture(scope="session")
def simclr_run(tmp_path_factory):
    """A run of two steps, the same for every file; who writes into it takes a copy."""
    from jssl.config import load
    from jssl.train import train

    folder = tmp_path_factory.mktemp("session") / "simclr"
    few = {"train.steps": 2, "checkpoint.every": 2, "log_every": 2, "eval.every": 0}
    train(load("simclr:tiny", few), folder)
    return folder


@pytest.fixture(scope="module")
def simclr_copy(simclr_run, tmp_path_factory):
    """A copy of that run for one file."""
    return pathlib.Path(shutil.copytree(simclr_run, tmp_path_factory.mktemp("runs") / "a"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of images of different sizes, which the host must crop."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(64):
        size = rng.integers(20, 40, 2)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{i:02}.png")
    return folder
