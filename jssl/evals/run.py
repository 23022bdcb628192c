"""`jssl eval` and `jssl embed`: a trained run against its untrained self and raw pixels, and features to keep."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np

from jssl import data as sources
from jssl import health
from jssl.encoder import Encoder
from jssl.evals import knn, linear
from jssl.evals import protocol as protocols
from jssl.evals.labels import share
from jssl.experiment import provenance
from jssl.layout import layout
from jssl.report import embedding_map, panel, thumbnails

DRAWN = {"nodes": 3000, "edges": 80_000}  # directed ones; a graph of more is not drawn in the report
SHOWN = 1000  # rows in the map and the neighbours of the report
QUERIES, NEIGHBOURS = 8, 8
THUMBS, THUMB = 400, 40  # pictures on a map without labels, and their side
PIXELS = 32  # side to which larger images are brought before they count as raw pixels
BATCH = 256


def evaluate(workdir, protocol="knn,linear,fewshot", draws=1, data=None, test=None):
    """Scores a run: writes scores.json, neighbours.npz, map.npz and graph.npz into it and returns the table as text.

    protocol: comma-separated names of `jssl.evals.protocol.PROTOCOLS`; draws: of the labelled images, for all but
    fewshot, which draws 100 times; data, test: other labelled sources than the run's own. Without a test source a fifth
    of the labelled images is held out: the encoder has then seen them, without labels.
    """
    workdir = pathlib.Path(workdir)
    encoders = {"trained": Encoder(workdir), "untrained": Encoder(workdir, "untrained")}
    config = json.loads((workdir / "config.json").read_text())["config"]
    channels, workers = encoders["trained"].channels, sources.default_workers()
    opened = lambda spec: sources.open_source(spec, channels=channels, max_bad=config["data"]["max_bad"])
    train = opened(data or config["data"]["source"])
    if isinstance(train, sources.Graphs):
        features, labels, said = of_nodes(workdir, encoders, train, config["seed"])
    else:
        test = test or config["data"]["eval_source"]
        splits = {"train": train, "test": opened(test)} if test else held_out(train, config["seed"])
        features, labels, said = of_images(workdir, encoders, splits, workers)
        said["encoder_saw_test_images"] = not test
    if labels["train"] is None or labels["test"] is None:
        return unlabelled(workdir, features, said)

    scores = []
    for name, found in features.items():
        scores += protocols.evaluate(
            found,
            labels,
            encoder=name,
            protocols=tuple(protocol.split(",")),
            shots=said.get("shots", (1, 10)),
            draws=draws,
            seed=config["seed"],
            k=config["eval"]["k"],
            temperature=config["eval"]["temperature"],
            label_names=train.label_names,
        )
    save_graph(workdir, encoders["trained"], train, protocol.split(","), config)
    described = {"protocols": protocol, "draws": draws, "seed": config["seed"], "data": said}
    protocols.write(workdir / "scores.json", scores, described, provenance())
    return protocols.table(scores)


def of_images(workdir, encoders, splits, workers):
    """-> {encoder: {split: features}}, raw pixels being one more; {split: labels}; what to say of the data."""
    features = {
        name: {split: encoder.embed(source, BATCH, workers) for split, source in splits.items()}
        for name, encoder in encoders.items()
    }
    save_pictures(workdir, features["trained"]["test"], splits["test"])
    labels = {split: source.labels for split, source in splits.items()}
    if labels["train"] is not None and labels["test"] is not None:
        features["raw pixels"] = {split: pixels(source, workers) for split, source in splits.items()}
    return features, labels, {split: source.spec for split, source in splits.items()}


def of_nodes(workdir, encoders, graph, seed):
    """The same of a graph's nodes: the encoder sees all of it, without labels; classifiers see the training nodes'."""
    whole = {name: encoder.embed(graph) for name, encoder in encoders.items()} | {"raw features": graph.x}
    shown = np.random.default_rng(0).permutation(len(graph.x))[:SHOWN]
    save_map(workdir, whole["trained"][shown], None if graph.labels is None else graph.labels[shown], graph.label_names)
    labels = {"train": None, "test": None}
    splits = {"train": np.arange(len(graph.x)), "test": np.arange(len(graph.x))}
    if graph.labels is not None:
        splits = node_splits(graph, seed)
        labels = {split: graph.labels[nodes] for split, nodes in splits.items()}
    features = {name: {split: found[nodes] for split, nodes in splits.items()} for name, found in whole.items()}
    return features, labels, {"graph": graph.spec, "shots": (1, 5)}


def node_splits(graph, seed):
    """Training and test nodes: those that came with the data, or four fifths and a fifth of the labelled ones."""
    if {"train", "test"} <= graph.splits.keys():
        return {split: graph.splits[split] for split in ("train", "test")}
    nodes = np.flatnonzero(graph.labels >= 0)
    train = share(graph.labels[nodes], 0.8, np.random.default_rng(seed))
    return {"train": nodes[train], "test": nodes[~train]}


def embed(workdir, data, out):
    """Writes the features of every image of `data`, with its file name, to `out`; returns a line of text.

    .npz: features float32 [N, D], names [N], and where there are any labels int32 [N]. .parquet: one row per image.
    """
    out = pathlib.Path(out)
    if out.suffix not in (".npz", ".parquet"):
        raise ValueError(
            f"--out {out}: cannot write {out.suffix or 'a file without a suffix'}, expected .npz or .parquet"
        )
    encoder = Encoder(workdir)
    source = sources.open_source(data, channels=encoder.channels)
    features = encoder.embed(source, BATCH, sources.default_workers())
    columns = {"features": features, "names": np.asarray(source.names, str)}
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


def save_pictures(workdir, features, source):
    """neighbours.npz and map.npz, for the report."""
    rows = np.random.default_rng(0).permutation(len(source))[:SHOWN]
    features, source = features[rows], source.take(rows)
    queries = np.arange(min(QUERIES, len(source)))
    found = panel(features, source.image, source.labels, source.names, queries, NEIGHBOURS, source.label_names)
    np.savez(workdir / "neighbours.npz", **found)
    if source.labels is not None:
        save_map(workdir, features, source.labels, source.label_names)
    else:
        index = np.arange(min(THUMBS, len(source)))
        thumbs = thumbnails(source.image, index.tolist(), THUMB)
        shown = {"thumbs": np.stack(list(thumbs.values())), "thumb_index": index}
        np.savez(workdir / "map.npz", xy=embedding_map(features), **shown)


def save_map(workdir, features, labels, label_names):
    """map.npz of examples, with their classes where they are known."""
    shown = {"xy": embedding_map(features)}
    if labels is not None:
        names = label_names or [str(label) for label in range(labels.max() + 1)]
        shown |= {"label": labels, "label_names": np.asarray(names, str)}
    np.savez(workdir / "map.npz", **shown)


def save_graph(workdir, encoder, source, tasks, config):
    """graph.npz of one small labelled graph: where its nodes lie, and the class that a classifier on the training nodes
    gives each of them: the linear probe where `tasks` has it, else k-NN. Of anything else there is no such file."""
    path = workdir / "graph.npz"
    path.unlink(missing_ok=True)
    if not isinstance(source, sources.Graphs) or not source.single:
        return
    if len(source.x) > DRAWN["nodes"] or len(source.edges) > DRAWN["edges"]:
        return
    features, splits = encoder.embed(source), node_splits(source, config["seed"])
    train, classes = splits["train"], int(source.labels.max()) + 1
    data = features[train], source.labels[train], features, np.maximum(source.labels, 0)
    if "linear" in tasks:
        name, found = "linear probe", linear.probe(*data, classes=classes, seed=config["seed"])["predictions"][0]
    else:
        k, temperature = config["eval"]["k"], config["eval"]["temperature"]
        name, found = "k-NN", knn.knn(*data, classes=classes, k=k, temperature=temperature)["predictions"]
    split = np.full(len(features), "", "U5")
    for part, nodes in splits.items():
        split[nodes] = part
    np.savez(
        path,
        xy=layout(len(features), source.edges),
        edges=np.unique(np.sort(source.edges, 1), axis=0),
        predicted=found,
        label=source.labels,
        split=split,
        label_names=np.asarray(source.label_names or range(classes), str),
        classifier=name,
    )


def unlabelled(workdir, features, said):
    """Without labels there is no accuracy: what can be said is how many dimensions the features use."""
    lines = [f"no labels in {said['train']}: k-NN and probes need them; measured without labels:"]
    for name, found in features.items():
        x = jnp.asarray(found["train"])[:, None]
        measures = health.measures({"features": x})
        lines.append(
            f"{name:>10}: RankMe {measures['health/features_rankme']:.1f} of {x.shape[-1]} dimensions, "
            f"spread {measures['health/features_std']:.2f} (1 is even, 0 is collapsed)"
        )
    lines.append(f"neighbours and map for the report: jssl report --workdir {workdir}")
    return "\n".join(lines)


def _write_parquet(out, columns):
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"--out {out}: .parquet needs pyarrow, `pip install jssl[parquet]`; .npz needs nothing"
        ) from None
    pa.parquet.write_table(pa.table({name: list(column) for name, column in columns.items()}), out)
