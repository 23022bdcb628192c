"""Sections of report.html that look at each class: its scores, and a graph in the colours of the classes."""

import numpy as np

from jssl import figures
from jssl.evals.scores import title
from jssl.sections import escape, legend, percent

TASKS = ("linear", "svm", "linear-sgd", "knn")  # with scores per class; the first there is shown, the others folded
ALL = 30  # classes that are shown all; of more only these:
WORST, BEST = 10, 5
COLUMNS = {"recall": "Recall", "precision": "Precision", "f1": "F1"}


def scores(data):
    """The classes' scores of the trained encoder beside those of the untrained one. data: what scores.json holds"""
    found = {(s["encoder"], s["task"]): s for s in data.get("scores", []) if s.get("classes")}
    tasks = [task for task in TASKS if ("trained", task) in found]
    if not tasks:
        return ""
    beside = any(encoder == "untrained" for encoder, _ in found)
    before = " In small figures, and as a mark on the bar: the same encoder untrained." if beside else ""
    draws = found["trained", tasks[0]].get("draws", 1)
    first = f" Of the first of {draws} draws." if draws > 1 else ""
    tables = "".join(
        f"<details{' open' if task == tasks[0] else ''}><summary>{escape(title(task))}</summary>"
        f"{_table(found['trained', task]['classes'], found.get(('untrained', task), {}).get('classes', []))}</details>"
        for task in tasks
    )
    return (
        "<p>In per cent. Recall: the share of a class's test examples that are recognised, drawn as a bar. Precision: "
        f"the share of what is taken for the class that is of it. F1: their harmonic mean.{before}{first}</p>{tables}"
    )


def _table(now, before):
    """now, before: of the trained and the untrained encoder, as of `labels.by_class`."""
    before, shown, note = {row["class"]: row for row in before}, [now], ""
    ranked = sorted((row for row in now if row["count"]), key=lambda row: (row["recall"], row["f1"]))
    if len(ranked) > ALL:
        shown = [ranked[:WORST], ranked[-BEST:]]
        note = (
            f"<p>Of {len(ranked)} classes the {WORST} with the lowest recall and the {BEST} with the highest; all are "
            "in <code>scores.json</code>.</p>"
        )
    bodies = "".join(
        f"<tbody>{''.join(_row(row, before.get(row['class'], {})) for row in rows)}</tbody>" for rows in shown
    )
    head = "".join(f"<th>{name}</th>" for name in ("Class", "Examples", "", *COLUMNS.values()))
    table = f'<table class="classes"><thead><tr>{head}</tr></thead>{bodies}</table>'
    return f'{note}<div class="scroll">{table}</div>'


def _row(now, before):
    cells = "".join(f"<td>{_figure(now[key])}{_small(before.get(key))}</td>" for key in COLUMNS)
    marks = f"--now: {100 * (now['recall'] or 0):.1f}%" + (
        f"; --before: {100 * before['recall']:.1f}%" if before.get("recall") is not None else ""
    )
    name = escape(now.get("name", now["class"]))
    return f'<tr><td>{name}</td><td>{now["count"]:,}</td><td><i style="{marks}"></i></td>{cells}</tr>'


def _figure(share):
    return "\u2013" if share is None else f"{100 * share:.1f}"


def _small(share):
    return "" if share is None else f" <small>{_figure(share)}</small>"


def graph(arrays):
    """The graph with the class that each node is given. arrays: what graph.npz holds, see `evals.shown.save_graph`"""
    if not arrays:
        return ""
    known, predicted, label = arrays["label_names"], arrays["predicted"], arrays["label"]
    classes = np.unique(np.append(predicted, label[label >= 0]))
    names = [str(known[c]) if c < len(known) else str(c) for c in classes]
    word = dict(zip(classes.tolist(), names))
    test = arrays["split"] == "test"
    wrong = test & (predicted != label)
    titles = [
        f"node {i}: {word.get(c, c)}, taken for {word[p]}"
        for i, (c, p) in enumerate(zip(label.tolist(), predicted.tolist()))
    ]
    svg = figures.network(
        arrays["xy"], arrays["edges"], np.searchsorted(classes, predicted), len(classes), wrong, titles
    )
    right = int(test.sum() - wrong.sum())
    ring = '<span><i class="ring"></i>a test node with a wrong class</span>' if wrong.any() else ""
    return (
        f"<p>Each of the {len(predicted):,} nodes lies near those that it is joined to, in the colour of the class "
        f"that a {escape(arrays['classifier'])} fitted on the training nodes' embeddings gives it: {right:,} of the "
        f"{test.sum():,} test nodes get theirs ({percent(right / max(test.sum(), 1))}), the others have a ring.</p>"
        f"{svg}{legend(names, more=ring)}"
    )
