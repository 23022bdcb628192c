"""Trains DGI on graphs sampled from one of a million nodes: how much memory that takes, how fast it is, what it learns.

    python -m benchmarks.big_graph --workdir runs/big-graph

Makes the graph: communities, each with a centre that its nodes' features lie around, noise much wider than that; half
of a node's edges stay within its community, and some nodes have hundreds of times more than others. Each training is a
process of its own, whose memory and its workers' is looked at every quarter of a second; another process then embeds
nodes with the encoder, which k-NN and logistic regression judge by their communities beside their raw features.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time

import numpy as np  # what else a process needs, it imports itself: workers import this file too

LOOK = 0.25  # seconds from one look at the memory to the next
CHUNK = 1 << 20  # edges made in one go


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.big_graph", description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000, help="undirected")
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--communities", type=int, default=40)
    parser.add_argument("--workers", default="0,2", help="comma-separated: a training of each")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dims", default="128,128", help="of the encoder: smaller than the recipe's, for a CPU")
    parser.add_argument("--judged", type=int, default=20_000, help="nodes whose embeddings are judged")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--workdir", default=f"runs/big-graph/{datetime.datetime.now():%Y%m%d-%H%M%S}")
    parser.add_argument("--out", default=None)
    parser.add_argument("--note", action="append", default=[], help="a line below the table")
    arguments = parser.parse_args(argv)

    folder = pathlib.Path(arguments.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "graph.npz"
    if not file.exists():
        make(file, arguments.nodes, arguments.edges, arguments.features, arguments.communities)
    overrides = dict(text.split("=", 1) for text in arguments.set)
    overrides |= {"data.source": f"npz:{file}", "train.steps": arguments.steps, "encoder.dims": arguments.dims}
    overrides |= {"log_every": max(arguments.steps // 10, 1), "checkpoint.every": arguments.steps, "eval.every": 0}
    rows = []
    for workers in map(int, arguments.workers.split(",")):
        workdir = folder / f"workers-{workers}"
        rows.append(training(workdir, {**overrides, "data.workers": workers}))
    workdir, workers = folder / f"workers-{workers}", [row["workers"] for row in rows]
    judged = child(judge, workdir, f"npz:{file}", arguments.judged, workers)

    from benchmarks import results

    notes = [
        f"A graph of {arguments.nodes:,} nodes with {arguments.features} features and {arguments.edges:,} edges, both "
        f"ways; {arguments.communities} communities. DGI's `sampled` recipe with layers of {arguments.dims}: "
        f"{rows[0].pop('of')}.",
        "MiB, the most seen: `loading` is from the start to the first step, when the file is read and its edges are "
        "sorted, `training` all after it. Own: what is no mapped file. Workers: the largest of them; the pages of the "
        "graph that they map are the same in all processes and can be given up. Load: the machine's, while training.",
        *judged,
        *arguments.note,
    ]
    [row.pop("of", None) for row in rows]
    results.write(arguments.out or results.FOLDER, "big-graph", "One large graph", rows, notes)


def make(file, nodes, edges, features, communities, spread=2.0):
    """Writes a graph with planted communities. spread: of the features' noise, where the centres have 1."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, communities, nodes, np.int32)
    members = np.argsort(label, kind="stable").astype(np.int32)
    first = np.searchsorted(label[members], np.arange(communities + 1))
    centres = rng.normal(size=(communities, features)).astype(np.float32)
    x = rng.standard_normal((nodes, features), np.float32) * np.float32(spread)
    pairs = np.empty((edges, 2), np.int32)
    for start in range(0, nodes, CHUNK):
        x[start : start + CHUNK] += centres[label[start : start + CHUNK]]
    for start in range(0, edges, CHUNK):
        part = pairs[start : start + CHUNK]
        part[:, 0] = rng.integers(0, nodes, len(part))
        skewed = rng.random(len(part)) ** 1.5  # low numbers have many edges
        own, within = label[part[:, 0]], rng.random(len(part)) < 0.5
        low, high = np.where(within, first[own], 0), np.where(within, first[own + 1], nodes)
        part[:, 1] = members[(low + skewed * (high - low)).astype(int)]
    np.savez(file, x=x, edges=pairs, label=label)


def training(workdir, overrides):
    """Trains in a process of its own -> a row of the table."""
    watch = Watch(workdir / "config.json")
    said, seconds = child(fit, workdir, overrides, watch=watch)
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    usual = lambda name: statistics.median(row[name] for row in logged[1:] or logged)
    most = watch.most
    return {
        "workers": overrides["data.workers"],
        "examples/s": usual("examples_per_s"),
        "% waiting for data": 100 * usual("data_wait"),
        "loading": most["main", "before"][0],
        "training": most["main", "after"][0],
        "own": most["main", "after"][1],
        "worker": most["worker", "after"][0] if ("worker", "after") in most else None,
        "worker's own": most["worker", "after"][1] if ("worker", "after") in most else None,
        "load": statistics.mean(watch.load),
        "seconds": seconds,
        "loss": logged[-1]["loss"],
        "of": said,
    }


def fit(workdir, overrides):
    """-> what the run says of its data, how long it took."""
    from jssl import config as configs
    from jssl.train import train

    began = time.monotonic()
    train(configs.load("dgi:sampled", overrides), workdir)
    said = json.loads((workdir / "config.json").read_text())["preflight"]
    line = next(line for line in said if " sampled graphs of " in line)
    return line.replace(f" on {overrides['data.source']}", ""), round(time.monotonic() - began)


def judge(workdir, spec, count, workers):
    """Lines on what the embeddings of so many nodes tell of their communities, half of them to learn from, and on how
    fast graphs are drawn where nobody trains."""
    from jssl import data
    from jssl.encoder import Encoder
    from jssl.evals import frozen
    from jssl.evals.scores import title

    encoders = {"trained": Encoder(workdir), "untrained": Encoder(workdir, "untrained")}
    graph = data.sample(data.open_source(spec), **encoders["trained"].config["sample"])
    part = graph.take(np.random.default_rng(1).permutation(len(graph))[:count])
    features = {"raw features": part.x}
    for name, encoder in encoders.items():
        began = time.monotonic()
        features[name] = encoder.embed(part)
        rate = count / (time.monotonic() - began)
    half = lambda x: {"train": x[: count // 2], "test": x[count // 2 :]}
    scores = [
        score
        for name, x in features.items()
        for score in frozen.evaluate(half(x), half(part.labels), encoder=name, protocols=("knn", "linear"))
    ]
    told = {}
    for score in scores:
        found = f"{title(score['task'])} {100 * score['mean']:.1f} ± {100 * score['stderr']:.1f}"
        told.setdefault(score["encoder"], []).append(found)
    text = "; ".join(f"{name}: {', '.join(found)}" for name, found in told.items())
    alone = ", ".join(f"{drawn(graph, number):,.0f}/s with {number} workers" for number in workers)
    return [
        f"Graphs drawn and laid side by side, by themselves: {alone}.",
        f"Communities of {count:,} random nodes, half of them to learn from, in % ± binomial standard errors: {text}.",
        f"Their embeddings were made at {rate:,.0f} nodes/s, compilation included.",
    ]


def drawn(graph, workers, batch=256, seconds=3):
    """Graphs per second of a stream that nobody trains on."""
    how = {"batch_size": batch, "seed": 0, "start": 0, "leading": 1, "rows": np.arange(1)}
    with graph.stream(**how, workers=workers) as stream:
        for _ in range(8):  # until the workers run
            next(stream)
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            next(stream)
            count += batch
    return count / (time.monotonic() - began)


def child(function, *arguments, watch=None):
    """What `function` returns in a process of its own, at whose memory `watch` looks."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(there, function, *arguments))
    process.start()
    there.close()
    if watch:
        watch.start(process.pid)
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__}{arguments} failed, as it says above") from None
    finally:
        process.join()


def answer(pipe, function, *arguments):
    pipe.send(function(*arguments))


class Watch(threading.Thread):
    """The most MiB of a process and of its workers, before and after a file is there, {(whose, when): (all, own)}; and
    the machine's loads after it."""

    def __init__(self, file):
        super().__init__(daemon=True)
        self.file, self.most, self.load = file, {}, []

    def start(self, pid):
        self.pid = pid
        super().start()

    def run(self):
        while found := memory(self.pid):
            when = "after" if self.file.exists() else "before"
            self.note("main", when, found)
            self.load += [os.getloadavg()[0]] if when == "after" else []
            for pid in children(self.pid):
                if found := memory(pid):
                    self.note("worker", when, found)
            time.sleep(LOOK)

    def note(self, whose, when, found):
        self.most[whose, when] = tuple(map(max, found, self.most.get((whose, when), (0, 0))))


def memory(pid):
    """(resident, anonymous) MiB of a process, None where it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    kib = [re.search(rf"^{name}: +(\d+) kB", text, re.MULTILINE) for name in ("Rss", "Anonymous")]
    return tuple(int(found[1]) // 1024 for found in kib) if all(kib) else None


def children(pid):
    """The processes that `pid` has started."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in found.split()]


if __name__ == "__main__":
    main(sys.argv[1:])
