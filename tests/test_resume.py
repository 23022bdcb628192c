"""The same command goes on where a run was stopped, and ends in the same state, bit by bit."""

import random
import signal
import time

from jssl.writers import read_metrics
from tests.processes import Training, alive, assert_same_end, children, newest, told

SHORT = {"train.batch_size": 32, "train.steps": 160, "checkpoint.every": 8, "log_every": 4, "eval.every": 80}


def finish(config, workdir, overrides):
    """-> workdir, after a run that nobody disturbed."""
    assert Training(config, workdir, overrides).wait() == 0
    return workdir


def kill_at_random(config, workdir, overrides, seed, kills):
    """Starts and kills a run `kills` times, each time somewhere after a further checkpoint."""
    rng = random.Random(seed)
    inside, workers = 0, set()
    for _ in range(kills):
        before = newest(workdir)
        run = Training(config, workdir, overrides)
        run.until_saved(after=before)
        time.sleep(rng.uniform(0, 0.3))
        mine = children(run.process.pid)
        run.process.kill()
        run.wait()
        inside += 0 < newest(workdir) < overrides["train.steps"]
        workers |= set(mine)
    return inside, workers


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    whole = finish("simclr:tiny", tmp_path / "whole", SHORT)
    inside, _ = kill_at_random("simclr:tiny", tmp_path / "killed", SHORT, seed=0, kills=2)
    assert inside
    killed = finish("simclr:tiny", tmp_path / "killed", SHORT)
    assert_same_end(whole, killed)
    assert told(read_metrics(killed)) == told(read_metrics(whole))


def test_workers_die_with_a_killed_run_and_the_next_ones_make_the_same_batches(tmp_path, photos):
    config = {**SHORT, "train.steps": 96, "data.source": f"folder:{photos}", "data.workers": 1, "eval.every": 0}
    whole = finish("mae:tiny", tmp_path / "whole", config)
    inside, workers = kill_at_random("mae:tiny", tmp_path / "killed", config, seed=1, kills=2)
    assert inside
    assert workers
    gone_by = time.monotonic() + 10
    while alive(workers) and time.monotonic() < gone_by:
        time.sleep(0.1)
    assert not alive(workers)
    threads = {**config, "data.workers": 0}
    assert_same_end(whole, finish("mae:tiny", tmp_path / "killed", threads))


def test_a_stopped_run_saves_ends_well_and_goes_on_without_a_gap(tmp_path):
    """SIGTERM twice: while the first step compiles, and between two checkpoints."""
    config = {**SHORT, "checkpoint.every": 48, "train.steps": 320}
    workdir = tmp_path / "stopped"
    run = Training("byol:tiny", workdir, config)
    run.until(lambda: "per dispatch" in run.said)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0
    first = newest(workdir)
    assert 0 < first < 48
    assert f"stopped at step {first} and saved" in run.said

    run = Training("byol:tiny", workdir, config)
    run.until_saved(after=first)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0
    assert 48 <= newest(workdir) < 320
    assert f"resumed at step {first}\n" in run.said

    whole = finish("byol:tiny", tmp_path / "whole", config)
    assert_same_end(whole, finish("byol:tiny", workdir, config))
    assert told(read_metrics(workdir)) == told(read_metrics(whole))
    assert [row["step"] for row in read_metrics(workdir)] == list(range(4, 324, 4))

    # A finished run says so, and makes again what is made from the last state.
    (workdir / "encoder" / "weights.npz").unlink()
    again = Training("byol:tiny", workdir, config)
    assert again.wait() == 0
    assert "trained for 320 steps" in again.said
    assert (workdir / "encoder" / "weights.npz").is_file()
