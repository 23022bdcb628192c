"""What a run tells while it trains: metrics.jsonl, TensorBoard, and a progress bar (plain lines without a terminal)."""

import json
import math
import pathlib
import sys
import time

import numpy as np
import tensorboardX
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jssl.files import whole
from jssl.notes import say

FILE = "metrics.jsonl"
WORDS = ("warning", "ended")  # entries of a row that are text
QUIET = 5, 60  # seconds between two plain lines: at first, and in a long run at most


class Writer:
    """Keeps the metrics of a run and shows its progress.

    workdir: the run directory; steps: the last step of the run; start: the step that it resumes from. Rows of
    metrics.jsonl after `start` are dropped, since they will be written again; with start = 0 all are.
    every: steps between two writes, the farthest that the bar moves on its own. terminal: a bar (True), plain lines
    (False), or whichever suits stderr (None). active: False on all processes but the first, which alone makes files.

        with Writer(workdir, steps=600, start=0, every=50) as writer:
            ...
            writer.started(1)                       # the first call, which compiles, is over
            writer.write(50, {"loss": 4.1, ...})
    """

    def __init__(self, workdir, steps, start=0, every=1, terminal=None, active=True):
        self.workdir, self.steps, self.every, self.active = pathlib.Path(workdir), steps, every, active
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.first, self.step, self.printed = start, start, None
        self.shown, self.warnings = {}, []
        self.opened = self.last_line = self.last_write = time.monotonic()
        self.clock = None  # (step, seconds) at the end of the first call: what the ETA is reckoned from
        self.bar = None

    def __enter__(self):
        if self.active:
            self.workdir.mkdir(parents=True, exist_ok=True)
            _drop_after(self.workdir / FILE, self.first)
            self.rows = open(self.workdir / FILE, "a", encoding="utf-8")
            self.board = tensorboardX.SummaryWriter(
                str(self.workdir / "tensorboard"), purge_step=self.first + 1 if self.first else 0, flush_secs=10
            )
            if self.terminal:
                self.console = Console(stderr=True, force_terminal=True)
                self.bar = Live(console=self.console, get_renderable=self._screen, refresh_per_second=4)
                self.bar.start(refresh=True)
        return self

    def __exit__(self, *error):
        if not self.active:
            return
        if self.warnings:
            self._append(self.step, {})
        if self.bar:
            self.bar.stop()
        elif self.printed != self.step and self.shown:
            self._print_line()
        self.rows.close()
        self.board.close()

    def started(self, step):
        """The first call, which compiles, ended at `step`: the ETA is reckoned from here."""
        self.clock = step, time.monotonic()
        self.step, self.last_write = step, time.monotonic()

    def write(self, step, metrics):
        """Keeps the metrics of one step. metrics: {name: number}; scalars of numpy and jax will do."""
        if not self.active:
            return
        metrics = {name: float(value) for name, value in metrics.items()}
        self._append(step, metrics)
        for name, value in metrics.items():
            if math.isfinite(value):  # TensorBoard cannot draw the others
                self.board.add_scalar(name, value, step)
        self.shown |= metrics  # k-NN is rare: its last value stays on the screen
        self.step, self.last_write = step, time.monotonic()
        if self.clock is None:
            self.started(step)
        if not self.bar:
            gap = min(max(QUIET[0], (self.last_write - self.opened) / 100), QUIET[1])
            if self.printed is None or step >= self.steps or self.last_write - self.last_line >= gap:
                self._print_line()

    def image(self, name, image, step):
        """A picture for TensorBoard. image: uint8 [H, W, C], of which the first channel or three are shown."""
        if self.active:
            image = np.asarray(image)
            image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
            self.board.add_image(name, image, step, dataformats="HWC")

    def note(self, text):
        """A plain line, above the bar."""
        if self.active:
            say(text)

    def warn(self, text):
        """A plain line, above the bar; the next row written keeps it as `warning`, and the report shows it."""
        self.note(f"warning: {text}")
        self.warnings.append(text)

    def end(self, step, why):
        """A row of its own that says why the run ended before its last step."""
        if self.active:
            self._append(step, {"ended": why})

    def _append(self, step, metrics):
        row = {"step": int(step)} | {name: _plain(value) for name, value in metrics.items() if name != "step"}
        if self.warnings:
            row["warning"] = "\n".join(self.warnings)
            self.warnings = []
        self.rows.write(json.dumps(row, allow_nan=False) + "\n")
        self.rows.flush()

    def _line(self):
        """step 100/600  loss 4.123  knn 71.2 %  15,234 examples/s  data wait 3 %  ETA 1:23"""
        parts = [f"step {self.step:,}/{self.steps:,}"]
        formats = {
            "loss": "loss {:.4g}",
            "knn": "knn {:.1%}",
            "examples_per_s": "{:,.0f} examples/s",
            "data_wait": "data wait {:.0%}",
        }
        parts += [text.format(self.shown[name]) for name, text in formats.items() if name in self.shown]
        if self.clock is None:
            parts.append("compiling")
        elif (seconds := self._seconds_left()) is not None:
            parts.append(f"ETA {clock(seconds)}")
        return "  ".join(parts).replace("%", " %")

    def _rate(self):
        """Steps per second since the first call ended, evaluations and checkpoints included; None if not known yet."""
        if self.clock is None or self.step <= self.clock[0]:
            return None
        return (self.step - self.clock[0]) / max(self.last_write - self.clock[1], 1e-9)

    def _seconds_left(self):
        if self.step >= self.steps or (rate := self._rate()) is None:
            return None
        return max(0, (self.steps - self.step) / rate - (time.monotonic() - self.last_write))

    def _print_line(self):
        say(self._line())
        self.printed, self.last_line = self.step, time.monotonic()

    def _screen(self):
        """Bar and figures on one line where they fit, else on two."""
        ahead = (self._rate() or 0) * (time.monotonic() - self.last_write)
        bar = ProgressBar(self.steps, min(self.step + min(ahead, self.every), self.steps), complete_style="green")
        text = Text(self._line())
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        if self.console.width >= len(text) + 16:
            grid.add_column(width=len(text))
            grid.add_row(bar, text)
        else:
            grid.add_row(bar)
            grid.add_row(text)
        return grid


def read_metrics(workdir):
    """The rows of metrics.jsonl, oldest first: [{'step': 50, 'loss': 4.1, ...}, ...]; [] if there is no file.

    A torn last line (the process was killed while it wrote) is left out. Raises ValueError if another line is broken.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({name: value if name in WORDS else _number(value) for name, value in row.items()})
        except (ValueError, AttributeError):
            if any(rest.strip() for rest in lines[number:]):
                raise ValueError(f"{path}, line {number}: expected one JSON object, found {line[:40]!r}") from None
    return rows


def clock(seconds):
    """83 -> '1:23', 3723 -> '1:02:03'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _drop_after(path, step):
    """Keeps the rows up to `step`; written beside and moved, so that a kill in between loses nothing."""
    if not path.exists():
        return
    rows = [row for row in read_metrics(path.parent) if step > 0 and row["step"] <= step]
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    with whole(path) as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in plain)


def _plain(value):
    """JSON has no NaN and no infinity: they are written as text."""
    return value if isinstance(value, str) or math.isfinite(value) else str(value)


def _number(value):
    return float(value) if value in ("nan", "inf", "-inf") else value
