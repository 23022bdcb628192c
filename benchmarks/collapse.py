"""Trains methods with and without what keeps them from collapsing, and draws the difference.

    python -m benchmarks.collapse --workdir runs/collapse

For each method of `CASES`, the digits demo twice over the same steps, the second time with its safeguard switched off;
DINO's with smaller networks, in which it shows within minutes.
Writes docs/collapse.svg, and a table of the last k-NN accuracy, the spread of the embeddings (health/std), what soft
assignments tell of the input (health/information, of the methods that have them) and the step of the first warning.
Runs are kept below --workdir; the same call on the same one goes on with them.
"""

import argparse
import datetime
import pathlib

import jax

from benchmarks import results
from jssl import config as configs
from jssl import data, figures, pages
from jssl.encoder import Encoder
from jssl.evals.knn import knn
from jssl.train import probe_rows, train
from jssl.writers import read_metrics

# method -> what keeps it from collapsing, the fields that switch it off, and fields of both runs.
CASES = {
    # With only the predictor off, 150 steps of the demo did not collapse (k-NN 95.0 %, spread 0.38).
    "byol": ("stop-gradient", {"method.stop_gradient": False}, {}),
    "simsiam": ("stop-gradient", {"method.stop_gradient": False}, {}),
    "vicreg": ("variance term", {"method.variance": 0.0}, {}),
    "swav": ("Sinkhorn", {"method.sinkhorn": False}, {}),
    # The demo as it is had not collapsed without centring after 300 steps (k-NN 95.0 %, information 1.2).
    "dino": (
        "centring",
        {"method.centering": False},
        {
            "encoder.widths": (8, 16),
            "method.hidden": 32,
            "method.dim": 16,
            "method.prototypes": 64,
            "method.lambda_base": 0.9,
            "optim.groups": (),
        },
    ),
}
PICTURE = pathlib.Path(__file__).parent.parent / "docs" / "collapse.svg"
# Drawn one below the other: the accuracy, and what the method is judged by.
MEASURES = {
    "knn": "k-NN",
    "health/information": "information",
    "health/deviation": "deviation",
    "health/std": "spread",
}


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.collapse", description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", default=",".join(CASES))
    parser.add_argument("--variant", default="demo")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="steps between two points of a curve")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--workdir", default=f"runs/collapse/{datetime.datetime.now():%Y%m%d-%H%M%S}")
    parser.add_argument("--out", default=results.FOLDER)
    parser.add_argument("--picture", default=PICTURE)
    arguments = parser.parse_args(argv)

    overrides = dict(text.split("=", 1) for text in arguments.set)
    overrides |= {"train.steps": arguments.steps, "checkpoint.every": arguments.steps}
    overrides |= dict.fromkeys(("log_every", "eval.every"), arguments.every)
    found, changed = {}, []
    for method in arguments.methods.split(","):
        safeguard, off, both = CASES[method]
        if both:
            changed.append(f"{method}: both with {', '.join(f'{name}={value}' for name, value in both.items())}.")
        for kind, fields in ("with", {}), ("without", off):
            workdir = pathlib.Path(arguments.workdir, f"{method}-{kind}")
            spec = f"{method}:{arguments.variant}"
            found[method, f"{kind} {safeguard}"] = run(spec, both | overrides | fields, workdir)
    notes = [
        f"The same {arguments.steps} steps of {arguments.variant}, but for the safeguard.",
        *changed,
        "k-NN: accuracy in % on a held-out fifth of the training images. Spread (health/std): 1 where the unit "
        "embeddings are even in all directions, 0 where all are one. health/information: nats that an input's soft "
        "assignment tells of it, 0 where all inputs have the same. health/deviation: standard deviation of the "
        "embeddings as they are.",
    ]
    rows = [row(*names, points) for names, points in found.items()]
    results.write(arguments.out, "collapse", "Collapse: with and without what prevents it", rows, notes)
    pathlib.Path(arguments.picture).write_text(picture(found) + "\n")


def run(spec, overrides, workdir):
    """Trains one run -> its logged rows, the k-NN accuracy of the untrained encoder before them."""
    config = configs.load(spec, overrides)
    if train(config, workdir) is None:
        raise SystemExit("stopped; the same call goes on from there")
    jax.clear_caches()  # a process of hundreds of compiled programs runs out of memory maps
    return [{"step": 0, "knn": untrained(config, workdir)}, *read_metrics(workdir)]


def untrained(config, workdir):
    """The accuracy that training reports, of the encoder before step 0."""
    source, _, bank = probe_rows(data.open_source(config.data.source), config.eval.rows, config.seed)
    features, y = Encoder(workdir, "untrained").embed(source), source.labels
    settings = {"classes": int(y.max()) + 1, "k": config.eval.k, "temperature": config.eval.temperature}
    return float(knn(features[:bank], y[:bank], features[bank:], y[bank:], **settings)["accuracy"])


def row(method, name, points):
    warned = [point for point in points if "warning" in point]
    return {
        "method": method,
        "trained": name,
        "k-NN untrained": round(100 * points[0]["knn"], 1),
        "k-NN": round(100 * points[-1]["knn"], 1),
        **{name: round(points[-1][name], 3) if name in points[-1] else None for name in list(MEASURES)[:0:-1]},
        "first warning": warned[0]["step"] if warned else None,
        "says": warned[0]["warning"].partition(";")[0] if warned else None,
    }


def picture(found):
    """{(method, name): points} -> SVG text: a column per method, its curves with and without the safeguard."""
    methods = list(dict.fromkeys(method for method, _ in found))
    width, height, gap = 196, 92, 34
    total = 30 + len(methods) * width, 90 + 2 * (height + gap)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" font-size="12" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif" role="img">',
        "<title>k-NN accuracy and spread of embeddings with and without what prevents collapse</title>",
        STYLE,
    ]
    for i, method in enumerate(methods):
        left, curves = 46 + i * width, [(name, points) for (of, name), points in found.items() if of == method]
        parts.append(f'<text class="name" x="{left}" y="18">{title(method)}</text>')
        for j, (name, _) in enumerate(curves):
            colour = figures.colour(j, len(curves))
            parts.append(f'<text x="{left}" y="{36 + 15 * j}" fill="{colour}">{figures.html.escape(name)}</text>')
        lines = [(points, figures.colour(j, len(curves))) for j, (_, points) in enumerate(curves)]
        there = [measure for measure in MEASURES if any(measure in point for points, _ in lines for point in points)]
        for k, measure in enumerate(there[:2]):
            parts.append(panel(measure, lines, left, 66 + k * (height + gap), width - 56, height, first=not i))
    parts.append(axis(46, total[1] - 12, "\N{WHITE CIRCLE} the first warning"))
    return "\n".join(parts) + "\n</svg>"


STYLE = """<style>
.name { fill: #1f2328; font-weight: 600; font-size: 14px } .axis { fill: #57606a } .grid { stroke: #d0d7de }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
.name { fill: #f0f6fc } .axis { fill: #9198a1 } .grid { stroke: #3d444d }
}
</style>"""


def panel(measure, lines, left, top, width, height, first):
    """One measure over the steps. lines: [(points, colour)]; a ring marks the first warning."""
    end = max(points[-1]["step"] for points, _ in lines)
    values = [point[measure] for points, _ in lines for point in points if measure in point]
    high = max(1.0, *values)
    x = lambda step: left + width * step / end
    y = lambda value: top + height * (1 - value / high)
    text = lambda value: f"{value:.0%}" if measure == "knn" else figures.short(round(value, 2))
    parts = []
    for tick in (0.0, high / 2, high) if measure == "knn" else (0.0, high):
        parts.append(f'<path class="grid" d="M{left} {y(tick):.1f}h{width}"/>')
        if first:
            parts.append(axis(left - 6, y(tick) + 4, text(tick), "end"))
    parts.append(axis(left, top + height + 16, MEASURES[measure]))
    parts.append(axis(left + width, top + height + 16, f"step {end:,}", "end"))
    ends = []
    for points, colour in lines:
        drawn = [(x(point["step"]), y(point[measure])) for point in points if measure in point]
        if not drawn:
            continue
        places = " ".join(f"{a:.1f},{b:.1f}" for a, b in drawn)
        parts.append(f'<polyline points="{places}" stroke="{colour}"/>')
        if warned := next((point for point in points if "warning" in point and measure in point), None):
            parts.append(
                f'<circle cx="{x(warned["step"]):.1f}" cy="{y(warned[measure]):.1f}" r="4" fill="none" '
                f'stroke="{colour}" stroke-width="2"><title>step {warned["step"]:,}: a warning</title></circle>'
            )
        last = next(point[measure] for point in reversed(points) if measure in point)
        near = ends and abs(y(last) - ends[0]) < 13  # the two figures would lie over each other
        place = ends[0] + (13 if y(last) >= ends[0] else -13) if near else y(last)
        parts.append(f'<text x="{left + width + 5}" y="{place + 4:.1f}" fill="{colour}">{text(last)}</text>')
        ends.append(place)
    return "".join(parts)


def title(method):
    """The method's name as its class spells it."""
    return configs.load(f"{method}:demo").method.name.partition(":")[2]


def axis(x, y, text, anchor="start"):
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    pages.huge()
    main()
