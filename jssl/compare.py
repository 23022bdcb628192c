"""`jssl compare RUN [REFERENCE]`: where a run left the band of good runs. Bands are in `reference/`, small JSON files.

A reference: {"method", "variant", "seeds", "commit", "device", "config": plain, "curves": {metric: {"steps": [T],
"low": [T], "high": [T]}}}, low and high over the seeds.
"""

import json
import pathlib

import numpy as np

import jssl
from jssl import config as configs
from jssl.writers import read_metrics

# metric -> its name for people, the side that is bad, and what a run may be off on it: a share of the reference's range
# or value, or a plain figure. Seeds differ less; another machine or jax version may differ as much.
MEASURES = {
    "loss": ("loss", "above", "range", 0.2),
    "knn": ("k-NN", "below", "plain", 0.03),
    "health/std": ("spread", "below", "value", 0.3),
    "health/rankme": ("RankMe", "below", "value", 0.4),
    "health/features_rankme": ("RankMe of features", "below", "value", 0.4),
}
OFTEN = 0.25  # share of a curve's points outside that makes it one that left, even where it came back
LEAST = 0.05  # of the run: what lies before it is noise
FREE = (
    "seed",
    "log_every",
    "init_from",
    "data.workers",
    "data.resident",
    "mesh.",
    "watch.",
    "checkpoint.",
    "eval.every",
    "eval.protocols",
)


def compare(workdir, reference=None):
    """-> (text, whether the run stayed in the band). reference: a file or name of `reference/`, such as simclr-demo, or
    another run's directory; None: that of the run's method and data. Raises FileNotFoundError, ValueError, one line."""
    workdir = pathlib.Path(workdir)
    config, rows = read_run(workdir)
    if not rows:
        raise FileNotFoundError(f"{workdir} has no metrics.jsonl with a row in it: nothing to compare")
    where, band = find(reference, config)
    found = against(rows, config, band)
    if not found:
        raise ValueError(f"{workdir} and {where} have no measure in common; expected one of {', '.join(MEASURES)}")
    scale = "step" if same_length(config, band) else "share of the training"
    seeds = ", ".join(map(str, band.get("seeds", [])))
    lines = [f"{workdir} against {where}{f', seeds {seeds}' if seeds else ''}, by {scale}", "", *table(found), ""]
    left = [row for row in found if row["left"]]
    lines += [f"Left the band: {sentence(row)}." for row in left] or ["Inside the band of good runs."]
    if changes := differences(band, config):
        lines.append(f"The configs differ in {'; '.join(changes)}.")
    return "\n".join(lines), not left


def read_run(workdir):
    """-> (plain config, rows) of a run directory; raises FileNotFoundError where it is none."""
    path = pathlib.Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is no run directory: it has no config.json")
    return json.loads(path.read_text())["config"], read_metrics(workdir)


def folder():
    return pathlib.Path(jssl.__path__[0]).parent / "reference"


def references():
    """{name: path} of what is in `reference/`."""
    return {path.stem: path for path in sorted(folder().glob("*.json"))}


def find(reference, config):
    """-> (its name, the reference) that is asked for, or of those of the config's method and data the most similar."""
    if reference is None:
        known = {name: json.loads(path.read_text()) for name, path in references().items()}
        fitting = [(name, band) for name, band in known.items() if alike(band["config"], config)]
        if not fitting:
            name, source = config["method"]["name"].partition(":")[2], config["data"]["source"]
            raise FileNotFoundError(
                f"there is no reference of {name} on {source}; expected one of {', '.join(references()) or 'none'}, a "
                "file, or another run's directory"
            )
        return min(fitting, key=lambda pair: len(differences(pair[1], config)))
    path = pathlib.Path(reference)
    if (path / "config.json").is_file():
        config, rows = read_run(path)
        return str(path), {"config": config, "curves": curves([rows])}
    name = str(reference).replace(":", "-")
    path = path if path.is_file() else references().get(name)
    if path is None:
        raise FileNotFoundError(f"there is no reference {reference!r}{configs.nearest(name, references())}")
    return path.stem, json.loads(path.read_text())


def alike(a, b):
    """Whether two plain configs train one method on one set of data, whatever else they differ in."""
    return a["method"]["name"] == b["method"]["name"] and a["data"]["source"] == b["data"]["source"]


def curves(runs):
    """{metric: {"steps", "low", "high"}} over the rows of runs of one config, at the steps that all of them logged."""
    found = {}
    for name in MEASURES:
        values = [{row["step"]: row[name] for row in rows if name in row} for rows in runs]
        steps = sorted(set.intersection(*map(set, values)))
        if steps:
            short = lambda of, values=values, steps=steps: [float(f"{of(v[s] for v in values):.4g}") for s in steps]
            found[name] = {"steps": steps, "low": short(min), "high": short(max)}
    return found


def same_length(config, band):
    return config["train"]["steps"] == band["config"]["train"]["steps"]


def against(rows, config, band):
    """The rows of a run in the light of a reference: one dict per measure that both have, in the order of `MEASURES`.

    {"name", "bad": the bad side, "step", "value": the run's last, "low", "high": the band there, its margin included,
    "outside": steps outside on the bad side, "points", "left": whether the run left the band on that side}
    """
    total, theirs = config["train"]["steps"], band["config"]["train"]["steps"]
    scale = 1.0 if same_length(config, band) else theirs / total
    found = []
    for name, (title, bad, kind, share) in MEASURES.items():
        if name not in band["curves"]:
            continue
        steps, low, high = (np.array(band["curves"][name][key], float) for key in ("steps", "low", "high"))
        pairs = [(row["step"], row[name]) for row in rows if name in row]
        pairs = [pair for pair in pairs if steps[0] <= pair[0] * scale <= steps[-1] and pair[0] >= LEAST * total]
        if not pairs:
            continue
        own, values = np.array(pairs, float).T
        low, high = (np.interp(own * scale, steps, edge) for edge in (low, high))
        off = {"range": share * np.ptp(band["curves"][name]["high"]), "value": share * np.abs(low), "plain": share}[
            kind
        ]
        low, high = low - off, np.minimum(high + off, 1.0 if name == "knn" else np.inf)
        outside = ~(values <= high) if bad == "above" else ~(values >= low)  # NaN is outside
        found.append(
            {
                "name": title,
                "bad": bad,
                "percent": name == "knn",
                "step": int(own[-1]),
                "value": float(values[-1]),
                "low": float(low[-1]),
                "high": float(high[-1]),
                "outside": [int(step) for step in own[outside]],
                "points": len(own),
                "left": bool(outside[-1] or outside.mean() >= OFTEN),
            }
        )
    return found


def sentence(row):
    """What `against` found of one measure, in words."""
    text = _percent if row["percent"] else _figure
    times = f"{len(row['outside'])} of {row['points']} points lie outside, the first at step {row['outside'][0]:,}"
    return (
        f"{row['name']} is {text(row['value'])} at step {row['step']:,}, where good runs have {text(row['low'])} to "
        f"{text(row['high'])}; {times}"
    )


def table(found):
    """A Markdown table of what `against` found."""
    lines = [("measure", "step", "run", "band", "outside", "")]
    for row in found:
        text = _percent if row["percent"] else _figure
        outside = f"{len(row['outside'])} of {row['points']} points"
        band = f"{text(row['low'])} to {text(row['high'])}"
        word = f"left, {row['bad']}" if row["left"] else "in"
        lines.append((row["name"], f"{row['step']:,}", text(row["value"]), band, outside, word))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return [text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]]


def differences(band, config):
    """What may explain it: ['optim.lr: 0.01 -> 1000.0', ...], without what changes no curve."""
    return [line for line in configs.difference(band["config"], config) if not line.startswith(FREE)]


def _figure(x):
    return f"{x:.3g}"


def _percent(x):
    return f"{100 * x:.1f} %"
