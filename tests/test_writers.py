import io
import json
import logging
import re
import sys
import warnings

import absl.logging
import numpy as np
import pytest

from jssl import notes, writers
from jssl.writers import Writer, read_metrics


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Stands for the module `time`: the seconds are the test's."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(writers, "time", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes stderr a terminal of some columns."""

    def make(columns):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("COLUMNS", str(columns))
        return screen

    return make


def write(workdir, steps, start=0, **kw):
    with Writer(workdir, 600, start, **kw) as writer:
        for step in steps:
            writer.write(step, {"loss": 600 - step})


def steps(workdir):
    return [row["step"] for row in read_metrics(workdir)]


def test_a_row_is_one_flat_object_of_plain_numbers(tmp_path):
    with Writer(tmp_path, 600) as writer:
        writer.write(np.int32(50), {"loss": np.float32(0.5), "health/std": 0.25, "knn": np.float64(0.75)})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 50, "loss": 0.5, "health/std": 0.25, "knn": 0.75}\n'


def test_rows_after_the_step_that_a_run_resumes_from_are_dropped_and_written_again(tmp_path):
    write(tmp_path, [50, 100, 150, 200])
    write(tmp_path, [150, 200, 250], start=100)
    assert steps(tmp_path) == [50, 100, 150, 200, 250]


def test_a_run_that_starts_anew_keeps_no_rows(tmp_path):
    write(tmp_path, [0, 50, 100])
    write(tmp_path, [0, 50])
    assert steps(tmp_path) == [0, 50]


def test_a_line_torn_by_a_kill_is_left_out_and_replaced_on_resume(tmp_path):
    write(tmp_path, [50, 100])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 150, "lo')
    assert steps(tmp_path) == [50, 100]
    write(tmp_path, [150], start=100)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 100, 150]


def test_a_broken_line_that_is_not_the_last_is_an_error_that_names_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 50}\nnonsense\n{"step": 100}\n')
    with pytest.raises(ValueError, match=r"line 2: expected one JSON object, found 'nonsense'"):
        read_metrics(tmp_path)


def test_no_file_is_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []


def test_nan_and_infinity_are_valid_json_and_come_back_as_numbers(tmp_path):
    with Writer(tmp_path, 600) as writer:
        writer.write(50, {"loss": np.nan, "grad_norm": np.inf, "low": -np.inf})
    refuse = lambda word: pytest.fail(f"{word} is not JSON")
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    row = read_metrics(tmp_path)[0]
    assert np.isnan(row["loss"])
    assert (row["grad_norm"], row["low"]) == (np.inf, -np.inf)


def test_numbers_that_are_not_finite_survive_a_resume(tmp_path):
    with Writer(tmp_path, 600) as writer:
        writer.write(50, {"loss": np.nan})
    write(tmp_path, [], start=50)
    assert np.isnan(read_metrics(tmp_path)[0]["loss"])


def test_without_a_terminal_progress_is_plain_lines(tmp_path, clock, capsys):
    with Writer(tmp_path, 600) as writer:
        writer.started(1)
        clock.now = 33.0
        writer.write(100, {"loss": 4.1234, "knn": 0.712, "examples_per_s": 15234.4, "data_wait": 0.031})
    line = "step 100/600  loss 4.123  knn 71.2 %  15,234 examples/s  data wait 3 %  ETA 2:47\n"
    assert capsys.readouterr().err == line


def test_plain_lines_come_seconds_apart_and_the_last_is_shown(tmp_path, clock, capsys):
    with Writer(tmp_path, 600) as writer:
        for step in range(1, 590):
            clock.now = step / 100  # 5.9 seconds
            writer.write(step, {"loss": 1.0})
    shown = [int(line.split("/")[0].split()[1]) for line in capsys.readouterr().err.splitlines()]
    assert shown == [1, 501, 589]


def test_the_time_left_leaves_out_the_first_call_which_compiles(tmp_path, clock, capsys):
    with Writer(tmp_path, 100) as writer:
        clock.now = 1000.0
        writer.started(10)
        clock.now = 1010.0
        writer.write(20, {"loss": 1.0})
    assert capsys.readouterr().err.endswith("ETA 1:20\n")


def test_on_a_terminal_progress_is_a_bar_and_notes_come_above_it(tmp_path, terminal):
    screen = terminal(120)
    with Writer(tmp_path, 600) as writer:
        writer.write(600, {"loss": 4.1234, "knn": 0.712})
        writer.note("a note [of 100 %]")
        logging.getLogger("elsewhere").addHandler(notes.Plain())
        logging.getLogger("elsewhere").warning("a warning")
    assert re.search(r"━━━.*step 600/600  loss 4.123  knn 71.2 %", screen.getvalue())
    lines = screen.getvalue().splitlines()
    last_bar = max(i for i, line in enumerate(lines) if "━" in line)
    assert all(any(text in line for line in lines[:last_bar]) for text in ("a note [of 100 %]", "warning: a warning"))


def test_a_narrow_terminal_gets_the_figures_on_lines_of_their_own(tmp_path, terminal):
    screen = terminal(60)
    with Writer(tmp_path, 600) as writer:
        writer.write(600, {"loss": 4.1234, "knn": 0.712, "examples_per_s": 15234})
    lines = [line for line in screen.getvalue().splitlines() if "loss" in line]
    assert lines
    assert not any("━" in line for line in lines)


def test_a_warning_is_kept_by_the_next_row_and_by_the_last(tmp_path):
    with Writer(tmp_path, 600) as writer:
        writer.warn("std 0.001")
        writer.warn("rank 1.2")
        writer.write(50, {"loss": 1.0})
        writer.write(100, {"loss": 1.0})
        writer.warn("too late for a row")
    assert [row.get("warning") for row in read_metrics(tmp_path)] == ["std 0.001\nrank 1.2", None, "too late for a row"]


def test_notes_and_warnings_are_plain_lines(tmp_path, capsys):
    with Writer(tmp_path, 600) as writer:
        writer.note("100 % of 5 images")
        writer.warn("skipped a%sb.jpg")
    assert capsys.readouterr().err == "100 % of 5 images\nwarning: skipped a%sb.jpg\n"


def test_of_other_packages_only_warnings_are_shown_and_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    level = logging.root.level
    logging.captureWarnings(False)  # a training in this process before
    notes.listen()
    logging.getLogger("orbax").info("Saving checkpoint")
    logging.getLogger("jax").warning("slow\nand more")
    absl.logging.info("of a test, which is no part of jssl")
    exec(compile("absl.logging.info('3 images')", f"{notes.OURS}/data/x.py", "exec"))
    warnings.warn("deprecated", UserWarning, stacklevel=1)
    logging.captureWarnings(False)
    logging.root.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["warning: slow", "3 images"]
    assert lines[2].endswith("UserWarning: deprecated")
    assert len(lines) == 3


def test_tensorboard_holds_the_scalars_and_pictures_of_any_number_of_channels(tmp_path):
    with Writer(tmp_path, 600) as writer:
        writer.write(50, {"loss": 1.0, "health/std": 0.25, "diverged": np.nan})
        for channels in 1, 2, 3, 5:
            writer.image(f"views{channels}", np.zeros((4, 6, channels), np.uint8), 0)
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    tags = [b"loss", b"health/std", b"views1", b"views2", b"views3", b"views5"]
    assert [tag for tag in tags if tag not in events] == []
    assert b"diverged" not in events


def test_a_process_that_is_not_the_first_makes_no_file_and_says_nothing(tmp_path, capsys):
    workdir = tmp_path / "run"
    with Writer(workdir, 600, active=False) as writer:
        writer.started(1)
        writer.write(600, {"loss": 1.0})
        writer.image("views", np.zeros((4, 4, 1), np.uint8), 0)
        writer.warn("collapse")
    assert not workdir.exists()
    assert capsys.readouterr().err == ""


def fail(writer):
    writer.write(50, {"loss": 1.0})
    raise RuntimeError("from the step")


def test_an_error_in_the_run_passes_and_the_files_are_closed(tmp_path):
    with pytest.raises(RuntimeError, match="from the step"), Writer(str(tmp_path), 600) as writer:
        fail(writer)
    assert writer.rows.closed
    assert steps(tmp_path) == [50]
