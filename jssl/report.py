"""report.html: one page on a run, for people, made from what lies in its directory. It opens from disk, offline."""

import json
import pathlib
import string
import zipfile

import numpy as np
from PIL import Image

from jssl import by_class, figures, maps, pictures, sections, several
from jssl.corruptions import corruptions
from jssl.curves import curves
from jssl.evals.kept import read as read_predictions
from jssl.files import place_for, whole
from jssl.maps import unit
from jssl.writers import read_metrics

ARRAYS = ("graph", "neighbours", "map", "mistakes", "patches")
PICTURES = ("reconstructions.png", "views.png")
TEMPLATE = pathlib.Path(__file__).with_name("report.html.tmpl")


def report(*workdirs, how="pca", out=None):
    """Writes one page on a run, WORKDIR/report.html, or on several, FIRST/comparison.html, or into `out` -> its path.

    how: the map of the embeddings, of `maps.KINDS`. Read where they exist: config.json, metrics.jsonl, scores.json,
    predictions.npz, graph.npz, neighbours.npz (see `panel`), map.npz, mistakes.npz, patches.npz, reconstructions.png,
    views.png. What has no data is left out, with the command that makes it. Raises FileNotFoundError if there is none
    of them, ValueError if one cannot be read.
    """
    workdirs = [pathlib.Path(workdir) for workdir in workdirs]
    found = [read(workdir) for workdir in workdirs]
    if len(found) > 1:
        title = " and ".join(run["name"] for run in found)
        return page(pathlib.Path(out or workdirs[0] / "comparison.html"), title, several.sections(found, how))
    (run,) = found
    return page(pathlib.Path(out or workdirs[0] / "report.html"), run["name"], of_one(run, how))


def read(workdir):
    """All that a page is made of: {"workdir", "name", "config", "rows", "scores", "predictions", NAME: arrays}."""
    config, scores, rows = (
        _read_json(workdir / "config.json"),
        _read_json(workdir / "scores.json"),
        read_metrics(workdir),
    )
    arrays = {name: _read_arrays(workdir / f"{name}.npz") for name in ARRAYS}
    there = config or rows or scores or any(arrays.values()) or any((workdir / name).exists() for name in PICTURES)
    if not there:
        raise FileNotFoundError(f"{workdir} is no run directory: it has no config.json, metrics.jsonl or scores.json")
    run = {"workdir": workdir, "name": workdir.resolve().name, "config": config, "rows": rows, "scores": scores}
    return {**run, "predictions": read_predictions(workdir), **arrays}


def of_one(run, how):
    """The parts of the page on one run."""
    workdir, config, rows, scores = (run[name] for name in ("workdir", "config", "rows", "scores"))
    content = {
        "Scores": sections.scores(scores),
        **several.looked_at(run),
        "Corrupted images": corruptions(scores),
        "The graph": by_class.graph(run["graph"]),
        "Map of the embeddings": maps.embeddings(run["map"], how),
        "Training curves": curves({run["name"]: rows}),
        "Patches": pictures.patches(run["patches"]),
        "Every pixel": pictures.of_pixels(workdir),
        "Reconstructions": pictures.reconstructions(workdir / "reconstructions.png"),
        "Views": pictures.views(workdir / "views.png"),
        "How it was scored": sections.protocols(scores),
    }
    modality = config.get("config", {}).get("modality", "image")
    return [
        sections.head(workdir, config, rows, scores),
        sections.warnings(rows),
        *(f"<section><h2>{title}</h2>{text}</section>" for title, text in content.items() if text),
        sections.run(config),
        sections.missing(workdir, [title for title, text in content.items() if not text], modality),
    ]


def page(path, title, body, made="jssl from the files of the run directory"):
    """Writes the parts of a page, HTML or empty, into the template of all reports -> path. made: by what, in words."""
    body = [*body, f"<footer>Made by {made}; nothing is loaded from elsewhere.</footer>"]
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    text = template.substitute(title=sections.escape(f"{title} · jssl"), body="\n".join(filter(None, body)))
    place_for(path)
    with whole(path) as file:
        file.write(text)
    return path


def panel(features, images, labels, names, queries, k, label_names=None):
    """The nearest neighbours of some rows, by cosine, themselves left out: the arrays of neighbours.npz.

    features: [M, D]; images: uint8 [M, H, W, C], or a function from a row to uint8 [H, W, C], asked only for those
    shown; labels: int [M] or None; names: [M] texts or None; queries: int [Q], rows; label_names: class names or None.
    -> {'query': uint8 [Q, S, S, C], 'neighbour': uint8 [Q, k, S, S, C], 'similarity': float32 [Q, k], and where known
    'query_label' [Q], 'neighbour_label' [Q, k], 'label_names', 'query_name' [Q], 'neighbour_name' [Q, k]}
    """
    features, queries = unit(features), np.asarray(queries, int)
    similarity = features[queries] @ features.T  # [Q, M]
    similarity[np.arange(len(queries)), queries] = -np.inf
    near = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(features) - 1)]  # [Q, k]
    arrays = {"similarity": np.take_along_axis(similarity, near, 1).astype(np.float32)}
    picture = images if callable(images) else images.__getitem__
    shown = thumbnails(picture, sorted({*queries.tolist(), *near.ravel().tolist()}))
    arrays["query"] = np.stack([shown[row] for row in queries.tolist()])
    arrays["neighbour"] = np.stack([np.stack([shown[row] for row in rows]) for rows in near.tolist()])
    if labels is not None:
        labels = np.asarray(labels)
        arrays |= {"query_label": labels[queries], "neighbour_label": labels[near]}
    if label_names is not None:
        arrays["label_names"] = np.asarray(label_names, str)
    if names is not None:
        names = np.asarray(names, str)
        arrays |= {"query_name": names[queries], "neighbour_name": names[near]}
    return arrays


def thumbnails(picture, rows, size=96):
    """{row: uint8 [S, S, C]} of one side S <= size and one number of channels. picture: row -> uint8 [H, W, C]"""
    shown = {row: figures.thumbnail(picture(row), size) for row in rows}
    side, channels = max(len(x) for x in shown.values()), max(x.shape[-1] for x in shown.values())
    grow = lambda x: np.asarray(Image.fromarray(figures.rgb(x)).resize((side, side), Image.BICUBIC))
    return {row: x if x.shape == (side, side, channels) else grow(x)[..., :channels] for row, x in shown.items()}


def _read_json(path):
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _read_arrays(path):
    if not path.exists():
        return {}
    try:
        return dict(np.load(path))
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable npz file: {error}") from None
