"""The command `jssl`: each of its verbs is a Python function of the same name."""

import argparse
import os
import sys

from jssl import __version__, notes, pages
from jssl.evals.table import DEFAULT, OF_GRAPHS, OF_NODES, PROTOCOLS
from jssl.files import NAMES
from jssl.processes import first, number

DESCRIPTION = "Self-supervised learning in JAX."
TOGETHER = ("train", "eval", "embed", "search")  # of several processes; other verbs are the first one's alone


def program():
    """The program `jssl`: `main` in huge pages of memory."""
    pages.huge()
    sys.stdout.reconfigure(errors=NAMES)
    main()


def main(argv=None):
    """The `jssl` command. Errors are one line; a traceback is for bugs."""
    parser = _parser()
    argv = sys.argv[1:] if argv is None else argv
    arguments, rest = parser.parse_known_args(argv)
    overrides = _overrides(parser, arguments.verb, rest)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own remarks are not the user's
    notes.listen()
    if arguments.verb not in TOGETHER and number():
        sys.stderr.write(f"jssl {arguments.verb}: left to the first process, which does it alone\n")
        return
    try:
        text = _run(arguments, overrides)
        if text is not None and first():
            print(text)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads us, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("JSSL_TRACEBACK"):
            raise
        sys.exit(f"jssl {arguments.verb}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"jssl {arguments.verb}: interrupted")


def _parser():
    parser = argparse.ArgumentParser(prog="jssl", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"jssl {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = lambda name, text: verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    train = verb("train", "Train a method; the same command on the same directory resumes.")
    train.add_argument("--config", required=True, help="FILE[:VARIANT], e.g. experiments/simclr.py:folder")
    train.add_argument("--workdir", help="run directory (default: runs/NAME-VARIANT)")
    train.add_argument("--init-from", help="a run or .npz whose encoder to start from, whatever its method")
    train.epilog = "Any field of the config: --config.optim.lr=0.5"

    evaluate = verb("eval", "Score a trained encoder, its untrained self and raw pixels; several runs side by side.")
    where = evaluate.add_mutually_exclusive_group(required=True)
    where.add_argument("--workdir", nargs="+", help="run directories")
    where.add_argument("--encoder", help="the folder of an encoder that comes without a run; needs --data")
    named = f"comma-separated (default: config.eval.protocols, or {DEFAULT}), of: {', '.join(PROTOCOLS)}; or all"
    named += f". Of nodes: {', '.join(OF_NODES)}; of graphs: {', '.join(OF_GRAPHS)}"
    evaluate.add_argument("--protocol", help=named)
    evaluate.add_argument("--draws", type=int, help="draws of the labelled images, or of splits of a graph")
    evaluate.add_argument("--data", help="labelled training data (default: those of the run)")
    evaluate.add_argument(
        "--test", help="labelled test images (default: the run's own, else a fifth of the labelled ones)"
    )
    evaluate.epilog = "Any field of a protocol's settings, see jssl.evals.table: --knn.k=5, --fewshot.finetune=true"

    embed = verb("embed", "Write the features of images, with their file names, or of graphs or nodes.")
    embed.add_argument("--workdir", required=True, help="a run directory")
    embed.add_argument("--data", required=True, help="e.g. folder:PHOTOS")
    embed.add_argument("--out", required=True, help="features.npz or features.parquet")

    search = verb("search", "Find the images of a folder that are nearest to given ones, with a picture of them.")
    search.add_argument("--workdir", required=True, help="a run directory, which keeps the features of the index")
    search.add_argument("--index", required=True, help="what to search, e.g. folder:PHOTOS")
    search.add_argument("--query", required=True, action="append", dest="queries", help="an image file; again for more")
    search.add_argument("--count", type=int, default=10, help="images to find for each query (default: 10)")
    search.add_argument("--out", default="search.html", help="a picture, .html or .png (default: search.html)")

    _curate(verb("curate", "Leave out broken, blank and doubled images: a manifest that folder: reads, and a report."))

    merge = verb("merge", "Put LoRA, or another part that `--protocol peft` trained, into an encoder's weights.")
    merge.add_argument("--workdir", required=True, help="the run directory that it was trained on")
    merge.add_argument("--peft", required=True, help="e.g. RUN/peft/lora.npz")
    merge.add_argument("--out", required=True, help="new folder: an encoder, with its classifier in head.npz")

    export = verb("export", "Make a run directory of its own of the encoder of a checkpoint, for eval, embed, search.")
    export.add_argument("--workdir", required=True, help="a run directory, finished or not")
    export.add_argument("--checkpoint", default="best", help="a step, last, or best by checkpoint.best (default: best)")
    export.add_argument("--out", required=True, help="new folder")

    report = verb("report", "Write report.html, one file that opens from disk; of several runs comparison.html.")
    report.add_argument("run", nargs="*", help="run directories")
    report.add_argument("--workdir", nargs="+", default=[], help="the same")
    report.add_argument(
        "--map", default="pca", choices=("pca", "tsne", "umap"), help="of the embeddings (default: pca)"
    )
    report.add_argument("--out", help="the page (default: report.html or comparison.html in the first run)")
    report.epilog = (
        "Of one run: scores with intervals, classes, confusions, surest mistakes, neighbours, a map, curves, and how "
        "to make it again. Of several: scores side by side with paired tests, curves over each other, maps, costs, "
        "what differs between the configs. What `jssl eval` has not measured is left out."
    )

    doctor = verb("doctor", "Say what is wrong with a run, the most likely cause first, and what to do about it.")
    doctor.add_argument("run", help="a run directory")
    doctor.epilog = (
        "Looks for: a loss or weights that diverged, collapse, dead teachers and codebooks, a loss stuck at chance, "
        "k-NN below that of the starting weights, k-NN or rank that fall, curves off the reference, a device that "
        "waits for data, an end before the last step, no checkpoints. Exit status: 0 where nothing wrong was found, "
        "else 1."
    )

    compare = verb("compare", "Show where a run left the band of good runs of its method.")
    compare.add_argument("run", help="a run directory")
    what = "a name or file of reference/, or another run (default: the reference of its method and data)"
    compare.add_argument("reference", nargs="?", help=what)
    compare.epilog = (
        "Exit status: 0 where the run stayed in the band, else 1. python -m benchmarks.quality makes bands."
    )

    verb("list", "Show methods and the variants of their configs.")
    return parser


def _curate(parser):
    parser.add_argument("--data", required=True, help="folder:PHOTOS, or of a manifest; nothing in it is touched")
    parser.add_argument("--out", required=True, help="folder for manifest.csv, removed.csv, report.html: overwritten")
    parser.add_argument("--workdir", help="a run whose encoder says what is near for --like and --count")
    parser.add_argument("--like", help="folder:GOOD, a curated set: only neighbours of its images are kept")
    parser.add_argument("--neighbours", type=int, default=4, help="kept of each image of --like (default: 4)")
    parser.add_argument("--count", type=int, help="how many to keep at most, evenly from clusters (default: all)")
    parser.add_argument("--clusters", type=int, help="of k-means, for --count (default: the root of their number)")
    parser.add_argument(
        "--threshold", type=float, help="cosine of descriptors above which two images are one (default: 0.9)"
    )
    parser.add_argument("--min-side", type=int, default=32, help="pixels of the shorter side (default: 32)")
    parser.add_argument("--max-aspect", type=float, default=5.0, help="longer side / shorter, at most (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of --count (default: 0)")
    parser.add_argument("--workers", type=int, help="processes that decode (default: the cores but one)")


def _overrides(parser, verb, rest):
    """["--config.optim.lr=0.5", ...] -> {"optim.lr": "0.5"}; the fields of eval keep the protocol before the point."""
    overrides = {}
    words, prefixes = iter(rest), {"train": ("--config.",), "eval": tuple(f"--{name}." for name in PROTOCOLS)}
    for word in words:
        if not word.startswith(prefixes.get(verb, ())):
            field = (
                f"; a field of the config is given as --config.{word[2:]}" if verb == "train" and "." in word else ""
            )
            parser.error(f"unrecognised argument {word!r}; `jssl {verb} --help` lists them{field}")
        name, equals, value = word.removeprefix("--config." if verb == "train" else "--").partition("=")
        overrides[name] = value if equals else next(words, "true")
    return overrides


def _run(arguments, overrides):
    """-> what is to be printed, or None."""
    if arguments.verb == "train":
        from jssl.config import load
        from jssl.train import train

        if arguments.init_from:
            overrides["init.encoder"] = arguments.init_from
        train(load(arguments.config, overrides), arguments.workdir or default_workdir(arguments.config))
    elif arguments.verb == "eval":
        return _evaluate(arguments, overrides)
    elif arguments.verb == "embed":
        from jssl.evals.run import embed

        return embed(arguments.workdir, arguments.data, arguments.out)
    elif arguments.verb == "search":
        from jssl.search import search

        return search(**{name: value for name, value in vars(arguments).items() if name != "verb"})
    elif arguments.verb == "curate":
        from jssl.curate import curate

        return curate(**{name: value for name, value in vars(arguments).items() if name != "verb"})
    elif arguments.verb == "merge":
        from jssl.evals.adapted import merge

        return merge(arguments.workdir, arguments.peft, arguments.out)
    elif arguments.verb == "export":
        from jssl.export import export

        return export(arguments.workdir, arguments.checkpoint, arguments.out)
    elif arguments.verb == "report":
        from jssl.report import report

        if not (runs := [*arguments.run, *arguments.workdir]):
            raise ValueError("expected one or more run directories: jssl report RUN [RUN ...]")
        return report(*runs, how=arguments.map, out=arguments.out)
    elif arguments.verb in ("doctor", "compare"):
        _judge(arguments)
    else:
        from jssl.catalogue import listing

        return listing()


def _judge(arguments):
    """What is found, and the exit status 1 where it is not well."""
    if arguments.verb == "doctor":
        from jssl.doctor import doctor

        text, well = doctor(arguments.run)
    else:
        from jssl.compare import compare

        text, well = compare(arguments.run, arguments.reference)
    print(text)
    if not well:
        sys.exit(1)


def _evaluate(arguments, overrides):
    from jssl.evals.run import evaluate, side_by_side

    options = {}
    for path, value in overrides.items():
        name, _, field = path.partition(".")
        options.setdefault(name, {})[field] = value
    how = {name: getattr(arguments, name) for name in ("protocol", "draws", "data", "test")} | {"options": options}
    if arguments.encoder:
        return evaluate(arguments.encoder, **how)
    if len(arguments.workdir) > 1:
        return side_by_side(arguments.workdir, **how)
    return evaluate(arguments.workdir[0], **how)


def default_workdir(spec):
    """'experiments/simclr.py:cifar10' -> 'runs/simclr-cifar10'"""
    path, _, variant = spec.partition(":")
    name = os.path.splitext(os.path.basename(path))[0]
    return os.path.join("runs", f"{name}-{variant}" if variant else name)
