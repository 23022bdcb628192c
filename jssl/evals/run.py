"""`jssl eval` and `jssl embed`: runs against their untrained selves and raw pixels, and features to keep."""

import pathlib
import pkgutil

import numpy as np

from jssl import data as sources
from jssl import modalities
from jssl.encoder import Encoder
from jssl.evals import kept
from jssl.evals import scores as of_scores
from jssl.evals.comparison import compare_runs, other_protocols
from jssl.evals.subject import BATCH, config_of
from jssl.experiment import provenance
from jssl.files import place_for, whole
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
    workdir, config = pathlib.Path(workdir), config_of(workdir)
    if draws is not None and draws < 1:
        raise ValueError(f"--draws {draws}: expected at least 1")
    score = pkgutil.resolve_name(modalities.find(config["modality"]).EVALUATE)
    scored = score(workdir, config, protocol=protocol, draws=draws, data=data, test=test, options=options)
    if not first():
        return ""
    if isinstance(scored.said, str):
        return scored.said
    used = ",".join(dict.fromkeys(score["task"].partition("-")[0] for score in scored.scores))
    described = {"protocols": protocol or used, "seed": config["seed"], "data": scored.said}
    described["weights"] = kept.digest(scored.encoder.folder / "weights.npz")
    found = kept.write(workdir, scored.scores, described, provenance(), **scored.tested)
    if scored.show:
        scored.show(kept.read(workdir))
    same = [f"{of_scores.title(one['task'])}: {one['words']}" for one in found if one["p"] >= of_scores.LEVEL]
    seen = [SEEN] if scored.said.get("encoder_saw_their_labels") else []
    return "\n".join([of_scores.table(scored.scores, scored.said.get("left out")), *seen, *same])


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
    source = modalities.find(encoder.modality).open_source(data, encoder.config)
    place_for(out)
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
