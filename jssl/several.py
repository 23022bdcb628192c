"""The page on several runs: their scores side by side, paired tests, curves over each other, maps, what they cost."""

from jssl import by_class, cost, figures, maps, mistakes
from jssl import config as configs
from jssl.curves import curves
from jssl.evals.comparison import compare_runs, other_protocols
from jssl.sections import escape, neighbours, score_table, spread_of, tests, warnings


def sections(runs, how):
    """The parts of the page. runs: as `report.read` gives them; how: the kind of map"""
    runs = [{**run, "name": name} for run, name in zip(runs, distinct([run["workdir"] for run in runs]), strict=True)]
    content = {
        "Scores": scores(runs),
        "What they cost": costs(runs),
        "Training curves": curves({run["name"]: run["rows"] for run in runs}),
        "Maps of the embeddings": embeddings(runs, how),
        "Each by itself": closer(runs),
        "What differs between the configs": differences(runs),
    }
    return [
        f"<h1>{len(runs)} runs</h1>{names(runs)}",
        *(f"<section><h2>{title}</h2>{text}</section>" for title, text in content.items() if text),
    ]


def distinct(workdirs):
    """The last parts of the paths, as many as tell them apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(path[-count:]) for path in parts]
        if len(set(found)) == len(found):
            return found
    raise ValueError(f"{workdirs[0]} is given twice; expected different runs")


def names(runs):
    """Who is who: name, colour, method, data, and its warnings."""
    lines = []
    for i, run in enumerate(runs):
        config = run["config"].get("config", {})
        method, data = config.get("method", {}).get("name", ""), config.get("data", {}).get("source", "")
        step = f"step {run['rows'][-1]['step']:,}" if run["rows"] else ""
        what = " · ".join(filter(None, (method.partition(":")[2], data, step)))
        lines.append(f"<li>{_named(i, runs)} <span>{escape(what)}</span>{warnings(run['rows'])}</li>")
    return f'<ul class="runs">{"".join(lines)}</ul>'


def _named(i, runs):
    return f"{figures.swatch(figures.colour(i, len(runs)))}<b>{escape(runs[i]['name'])}</b>"


def scores(runs):
    """The trained encoders of all runs in one table, and a paired test of every two on every task."""
    all_scores = [score for run in runs for score in run["scores"].get("scores", []) if score["encoder"] == "trained"]
    if not all_scores:
        return ""
    tasks = list({score["task"]: None for score in all_scores})
    rows = {}
    for i, run in enumerate(runs):
        cells = {s["task"]: s for s in run["scores"].get("scores", []) if s["encoder"] == "trained"}
        rows[_named(i, runs)] = [cells.get(task) for task in tasks]
    found, apart = paired(runs)
    others = other_protocols({run["name"]: run["scores"] for run in runs})
    notes = "".join(f"<p>{escape(text)}</p>" for text in [*apart, *others])
    return (
        f"<p>Of the trained encoders, accuracy on held-out examples in per cent; {spread_of(all_scores)}; ★ marks the "
        f"best of a column.</p>{score_table(tasks, rows)}{tests(found)}{notes}"
    )


def paired(runs):
    """-> comparisons of every two runs on one test set, task by task; and who cannot be compared, in words."""
    found, apart = compare_runs({run["name"]: run["predictions"] for run in runs})
    tasks = [test["task"] for test in found]
    return sorted(found, key=lambda one: tasks.index(one["task"])), apart


def costs(runs):
    lines = []
    for i, run in enumerate(runs):
        config = run["config"].get("config", {})
        bill = cost.words(cost.of(run["rows"], config), config.get("modality", "image"))
        if bill:
            lines.append(f"<li>{_named(i, runs)} <span>{escape(bill)}</span></li>")
    return f'<ul class="runs">{"".join(lines)}</ul>' if lines else ""


def embeddings(runs, how):
    """A small map of each; their axes have nothing to do with each other."""
    drawn = [(i, maps.embeddings(run["map"], how, small=True)) for i, run in enumerate(runs)]
    panels = "".join(f"<figure><h3>{_named(i, runs)}</h3>{text}</figure>" for i, text in drawn if text)
    lead = f"<p>Test examples on the plane by {maps.KINDS[how]}, each run by itself; colours are classes.</p>"
    return f'{lead}<div class="curves wider">{panels}</div>' if panels else ""


def looked_at(run):
    """What a report shows of a run's classes and examples: {title: HTML, or ""}"""
    names = run["mistakes"].get("label_names", run["map"].get("label_names"))
    return {
        "Per class": by_class.scores(run["scores"]),
        "Confusions": mistakes.confusion(run["predictions"], names),
        "Surest mistakes": mistakes.worst(run["mistakes"]),
        "Nearest neighbours": neighbours(run["neighbours"]),
    }


def closer(runs):
    """Of each run, folded: its classes, mistakes and neighbours."""
    parts = []
    for i, run in enumerate(runs):
        shown = "".join(f'<h3 class="under">{name}</h3>{text}' for name, text in looked_at(run).items() if text)
        parts.append(f"<details><summary>{_named(i, runs)}</summary>{shown}</details>" if shown else "")
    return "".join(parts)


def differences(runs):
    """Each run's config against the first one's."""
    plain = [run["config"].get("config", {}) for run in runs]
    lines = []
    for i, config in enumerate(plain[1:], 1):
        changes = configs.difference(plain[0], config)
        said = "; ".join(changes) if changes else "the same config"
        lines.append(f"<li>{_named(i, runs)} <span>{escape(said)}</span></li>")
    return f'<p>Against {escape(runs[0]["name"])}.</p><ul class="runs">{"".join(lines)}</ul>' if any(plain) else ""
