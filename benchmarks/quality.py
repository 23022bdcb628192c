"""Trains a list of methods on labelled data sets and writes the table of their k-NN and linear-probe accuracies.

    python -m benchmarks.quality --methods all --variant demo,fashion --name quality-cpu --workdir runs/quality-cpu
    python -m benchmarks.quality --variant cifar10_200 --data npz:.data/cifar10.npz --test npz:.data/cifar10_test.npz \\
        --methods simclr --minutes 8

`--epochs`, `--steps` or `--minutes` (of training, per method and seed, by the speed that is measured first) shorten
the variant, warm-up included. A JPEG pack becomes an npz of two arrays, `image` and `label`. How to run on a machine
that has jax and little else: see `benchmarks.speed`. Runs are kept below --workdir with their scores: the same call on
the same one goes on with them, and trains nothing that is scored. A method that fails is a row that says so.
`--finetune` names the methods whose encoders are also fine-tuned on 1 % of the labels, beside the same from scratch.
`--reference FOLDER` also writes the band of each method's curves over its seeds, what `jssl compare` reads.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import sys
import time
import traceback

import jax
import numpy as np

from benchmarks import references, results
from benchmarks.speed import Bench
from jssl import config as configs
from jssl import data, pages, probe
from jssl.encoder import Encoder
from jssl.evals import frozen, tuned
from jssl.evals.subject import Subject
from jssl.experiment import fill
from jssl.train import train

BATCH = 512  # of embedding
PICKED = ("stderr", "penalty", "validation_accuracy", "grid")
TASKS = {"knn": "k-NN", "linear": "linear"}
PROBE = "online probe"
TUNED = {"trained": "1 % fine-tuned", "untrained": "1 % from scratch"}  # by the encoder that it begins from
OPTIONAL = (*TUNED.values(), PROBE)  # columns that are left out where no row has them
FILE = "quality.json"  # in a run's directory: what it was asked for, and its scores


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", default="simclr,byol,mae", help="comma-separated, or `all` those of images")
    parser.add_argument("--variant", default="cifar10_200", help="comma-separated: a row of each method per variant")
    each = "for one of several variants: VARIANT=SOURCE"
    parser.add_argument("--data", action="append", default=[], help=f"labelled training images; {each}")
    parser.add_argument("--test", action="append", default=[], help=f"labelled test images; {each}")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float, help="of training, for each method and seed")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--finetune", default="", help="methods, or `all`: encoders also tuned on 1 %% of the labels")
    parser.add_argument("--k", type=int, help="neighbours of k-NN (default: the variant's eval.k)")
    parser.add_argument("--temperature", type=float, help="of k-NN (default: the variant's)")
    parser.add_argument("--name", help="of the result's files (default: from the variants and the device)")
    parser.add_argument("--reference", help="folder for METHOD-VARIANT.json, the curves' bands; here: reference")
    parser.add_argument("--workdir", default=f"runs/quality/{datetime.datetime.now():%Y%m%d-%H%M%S}")
    parser.add_argument("--out", default=results.FOLDER)
    arguments = parser.parse_args(argv)

    methods = list(configs.experiments("image")) if arguments.methods == "all" else arguments.methods.split(",")
    variants, seeds = arguments.variant.split(","), [int(seed) for seed in arguments.seeds.split(",")]
    pairs = [(method, variant) for variant in variants for method in methods]
    runs = {}
    for pair in pairs:
        runs[pair] = [attempt(*pair, seed, arguments) for seed in seeds]
        if arguments.reference:
            write_reference(arguments.reference, *pair, runs[pair], arguments.workdir)
    rows = [row(*pair, of_pair) for pair, of_pair in runs.items()]
    measured = {title for of_pair in runs.values() for run in of_pair for title in run.get("scores", {})}
    absent = [title for title in OPTIONAL if title not in measured]
    rows = [{title: cell for title, cell in one.items() if title not in absent} for one in rows]
    name = arguments.name or f"quality-{results.slug(f'{arguments.variant} {results.device()}')}"
    results.write(arguments.out, name, f"Quality: {', '.join(variants)}", rows, notes(runs, len(seeds)))


def folder_of(workdir, method, variant, seed):
    return pathlib.Path(workdir, f"{method}-{variant}-{seed}")


def attempt(method, variant, seed, arguments):
    """The scores of one run as `run` gives them, from its directory where they are there; or {'failed': why}."""
    workdir = folder_of(arguments.workdir, method, variant, seed)
    keys = ("epochs", "steps", "minutes", "set", "k", "temperature")
    asked = {key: getattr(arguments, key) for key in keys}
    asked |= {key: of_variant(getattr(arguments, key), variant) for key in ("data", "test")}
    asked["finetune"] = arguments.finetune == "all" or method in arguments.finetune.split(",")
    if (workdir / FILE).is_file():
        kept = json.loads((workdir / FILE).read_text())
        if kept["asked"] == asked:
            return kept
    try:
        found = {"asked": asked, **run(f"{method}:{variant}", seed, workdir, asked)}
    except Exception as error:  # of any kind: the other methods' rows are worth having
        sys.stderr.write(traceback.format_exc())
        return {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]}
    finally:
        jax.clear_caches()  # a process of hundreds of compiled programs runs out of memory maps
    (workdir / FILE).write_text(json.dumps(found, indent=1) + "\n")
    return found


def write_reference(folder, method, variant, runs, workdir):
    """The curves' bands over the seeds, with the scores. Nothing where a run failed."""
    if any("failed" in run for run in runs):
        return
    workdirs = [folder_of(workdir, method, variant, run["config"]["seed"]) for run in runs]
    scores = {title: _mean([run["scores"][title] for run in runs]) for title in TASKS.values()}
    references.write(folder, f"{method}:{variant}", workdirs, **{"accuracy on test images, %": scores})


def of_variant(sources, variant):
    """What --data or --test say for one variant: the last VARIANT=SOURCE of it, else the last plain SOURCE."""
    own = [text.partition("=")[2] for text in sources if text.startswith(f"{variant}=")]
    return next(reversed(own or [text for text in sources if "=" not in text]), None)


def run(spec, seed, workdir, asked):
    """Trains one run and scores it -> {'config', 'commit', 'minutes', 'settings': {task: text}, 'scores'}, the latter
    {'k-NN': {'mean', 'stderr'}, 'k-NN untrained': ..., ...}."""
    fields = {"data": "data.source", "test": "data.eval_source", "k": "eval.k", "temperature": "eval.temperature"}
    overrides = dict(text.split("=", 1) for text in asked["set"]) | {"seed": seed}
    config = configs.load(spec, overrides | {path: asked[key] for key, path in fields.items() if asked[key]})
    parts = {"train": config.data.source, "test": config.data.eval_source}
    parts = {name: data.open_source(spec, channels=config.data.channels) for name, spec in parts.items()}
    config, _ = fill(config, parts["train"])
    if asked["minutes"]:
        shorten(config, steps_of(workdir) or steps_in(asked["minutes"], config))
    elif asked["epochs"]:
        shorten(config, asked["epochs"] * config.train.per_epoch)
    elif asked["steps"]:
        shorten(config, asked["steps"])

    began = time.monotonic()
    state = train(config, workdir)
    minutes = (time.monotonic() - began) / 60
    if state is None:
        raise SystemExit("stopped; the same call goes on from there")
    labels = {part: source.labels for part, source in parts.items()}
    scores, settings, encoders = {}, {}, {}
    for name, weights in {" untrained": "untrained", "": "weights"}.items():
        encoder = encoders[name] = Encoder(workdir, weights)
        features = {part: encoder.embed(source, BATCH, data.default_workers()) for part, source in parts.items()}
        found = frozen.evaluate(
            features, labels, protocols=tuple(TASKS), k=config.eval.k, temperature=config.eval.temperature
        )
        for score in found:
            scores[f"{TASKS[score['task']]}{name}"] = {key: score[key] for key in ("mean", "stderr")}
            settings[TASKS[score["task"]]] = described(score)
    if asked["finetune"]:
        both = {"trained": encoders[""], "untrained": encoders[" untrained"]}
        how = {"seed": seed, "workers": data.default_workers(), "options": {"semi": {"shares": (0.01,)}}}
        for score in tuned.few(Subject(workdir, config, both, parts, **how)):
            if not score["task"].endswith("finetune"):
                continue
            title = TUNED[score["encoder"]]
            scores[title] = {key: score[key] for key in ("mean", "stderr")}
            settings[title] = described(score)
    if probe.NAME in state.params:
        weights = jax.device_get(state.params[probe.NAME])
        mean = probe.accuracy(weights, features["test"], labels["test"])
        scores[PROBE] = {"mean": mean, "stderr": float(np.sqrt(mean * (1 - mean) / len(labels["test"])))}
        settings[PROBE] = "the linear classifier trained beside the method, on the test images as they are"
    trained = json.loads((workdir / "config.json").read_text())
    made = {"config": trained["config"], "commit": trained["commit"]}
    return {**made, "minutes": minutes, "settings": settings, "scores": scores}


def steps_in(minutes, config):
    """How many steps so many minutes of training are, by the speed measured now."""
    return minutes * 60 * Bench(config).step(repeats=3, seconds=2.0) / config.train.batch_size


def steps_of(workdir):
    """The length of the run that was begun there, or None."""
    path = workdir / "config.json"
    return json.loads(path.read_text())["config"]["train"]["steps"] if path.is_file() else None


def shorten(config, steps):
    """Sets the length of a filled config to `steps`, and its warm-up in proportion."""
    train = config.train
    steps = max(int(steps) // train.steps_per_call, 1) * train.steps_per_call
    config.optim.warmup *= min(1.0, steps / train.steps)
    train.steps = steps


def row(method, variant, runs):
    """The table's row of one method on one data set, over all its seeds."""
    titles = [f"{title}{untrained}" for title in TASKS.values() for untrained in ("", " untrained")]
    done = [run for run in runs if "failed" not in run]
    if not done:
        names = ("encoder", "steps", "epochs", "batch", "precision", "minutes")
        blank = dict.fromkeys(("data", *titles, *OPTIONAL, *names))
        return {"method": method, **blank, "data": variant, TASKS["knn"]: "failed"}
    config = done[0]["config"]
    return {
        "method": method,
        "data": variant if variant.startswith(name_of(config)) else f"{name_of(config)} ({variant})",
        **{title: _mean([run["scores"].get(title) for run in done]) for title in (*titles, *OPTIONAL)},
        "encoder": config["encoder"]["name"].partition(":")[2],
        "steps": config["train"]["steps"],
        "epochs": round(config["train"]["steps"] / config["train"]["per_epoch"], 1),
        "batch": config["train"]["batch_size"],
        "precision": config["dtype"],
        "minutes": round(statistics.mean(run["minutes"] for run in done), 1),
    }


def name_of(config):
    """'tfds:fashion_mnist@train[:10000]' -> 'fashion_mnist', 'npz:.data/cifar10.npz' -> 'cifar10'."""
    path = config["data"]["source"].partition("@")[0]
    return pathlib.PurePath(path.partition(":")[2] or path).stem


def notes(runs, seeds):
    """The lines below the table: how it was measured, on what, and what failed."""
    done = {pair: run for pair, of_pair in runs.items() for run in of_pair if "failed" not in run}
    failed = {pair: run["failed"] for pair, of_pair in runs.items() for run in of_pair if "failed" in run}
    spread = f"deviation over {seeds} seeds" if seeds > 1 else "error over the test set"
    if seeds == 1 and any(set(run["scores"]) & set(TUNED.values()) for run in done.values()):
        spread += ", of 1 % of the labels over draws of them"
    lines = [f"Accuracy in %, ± the standard {spread}; untrained is the same encoder before its first step."]
    said = {f"{title}: {text}." for run in done.values() for title, text in run["settings"].items()}
    lines += sorted(said)
    sources = lambda run: (run["config"]["data"]["source"], run["config"]["data"]["eval_source"])
    for variant in dict.fromkeys(variant for _, variant in done):
        pairs = dict.fromkeys(sources(run) for (_, of), run in done.items() if of == variant)
        lines += [f"Data of {variant}: {source}; test: {test}." for source, test in pairs]
        commits = dict.fromkeys(str(run["commit"]) for (_, of), run in done.items() if of == variant)
        lines.append(f"Trained, {variant}: at commit {', '.join(commits)}.")
    lines.append("Minutes are of training, with compiling and saving.")
    return lines + [f"{method} on {variant} failed: {why}" for (method, variant), why in failed.items()]


def described(score):
    """The protocol of a score, in words, without what each run picks for itself."""
    return ", ".join(f"{key} {value}" for key, value in score["settings"].items() if key not in PICKED)


def _mean(scores):
    if None in scores:
        return None
    means = [score["mean"] for score in scores]
    spread = statistics.stdev(means) if len(means) > 1 else scores[0]["stderr"]
    return f"{100 * statistics.mean(means):.1f} ± {100 * spread:.1f}"


if __name__ == "__main__":
    pages.huge()
    main()
