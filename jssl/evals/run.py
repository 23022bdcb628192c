"""`jssl eval` and `jssl embed`: runs against their untrained selves and raw pixels, and features to keep."""

import functools
import pathlib

import numpy as np

from jssl import data as sources
from jssl.encoder import Encoder
from jssl.evals import graphs, kept, table
from jssl.evals import scores as of_scores
from jssl.evals.comparison import compare_runs, other_protocols
from jssl.evals.shown import save_mistakes, save_patches, save_pictures, unlabelled
from jssl.evals.subject import BATCH, config_of, learns_labels, of_run
from jssl.experiment import provenance
from jssl.files import whole
from jssl.processes import first
from jssl.sharding import distribute

SEEN = "the encoder was trained on images of this test set with their labels: expected others, --test"


def evaluate(workdir, protocol=None, draws=None, data=None, test=None, options=None):
    """Scores a run: writes scores.json and what the report shows into it and returns the table as text. Earlier scores
    by other protocols stay, see `kept.write`.

    workdir: a run directory, or the folder of an encoder that comes without one, for which `data` must be given.
    protocol: comma-separated names, of `jssl.evals.table.PROTOCOLS` for images, of `jssl.evals.graphs` for graphs; by
    default those of the run's config.eval.protocols, or those that take seconds; "all": whatever the data allow, in
    minutes. draws: of the labelled images, one by default; fewshot draws 100 times, semi and what fewshot fine-tunes 5;
    of splits of a graph that comes without one, 20. data, test: other labelled sources than the run's own. Without a
    test source a fifth of the labelled images is held out; where they are those of the run, the encoder has seen them,
    and it is said whether with their labels. options: {protocol: {field of its settings: value or text}}.

    In several processes, which have to be told the same: all devices embed, search neighbours and fine-tune together.
    Whatever else there is to compute is small, and each process does it for itself, on one of its devices. The first
    writes, and has the table; the others get "".
    """
    distribute()
    workdir = pathlib.Path(workdir)
    asked = tuple(protocol.split(",")) if protocol and protocol != table.ALL else None
    if draws is not None and draws < 1:
        raise ValueError(f"--draws {draws}: expected at least 1")
    config, options = config_of(workdir), options or {}
    if config["modality"] == "graph":
        if options:
            name, given = next(iter(options.items()))
            raise ValueError(f"--{name}.{next(iter(given))}: the protocols of graphs have no settings")
        if test:
            raise ValueError(f"--test {test}: test nodes come with a graph, as a split of it; expected --data alone")
        encoders = {"trained": Encoder(workdir), "untrained": Encoder(workdir, "untrained")}
        scores, said = graphs.evaluate(workdir, encoders, config, asked, draws, data)
        subject, trained = None, encoders["trained"]
    else:
        own = config["eval"].get("protocols") or table.DEFAULT
        names = table.PROTOCOLS if protocol == table.ALL else asked or tuple(own.split(","))
        table.check(options, names)
        scores, said, subject = of_images(workdir, names, asked, draws, data, test, options)
        trained = subject.encoders["trained"]
    if not first():
        return ""
    if isinstance(said, str):
        return said
    used = ",".join(dict.fromkeys(score["task"].partition("-")[0] for score in scores))
    described = {"protocols": protocol or used, "seed": config["seed"], "data": said}
    described["weights"] = kept.digest(trained.folder / "weights.npz")
    found = kept.write(workdir, scores, described, provenance(), **(subject.tested if subject else {}))
    if subject and subject.labelled:
        save_mistakes(workdir, kept.read(workdir), subject.splits["test"], subject.splits["train"].label_names)
    same = [f"{of_scores.title(one['task'])}: {one['words']}" for one in found if one["p"] >= of_scores.LEVEL]
    seen = [SEEN] if said.get("encoder_saw_their_labels") else []
    return "\n".join([of_scores.table(scores, said.get("left out")), *seen, *same])


def of_images(workdir, names, asked, draws, data, test, options):
    """-> scores, what to say of the data, the `Subject`; or no scores and a text, where there are no labels.

    names: of protocols; asked: those that the user named, of which each is to give something, or None.
    """
    protocols = {name: table.find(name) for name in names}
    subject = of_run(workdir, data, test, draws=draws, options=options, missing=(missing := {}))
    save_pictures(workdir, subject.embedded("trained", "test"), subject.splits["test"])
    save_patches(workdir, subject.encoders["trained"], subject.splits["test"])
    said = {part: source.spec for part, source in subject.splits.items()}
    said["encoder_saw_test_images"] = seen = said["test"] == subject.config["data"]["source"]
    if seen and learns_labels(subject.encoders["trained"].method, subject.config, subject.splits["test"]):
        said["encoder_saw_their_labels"] = True
    if not asked and not subject.labelled and names is not table.PROTOCOLS:
        found = {name: subject.embedded(name, "train") for name in subject.encoders}
        return [], unlabelled(workdir, found, said["train"]), subject
    scores = []
    for name, protocol in protocols.items():
        known = len(missing)
        measure = functools.partial(of_scores.timed, name, functools.partial(protocol, subject))
        found = of_scores.attempt(name, measure, None if asked else missing)
        if asked and not found and len(missing) > known:  # nothing is left of what was asked for
            raise ValueError(list(missing.values())[-1])
        scores += found
    return scores, {**said, **({"left out": missing} if missing else {})}, subject


def side_by_side(workdirs, **how):
    """Scores several runs as `evaluate` does; the table of all, and of each two a paired test of every task.

    Tests are of the trained encoders, on the same test images with the same labels; other runs cannot be compared.
    """
    tables = [f"{workdir}\n{evaluate(workdir, **how)}" for workdir in workdirs]
    return "\n\n".join([*tables, *compared(workdirs)]) if first() else ""


def compared(workdirs):
    """The paired tests of every two runs as lines of text, from what `evaluate` has left in them, and what was not
    measured alike."""
    found, apart = compare_runs({str(workdir): kept.read(workdir) for workdir in workdirs})
    others = other_protocols({str(workdir): kept.content(workdir) for workdir in workdirs})
    return [f"{of_scores.title(one['task'])}: {one['words']}" for one in found] + apart + others


def embed(workdir, data, out):
    """Writes the features of every example of `data`, with its file name or number, to `out`; returns a line of text.

    .npz: features float32 [N, D], names [N], and where there are any labels int32 [N]. .parquet: one row per example.
    In several processes all devices embed, and the first process writes.
    """
    distribute()
    out = pathlib.Path(out)
    if out.suffix not in (".npz", ".parquet"):
        raise ValueError(
            f"--out {out}: cannot write {out.suffix or 'a file without a suffix'}, expected .npz or .parquet"
        )
    encoder = Encoder(workdir)
    source = sources.open_source(data, channels=encoder.channels)
    features = encoder.embed(source, BATCH, sources.default_workers())
    names = range(len(features)) if source.names is None else source.names
    columns = {"features": features, "names": np.asarray(names, str)}
    if source.labels is not None:
        columns["labels"] = source.labels
    if out.suffix == ".npz":
        with whole(out, "wb") as file:
            np.savez(file, **columns)
    else:
        _write_parquet(out, columns)
    return f"{len(features):,} x {features.shape[1]} features in {out}"


def _write_parquet(out, columns):
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"--out {out}: .parquet needs pyarrow, `pip install jssl[parquet]`; .npz needs nothing"
        ) from None
    table = pa.table({name: list(column) for name, column in columns.items()})
    with whole(out, "wb") as file:
        pa.parquet.write_table(table, file)
