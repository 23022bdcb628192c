"""The sections of report.html: each is a function from what was read to a piece of HTML, empty where nothing was."""

import collections
import html
import re
import shlex

import numpy as np

from jssl import figures
from jssl.evals.scores import title

TSNE_POINTS = 1500  # beyond that t-SNE takes too long on a laptop, and the map is the plain PCA
MAP_POINTS = 4000  # drawn; more only make the page heavy

# What a curve shows, and what is healthy: (name or ending of a name, title, caption). The order is the page's.
CURVES = (
    ("loss", "Loss", "What training minimises. It should fall, then flatten; its height says nothing across methods."),
    ("knn", "k-NN accuracy", "How often the nearest neighbours of a held-out example tell its class. It should rise."),
    (
        "probe/accuracy",
        "Online probe: accuracy",
        "A linear classifier trained beside the method, on random views of training images. It should rise.",
    ),
    ("probe/loss", "Online probe: loss", "What that classifier minimises. The method feels nothing of it."),
    ("lr", "Learning rate", "The step size: a warm-up, then a slow decay."),
    ("grad_norm", "Gradient norm", "The length of the gradient. Healthy: steady or falling. Spikes: lower the rate."),
    ("std", "Spread of embeddings", "1: even in all directions; 0: the same for every input. Below 0.1: a collapse."),
    (
        "rankme",
        "Effective rank (RankMe)",
        "How many dimensions are in use. Healthy: high or rising. Near 1: a collapse.",
    ),
    ("alignment", "Alignment", "Squared distance of two views of one example. Healthy: small while uniformity is low."),
    ("uniformity", "Uniformity", "How evenly the embeddings fill the sphere: near -4 evenly, at 0 all are one point."),
    (
        "information",
        "Information of assignments",
        "Nats that a cluster assignment tells about its input. At 0 every input has the same one: a collapse.",
    ),
    (
        "deviation",
        "Standard deviation of embeddings",
        "As they are, where the loss asks for 1. Below 0.1: they have shrunk to one point, a collapse.",
    ),
    ("features_std", "Spread of features", "The same of the encoder's features, which is what one uses afterwards."),
    (
        "features_rankme",
        "Effective rank of features",
        "The dimensions that the encoder's features use. Higher is better.",
    ),
    ("param_norm", "Parameter norm", "The length of all weights. Healthy: slow change."),
    (
        "examples_per_s",
        "Examples per second",
        "Source examples through the whole step, augmentation and update included.",
    ),
    (
        "data_wait",
        "Waiting for data",
        "Share of the time in which the device waited. Above some per cent: more workers.",
    ),
)
NAMED = [name for name, _, _ in CURVES]
PERCENT = ("knn", "probe/accuracy", "data_wait")
FROM_ZERO = ("examples_per_s", "data_wait")  # rates: their share of the whole axis is what counts
OTHER = "Logged by the method."

ENCODERS = {"trained": "trained encoder", "untrained": "same encoder, untrained", "pixels": "raw pixels"}
MISSING = {
    "Training curves": "jssl train --workdir {}",
    "Scores": "jssl eval --workdir {}",
    "Nearest neighbours": "jssl eval --workdir {}",
    "Map of the embeddings": "jssl eval --workdir {}",
    "Views": "jssl train --workdir {}",
}


PICTURES = {"Nearest neighbours", "Views"}  # of images alone


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
        for text in row.get("warning", "").splitlines():
            kind = re.sub(r"\d[\d.]*", "#", text)
            first, _, count, _ = seen.get(kind, (row["step"], 0, 0, ""))
            seen[kind] = first, row["step"], count + 1, text
    lines = []
    for first, last, count, text in seen.values():
        when = f"step {first:,.0f}" if count == 1 else f"{count} times, steps {first:,.0f} to {last:,.0f}"
        lines.append(f"<p><b>{escape(text)}</b> <span>({when})</span></p>")
    return f'<div class="warning" role="alert">{"".join(lines)}</div>' if lines else ""


def scores(data):
    scores = data.get("scores")
    if not scores:
        return ""
    cells = {(score["encoder"], score["task"]): score for score in scores}
    encoders = sorted(
        {score["encoder"]: None for score in scores},
        key=[*ENCODERS, *dict.fromkeys(s["encoder"] for s in scores)].index,
    )
    tasks = list({score["task"]: None for score in scores})
    columns = {task: [cells[pair]["mean"] for pair in cells if pair[1] == task] for task in tasks}
    body = []
    for encoder in encoders:
        row = f"<td>{escape(ENCODERS.get(encoder, encoder))}</td>"
        for task in tasks:
            score = cells.get((encoder, task))
            mark = ' class="best"' if score and score["mean"] == max(columns[task]) and len(columns[task]) > 1 else ""
            row += f"<td{mark}>{_score(score) if score else ''}</td>"
        body.append(f"<tr>{row}</tr>")
    head = "".join(f"<th>{escape(title(task))}</th>" for task in tasks)
    lead = " The trained encoder's lead over the untrained one is what was learned." if "untrained" in encoders else ""
    return (
        "<p>How well simple classifiers read the classes off the frozen features: accuracy on held-out examples in per "
        f"cent{_other_measures(tasks)}, the mean ± its standard error; ★ marks the best of a column.{lead}</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{_protocol(data.get('protocol'), scores)}"
    )


def _other_measures(tasks):
    named = {"nmi": "NMI", "ari": "ARI", "link-auc": "AUC", "link-ap": "average precision"}
    found = [name for task, name in named.items() if task in tasks]
    return f"; {', '.join(found)} likewise" if found else ""


def _protocol(protocol, scores):
    """All that a score depends on, so that no one has to guess: what is common, then task by task."""
    parts = [("Protocol", _flat(protocol))] if protocol else []
    for task in dict.fromkeys(score["task"] for score in scores):
        of = {
            s["encoder"]: {"draws": s.get("draws"), **_flat(s.get("settings", {}))} for s in scores if s["task"] == task
        }
        names = dict.fromkeys(name for settings in of.values() for name in settings)
        parts.append((title(task), {name: _agreed({who: of[who].get(name) for who in of}) for name in names}))
    return "".join(f'<h3 class="under">{escape(head)}</h3>{_list(flat, "words")}' for head, flat in parts)


def _agreed(values):
    """One text where all encoders have the same value, else each one's. values: {encoder: value}"""
    texts = {who: _text(value) for who, value in values.items()}
    return (
        next(iter(texts.values()))
        if len(set(texts.values())) == 1
        else "; ".join(f"{w}: {t}" for w, t in texts.items())
    )


def _score(score):
    if not 0 <= score["mean"] <= 1:  # not an accuracy
        return figures.short(score["mean"])
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


def embeddings(arrays):
    if not arrays:
        return ""
    xy, labels, names = arrays["xy"], arrays.get("label"), None
    how = "t-SNE" if len(xy) <= TSNE_POINTS else "its first two principal components"
    colours = ""
    if labels is not None:
        classes, labels = np.unique(labels, return_inverse=True)
        known = arrays.get("label_names", ())
        names = [str(known[c]) if 0 <= c < len(known) else str(c) for c in classes]
        colours = " The colours are the classes, which training never saw: separate islands mean that it found them."
    of = lambda rows: None if labels is None else labels[rows]
    pictures, points = "", ""
    if "thumbs" in arrays:
        rows = arrays.get("thumb_index", np.arange(len(arrays["thumbs"])))
        uri = figures.mosaic(xy[rows], arrays["thumbs"], of(rows), len(names or "1"))
        pictures = f'<img class="wide" src="{uri}" alt="the map with pictures">'
    if names or not pictures:  # without classes the pictures say more than points of one colour
        rows = np.random.default_rng(0).permutation(len(xy))[:MAP_POINTS]
        points = figures.scatter(xy[rows], of(rows), names) + legend(names or [])
    return (
        f"<p>Each of the {len(xy):,} points is one example, laid on the plane by {how} so that examples with like "
        f"features lie close together; the axes have no meaning of their own.{colours}</p>{points}{pictures}"
    )


def legend(names, most=40, more=""):
    """The classes beside their colours, and what else there is to say, as HTML."""
    swatches = [
        f'<span><i style="background: {figures.colour(i, len(names))}"></i>{escape(name)}</span>'
        for i, name in enumerate(names[:most])
    ]
    if len(names) > most:
        swatches.append(f"<span>and {len(names) - most} more</span>")
    return f'<div class="legend">{"".join(swatches)}{more}</div>' if names else ""


def curves(rows):
    found = {name: None for row in rows for name in row if name not in ("step", "warning")}
    figure, taken = [], set()
    for known, heading, caption in CURVES:
        for name in found:
            if name not in taken and known == (name if name in NAMED else name.split("/")[-1]):
                taken.add(name)
                figure.append(_curve(rows, name, heading, caption))
    figure += [_curve(rows, name, name, OTHER) for name in found if name not in taken]
    alone = "health/features_std" in found and "health/alignment" not in found
    no_pairs = " The method compares no two views of an example, which alignment and uniformity need." if alone else ""
    lead = f"<p>Every figure is also in <code>metrics.jsonl</code> and in TensorBoard.{no_pairs}</p>"
    return f'{lead}<div class="curves">{"".join(figure)}</div>' if figure else ""


def _curve(rows, name, heading, caption):
    steps, values = zip(*((row["step"], row[name]) for row in rows if name in row))
    svg = figures.chart(steps, values, percent=name in PERCENT, zero=name in FROM_ZERO)
    return f"<figure><h3>{escape(heading)}</h3>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


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
    of_all = MISSING.keys() - (PICTURES if modality != "image" else set())
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
