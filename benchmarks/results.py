"""Results as tables: on the screen, in Markdown and in JSON, with what is needed to get them again."""

import datetime
import json
import os
import pathlib
import sys

import jax

from jssl.experiment import provenance

FOLDER = pathlib.Path(__file__).parent / "results"


def device():
    """The device in words: 'NVIDIA H100 80GB HBM3', '8 x TPU v4', '2-core CPU'."""
    kind, count = jax.devices()[0].device_kind, jax.device_count()
    if jax.devices()[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        kind = f"{cores}-core CPU"
    return kind if count == 1 else f"{count} x {kind}"


def slug(text):
    """Words as part of a file name."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def markdown(rows):
    """A table of the rows, dicts with the same keys; numbers right-aligned, None as a dash."""
    names = list(rows[0])
    lines = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    text = [[cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right)] for line in lines]
    text.insert(1, ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right)])
    return "\n".join(f"| {' | '.join(line)} |" for line in text)


def write(folder, name, title, rows, notes):
    """Writes NAME.json and NAME.md into `folder` and the table to the screen. notes: lines below the table."""
    run = {"device": device(), "date": datetime.date.today().isoformat(), **provenance()}
    versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    notes = [*notes, f"{run['device']}, {run['date']}, commit {run['commit']}, {versions}."]
    text = f"# {title}\n\n{markdown(rows)}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps({"rows": rows, "notes": notes, "run": run}, indent=1) + "\n")
    sys.stdout.write(f"{text}\n{folder / name}.md\n")


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
