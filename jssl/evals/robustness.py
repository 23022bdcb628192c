"""How much of its accuracy an encoder keeps on images that are corrupted, coarser, cropped or shifted, and whether it
tells images of another kind from its own. Classifiers learn from clean training images alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn.metrics import roc_auc_score

from jssl import data as sources
from jssl.augment.corrupt import CORRUPTIONS, SEVERITIES, corrupt, published
from jssl.config import nearest
from jssl.evals import knn, linear
from jssl.evals.neighbours import neighbours
from jssl.evals.scores import ends, entry, resampled, roc_area
from jssl.evals.subject import BATCH, pixels
from jssl.sharding import fetched, make_mesh, put, rows_here

PIXELS = 2**22  # that are corrupted at once
AUROC_RESAMPLES = 1000
FROST = "frost is drawn, not cut from the authors' photographs"


@dataclasses.dataclass(frozen=True)
class Settings:
    corruptions: str | None = None  # comma-separated, of `CORRUPTIONS`; None: all 15
    ood: str | None = None  # a source of images of another kind, to be told from the test images


def protocol(subject):
    """A linear probe and k-NN of clean training features on corrupted test images -> scores.

    "robustness": mean accuracy over corruptions and severities, each in the settings; "robustness-kept": that by the
    accuracy on clean test images; both for the probe, and "robustness-knn..." for k-NN; where a source is given,
    "ood" and "ood-softmax".
    """
    settings = subject.settings("robustness", Settings())
    names = tuple(settings.corruptions.split(",")) if settings.corruptions else tuple(CORRUPTIONS)
    if unknown := [name for name in names if name not in CORRUPTIONS]:
        raise ValueError(f"unknown corruption {unknown[0]!r}{nearest(unknown[0], CORRUPTIONS)}")
    labels = subject.labels["test"]
    rows = {encoder: rows_of(subject, encoder) for encoder in subject.features}
    right = {encoder: {way: {} for way in rows[encoder].predict} for encoder in rows}
    images = held(subject.splits["test"], subject.encoders["trained"], subject.workers)
    for name, changed in changes(images, names, subject.seed):
        for encoder, row in rows.items():
            features = row.embed(sources.Source(spec=str(name), names=range(len(labels)), **changed))
            for way, predict in row.predict.items():
                right[encoder][way][name] = predict(features) == labels
    said = {
        "images": f"{len(labels)} test images of {images.shape[1]} x {images.shape[2]}, corrupted before the encoder's "
        "preprocessing",
        "corruptions": f"{len(names)} of Hendrycks & Dietterich (2019), severities 1 to 5, the constants of "
        + published(min(images.shape[1:3])),
        **({"frost": FROST} if "frost" in names else {}),
        "seed": subject.seed,
    }
    scores = []
    for encoder, row in rows.items():
        for way, found in right[encoder].items():
            task = "robustness" if way == "linear" else f"robustness-{way}"
            scores += of_changes(task, encoder, found, names, {**row.settings[way], **said})
    return scores + (out_of_distribution(subject, rows, settings.ood) if settings.ood else [])


@dataclasses.dataclass(frozen=True)
class Row:
    """One encoder: how it embeds a source -> [M, D], and its classifiers, {"linear", "knn": [M, D] -> int [M]}, with
    their settings; logits: those of the probe, [M, D] -> [M, K]."""

    embed: object
    predict: dict
    settings: dict
    logits: object


def rows_of(subject, name):
    """The `Row` of "trained", "untrained" or "raw pixels"."""
    train, labels = subject.features[name]["train"], subject.labels["train"]
    k, temperature = (subject.config["eval"][field] for field in ("k", "temperature"))
    logits, said = linear.fitted(train, labels, classes=subject.classes, seed=subject.seed)

    def vote(features):
        unknown = np.zeros(len(features), np.int32)
        found = knn.knn(train, labels, features, unknown, classes=subject.classes, k=k, temperature=temperature)
        return found["predictions"]

    encoder = subject.encoders.get(name)
    embed = (lambda source: encoder.embed(source, BATCH, subject.workers)) if encoder else pixels
    by_votes = knn.described(k, temperature)
    predict = {"linear": lambda features: logits(features).argmax(-1), "knn": vote}
    return Row(embed, predict, {"linear": said, "knn": by_votes}, logits)


def held(source, encoder, workers=0):
    """The images of a source in memory, uint8 [M, H, W, C]: as they are, or, where they are on disk and of any size,
    their central squares, as many pixels as the encoder's crop of them needs."""
    if source.images is not None:
        return source.images
    inputs = encoder.preprocess
    batches = source.every(batch_size=BATCH, size=round(inputs.size / inputs.crop), crop=1.0, workers=workers)
    return np.concatenate([np.asarray(batch["image"]) for batch in batches])[: len(source)]


def changes(images, names, seed):
    """Every version of the test images: ("clean" or a shift's name or (corruption, severity), {"images", "channels"}).

    An image's noise is of (seed, corruption, its number) alone, and the same at every severity.
    """
    found = lambda changed: {"images": changed, "channels": images.shape[-1]}
    yield "clean", found(images)
    for name, shift in SHIFTS.items():
        yield name, found(shift(images))
    mesh, key = make_mesh(), jax.random.key(seed)
    size = max(1, min(len(images), BATCH, PIXELS // (images.shape[1] * images.shape[2])) // mesh.size) * mesh.size
    index = np.arange(-(-len(images) // size) * size).reshape(-1, size)[:, rows_here(mesh, size)]
    for name in names:
        rng = jax.random.fold_in(key, tuple(CORRUPTIONS).index(name))
        for severity in SEVERITIES:
            parts = []
            for rows in index:
                batch = put(mesh, {"image": images[rows % len(images)], "index": rows.astype(np.int32)}, size)
                changed = corrupt(batch["image"], name, severity, rng, batch["index"])
                parts.append(fetched(mesh, changed))
            yield (name, severity), found(np.concatenate(parts)[: len(images)])


def of_changes(task, encoder, right, names, settings):
    """The two scores of one classifier. right: {change: bool [M]} by the changes of `changes`."""
    cells = np.stack([right[name, severity] for name in names for severity in SEVERITIES])  # [cells, M]
    each, clean = cells.mean(0), np.float64(right["clean"])
    share = lambda change: float(np.mean(right[change]))
    said = {
        **settings,
        "clean": float(clean.mean()),
        "by corruption": {name: [share((name, severity)) for severity in SEVERITIES] for name in names},
        "by shift": {name: share(name) for name in SHIFTS},
    }
    first = entry(task, encoder, [each.mean()], said, right=each)
    if not clean.any():
        return [first]
    said = {**said, "figure": "accuracy on corrupted images by that on clean ones; its interval: bootstrap over images"}
    spread = *ratio_interval(each, clean), None
    return [first, entry(f"{task}-kept", encoder, [each.mean() / clean.mean()], said, spread=spread)]


def ratio_interval(above, below, level=0.05, seed=0):
    """The percentile bootstrap interval of mean(above) / mean(below) over examples, [M] each -> low, high."""
    drawn = len(above) * resampled(np.stack([above, below], 1), seed)
    ratios = drawn[:, 0] / np.maximum(drawn[:, 1], 1)  # a resample without a right answer has none above either
    return ends(ratios, level)


# ---- resolution, crops and shifts: uint8 [M, H, W, C] -> the same shape
def coarser(images):
    """Every other pixel's worth: shrunk to half the side and enlarged again, bilinear."""
    height, width = (max(1, size // 2) for size in images.shape[1:3])
    return resized(resized(images, height, width), *images.shape[1:3])


def central(share):
    """The middle, `share` of each side, enlarged to the whole."""

    def crop(images):
        sizes = [max(1, round(share * size)) for size in images.shape[1:3]]
        top, left = ((size - kept) // 2 for size, kept in zip(images.shape[1:3], sizes))
        return resized(images[:, top : top + sizes[0], left : left + sizes[1]], *images.shape[1:3])

    return crop


def moved(axis):
    """All an eighth of the side down (axis 1) or to the right (2); the first row or column fills what is left."""

    def move(images):
        at = np.maximum(np.arange(images.shape[axis]) - max(1, images.shape[axis] // 8), 0)
        return images.take(at, axis)

    return move


def resized(images, height, width):
    """Bilinear, with the filter stretched where images shrink, in blocks."""
    size = lambda part: (len(part), height, width, part.shape[-1])
    resize = lambda part: jax.image.resize(
        jnp.float32(part), size(part), "linear", precision=lax.Precision.HIGHEST
    ).round()
    parts = [resize(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(jnp.clip(part, 0, 255), np.uint8) for part in parts])


SHIFTS = {
    "half the resolution": coarser,
    "central 0.7": central(0.7),
    "central 0.5": central(0.5),
    "an eighth down": moved(1),
    "an eighth right": moved(2),
}


# ---- images of another kind
def out_of_distribution(subject, rows, spec):
    """How well test images and images of another source are told apart, by AUROC, 0.5 being chance -> scores.

    "ood": by the cosine distance of an image to its k-th neighbour among the training features (Sun et al., 2022;
    arXiv:2204.06507), which needs no label; "ood-softmax": by the probe's largest probability (Hendrycks & Gimpel,
    2016; arXiv:1610.02136).
    """
    other = sources.open_source(spec, channels=subject.encoders["trained"].channels)
    scores = []
    for encoder, row in rows.items():
        features = {part: subject.features[encoder][part] for part in ("train", "test")}
        features["other"] = row.embed(
            other if encoder in subject.encoders else like(other, subject.splits["test"], subject)
        )
        k = row.settings["knn"]["k"]
        for task, (figure, words) in {"ood": far(features, k), "ood-softmax": unsure(features, row.logits)}.items():
            known, unknown = figure["test"], figure["other"]
            said = {"figure": "AUROC", "measure": words, "other": spec, "other_rows": len(unknown), "rows": len(known)}
            said |= {"interval": f"95 %, bootstrap over both sets, {AUROC_RESAMPLES} resamples"}
            spread = *auroc_interval(known, unknown), None
            scores.append(entry(task, encoder, [auroc(known, unknown)], said, spread=spread))
    return scores


def far(features, k):
    """-> {"test", "other": float [M], larger for stranger images}, words"""
    similar = lambda x: np.asarray(neighbours(features["train"], x, k)[0])[:, -1]
    return {part: -similar(features[part]) for part in ("test", "other")}, f"cosine distance to neighbour {k}"


def unsure(features, logits):
    """As `far`."""
    sure = lambda x: np.asarray(jax.nn.softmax(logits(x)).max(-1))
    return {part: -sure(features[part]) for part in ("test", "other")}, "1 - the probe's largest probability"


def like(other, source, subject):
    """The images of another source in the size of this one's, as raw pixels are of one length."""
    if source.images is None:
        return other
    images = resized(held(other, subject.encoders["trained"], subject.workers), *source.shape[:2])
    return dataclasses.replace(other, images=images, open=None)


def auroc(known, unknown):
    """How often an unknown one has the larger score, a tie being half."""
    truth = np.concatenate([np.zeros(len(known)), np.ones(len(unknown))])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))


def auroc_interval(known, unknown, level=0.05, seed=0):
    """The percentile bootstrap interval of `auroc`, both sets resampled -> low, high."""
    rng, (n, m) = np.random.default_rng(seed), (len(known), len(unknown))
    values = np.unique(np.concatenate([known, unknown]), return_inverse=True)[1]
    found = []
    for _ in range(AUROC_RESAMPLES):
        a, b = (np.bincount(rng.choice(part, len(part)), minlength=n + m) for part in (values[:n], values[n:]))
        found.append(roc_area(b, a))
    return ends(found, level)
