"""Trains a list of methods on one labelled data set and writes the table of their k-NN and linear-probe accuracies.

    python -m benchmarks.quality --variant demo --name digits --steps 300
    python -m benchmarks.quality --variant cifar10_200 --data npz:.data/cifar10.npz --test npz:.data/cifar10_test.npz \\
        --methods simclr --minutes 8

`--epochs`, `--steps` or `--minutes` (of training, per method and seed, by the speed that is measured first) shorten
the variant, warm-up included. A JPEG pack becomes an npz of two arrays, `image` and `label`. How to run on a machine
that has jax and little else: see `benchmarks.speed`. Runs are kept below --workdir; the same call on the same one goes
on with them.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import time

from benchmarks import results
from benchmarks.speed import Bench
from jssl import config as configs
from jssl import data
from jssl.encoder import Encoder
from jssl.evals import protocol
from jssl.experiment import fill
from jssl.train import train

BATCH = 512  # of embedding
PICKED = ("stderr", "penalty")
TASKS = {"knn": "k-NN", "linear": "linear"}


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", default="simclr,byol,mae")
    parser.add_argument("--variant", default="cifar10_200")
    parser.add_argument("--data", help="labelled training images (default: the variant's)")
    parser.add_argument("--test", help="labelled test images (default: the variant's)")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float, help="of training, for each method and seed")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--k", type=int, help="neighbours of k-NN (default: the variant's eval.k)")
    parser.add_argument("--temperature", type=float, help="of k-NN (default: the variant's)")
    parser.add_argument("--name", help="of the result: quality-NAME")
    parser.add_argument("--workdir", default=f"runs/quality/{datetime.datetime.now():%Y%m%d-%H%M%S}")
    parser.add_argument("--out", default=results.FOLDER)
    arguments = parser.parse_args(argv)

    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    runs = {method: [run(method, seed, arguments) for seed in seeds] for method in arguments.methods.split(",")}
    first = next(iter(runs.values()))[0]
    spread = f"deviation over {len(seeds)} seeds" if len(seeds) > 1 else "error over the test set"
    notes = [
        f"Accuracy in %, ± the standard {spread}; untrained is the same encoder before its first step.",
        *(
            f"{TASKS[score['task']]}: {settings(score)}."
            for (encoder, _), score in first["scores"].items()
            if not encoder
        ),
        f"Data: {first['config']['data']['source']}; test: {first['config']['data']['eval_source']}.",
        "Minutes are of training, with compiling and saving.",
    ]
    name = f"quality-{arguments.name or results.slug(f'{arguments.variant} {results.device()}')}"
    rows = [row(method, of_method) for method, of_method in runs.items()]
    results.write(arguments.out, name, f"Quality: {arguments.variant}", rows, notes)


def run(method, seed, arguments):
    """Trains one run and scores it -> {'config', 'minutes', 'scores': {(' untrained' or '', task): score}}."""
    overrides = dict(text.split("=", 1) for text in arguments.set) | {"seed": seed}
    overrides |= {"data.source": arguments.data} if arguments.data else {}
    overrides |= {"data.eval_source": arguments.test} if arguments.test else {}
    overrides |= {"eval.k": arguments.k} if arguments.k else {}
    overrides |= {"eval.temperature": arguments.temperature} if arguments.temperature else {}
    config = configs.load(f"{method}:{arguments.variant}", overrides)
    parts = {"train": config.data.source, "test": config.data.eval_source}
    parts = {name: data.open_source(spec, channels=config.data.channels) for name, spec in parts.items()}
    config, _ = fill(config, parts["train"])
    if arguments.minutes:
        shorten(config, arguments.minutes * 60 * Bench(config).step(repeats=3, seconds=2.0) / config.train.batch_size)
    elif arguments.epochs:
        shorten(config, arguments.epochs * config.train.per_epoch)
    elif arguments.steps:
        shorten(config, arguments.steps)

    workdir = pathlib.Path(arguments.workdir, f"{method}-{arguments.variant}-{seed}")
    began = time.monotonic()
    train(config, workdir)
    minutes = (time.monotonic() - began) / 60
    scores = {}
    for name, weights in {"": "weights", " untrained": "untrained"}.items():
        encoder = Encoder(workdir, weights)
        features = {part: encoder.embed(source, BATCH, data.default_workers()) for part, source in parts.items()}
        labels = {part: source.labels for part, source in parts.items()}
        found = protocol.evaluate(
            features, labels, protocols=tuple(TASKS), k=config.eval.k, temperature=config.eval.temperature
        )
        scores |= {(name, score["task"]): score for score in found}
    return {"config": json.loads((workdir / "config.json").read_text())["config"], "minutes": minutes, "scores": scores}


def shorten(config, steps):
    """Sets the length of a filled config to `steps`, and its warm-up in proportion."""
    train = config.train
    steps = max(int(steps) // train.steps_per_call, 1) * train.steps_per_call
    config.optim.warmup *= min(1.0, steps / train.steps)
    train.steps = steps


def row(method, runs):
    """The table's row of one method, over all its seeds."""
    config = runs[0]["config"]
    scores = {
        f"{title}{untrained}": _mean([run["scores"][untrained, task] for run in runs])
        for task, title in TASKS.items()
        for untrained in ("", " untrained")
    }
    return {
        "method": method,
        **scores,
        "encoder": config["encoder"]["name"].partition(":")[2],
        "epochs": round(config["train"]["steps"] / config["train"]["per_epoch"], 1),
        "batch": config["train"]["batch_size"],
        "precision": config["dtype"],
        "minutes": round(statistics.mean(run["minutes"] for run in runs), 1),
    }


def settings(score):
    """The protocol of a score, in words, without what each run picks for itself."""
    return ", ".join(f"{key} {value}" for key, value in score["settings"].items() if key not in PICKED)


def _mean(scores):
    means = [score["mean"] for score in scores]
    spread = statistics.stdev(means) if len(means) > 1 else scores[0]["stderr"]
    return f"{100 * statistics.mean(means):.1f} ± {100 * spread:.1f}"


if __name__ == "__main__":
    main()
