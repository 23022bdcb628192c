"""Defects in parts, by what is unlike every good part: Towards Total Recall in Industrial Anomaly Detection.

Karsten Roth, Latha Pemula, Joaquin Zepeda, Bernhard Schölkopf, Thomas Brox, Peter Gehler, 2021; arXiv:2106.08265.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from jssl.data.masks import VOID
from jssl.evals import sheets
from jssl.evals.dense import resamples
from jssl.evals.patches import enlarged, readers
from jssl.evals.scores import ends, entry, roc_area

BINS = 1000  # of pixels' distances, for the interval alone
PROJECTED = 128  # dimensions in which the coreset is chosen
SHOWN = 6  # test images in anomaly.png
TASKS = ("anomaly-image", "anomaly-pixel")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The fields of --anomaly.FIELD=VALUE."""

    size: int | None = None  # pixels of the images' shorter side; None: see `patches.readers`
    layer: str | int | None = None  # of the encoder; None: the last
    around: int = 3  # a patch's features are the mean of so many patches along a side (section 3.1)
    k: int = 1  # nearest patches of good parts whose distances are averaged
    patches: int = 50_000  # of good parts at most, as many of each image
    coreset: float = 1.0  # share of them that is kept, chosen greedily (section 3.2)
    blur: float = 4.0  # standard deviation of the smoothing of maps, in pixels of a shorter side of 224


def detect(reader, train, test, settings, seed=0):
    """How unlike good parts every test image is -> {"images": float64 [M], the largest distance of its patches, "maps":
    float32 [M, H, W] at the size that the reader reads, smoothed, "settings": {...}}.

    The distance of a patch is Euclidean, to the nearest of the patches of all good parts (`train`), of features that
    are means over neighbouring patches.
    """
    bank = gather(reader, train, settings, seed)
    before = len(bank)
    if settings.coreset < 1:
        bank = bank[coreset(bank, max(1, round(settings.coreset * before)), seed)]
    sigma, images, maps = settings.blur * min(reader.shape) / 224, [], []
    for _, out in reader(test):
        grid = smoothed(out["tokens"], settings.around)
        far = distances(bank, grid.reshape(-1, grid.shape[-1]), settings.k).reshape(grid.shape[:3])
        images.append(far.max((1, 2)))
        maps += [ndimage.gaussian_filter(enlarged(one[..., None], reader.shape)[..., 0], sigma) for one in far]
    said = {
        "classifier": f"mean Euclidean distance of a patch to the {settings.k} nearest of good parts; of an image its "
        "largest",
        "patches_of_good_parts": before,
        "kept_by_greedy_coreset": len(bank) if settings.coreset < 1 else None,
        "around": settings.around,
        "blur": settings.blur,
        "train_rows": len(train),
        **reader.described(),
        "layer": settings.layer,
        "seed": seed,
    }
    return {"images": np.concatenate(images).astype(np.float64), "maps": np.stack(maps), "settings": said}


def gather(reader, source, settings, seed):
    """The features of patches of good parts, float32 [B, D], as many of each image."""
    per, found = math.ceil(settings.patches / len(source)), []
    for rows, out in reader(source):
        for row, grid in zip(rows, smoothed(out["tokens"], settings.around)):
            flat = grid.reshape(-1, grid.shape[-1])
            some = np.random.default_rng((seed, int(row))).permutation(len(flat))[:per]
            found.append(flat[np.sort(some)])
    return np.concatenate(found)


def smoothed(tokens, around):
    """The mean over around x around patches, at edges those that there are repeated. [N, h, w, D]"""
    return ndimage.uniform_filter(tokens, (1, around, around, 1), mode="nearest") if around > 1 else tokens


def coreset(x, count, seed=0):
    """Greedily, `count` rows of x [N, D] of which every other row is near: each time the row farthest from those that
    are chosen, the first at random (algorithm 1) -> int [count]. Distances are of random projections to 128
    dimensions."""
    rng = np.random.default_rng((seed, 2))
    if x.shape[1] > PROJECTED:
        x = x @ rng.normal(0, PROJECTED**-0.5, (x.shape[1], PROJECTED)).astype(np.float32)
    return np.asarray(_farthest(jnp.asarray(x), int(rng.integers(len(x))), count))


@functools.partial(jax.jit, static_argnames="count")
def _farthest(x, first, count):
    def step(carry, _):
        far, row = carry
        far = jnp.minimum(far, jnp.sum((x - x[row]) ** 2, -1))
        return (far, jnp.argmax(far)), row

    return lax.scan(step, (jnp.full(len(x), jnp.inf), jnp.int32(first)), length=count)[1]


def distances(bank, queries, k=1, block=1024):
    """The mean Euclidean distance of each of `queries` [M, D] to its k nearest rows of `bank` [B, D] -> float32 [M].

    Exact, in blocks of queries, so that no more than block x B products are held.
    """
    pad = -len(queries) % min(block, len(queries))
    queries = np.pad(queries, ((0, pad), (0, 0)))
    found = _distances(jnp.asarray(bank), jnp.asarray(queries), min(k, len(bank)), min(block, len(queries)))
    return np.asarray(found)[: len(queries) - pad]


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _distances(bank, queries, k, block):
    squares = jnp.sum(bank * bank, -1)

    def nearest(queries):  # [block, D]
        products = jnp.matmul(queries, bank.T, precision=lax.Precision.HIGHEST)  # [block, B]
        _, index = lax.top_k(2 * products - squares, k)
        # Anew from the features: the difference of squares has lost the last digits of a small distance.
        apart = queries[:, None] - bank[index]  # [block, k, D]
        return jnp.sqrt(jnp.sum(apart**2, -1)).mean(-1)

    return lax.map(nearest, queries.reshape(-1, block, queries.shape[-1])).reshape(-1)


def true_maps(source, shape):
    """Where the defects are, uint8 [M, *shape]: 1 a defect, `VOID` where nothing is known; nearest pixels."""
    size = shape[::-1]
    read = lambda row: np.where((mask := source.masks(row)) == VOID, VOID, mask > 0).astype(np.uint8)
    resize = lambda mask: np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return np.stack([resize(read(row)) for row in range(len(source))])


def defective(source):
    """Which images have a defect, bool [N]."""
    masks = (source.masks(row) for row in range(len(source)))
    return np.array([bool(((mask > 0) & (mask != VOID)).any()) for mask in masks])


def interval(bad, good, seed=0):
    """The 95 % bootstrap interval over images of the area, and its standard error; bad, good: counts [M, B] of each
    image. Resamples without a defect, or with nothing else, are left out."""
    times = resamples(len(bad), seed)
    bad, good = times @ bad, times @ good
    both = (bad.sum(-1) > 0) & (good.sum(-1) > 0)
    found = roc_area(bad[both], good[both])
    return *ends(found), float(found.std(ddof=1))


def of_images(scores, bad):
    """-> AUROC, low, high, standard error. scores: [M]; bad: bool [M]"""
    place = np.unique(scores, return_inverse=True)[1]
    counts = np.eye(place.max() + 1)[place]
    return float(roc_auc_score(bad, scores)), *interval(counts * bad[:, None], counts * ~bad[:, None])


def of_pixels(maps, truth):
    """The same of pixels; the interval is over images, of distances in `BINS` bins. maps: [M, H, W]; truth: uint8"""
    known = truth != VOID
    area = roc_auc_score(truth[known], maps[known])
    edges = np.unique(np.quantile(maps, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, maps)
    count = lambda where: np.stack([np.bincount(p[w], minlength=len(edges) + 1) for p, w in zip(place, where)])
    return float(area), *interval(count(truth == 1), count(truth == 0))


def of_kinds(scores, bad, source):
    """The images' AUROC for each kind of defect against all good parts, where the data name kinds."""
    if source.labels is None or not source.label_names:
        return []
    found = []
    for label in np.unique(source.labels[bad]):
        some = ~bad | (bad & (source.labels == label))
        area = float(roc_auc_score(bad[some], scores[some]))
        found.append({"kind": source.label_names[label], "count": int(bad[some].sum()), "auroc": area})
    return found


def picture(path, source, rows, maps):
    """anomaly.png: images, their defects, and distances of each encoder: {title: [M, H, W]}, light is unlike."""
    columns = {"image": [source.image(row) for row in rows]}
    columns["defect"] = [np.where(source.masks(row)[..., None] == 1, 255, 30).astype(np.uint8) for row in rows]
    for title, found in maps.items():
        low, high = np.quantile(found, (0.5, 0.999))
        columns[title] = [sheets.heat(found[row], low, high) for row in rows]
    sheets.sheet(path, columns)


def protocol(subject):
    """Scores of both TASKS for each encoder and for raw pixels; WORKDIR/anomaly.png shows maps of distances."""
    settings, (train, test) = subject.settings("anomaly", Settings()), (subject.splits[s] for s in ("train", "test"))
    bad = check(train, test)
    scores, maps = [], {}
    for reader in readers(subject.encoders, train, size=settings.size, layer=settings.layer):
        found = detect(reader, train, test, settings, subject.seed)
        shape = found["maps"].shape[1:]
        areas = of_images(found["images"], bad), of_pixels(found["maps"], true_maps(test, shape))
        for task, (area, *spread) in zip(TASKS, areas):
            said = {
                "test_rows": len(test),
                "test_rows_with_defects": int(bad.sum()),
                "mean": "area under the ROC curve",
            }
            said |= {"stderr": "bootstrap over test images", "interval": "95 %, bootstrap over test images"}
            more = {"kinds": kinds} if task == TASKS[0] and (kinds := of_kinds(found["images"], bad, test)) else {}
            scores.append(entry(task, reader.name, [area], {**found["settings"], **said}, spread=spread, **more))
        maps[reader.name] = found["maps"]
    rows = [*np.flatnonzero(bad)[:: max(1, bad.sum() // (SHOWN - 1))][: SHOWN - 1], np.flatnonzero(~bad)[0]]
    picture(subject.workdir / "anomaly.png", test, [int(row) for row in rows], maps)
    return scores


def check(train, test):
    """Which test images have a defect; ValueError, one line, for data that this protocol cannot be run on."""
    if getattr(test, "masks", None) is None:
        raise ValueError(
            f"the test set {test.spec} has no masks of defects; expected --test mvtec:PATH@test or masks:PATH"
        )
    if train is test:
        raise ValueError(f"{train.spec} would be both good parts and test set; expected --test mvtec:PATH@test")
    if getattr(train, "masks", None) is not None and (wrong := defective(train)).any():
        raise ValueError(
            f"{train.spec} is to hold good parts alone, but {train.names[int(wrong.argmax())]} and {wrong.sum() - 1} "
            "others have a defect; expected such as mvtec:PATH@train"
        )
    bad = defective(test)
    if bad.all() or not bad.any():
        kind = "good part" if bad.all() else "defect"
        raise ValueError(f"the test set {test.spec} has no {kind}; expected images with defects and some without")
    return bad
