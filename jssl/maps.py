"""The map of the embeddings: examples on a plane, those with like features close together."""

import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from jssl import figures
from jssl.config import nearest
from jssl.sections import legend

KINDS = {"pca": "its first two principal components", "tsne": "t-SNE", "umap": "UMAP"}
TSNE_POINTS = 1500  # beyond that t-SNE takes too long on a laptop
DIMENSIONS = 50  # that an evaluation keeps of features for their map
MAP_POINTS = 4000  # drawn; more only make the page heavy


def unit(features):
    """Rows of length 1, float32 [M, D]; raises ValueError if a feature is not finite."""
    features = np.asarray(features, np.float32)
    if not np.isfinite(features).all():
        raise ValueError("features are not finite: the encoder has diverged; look at the loss in metrics.jsonl")
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def reduced(features):
    """What a map is made of: the first `DIMENSIONS` principal components of unit features, [M, D] -> float32 [M, d]."""
    features = unit(features)
    if len(features) < 2 or features.std(0).max() < 1e-6:  # one point, or all the same
        return np.zeros((len(features), 2), np.float32)
    found = PCA(min(DIMENSIONS, *features.shape), random_state=0).fit_transform(features)
    return np.pad(found, ((0, 0), (0, max(0, 2 - found.shape[1])))).astype(np.float32)


def plane(components, how="pca"):
    """What `reduced` gave -> float32 [M, 2], repeatable: the first two, t-SNE (van der Maaten and Hinton, 2008), or
    UMAP (McInnes et al., 2018; arXiv:1802.03426).

    Raises ValueError for another kind of map, where t-SNE of so many points would take too long, or where umap-learn is
    not installed.
    """
    if how not in KINDS:
        raise ValueError(f"there is no map {how!r}{nearest(how, KINDS)}")
    if how == "tsne" and len(components) > TSNE_POINTS:
        raise ValueError(
            f"t-SNE of {len(components):,} points takes too long: expected {TSNE_POINTS:,} at most, or pca or umap"
        )
    spread = components[:, 0].std()
    if how == "pca" or len(components) < 5 or not spread:
        return np.float32(components[:, :2])
    if how == "umap":
        return _umap(components)
    start = components[:, :2] / spread * 1e-4
    with threadpool_limits(1):  # its short loops wait on each other: one thread is up to ten times faster
        model = TSNE(perplexity=min(30, (len(components) - 1) / 3), init=start, random_state=0)
        return model.fit_transform(components).astype(np.float32)


def _umap(components):
    try:
        from umap import UMAP
    except ImportError:
        raise ValueError("--map umap: umap-learn is not installed; pip install umap-learn, or --map tsne") from None
    near = min(15, len(components) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed leaves it one thread
        return UMAP(n_neighbors=near, init="pca", random_state=0).fit_transform(components).astype(np.float32)


def embeddings(arrays, how="pca", small=False):
    """The section of the report. arrays: what map.npz holds; small: the picture alone"""
    if "features" not in arrays:
        return ""
    xy, labels, names = plane(arrays["features"], how), arrays.get("label"), None
    colours = ""
    if labels is not None:
        classes, labels = np.unique(labels, return_inverse=True)
        known = arrays.get("label_names", ())
        names = [str(known[c]) if 0 <= c < len(known) else str(c) for c in classes]
        colours = " The colours are the classes, which training never saw: separate islands mean that it found them."
    of = lambda rows: None if labels is None else labels[rows]
    pictures, points = "", ""
    if "thumbs" in arrays:
        rows = arrays.get("thumb_index", np.arange(len(arrays["thumbs"])))
        uri = figures.mosaic(xy[rows], arrays["thumbs"], of(rows), len(names or "1"))
        pictures = f'<img class="wide" src="{uri}" alt="the map with pictures">'
    if names or not pictures:  # without classes the pictures say more than points of one colour
        rows = np.random.default_rng(0).permutation(len(xy))[:MAP_POINTS]
        points = figures.scatter(xy[rows], of(rows), names) + legend(names or [])
    if small:
        return points or pictures
    other = (
        " <code>jssl report --map tsne</code> shows islands better, and says less of distances." if how == "pca" else ""
    )
    return (
        f"<p>Each of the {len(xy):,} points is one example, laid on the plane by {KINDS[how]} so that examples with "
        f"like features lie close together; the axes have no meaning.{colours}{other}</p>{points}{pictures}"
    )
