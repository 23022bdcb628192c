"""report.html: one page on a run, for people, made from what lies in its directory. It opens from disk, offline."""

import json
import os
import pathlib
import string
import zipfile

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from jssl import by_class, figures, pictures, sections
from jssl.writers import read_metrics

TEMPLATE = pathlib.Path(__file__).with_name("report.html.tmpl")


def report(workdir):
    """Writes WORKDIR/report.html from what is in the run directory and returns its path.

    Read where they exist: config.json, metrics.jsonl, scores.json, graph.npz, neighbours.npz (see `panel`), map.npz,
    patches.npz, reconstructions.png, views.png. What has no data is left out, with the command that makes it. Raises
    FileNotFoundError if there is none of them, ValueError if one cannot be read.
    """
    workdir = pathlib.Path(workdir)
    config, scores, rows = (
        _read_json(workdir / "config.json"),
        _read_json(workdir / "scores.json"),
        read_metrics(workdir),
    )
    content = {
        "Scores": sections.scores(scores),
        "Per class": by_class.scores(scores),
        "The graph": by_class.graph(_read_arrays(workdir / "graph.npz")),
        "Nearest neighbours": sections.neighbours(_read_arrays(workdir / "neighbours.npz")),
        "Map of the embeddings": sections.embeddings(_read_arrays(workdir / "map.npz")),
        "Training curves": sections.curves(rows),
        "Patches": pictures.patches(_read_arrays(workdir / "patches.npz")),
        "Reconstructions": pictures.reconstructions(workdir / "reconstructions.png"),
        "Views": pictures.views(workdir / "views.png"),
    }
    if not config and not any(content.values()):
        raise FileNotFoundError(f"{workdir} is no run directory: it has no config.json, metrics.jsonl or scores.json")
    modality = config.get("config", {}).get("modality", "image")
    body = [
        sections.head(workdir, config, rows, scores),
        sections.warnings(rows),
        *(f"<section><h2>{title}</h2>{text}</section>" for title, text in content.items() if text),
        sections.run(config),
        sections.missing(workdir, [title for title, text in content.items() if not text], modality),
        "<footer>Made by jssl from the files of the run directory; nothing is loaded from elsewhere.</footer>",
    ]
    title = f"{workdir.resolve().name} · jssl"
    return page(workdir / "report.html", title, body)


def page(path, title, body):
    """Writes the parts of a page, HTML or empty, into the template of all reports -> path."""
    template, part = string.Template(TEMPLATE.read_text(encoding="utf-8")), path.with_name(f"{path.name}.part")
    text = template.substitute(title=sections.escape(title), body="\n".join(filter(None, body)))
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return path


def embedding_map(features):
    """A 2-D map of features [M, D] -> float32 [M, 2]: t-SNE of unit features, PCA beyond 1,500 points; repeatable.

    t-SNE: van der Maaten and Hinton, 2008. Raises ValueError if a feature is not finite.
    """
    features = _unit(features)
    if len(features) < 2 or features.std(0).max() < 1e-6:  # one point, or all the same
        return np.zeros((len(features), 2), np.float32)
    xy = PCA(min(50, *features.shape), random_state=0).fit_transform(features)
    xy = np.pad(xy, ((0, 0), (0, max(0, 2 - xy.shape[1]))))
    if 5 <= len(xy) <= sections.TSNE_POINTS:
        start = xy[:, :2] / xy[:, 0].std() * 1e-4
        with threadpool_limits(1):  # its short loops wait on each other: one thread is up to ten times faster
            xy = TSNE(perplexity=min(30, (len(xy) - 1) / 3), init=start, random_state=0).fit_transform(xy)
    return xy[:, :2].astype(np.float32)


def panel(features, images, labels, names, queries, k, label_names=None):
    """The nearest neighbours of some rows, by cosine, themselves left out: the arrays of neighbours.npz.

    features: [M, D]; images: uint8 [M, H, W, C], or a function from a row to uint8 [H, W, C], asked only for those
    shown; labels: int [M] or None; names: [M] texts or None; queries: int [Q], rows; label_names: class names or None.
    -> {'query': uint8 [Q, S, S, C], 'neighbour': uint8 [Q, k, S, S, C], 'similarity': float32 [Q, k], and where known
    'query_label' [Q], 'neighbour_label' [Q, k], 'label_names', 'query_name' [Q], 'neighbour_name' [Q, k]}
    """
    features, queries = _unit(features), np.asarray(queries, int)
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


def _unit(features):
    features = np.asarray(features, np.float32)
    if not np.isfinite(features).all():
        raise ValueError("features are not finite: the encoder has diverged; look at the loss in metrics.jsonl")
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


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
