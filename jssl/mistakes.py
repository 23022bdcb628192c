"""Sections of report.html on what was taken for what: the confusion matrix, and the surest mistakes as pictures."""

import numpy as np

from jssl.evals.scores import title
from jssl.sections import escape, percent, tile

TASKS = ("linear", "linear-sgd", "finetune", "knn")  # with predictions; the first there is shown
MOST = 30  # classes of a matrix; of more only the commonest confusions are named
LISTED = 20


def first_task(found):
    """The task of `TASKS`, else any, that is there; None of none."""
    return next((task for task in (*TASKS, *found) if task in found), None)


def most_confident(rows, labels, count):
    """rows: {task: {"predictions": int [M], "confidence": [M] where known}}; labels: int [M] -> the task, and the rows
    that it got wrong, the surest first, int [at most `count`]."""
    known = {task: found for task, found in rows.items() if "predictions" in found}
    task = first_task(known)
    if task is None:
        return None, np.zeros(0, int)
    wrong = np.flatnonzero(known[task]["predictions"] != labels)
    sure = known[task].get("confidence", np.zeros(len(labels)))[wrong]
    return task, wrong[np.argsort(-sure, kind="stable")][:count]


def confusion(found, names):
    """found: what `evals.kept.read` gives; names: of the classes, or None for their numbers."""
    predictions, labels = found["predictions"].get("trained", {}), found["labels"]
    task = first_task(predictions)
    if task is None or labels is None:
        return ""
    labels, predicted = np.asarray(labels), predictions[task]
    count = int(max(labels.max(), predicted.max())) + 1
    names = [str(names[c]) if names is not None and c < len(names) else str(c) for c in range(count)]
    counts = np.zeros((count, count), int)
    np.add.at(counts, (labels, predicted), 1)
    right = percent(np.trace(counts) / max(counts.sum(), 1))
    lead = (
        f"<p>What the {escape(title(task))} takes each class for, on the {counts.sum():,} test examples: {right} are "
        "right"
    )
    if count > MOST:
        return f"{lead}. The commonest confusions of {count} classes:</p>{_commonest(counts, names)}"
    return (
        f"{lead}, on the diagonal. A row is a class, its cells the shares of it, in per cent, that are taken for each "
        f"class; the stronger its colour, the larger the share.</p>{_matrix(counts, names)}"
    )


def _commonest(counts, names):
    off = counts - np.diag(np.diag(counts))
    pairs = np.argsort(-off, axis=None, kind="stable")[:LISTED]
    rows = []
    for a, b in zip(*np.unravel_index(pairs, off.shape), strict=True):
        if off[a, b]:
            share = percent(off[a, b] / counts[a].sum())
            rows.append(
                f"<tr><td>{escape(names[a])}</td><td>{escape(names[b])}</td><td>{off[a, b]:,}</td><td>{share}</td>"
            )
    head = "<tr><th>Class</th><th>taken for</th><th>times</th><th>of the class</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _matrix(counts, names):
    count, cell = len(names), 30
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    short = [name if len(name) <= 13 else f"{name[:12]}\u2026" for name in names]
    longest = max(map(len, short))
    left, top = 14 + 7 * longest, 18 if longest <= 3 else 12 + 6 * longest
    width, height = left + cell * count + (0 if longest <= 3 else 4 * longest), top + cell * count
    parts = [f'<svg class="matrix" viewBox="0 0 {width} {height}" style="max-width: {1.5 * width:.0f}px" role="img">']
    for i, name in enumerate(short):
        x, y = left + cell * (i + 0.5), top + cell * (i + 0.5)
        turn = "" if longest <= 3 else f' transform="rotate(-50 {x:.0f} {top - 6})"'
        anchor = "middle" if longest <= 3 else "start"
        parts.append(f'<text x="{left - 7}" y="{y + 4:.0f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text x="{x:.0f}" y="{top - 6}" text-anchor="{anchor}"{turn}>{escape(name)}</text>')
    for a, b in np.ndindex(count, count):
        kind = "right" if a == b else "wrong"
        x, y, share = left + cell * b, top + cell * a, shares[a, b]
        said = f"{counts[a, b]:,} of {counts[a].sum():,} {names[a]}: taken for {names[b]}"
        opacity = share if a == b else min(1.0, 0.15 + 2.5 * share) if share else 0.0
        parts.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill-opacity="{opacity:.2f}">'
            f"<title>{escape(said)}</title></rect>"
        )
        if counts[a, b]:
            shown = f"{100 * share:.0f}" if 100 * share >= 0.5 else "&lt;1"
            over = " over" if opacity > 0.55 else ""
            parts.append(
                f'<text class="cell{over}" x="{x + cell / 2:.0f}" y="{y + 19}" text-anchor="middle">{shown}</text>'
            )
    return "".join(parts) + "</svg>"


def worst(arrays):
    """The surest mistakes. arrays: what mistakes.npz holds, see `evals.shown.save_mistakes`"""
    if not arrays:
        return ""
    names, confidence = arrays["label_names"], arrays.get("confidence")
    word = lambda c: str(names[c]) if c < len(names) else str(c)
    tiles = []
    for i, picture in enumerate(arrays["picture"]):
        sure = f", {100 * confidence[i]:.0f}\u00a0%" if confidence is not None else ""
        text = f"{word(arrays['predicted'][i])}{sure}; is {word(arrays['label'][i])}"
        tiles.append(tile(picture, text, str(arrays["name"][i]) if "name" in arrays else "", "other"))
    how = ", the surest first, with the probability that it gave" if confidence is not None else ""
    return (
        f"<p>Test images that the {escape(title(str(arrays['task'])))} got wrong{how}: what it took them for, then "
        "what they are. Look for wrong labels, and for what the views let the encoder ignore.</p>"
        f'<div class="gallery">{"".join(tiles)}</div>'
    )
