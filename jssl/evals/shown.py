"""What an evaluation leaves in the run directory for the report: neighbours, maps, a drawn graph."""

import jax.numpy as jnp
import numpy as np

from jssl import health
from jssl.evals import knn, nodes
from jssl.files import remove, whole
from jssl.layout import layout
from jssl.maps import reduced
from jssl.mistakes import most_confident
from jssl.report import panel, thumbnails

DRAWN = {"nodes": 3000, "edges": 80_000}  # directed ones; a graph of more is not drawn in the report
SHOWN = 1000  # rows in the map and the neighbours of the report
QUERIES, NEIGHBOURS = 8, 8
MISTAKES, THUMB_OF_MISTAKE = 24, 64  # pictures, and their side
THUMBS, THUMB = 400, 40  # pictures on a map without labels, and their side


def save_pictures(workdir, features, source):
    """neighbours.npz and map.npz, for the report."""
    rows = np.random.default_rng(0).permutation(len(source))[:SHOWN]
    features, source = features[rows], source.take(rows)
    queries = np.arange(min(QUERIES, len(source)))
    found = panel(features, source.image, source.labels, source.names, queries, NEIGHBOURS, source.label_names)
    _save(workdir / "neighbours.npz", **found)
    if source.labels is not None:
        save_map(workdir, features, source.labels, source.label_names)
    else:
        index = np.arange(min(THUMBS, len(source)))
        thumbs = thumbnails(source.image, index.tolist(), THUMB)
        shown = {"thumbs": np.stack(list(thumbs.values())), "thumb_index": index}
        _save(workdir / "map.npz", features=reduced(features), **shown)


def save_mistakes(workdir, found, source, label_names):
    """mistakes.npz: pictures of the test images that the trained encoder's probe got wrong, the surest first.

    found: what `jssl.evals.kept.read` gives, of the source's images.
    """
    path = workdir / "mistakes.npz"
    remove(path)
    labels, rows = found["labels"], {}
    for name in ("predictions", "confidence"):
        for task, x in found[name].get("trained", {}).items():
            rows.setdefault(task, {})[name] = x
    task, chosen = most_confident(rows, labels, MISTAKES)
    if not len(chosen):
        return
    shown = thumbnails(source.image, chosen.tolist(), THUMB_OF_MISTAKE)
    found = {"picture": np.stack([shown[row] for row in chosen.tolist()]), "label": labels[chosen]}
    found |= {"predicted": rows[task]["predictions"][chosen], "task": task}
    if "confidence" in rows[task]:
        found["confidence"] = rows[task]["confidence"][chosen]
    if source.names is not None:
        found["name"] = np.asarray(source.names, str)[chosen]
    names = label_names or [str(label) for label in range(int(labels.max()) + 1)]
    _save(path, label_names=np.asarray(names, str), **found)


def save_patches(workdir, encoder, source):
    """patches.npz of an encoder with patch tokens: the first three principal components as colours, and attention."""
    path = workdir / "patches.npz"
    remove(path)
    rows = np.random.default_rng(0).permutation(len(source))[:QUERIES]
    if (found := encoder.patches(source.take(rows))) is None:
        return
    tokens = found.pop("tokens")
    flat = tokens.reshape(-1, tokens.shape[-1])
    flat = flat - flat.mean(0)
    parts = flat @ np.linalg.svd(flat, full_matrices=False)[2][:3].T  # [M * h * w, 3]
    low, high = np.percentile(parts, (2, 98), axis=0)
    colours = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    colours = np.round(255 * colours).astype(np.uint8).reshape(*tokens.shape[:3], -1)
    _save(path, colours=colours, **found)


def save_map(workdir, features, labels, label_names):
    """map.npz of examples, with their classes where they are known."""
    shown = {"features": reduced(features)}
    if labels is not None:
        names = label_names or [str(label) for label in range(labels.max() + 1)]
        shown |= {"label": labels, "label_names": np.asarray(names, str)}
    _save(workdir / "map.npz", **shown)


def save_graph(workdir, features, source, parts, tasks, config):
    """graph.npz of one small labelled graph: where its nodes lie, and the class that a classifier on the training nodes
    gives each of them: the linear probe of `nodes` where `tasks` has it, else k-NN. Of anything else there is no such
    file. parts: {"train", "test": numbers of nodes}, for the probe "val" as well."""
    path = workdir / "graph.npz"
    remove(path)
    if not source.single or len(source.x) > DRAWN["nodes"] or len(source.edges) > DRAWN["edges"]:
        return
    train, classes = parts["train"], int(source.labels.max()) + 1
    if "linear" in tasks:
        name, found = "linear probe", nodes.probe(features, source.labels, [parts])["predictions"]
    else:
        k, temperature = config["eval"]["k"], config["eval"]["temperature"]
        data = features[train], source.labels[train], features, np.maximum(source.labels, 0)
        name, found = "k-NN", knn.knn(*data, classes=classes, k=k, temperature=temperature)["predictions"]
    split = np.full(len(features), "", "U5")
    for part, rows in parts.items():
        split[rows] = part
    _save(
        path,
        xy=layout(len(features), source.edges),
        edges=np.unique(np.sort(source.edges, 1), axis=0),
        predicted=found,
        label=source.labels,
        split=split,
        label_names=np.asarray(source.label_names or range(classes), str),
        classifier=name,
    )


def unlabelled(workdir, features, spec):
    """Without labels there is no accuracy: what can be said is how many dimensions the features use.

    features: {encoder: [N, D]} -> text
    """
    lines = [f"no labels in {spec}: k-NN and probes need them; measured without labels:"]
    for name, found in features.items():
        x = jnp.asarray(found)[:, None]
        measures = health.measures({"features": x})
        lines.append(
            f"{name:>10}: RankMe {measures['health/features_rankme']:.1f} of {x.shape[-1]} dimensions, "
            f"spread {measures['health/features_std']:.2f} (1 is even, 0 is collapsed)"
        )
    lines.append(f"neighbours and map for the report: jssl report --workdir {workdir}")
    return "\n".join(lines)


def _save(path, **arrays):
    with whole(path, "wb") as file:
        np.savez(file, **arrays)
