"""Trains graph methods as their papers do and writes the table of their accuracies beside the published ones.

    python -m benchmarks.graphs --data cora=npz:.data/cora.npz --data mutag=npz:.data/mutag.npz \\
        --data nci1=npz:.data/nci1.npz --runs 20 --runs graphmae:nci1=5

A run is a training from a seed of its own and one evaluation of it: of nodes, logistic regression on the public split,
its penalty and its features' form picked on the validation nodes; of graphs, an SVM in ten-fold cross-validation,
shuffled by the run's seed, with its C picked within each training part. Test labels choose nothing. The scores of each
run are a line of NAME-runs.jsonl beside the table, which is of all the lines there are: the same call goes on from
there, and more --runs are added; --runs 0 writes the table alone. To measure anew, remove its lines.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax

from benchmarks import results
from benchmarks.quality import of_variant
from jssl import config as configs
from jssl import data, pages
from jssl.encoder import Encoder
from jssl.evals import graphs, nodes, svm
from jssl.experiment import fill
from jssl.train import train

# What the papers print: mean and standard deviation in per cent.
PUBLISHED = {
    "dgi:cora": "82.3 ± 0.6",
    "graphmae:cora": "84.2 ± 0.4",
    "graphcl:mutag": "86.8 ± 1.3",
    "graphmae:mutag": "88.2 ± 1.3",
    "graphcl:nci1": "77.9 ± 0.4",
    "graphmae:nci1": "80.4 ± 0.3",
}
PICKED = ("penalty", "form", "validation_accuracy", "cost", "seeds")  # settings that differ from run to run
BESIDE = 5  # runs, the first ones, in which the untrained encoder and raw features are scored too
HEAD = (
    "Accuracy in %: mean and standard deviation over runs, each with another seed; published: the paper's.",
    "untrained: the same encoder before its first step; raw features: of a graph, the sum of its nodes'; both are "
    f"scored in the first {BESIDE} runs.",
)
FOOT = ("Minutes are of one training, with compiling and saving.",)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.graphs", description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", default=",".join(PUBLISHED), help="NAME:VARIANT, comma-separated")
    parser.add_argument("--data", action="append", default=[], help="VARIANT=SOURCE (default: the variant's own)")
    parser.add_argument("--runs", action="append", default=["20"], help="of each, with seeds from 0; NAME:VARIANT=RUNS")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--name", default="graphs", help="of the result's files")
    parser.add_argument("--workdir", default="runs/graphs")
    parser.add_argument("--out", default=results.FOLDER)
    arguments = parser.parse_args(argv)

    wanted = {spec: int(of_variant(arguments.runs, spec)) for spec in arguments.methods.split(",")}
    for seed in range(max(wanted.values())):  # every method once, then every method twice: the table can be had early
        for spec in [spec for spec, count in wanted.items() if seed < count]:
            asked = {"method": spec, "seed": seed}
            asked |= {"source": of_variant(arguments.data, spec.partition(":")[2]), "set": arguments.set}
            if not any(asked.items() <= run.items() for run in kept(arguments)):
                keep({**asked, **run(asked, arguments.workdir)}, arguments)
                write(arguments)
                jax.clear_caches()  # a process of hundreds of compiled programs runs out of memory maps
    write(arguments)  # also where there was nothing to train


def lines(arguments):
    """The file of runs."""
    return pathlib.Path(arguments.out, f"{arguments.name}-runs.jsonl")


def kept(arguments):
    """The runs that there are."""
    text = lines(arguments).read_text() if lines(arguments).is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def keep(run, arguments):
    lines(arguments).parent.mkdir(parents=True, exist_ok=True)
    with lines(arguments).open("a") as file:
        file.write(json.dumps(run) + "\n")


def write(arguments):
    """The table of all runs, in the order of `PUBLISHED`."""
    runs = {}
    for run in kept(arguments):
        runs.setdefault((run["method"], run["data"], *run["set"]), []).append(run)
    order = [*PUBLISHED, *(spec for spec, *_ in runs)]
    found = sorted(runs.items(), key=lambda item: order.index(item[0][0]))
    rows = [row(spec, alike) for (spec, *_), alike in found]
    notes = [note(spec, alike) for (spec, *_), alike in found]
    results.write(arguments.out, arguments.name, "Graphs: published tables", rows, [*HEAD, *notes, *FOOT])


def run(asked, workdir):
    """Trains one run and scores it -> {'commit', 'devices', 'epochs', 'minutes', 'settings', 'scores'}, the last
    {encoder: accuracy in [0, 1]}."""
    spec, seed = asked["method"], asked["seed"]
    workdir = pathlib.Path(workdir, f"{spec.replace(':', '-')}-{seed}")
    overrides = dict(text.split("=", 1) for text in asked["set"]) | {"seed": seed, "eval.every": 0}
    if asked["source"]:
        overrides["data.source"] = asked["source"]
    config = configs.load(spec, overrides)
    source = data.open_source(config.data.source)
    config, _ = fill(config, source)
    config.checkpoint.every = config.train.steps
    began = time.monotonic()
    if train(config, workdir) is None:
        raise SystemExit("stopped; the same call goes on from there")
    minutes = (time.monotonic() - began) / 60

    accuracy, settings = score(Encoder(workdir).embed(source), source, seed)
    scores = {"trained": accuracy}
    if seed < BESIDE:
        scores["untrained"], _ = score(Encoder(workdir, "untrained").embed(source), source, seed)
        scores["raw features"], _ = score(graphs.raw(source), source, seed)
    trained = json.loads((workdir / "config.json").read_text())
    made = {"data": config.data.source, "commit": trained["commit"], "devices": trained["devices"]}
    epochs = round(config.train.steps / config.train.per_epoch)
    return {**made, "epochs": epochs, "minutes": round(minutes, 2), "settings": settings, "scores": scores}


def score(features, source, seed):
    """-> accuracy in [0, 1], and how it was measured."""
    if source.single:
        found = nodes.probe(features, source.labels, graphs.node_splits(source, 1, seed))
    else:
        found = svm.svm(features, source.labels, seeds=(seed,))
    return found["accuracy"], found["settings"]


def row(spec, runs):
    """The table's row of one method on one data set, over all its runs."""
    accuracy = lambda name: [100 * run["scores"][name] for run in runs if name in run["scores"]]
    return {
        "method": spec.partition(":")[0],
        "data": spec.partition(":")[2],
        "accuracy": spread(accuracy("trained")),
        "published": PUBLISHED.get(spec),
        "untrained": spread(accuracy("untrained")),
        "raw features": spread(accuracy("raw features")),
        "runs": len(runs),
        "seeds": seeds(runs),
        "epochs": runs[0]["epochs"],
        "minutes": round(statistics.mean(run["minutes"] for run in runs), 2),
    }


def seeds(runs):
    """Their seeds, those that follow each other as first-last."""
    found = sorted(run["seed"] for run in runs)
    first, last = ([seed for seed in found if seed + step not in found] for step in (-1, 1))
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))


def spread(values):
    """Mean and, of several, standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def note(spec, runs):
    """The line below the table of one method on one data set: how it was measured, on what."""
    said = {key: value for key, value in runs[0]["settings"].items() if key not in PICKED}
    commits = ", ".join(dict.fromkeys(str(run["commit"]) for run in runs))
    settings = ", ".join(f"{key} {value}" for key, value in said.items())
    return f"{spec}: {runs[0]['data']}, trained at commit {commits}; {settings}."


if __name__ == "__main__":
    pages.huge()
    main()
