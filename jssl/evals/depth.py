"""Depth from frozen features: a linear layer on patch tokens gives the logarithm of every pixel's depth."""

import dataclasses
import math

import numpy as np

from jssl.evals import sheets
from jssl.evals.dense import held_out, over_images, pair, shown_rows
from jssl.evals.patches import at_pixels, enlarged, readers

NEAR = 1.25  # a depth is right within this factor of the true one (arXiv:1406.2283)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The fields of --depth.FIELD=VALUE."""

    size: int | None = None  # pixels of the images' shorter side; None: see `patches.readers`
    layer: str | int | None = None  # of the encoder; None: the last
    pixels: int = 100_000  # training pixels, as many of each image
    penalties: tuple = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    validation: float = 0.2  # of the training images, to pick the penalty


def estimate(reader, train, test, *, settings, seed=0, shown=()):
    """The depth of every pixel of the test images -> {"errors": float64 [M, 2], root mean squared error and share
    within a factor of 1.25 of each image, "shown": depths float32 [H, W] of the images `shown`, "settings": {...}}.

    One linear layer on tokens, brought to the image's size bilinearly, gives log depth; its squared error over a fixed
    draw of pixels of known depth, plus a penalty on the weights, has its minimum in closed form. The error on held-out
    training images picks the penalty. Depths are clipped to those seen in training.

    Args:
      reader: `jssl.evals.patches.Reader`; train, test: `jssl.data.masks.Dense` sources.

    Raises:
      ValueError: where no training pixel has a depth, or there is a single training image.
    """
    held = held_out(train, settings.validation, seed)
    x, y, image = gather(reader, train, settings, seed)
    mean, std = x.mean(0), x.std(0)
    x = (x - mean) / np.where(std > 1e-6 * (1 + np.abs(mean)), std, np.inf)
    limits = float(np.exp(y.min())), float(np.exp(y.max()))
    penalties = sorted((float(p) for p in settings.penalties), reverse=True)

    def layers(rows):
        """[penalties, D + 1] on features as they are, the intercept last."""
        found = [ridge(x[rows], y[rows], penalty) for penalty in penalties]
        weights = np.stack([w for w, _ in found]) / np.where(std > 1e-6 * (1 + np.abs(mean)), std, np.inf)
        return np.column_stack([weights, np.array([b for _, b in found]) - weights @ mean])

    def depths(layer, grid, shape):
        log = enlarged((grid @ layer[:-1] + layer[-1])[..., None], shape)[..., 0]
        return np.clip(np.exp(np.clip(log, -80, 80)), *limits)

    inside, part = layers(~np.isin(image, held)), train.take(held)
    errors = np.zeros(len(penalties))
    for rows, out in reader(part):
        for row, grid in zip(rows, out["tokens"]):
            truth = part.depths(int(row))
            errors += [compare(truth, depths(layer, grid, truth.shape))[0] / len(held) for layer in inside]
    best = int(np.argmin(errors))
    layer = layers(slice(None))[best]

    found, pictures = [], {}
    for rows, out in reader(test):
        for row, grid in zip(rows, out["tokens"]):
            truth = test.depths(int(row))
            predicted = depths(layer, grid, truth.shape)
            found.append(compare(truth, predicted))
            if row in shown:
                pictures[int(row)] = predicted
    return {
        "errors": np.array(found),
        "shown": [pictures[row] for row in shown],
        "settings": {
            "classifier": "one linear layer on tokens to log depth, interpolated bilinearly; least squares + penalty * "
            "|W|^2 in closed form",
            "penalties": penalties,
            "penalty": penalties[best],
            "picked_by": f"root mean squared error on {len(held)} training images, then fitted on all of them",
            "validation_rmse": float(errors[best]),
            "features": "standardised by the training pixels",
            "train_pixels": len(x),
            "clipped_to": limits,
            "over": "known pixels of an image, then the mean over images",
            **reader.described(),
            "layer": settings.layer,
            "seed": seed,
        },
    }


def gather(reader, source, settings, seed):
    """One pass over the training images -> tokens interpolated at drawn pixels, float64 [P, D], log depths [P], the
    number of each one's image, int [P]."""
    count, found = math.ceil(settings.pixels / len(source)), ([], [], [])
    for rows, out in reader(source):
        for row, grid in zip(rows, out["tokens"]):
            truth = source.depths(int(row))
            ys, xs = np.nonzero(truth > 0)
            some = np.random.default_rng((seed, int(row))).permutation(len(ys))[:count]
            found[0].append(at_pixels(grid, ys[some], xs[some], truth.shape))
            found[1].append(np.log(truth[ys[some], xs[some]]))
            found[2].append(np.full(len(some), row))
    x, y, image = (np.concatenate(parts) for parts in found)
    if not len(y):
        raise ValueError(f"no pixel of {source.spec} has a depth; expected positive numbers, 0 for unknown")
    return x.astype(np.float64), y.astype(np.float64), image


def ridge(x, y, penalty):
    """The minimum of mean (x w + b - y)^2 + penalty |w|^2 -> w [D], b. x: float64 [N, D] (scikit-learn's alpha is N
    times the penalty)"""
    mean, centre = x.mean(0), y.mean()
    x = x - mean
    w = np.linalg.solve(x.T @ x / len(x) + penalty * np.eye(x.shape[1]), x.T @ (y - centre) / len(x))
    return w, centre - mean @ w


def compare(truth, predicted):
    """-> root mean squared error, in the unit of the truth, and the share of pixels within `NEAR`; of known pixels."""
    there = truth > 0
    if not there.any():
        return np.nan, np.nan
    truth, predicted = truth[there].astype(np.float64), predicted[there].astype(np.float64)
    within = np.maximum(truth / predicted, predicted / truth) < NEAR
    return float(np.sqrt(np.mean((truth - predicted) ** 2))), float(within.mean())


def picture(path, source, shown, predictions):
    """depth.png: images, true and predicted depths, light is near. predictions: {title: [float32 [H, W], ...]}"""
    columns = {"image": [source.image(row) for row in shown], "truth": []} | {title: [] for title in predictions}
    for i, row in enumerate(shown):
        truth = source.depths(row)
        known = np.log(truth[truth > 0]) if (truth > 0).any() else np.zeros(1)
        near, far = -known.min(), -known.max()
        columns["truth"].append(np.where((truth > 0)[..., None], _light(truth, far, near), 0).astype(np.uint8))
        for title, maps in predictions.items():
            columns[title].append(_light(maps[i], far, near))
    sheets.sheet(path, columns)


def _light(depth, far, near):
    return sheets.heat(-np.log(np.maximum(depth, 1e-12)), far, near)


def protocol(subject):
    """Scores of "depth", the share of pixels within a factor of 1.25, and "depth-rmse", for each encoder and for raw
    pixels; WORKDIR/depth.png shows some predictions."""
    settings, (train, test) = subject.settings("depth", Settings()), pair(subject.splits, "depths")
    shown = shown_rows(len(test))
    scores, pictures = [], {}
    for reader in readers(subject.encoders, train, size=settings.size, layer=settings.layer):
        found = estimate(reader, train, test, settings=settings, seed=subject.seed, shown=shown)
        known = found["errors"][np.isfinite(found["errors"][:, 0])]
        if not len(known):
            raise ValueError(f"no pixel of {test.spec} has a depth; expected positive numbers, 0 for unknown")
        scores.append(over_images("depth", reader.name, known[:, 1], found["settings"]))
        unit = {**found["settings"], "unit": "that of the depths"}
        scores.append(over_images("depth-rmse", reader.name, known[:, 0], unit, paired=False))
        pictures[reader.name] = found["shown"]
    picture(subject.workdir / "depth.png", test, shown, pictures)
    return scores
