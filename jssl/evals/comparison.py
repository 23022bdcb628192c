"""Several runs side by side: paired tests of every two, and what was not measured alike."""

import itertools

import numpy as np

from jssl.evals.scores import compare, title

# Of a score's settings: what each run picks for itself, on its own validation rows, and what it finds.
PICKED = ("penalty", "validation_accuracy", "rate_per_256", "stderr", "batch_size", "picked", "cost")
FOUND = ("grid", "std", "accuracy", "p", "words", "by group", "worst", "best", "by corruption", "by shift")
FOUND += ("nearest_agrees", "left_out", "interval")


def compare_runs(runs):
    """Every two runs by their trained encoders. runs: {name: what `kept.read` gives} -> their comparisons, as of
    `scores.compare`, and lines of text on what was tested on other examples; what has no results of single examples is
    left out."""
    found, apart = [], []
    for (a, first), (b, second) in itertools.combinations(runs.items(), 2):
        results = [run["right"].get("trained", {}) for run in (first, second)]
        both = [task for task in results[0] if task in results[1]]
        other = {}  # tasks, by what is said of their test sets
        for task in both:
            other.setdefault(_apart(first, second, task), []).append(task)
        same = other.pop(None, [])
        found += compare({task: results[0][task] for task in same}, results[1], (a, b))
        for words, tasks in other.items():
            of = "" if len(tasks) == len(both) else f"{', '.join(map(title, tasks))}: "
            apart.append(f"{of}{a} and {b} cannot be compared: they were tested on {words}")
    return found, apart


def _apart(first, second, task):
    """On what other examples two runs were tested in one task, in words; None where they were the same."""
    sets = [run["other"].get("trained", {}).get(task) for run in (first, second)]
    if sets != [None, None]:
        return None if sets[0] == sets[1] else "other examples"
    if first["test"] != second["test"]:
        return f"{first['test']} and {second['test']}"
    same = all(np.array_equal(first[name], second[name]) for name in ("rows", "labels"))
    return None if same else f"other images of {first['test']}"


def other_protocols(runs):
    """What was not measured alike of the trained encoders. runs: {name: what scores.json holds} -> ["k-NN: k is 7 in a,
    20 in b.", ...], seeds and all, each once, with the tasks of which it holds."""
    found = {}
    for name, content in runs.items():
        for score in content.get("scores", []):
            if score["encoder"] == "trained":
                found.setdefault(score["task"], {})[name] = score.get("settings", {})
    lines = {}  # tasks, by what is said of them
    for task, settings in found.items():
        for field in dict.fromkeys(field for of in settings.values() for field in of if field not in PICKED + FOUND):
            values = {name: str(of.get(field)) for name, of in settings.items()}
            if len(set(values.values())) > 1:
                said = ", ".join(f"{value} in {name}" for name, value in values.items())
                lines.setdefault(f"{field} is {said}.", []).append(title(task))
    return [f"{', '.join(tasks)}: {line}" for line, tasks in lines.items()]
