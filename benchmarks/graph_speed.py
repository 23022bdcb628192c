"""Seconds per epoch of graph methods, beside torch_geometric's on the same machine.

    python -m benchmarks.graph_speed --torch /PATH/TO/python \\
        --data cora=npz:.data/cora.npz --data nci1=npz:.data/nci1.npz

Ours are whole train steps as `jssl train` runs them, data and views included, after compilation. Theirs are those of
`benchmarks/pyg.py`, run by the python that has torch and torch_geometric, in several ways, of which the fastest counts;
without --torch there are only ours. All take turns, so that what else the machine does hits all.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys

from benchmarks import results
from benchmarks.quality import of_variant
from benchmarks.speed import Bench
from jssl import config as configs
from jssl import pages

METHODS = ("dgi:cora", "graphmae:cora", "graphcl:nci1")
THEIRS = pathlib.Path(__file__).with_name("pyg.py")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.graph_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", default=",".join(METHODS), help="NAME:VARIANT, comma-separated")
    parser.add_argument("--data", action="append", default=[], help="VARIANT=SOURCE (default: the variant's own)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--torch", metavar="PYTHON", help="one that has torch_geometric; the sources must be npz:FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each timed run")
    parser.add_argument("--out", default=results.FOLDER)
    arguments = parser.parse_args(argv)

    specs, overrides = arguments.methods.split(","), dict(text.split("=", 1) for text in arguments.set)
    sources = {spec: of_variant(arguments.data, spec.partition(":")[2]) for spec in specs}
    options = [f"--seconds={arguments.seconds}", "--turns"]
    call = [arguments.torch, str(THEIRS), *cases(sources), *options] if arguments.torch else None
    benches = {spec: Bench(configs.load(spec, overrides), sources[spec]) for spec in specs}
    found = {spec: [] for spec in specs}  # of each round {way: seconds}
    with asking(call) as (versions, ask):
        for bench in benches.values():
            epoch(bench, 0)
        for number in range(arguments.rounds):
            sys.stderr.write(f"round {number + 1} of {arguments.rounds}\n")
            for spec, bench in benches.items():
                found[spec].append({"ours": epoch(bench, arguments.seconds), **ask(spec)})
    rows = [row(spec, medians(of_spec)) for spec, of_spec in found.items()]
    results.write(arguments.out, "graph-speed", "Graphs: seconds per epoch", rows, notes(found, versions))


def cases(sources):
    """What `pyg.py` is told: each method and the file of its data."""
    for spec, source in sources.items():
        kind, _, path = (source or "").partition(":")
        if kind != "npz":
            wanted = f"--data {spec.partition(':')[2]}=npz:FILE"
            raise SystemExit(f"--torch: the source of {spec} is {source}, expected {wanted}")
        yield f"{spec}={path}"


@contextlib.contextmanager
def asking(call):
    """The other side -> its versions, ask(spec): {way: seconds} of one run of each way; without a call it has none."""
    if call is None:
        yield {}, lambda spec: {}
        return

    def answer():
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{THEIRS.name} ended with {process.wait()}; what it said is above")
        return json.loads(line)

    def ask(spec):
        process.stdin.write(f"{spec}\n")
        process.stdin.flush()
        return answer()

    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield answer()["versions"], ask


def epoch(bench, seconds):
    """Seconds per epoch of ours, in one run of about so long."""
    train = bench.config.train
    return train.per_epoch * train.batch_size / bench.step(repeats=1, seconds=seconds)


def medians(rounds):
    return {way: statistics.median(found[way] for found in rounds) for way in rounds[0]}


def row(spec, seconds):
    """The table's row: ours, theirs in the fastest way without and with `torch.compile`, and how many times ours."""
    ours = seconds["ours"]
    theirs = {way: value for way, value in seconds.items() if way != "ours"}
    eager = min((value for way, value in theirs.items() if "compiled" not in way), default=None)
    compiled = min((value for way, value in theirs.items() if "compiled" in way), default=None)
    return {
        "method": spec.partition(":")[0],
        "data": spec.partition(":")[2],
        "ours": ours,
        "torch_geometric": eager,
        "times ours": eager and eager / ours,
        "compiled": compiled,
        "times ours, compiled": compiled and compiled / ours,
    }


def notes(found, versions):
    """The lines below the table: how it was measured, and what each way took in each round."""
    rounds = len(next(iter(found.values())))
    lines = [f"Median of {rounds} rounds, in which all take turns; ours after compilation, data and views included."]
    if versions:
        said = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(f"torch_geometric's: benchmarks/{THEIRS.name}, in the fastest way of each kind; {said}.")
    for spec, of_spec in found.items():
        spread = lambda way, of_spec=of_spec: "{:.3g} to {:.3g}".format(*extremes(found[way] for found in of_spec))
        lines.append(f"{spec}, least and most: " + "; ".join(f"{way} {spread(way)}" for way in of_spec[0]) + ".")
    return lines


def extremes(values):
    values = list(values)
    return min(values), max(values)


if __name__ == "__main__":
    pages.huge()
    main()
