"""The files in which scores stay: scores.json, and predictions.npz for what is of single test examples; which training
images had labels: splits.json."""

import hashlib
import json
import pathlib

import numpy as np
from absl import logging

from jssl.evals.scores import compare, title
from jssl.files import NAMES, whole

SCORES, PREDICTIONS, SPLITS = "scores.json", "predictions.npz", "splits.json"
LISTED, DRAWS = 10_000, 5  # names in splits.json, and draws, of each task at most


def identity(spec, names):
    """A digest that tells test examples from others, of where they are from and their names or numbers."""
    return hashlib.blake2b("\n".join([spec, *map(str, names)]).encode(errors=NAMES), digest_size=8).hexdigest()


def digest(path):
    """Of what a file holds."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def on(scores, test):
    """The scores, each with the `identity` of its test set: for those of other examples than the run's own."""
    for score in scores:
        if _paired(score):
            score["rows"]["other"] = np.asarray(test)
    return scores


def write(folder, scores, protocol, run, test=None, labels=None, rows=""):
    """Writes scores.json, {"protocol", "scores", "comparisons", "run"}, and predictions.npz, each whole or not at all.

    The latter holds what scores say of single test examples: ENCODER/TASK/right, /predictions, /confidence, [M], and
    /other as of `on`, with `test`, the name of the test set, its `labels` and its `identity`, `rows`. Comparisons:
    paired tests of the encoder against its untrained self. What is there of other tasks stays where data, seed
    and weights, as `protocol` says them, and the test set are the same; "earlier" says the `run` of each such task.
    -> the comparisons of these scores
    """
    folder = pathlib.Path(folder)
    arrays = {
        f"{score['encoder']}/{score['task']}/{name}": x for score in scores for name, x in score.get("rows", {}).items()
    }
    results = lambda encoder: {s["task"]: s["rows"]["right"] for s in scores if s["encoder"] == encoder and _paired(s)}
    names = ("trained", "untrained")
    comparisons = compare(*map(results, names), names)
    plain = [{key: value for key, value in score.items() if key != "rows"} for score in scores]
    made = {"protocol": {**protocol, "test rows": rows}, "scores": plain, "comparisons": comparisons, "run": run}
    if before := _before(folder, made["protocol"]):
        made, arrays = _merged(before, made), _others(folder, plain) | arrays
    with whole(folder / SCORES) as file:
        file.write(json.dumps(made, indent=1) + "\n")
    known = {"test": np.asarray(test or ""), "rows": np.asarray(rows)} | ({} if labels is None else {"labels": labels})
    with whole(folder / PREDICTIONS, "wb") as file:
        np.savez(file, **known, **arrays)
    return comparisons


def list_split(folder, task, source, rows):
    """Adds to splits.json the names of the training images of a task's first draws, as many as `LISTED` and `DRAWS`
    allow: {task: {"of": spec, "draws": [[name, ...], ...]}}. rows: int [draws, n]"""
    path = pathlib.Path(folder, SPLITS)
    found = json.loads(path.read_text()) if path.is_file() else {}
    listed = rows[: min(DRAWS, LISTED // rows.shape[1])]
    found[task] = {"of": source.spec, "draws": [[str(source.names[row]) for row in draw] for draw in listed]}
    with whole(path) as file:
        file.write(json.dumps(found) + "\n")


def _before(folder, protocol):
    """What scores.json holds, if it is of the same data, seed, weights and test rows, or {}: the log tells why."""
    before = content(folder)
    names = ("seed", "weights", "test rows")
    of = lambda protocol: {
        **_without(protocol.get("data", {}), ["left out"]),
        **{name: protocol.get(name) for name in names},
    }
    old, new = of(before.get("protocol", {})), of(protocol)
    if before and old != new:
        other = [name for name in new if new[name] != old.get(name)]
        logging.info("%s is begun anew: %s of what was there is another", folder / SCORES, ", ".join(other))
    return before if old == new else {}


def _merged(before, made):
    """The contents of two scores.json as one: a task of the new one replaces that of the old one."""
    tasks = dict.fromkeys(score["task"] for score in made["scores"])
    stay = lambda found: [one for one in found if one["task"] not in tasks]
    scores = stay(before["scores"])
    runs = {score["task"]: before["run"] for score in scores} | _without(before.get("earlier", {}), tasks)
    old, new = before["protocol"], made["protocol"]
    names = ",".join(filter(None, (one.get("protocols") for one in (old, new))))
    measured = {name for task in tasks for name in (title(task), task.partition("-")[0])}
    missing = _without(old.get("data", {}).get("left out", {}), measured) | new.get("data", {}).get("left out", {})
    data = new.get("data", {}) | ({"left out": missing} if missing else {})
    protocol = new | {"protocols": ",".join(dict.fromkeys(names.split(","))), "data": data}
    comparisons = stay(before["comparisons"]) + made["comparisons"]
    return {
        **made,
        "protocol": protocol,
        "scores": scores + made["scores"],
        "comparisons": comparisons,
        "earlier": runs,
    }


def _without(found, names):
    return {name: value for name, value in found.items() if name not in names}


def _others(folder, scores):
    """The arrays of predictions.npz of other tasks than those of the scores."""
    tasks, path = {score["task"] for score in scores}, folder / PREDICTIONS
    arrays = dict(np.load(path)) if path.is_file() else {}
    return {key: x for key, x in arrays.items() if "/" in key and key.split("/")[1] not in tasks}


def content(folder):
    """What `write` put into scores.json; {} where there is none."""
    path = pathlib.Path(folder, SCORES)
    return json.loads(path.read_text()) if path.is_file() else {}


def read(folder):
    """What `write` kept of single test examples -> {"test", "rows": text, "labels": int [M] or None, "right": {encoder:
    {task: [M]}}, "predictions" and "confidence" likewise, "other": {encoder: {task: text}}}; empty where nothing was.
    """
    path = pathlib.Path(folder, PREDICTIONS)
    arrays = dict(np.load(path)) if path.is_file() else {}
    found = {name: str(arrays.pop(name, "")) for name in ("test", "rows")} | {"labels": arrays.pop("labels", None)}
    found |= {"right": {}, "predictions": {}, "confidence": {}, "other": {}}
    for key, x in arrays.items():
        encoder, task, name = key.split("/")
        found[name].setdefault(encoder, {})[task] = str(x) if name == "other" else x
    return found


def _paired(score):
    return "right" in score.get("rows", {})
