"""The sections of report.html: each is a function from what was read to a piece of HTML, empty where nothing was."""

import collections
import html
import re
import shlex

import numpy as np

from jssl import cost, figures, modalities
from jssl.evals.scores import LEVEL, WIDE, title

ENCODERS = {"trained": "trained encoder", "untrained": "same encoder, untrained", "pixels": "raw pixels"}
MISSING = {
    "Training curves": "jssl train --workdir {}",
    "Scores": "jssl eval --workdir {}",
    "Nearest neighbours": "jssl eval --workdir {}",
    "Map of the embeddings": "jssl eval --workdir {}",
    "Views": "jssl train --workdir {}",
}
PICTURES = {"Nearest neighbours", "Views"}  # of what can be drawn


def escape(value):
    """Text that stands in the page as it is, whatever it holds."""
    return html.escape(str(value))


def head(workdir, config, rows, scores):
    get = lambda path: _lookup(config.get("config", {}), path)
    short = lambda path: str(get(path)).split(":")[-1] if get(path) else None
    parts = [short("method.name"), short("encoder.name"), get("data.source")]
    if rows:
        total = get("train.steps")
        parts.append(f"step {rows[-1]['step']:,.0f}" + (f" of {total:,}" if total else ""))
    lead = escape(" · ".join(str(part) for part in parts if part))
    if bill := cost.words(cost.of(rows, config.get("config", {})), get("modality") or "image"):
        lead += f"<br>{escape(bill)}"
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}<br>{escape(more)}</span></div>'
        for value, what, more in _tiles(rows, scores.get("scores", []))
    )
    tiles = f'<div class="tiles">{tiles}</div>' if tiles else ""
    return f'<h1>{escape(workdir.resolve().name)}</h1><p class="lead">{lead}</p>{tiles}'


def _tiles(rows, scores):
    """The few figures that one looks for first: [(value, what it is, a word more)]."""
    means = {(score["encoder"], score["task"]): score["mean"] for score in scores}
    tiles = []
    for (encoder, task), mean in means.items():
        if encoder == "trained" and 0 <= mean <= 1 and len(tiles) < 3:
            before = f"untrained: {percent(means['untrained', task])}" if ("untrained", task) in means else ""
            tiles.append((percent(mean), title(task), before))
    last = {name: value for row in rows for name, value in row.items()}
    if "knn" in last and not tiles:
        tiles.append((percent(last["knn"]), "k-NN", "last while training"))
    if "loss" in last:
        tiles.append((figures.short(last["loss"]), "loss", "the last one"))
    if speeds := [row["examples_per_s"] for row in rows if "examples_per_s" in row]:
        tiles.append((f"{np.median(speeds):,.0f}", "examples per second", "median"))
    return tiles


def warnings(rows):
    """Each warning once, however often it came back with other figures in it."""
    seen = {}
    for row in rows:
        for text in [*row.get("warning", "").splitlines(), *row.get("ended", "").splitlines()]:
            kind = re.sub(r"\d[\d.]*", "#", text)
            first, _, count, _ = seen.get(kind, (row["step"], 0, 0, ""))
            seen[kind] = first, row["step"], count + 1, text
    lines = []
    for first, last, count, text in seen.values():
        when = f"step {first:,.0f}" if count == 1 else f"{count} times, steps {first:,.0f} to {last:,.0f}"
        lines.append(f"<p><b>{escape(text)}</b> <span>({when})</span></p>")
    return f'<div class="warning" role="alert">{"".join(lines)}</div>' if lines else ""


def scores(data):
    """The table of encoders and tasks, and what paired tests say. data: what scores.json holds"""
    scores = data.get("scores")
    if not scores:
        return ""
    cells = {(score["encoder"], score["task"]): score for score in scores}
    encoders = sorted(
        {score["encoder"]: None for score in scores},
        key=[*ENCODERS, *dict.fromkeys(s["encoder"] for s in scores)].index,
    )
    tasks = list({score["task"]: None for score in scores})
    rows = {
        escape(ENCODERS.get(encoder, encoder)): [cells.get((encoder, task)) for task in tasks] for encoder in encoders
    }
    lead = " The trained encoder's lead over the untrained one is what was learned." if "untrained" in encoders else ""
    return (
        "<p>How well simple classifiers read the classes off the frozen features: accuracy on held-out examples in per "
        f"cent{_other_measures(tasks)}; {spread_of(scores)}; ★ marks the best of each task.{lead}</p>"
        f"{score_table(tasks, rows)}{tests(data.get('comparisons', []))}"
    )


def spread_of(scores):
    """What the small figures beside scores are, in words."""
    if any(score.get("low") is not None for score in scores):
        return "in small figures the 95 % bootstrap interval"
    return "the mean ± its standard error"


def score_table(tasks, rows):
    """rows: {what it is, HTML: [score or None for each task]} -> HTML; the best of each task is marked. Many tasks are
    below each other."""
    best = [max((row[i]["mean"] for row in rows.values() if row[i]), default=None) for i in range(len(tasks))]
    found = lambda i: [row[i] for row in rows.values() if row[i]]
    several = [len(found(i)) > 1 and "unit" not in found(i)[0].get("settings", {}) for i in range(len(tasks))]
    lines = [["", *(escape(title(task)) for task in tasks)]]
    for name, row in rows.items():
        marks = [score and several[i] and score["mean"] == best[i] for i, score in enumerate(row)]
        kinds = [' class="best"' if mark else "" for mark in marks]
        lines.append([name, *(f"<td{kind}>{_score(s) if s else ''}</td>" for kind, s in zip(kinds, row, strict=True))])
    if len(tasks) > WIDE:
        lines = [list(column) for column in zip(*lines, strict=True)]
    cell = lambda text: text if text.startswith("<td") else f"<td>{text}</td>"
    head = "".join(f"<th>{name}</th>" for name in lines[0])
    body = "".join(f"<tr>{''.join(map(cell, line))}</tr>" for line in lines[1:])
    table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="scores">{table}</table></div>'


def tests(comparisons):
    """Paired tests in words. comparisons: those of scores.json, or as `evals.scores.compare` gives them"""
    lines = "".join(f"<li>{escape(title(one['task']))}: {escape(one['words'])}</li>" for one in comparisons)
    alike = sum(one["p"] >= LEVEL for one in comparisons)
    lead = f"Paired tests on the same test examples: {alike} of {len(comparisons)} not distinguishable"
    shown = " open" if len(comparisons) <= WIDE else ""
    return f'<details class="tests"{shown}><summary>{lead}</summary><ul>{lines}</ul></details>' if lines else ""


def _other_measures(tasks):
    named = {"nmi": "NMI", "ari": "ARI", "link-auc": "AUC", "link-ap": "average precision"}
    found = [name for task, name in named.items() if task in tasks]
    return f"; {', '.join(found)} likewise" if found else ""


def protocols(data):
    """All that a score depends on, so that no one has to guess: what is common, then task by task. data: as `scores`"""
    scores = data.get("scores", [])
    whole = _list(_flat(data["protocol"]), "words") if data.get("protocol") else ""
    parts = []
    for task in dict.fromkeys(score["task"] for score in scores):
        of = {
            s["encoder"]: {"draws": s.get("draws"), **_flat(s.get("settings", {}))} for s in scores if s["task"] == task
        }
        names = dict.fromkeys(name for settings in of.values() for name in settings)
        parts.append((title(task), {name: _agreed({who: of[who].get(name) for who in of}) for name in names}))
    fold = lambda head, flat: f"<details><summary>{escape(head)}</summary>{_list(flat, 'words')}</details>"
    return whole + "".join(fold(head, flat) for head, flat in parts)


def _agreed(values):
    """One text where all encoders have the same value, else each one's. values: {encoder: value}"""
    texts = {who: _text(value) for who, value in values.items()}
    return (
        next(iter(texts.values()))
        if len(set(texts.values())) == 1
        else "; ".join(f"{w}: {t}" for w, t in texts.items())
    )


def _score(score):
    if not 0 <= score["mean"] <= 1 or "unit" in score.get("settings", {}):  # not an accuracy
        return figures.short(score["mean"])
    if score.get("low") is not None:
        return f"{percent(score['mean'])} <small>{100 * score['low']:.1f}\u2013{100 * score['high']:.1f}</small>"
    error = f" <small>± {100 * score['stderr']:.1f}</small>" if score.get("stderr") else ""
    return f"{percent(score['mean'])}{error}"


def neighbours(arrays):
    if not arrays:
        return ""
    query, neighbour, similarity = arrays["query"], arrays["neighbour"], arrays["similarity"]
    labels, near = arrays.get("query_label"), arrays.get("neighbour_label")
    names = arrays.get("label_names")
    word = lambda label: str(names[label]) if names is not None and 0 <= label < len(names) else str(label)
    rows = []
    for q in range(len(query)):
        text = word(labels[q]) if labels is not None else "query"
        row = [tile(query[q], text, _item(arrays, "query_name", q), "")]
        for k in range(neighbour.shape[1]):
            text, kind = f"{similarity[q, k]:.2f}", ""
            if labels is not None:
                kind = "same" if near[q, k] == labels[q] else "other"
                text = text if kind == "same" else f"{text} · {word(near[q, k])}"
            row.append(tile(neighbour[q, k], text, _item(arrays, "neighbour_name", (q, k)), kind))
        columns = f"1.35fr repeat({neighbour.shape[1]}, 1fr)"
        rows.append(f'<div class="row" style="grid-template-columns: {columns}">{"".join(row)}</div>')
    agree = ""
    if labels is not None:
        share = np.mean(near == labels[:, None])
        others = "" if share == 1 else "; the others are dashed red and named"
        agree = f" {percent(share)} of those shown have the query's class (green frame){others}."
    broad = " broad" if neighbour.shape[1] > (10 if query.shape[1] < 48 else 5) else ""
    return (
        "<p>On the left of each row a query, then the images whose features are nearest to it, with their cosine "
        f"similarity (1: the same direction). What looks alike to the encoder should be alike to you.{agree}</p>"
        f'<div class="neighbours{broad}">{"".join(rows)}</div>'
    )


def tile(image, text, name, kind):
    """A picture with a text below and a name to point at; kind: "same", "other" or "", its frame."""
    pixels = ' class="pixels"' if len(image) < 48 else ""
    title = escape(name if name else text)
    return (
        f'<figure class="{kind}"><img{pixels} src="{figures.data_uri(image)}" alt="{title}" title="{title}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def legend(names, most=40, more=""):
    """The classes beside their colours, and what else there is to say, as HTML."""
    swatches = [
        f"<span>{figures.swatch(figures.colour(i, len(names)))}{escape(name)}</span>"
        for i, name in enumerate(names[:most])
    ]
    if len(names) > most:
        swatches.append(f"<span>and {len(names) - most} more</span>")
    return f'<div class="legend">{"".join(swatches)}{more}</div>' if names else ""


def run(config):
    """How to make this run again: command, commit, devices, versions and the whole config."""
    if not config:
        return ""
    named = {name: config[name] for name in config if name not in ("config", "command", "preflight")}
    command = config.get("command", "")
    parts = [f"<pre>{escape(command if isinstance(command, str) else shlex.join(command))}</pre>"] if command else []
    preflight = config.get("preflight")
    if preflight:
        text = _list(_flat(preflight)) if isinstance(preflight, dict) else f"<pre>{escape(_lines(preflight))}</pre>"
        parts.append(f'<h3 class="under">Preflight</h3>{text}')
    if named:
        parts.append(f'<h3 class="under">Code and machine</h3>{_list(_flat(named))}')
    if config.get("config"):
        parts.append(f'<h3 class="under">Config</h3>{_list(_flat(config["config"]))}')
    return f"<section><h2>The run</h2><p>What makes it again.</p>{''.join(parts)}</section>"


def missing(workdir, titles, modality):
    command = lambda title: escape(MISSING[title].format(shlex.quote(str(workdir))))
    of_all = MISSING.keys() - (set() if modalities.find(modality).sheet else PICTURES)
    titles = [title for title in titles if title in of_all]  # the others are not of every run
    lines = "".join(f"<li>{title}: <code>{command(title)}</code></li>" for title in titles)
    lead = "<h2>Not made yet</h2><p>What has no data in this run, and the command that makes it.</p>"
    return f'<section>{lead}<ul class="missing">{lines}</ul></section>' if titles else ""


def _lines(text):
    return text if isinstance(text, str) else "\n".join(map(str, text))


def _list(flat, kind="figures"):
    lines = (f"<div><dt>{escape(name)}</dt><dd>{escape(_text(value))}</dd></div>" for name, value in flat.items())
    return f'<dl class="{kind}">{"".join(lines)}</dl>'


def _flat(tree, path=""):
    """{'a': {'b': 1}} -> {'a.b': 1}"""
    if not isinstance(tree, dict) or not tree:
        return {path: tree} if path else {}
    return {
        k: v for name, value in tree.items() for k, v in _flat(value, f"{path}.{name}" if path else str(name)).items()
    }


def _text(value):
    if isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value):
        return f"{len(value)} cells, in scores.json"
    if isinstance(value, list | tuple):
        count = collections.Counter(map(_text, value))
        return ", ".join(text if n == 1 else f"{text} ({n} times)" for text, n in count.items()) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None or value == {} else str(value)


def percent(value):
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _lookup(tree, path):
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _item(arrays, name, place):
    return str(arrays[name][place]) if name in arrays else None
