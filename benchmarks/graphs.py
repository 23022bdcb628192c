"""Trains graph methods as their papers do and writes the table of their accuracies beside the published ones.

    python -m benchmarks.graphs --data cora=npz:.data/cora.npz --data mutag=npz:.data/mutag.npz \\
        --data nci1=npz:.data/nci1.npz --runs 20 --runs graphmae:nci1=5

A run is a training from a seed of its own and one evaluation of it: of nodes, logistic regression on the public split,
its penalty and its features' form picked on the validation nodes; of graphs, an SVM in ten-fold cross-validation,
shuffled by the run's seed, with its C picked within each training part. Test labels choose nothing. Runs are kept below
--workdir with their scores: the same call on the same one goes on with them, and more --runs are added to those there
are. Rows of the table in --out that are not asked for stay as they are.
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
from jssl import data
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
FILE = "graphs.json"  # in a run's directory: its scores
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
    runs = {spec: [] for spec in wanted}
    for seed in range(max(wanted.values())):  # every method once, then every method twice: the table can be had early
        for spec in [spec for spec, count in wanted.items() if seed < count]:
            runs[spec].append(kept(spec, seed, arguments))
            write(arguments, earlier(arguments, wanted), {spec: of_spec for spec, of_spec in runs.items() if of_spec})


def earlier(arguments, wanted):
    """What the table that is there says of methods that are not asked for now -> {spec: (row, note)}."""
    file = pathlib.Path(arguments.out, f"{arguments.name}.json")
    if not file.is_file():
        return {}
    table = json.loads(file.read_text())
    notes = {":".join(note.split(":")[:2]): note for note in table["notes"]}
    rows = {f"{row['method']}:{row['data']}": row for row in table["rows"]}
    return {spec: (row, notes[spec]) for spec, row in rows.items() if spec not in wanted}


def write(arguments, before, runs):
    """The table of these runs and of what was there before, in the order of `PUBLISHED`."""
    found = before | {spec: (row(spec, of_spec), note(spec, of_spec)) for spec, of_spec in runs.items()}
    order = [*PUBLISHED, *found]
    rows, notes = zip(*(found[spec] for spec in sorted(found, key=order.index)))
    results.write(arguments.out, arguments.name, "Graphs: published tables", rows, [*HEAD, *notes, *FOOT])


def kept(spec, seed, arguments):
    """The scores of one run, from its directory where they are there."""
    workdir = pathlib.Path(arguments.workdir, f"{spec.replace(':', '-')}-{seed}")
    source = of_variant(arguments.data, spec.partition(":")[2])
    asked = {"source": source, "set": arguments.set}
    if (workdir / FILE).is_file():
        found = json.loads((workdir / FILE).read_text())
        if found["asked"] == asked:
            return found
    found = {"asked": asked, **run(spec, seed, workdir, asked)}
    (workdir / FILE).write_text(json.dumps(found, indent=1) + "\n")
    jax.clear_caches()  # a process of hundreds of compiled programs runs out of memory maps
    return found


def run(spec, seed, workdir, asked):
    """Trains one run and scores it -> {'config', 'commit', 'minutes', 'settings', 'scores': {encoder: accuracy}}."""
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
    made = {"config": trained["config"], "commit": trained["commit"], "devices": trained["devices"]}
    return {**made, "minutes": minutes, "settings": settings, "scores": scores}


def score(features, source, seed):
    """-> accuracy in [0, 1], and how it was measured."""
    if source.single:
        splits = [source.splits] if source.splits else nodes.random_splits(source.labels, 1, seed=seed)
        found = nodes.probe(features, source.labels, splits)
    else:
        found = svm.svm(features, source.labels, seeds=(seed,))
    return found["accuracy"], found["settings"]


def row(spec, runs):
    """The table's row of one method on one data set, over all its runs."""
    config = runs[0]["config"]
    accuracy = lambda name: [100 * run["scores"][name] for run in runs if name in run["scores"]]
    return {
        "method": spec.partition(":")[0],
        "data": spec.partition(":")[2],
        "accuracy": spread(accuracy("trained")),
        "published": PUBLISHED.get(spec),
        "untrained": spread(accuracy("untrained")),
        "raw features": spread(accuracy("raw features")),
        "runs": len(runs),
        "epochs": round(config["train"]["steps"] / config["train"]["per_epoch"]),
        "minutes": round(statistics.mean(run["minutes"] for run in runs), 2),
    }


def spread(values):
    """Mean and, of several, standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def note(spec, runs):
    """The line below the table of one method on one data set: how it was measured, on what."""
    said = {key: value for key, value in runs[0]["settings"].items() if key not in PICKED}
    commits = ", ".join(dict.fromkeys(str(run["commit"]) for run in runs))
    settings = ", ".join(f"{key} {value}" for key, value in said.items())
    return f"{spec}: {runs[0]['config']['data']['source']}, trained at commit {commits}; {settings}."


if __name__ == "__main__":
    main()
