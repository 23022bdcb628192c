"""`jssl eval` and `jssl embed`: a trained run against its untrained self and raw pixels, and features to keep."""

import json
import pathlib

import numpy as np

from jssl import data as sources
from jssl.encoder import Encoder
from jssl.evals import graphs, tuned
from jssl.evals import protocol as protocols
from jssl.evals.labels import share
from jssl.evals.shown import save_patches, save_pictures, unlabelled
from jssl.experiment import provenance

TASKS = ("knn", "linear", "fewshot")  # of images, where no protocol is named
PIXELS = 32  # side to which larger images are brought before they count as raw pixels
BATCH = 256


def evaluate(workdir, protocol=None, draws=None, data=None, test=None, finetune=None):
    """Scores a run: writes scores.json and what the report shows into it and returns the table as text.

    protocol: comma-separated names, of `jssl.evals.protocol.PROTOCOLS` and `TUNED` for images, of `jssl.evals.graphs`
    for graphs; those that train the encoder take minutes, and are done where they are asked for. draws: of the labelled
    images, one by default, for all but fewshot, which draws 100 times, and semi, 5; of splits of a graph that comes
    without one, 20. data, test: other labelled sources than the run's own. Without a test source a fifth of the
    labelled images is held out: the encoder has then seen them, without labels. finetune: {field of
    `jssl.evals.finetune.Settings`: value or text}.
    """
    workdir = pathlib.Path(workdir)
    encoders = {"trained": Encoder(workdir), "untrained": Encoder(workdir, "untrained")}
    config = json.loads((workdir / "config.json").read_text())["config"]
    asked = tuple(protocol.split(",")) if protocol else None
    settings = tuned.settings_of(finetune)
    if config.get("modality") == "graph":
        if test:
            raise ValueError(f"--test {test}: test nodes come with a graph, as a split of it; expected --data alone")
        scores, said = graphs.evaluate(workdir, encoders, config, asked, draws, data)
    else:
        scores, said = of_images(workdir, encoders, config, asked, draws, data, test, settings)
    if isinstance(said, str):
        return said
    used = ",".join(dict.fromkeys(score["task"].partition("-")[0] for score in scores))
    described = {"protocols": protocol or used, "draws": draws, "seed": config["seed"], "data": said}
    protocols.write(workdir / "scores.json", scores, described, provenance())
    return protocols.table(scores, said.get("left out"))


def of_images(workdir, encoders, config, asked, draws, data, test, settings):
    """-> scores, what to say of the data; or nothing and a text, where there are no labels."""
    channels, workers = encoders["trained"].channels, sources.default_workers()
    opened = lambda spec: sources.open_source(spec, channels=channels, max_bad=config["data"]["max_bad"])
    train = opened(data or config["data"]["source"])
    test = test or config["data"]["eval_source"]
    splits = {"train": train, "test": opened(test)} if test else held_out(train, config["seed"])
    features = {
        name: {split: encoder.embed(source, BATCH, workers) for split, source in splits.items()}
        for name, encoder in encoders.items()
    }
    save_pictures(workdir, features["trained"]["test"], splits["test"])
    save_patches(workdir, encoders["trained"], splits["test"])
    labels = {split: source.labels for split, source in splits.items()}
    said = {split: source.spec for split, source in splits.items()} | {"encoder_saw_test_images": not test}
    if labels["train"] is None or labels["test"] is None:
        return [], unlabelled(workdir, {name: found["train"] for name, found in features.items()}, said["train"])

    features["raw pixels"] = {split: pixels(source, workers) for split, source in splits.items()}
    scores, missing = [], None if asked else {}
    frozen = tuple(name for name in asked or TASKS if name not in protocols.TUNED)
    for name, found in features.items():
        scores += protocols.evaluate(
            found,
            labels,
            encoder=name,
            protocols=frozen,
            draws=draws or 1,
            seed=config["seed"],
            k=config["eval"]["k"],
            temperature=config["eval"]["temperature"],
            label_names=train.label_names,
            missing=missing,
        )
    how = {"seed": config["seed"], "flip": config["augment"].get("flip") or 0.0, "workers": workers}
    for name in [name for name in asked or () if name in protocols.TUNED]:
        scores += tuned.PROTOCOLS[name](encoders, features, splits, draws=draws, settings=settings, **how)
    return scores, {**said, **({"left out": missing} if missing else {})}


def embed(workdir, data, out):
    """Writes the features of every example of `data`, with its file name or number, to `out`; returns a line of text.

    .npz: features float32 [N, D], names [N], and where there are any labels int32 [N]. .parquet: one row per example.
    """
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
        np.savez(out, **columns)
    else:
        _write_parquet(out, columns)
    return f"{len(features):,} x {features.shape[1]} features in {out}"


def held_out(source, seed):
    """A stratified fifth of a source for testing, the rest for training."""
    rows = np.arange(len(source))
    if source.labels is None:
        return {"train": source, "test": source}
    train = share(source.labels, 0.8, np.random.default_rng(seed))
    return {"train": source.take(rows[train]), "test": source.take(rows[~train])}


def pixels(source, workers=0):
    """Raw pixels as features, float32 [N, H * W * C] in [0, 1]; larger images are brought to side `PIXELS`."""
    if source.images is not None and max(source.shape[:2]) <= PIXELS:
        images = source.images
    else:
        from jssl.augment.image import evaluation

        shrink = evaluation(PIXELS, crop=1.0, mean=(0.0,), std=(1.0,))
        batches = sources.every(source, batch_size=BATCH, size=PIXELS, crop=1.0, workers=workers)
        images = np.concatenate([np.asarray(shrink(batch)["image"]) for batch in batches])[: len(source)] * 255
    return (images.reshape(len(images), -1) / 255).astype(np.float32)


def _write_parquet(out, columns):
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"--out {out}: .parquet needs pyarrow, `pip install jssl[parquet]`; .npz needs nothing"
        ) from None
    pa.parquet.write_table(pa.table({name: list(column) for name, column in columns.items()}), out)
