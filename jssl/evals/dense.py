"""Segmentation with frozen features: a linear layer on patch tokens, and the tokens' nearest neighbours."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jssl.data.masks import VOID
from jssl.evals import linear
from jssl.evals.neighbours import neighbours
from jssl.evals.patches import at_pixels, enlarged, readers
from jssl.evals.scores import ends, entry, spread_of_mean
from jssl.evals.sheets import palette, sheet

RESAMPLED = 1000  # times, for an interval
SHOWN = 6  # test images in dense.png
TASKS = ("dense-linear", "dense-knn")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The fields of --dense.FIELD=VALUE."""

    size: int | None = None  # pixels of the images' shorter side; None: see `patches.readers`
    layer: str | int | None = None  # of the encoder; None: the last
    pixels: int = 50_000  # training pixels that the linear layer is fitted on, as many of each image
    bank: int = 20_000  # training tokens among which neighbours are searched, as many of each image
    k: int = 20
    temperature: float = 0.07
    penalties: tuple = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    validation: float = 0.2  # of the training images, to pick the penalty


def segment(reader, train, test, *, classes, settings, seed=0, shown=()):
    """Segments every test image -> {task: {"confusions": int64 [M, K, K], one for each image, "shown": the predictions
    of the images `shown`, uint8 [H, W] each, "settings": {...}}} of both TASKS.

    dense-linear: one linear layer on tokens, whose logits are brought to the mask's size bilinearly. As both are
    linear, their order is the same: it is logistic regression on tokens interpolated at pixels, fitted by L-BFGS on a
    fixed draw of labelled pixels. mIoU on held-out training images picks the penalty, then it is fitted on all.

    dense-knn: a token has the most frequent class of its labelled pixels. The k nearest of the training tokens by
    cosine vote, with weights exp(cos / T), and the votes are brought to the mask's size as the logits are.

    Args:
      reader: `jssl.evals.patches.Reader`; train, test: `jssl.data.masks.Dense` sources; classes: K.

    Raises:
      ValueError: where training pixels are of fewer than two classes, or there is a single training image.
    """
    found = gather(reader, train, classes, settings, seed)
    models, fields = fit(reader, train, found, classes, settings, seed)
    move = found["move"]
    confusions, pictures = {task: [] for task in TASKS}, {task: {} for task in TASKS}
    for rows, out in reader(test):
        tokens = out["tokens"]
        flat = tokens.reshape(-1, tokens.shape[-1])
        scores = {"dense-linear": np.asarray(linear.logits(models, move(flat)))}
        scores["dense-knn"] = _votes(found, flat, classes, settings)
        for task, values in scores.items():
            for row, one in zip(rows, values.reshape(*tokens.shape[:3], classes)):
                truth = test.masks(int(row))
                predicted = enlarged(one, truth.shape).argmax(-1).astype(np.uint8)
                confusions[task].append(confusion(truth, predicted, classes))
                if row in shown:
                    pictures[task][int(row)] = predicted
    nearest = {
        "classifier": "k-NN of tokens, cosine, weights exp(cos / T), votes interpolated",
        "k": settings.k,
        "temperature": settings.temperature,
        "train_tokens": len(found["bank"]),
    }
    said = {"dense-linear": fields, "dense-knn": nearest}
    return {
        task: {
            "confusions": np.stack(confusions[task]),
            "shown": [pictures[task][row] for row in shown],
            "settings": {**said[task], **reader.described(), "layer": settings.layer, "seed": seed},
        }
        for task in TASKS
    }


def gather(reader, source, classes, settings, seed):
    """One pass over the training images -> {"x": float32 [P, D], tokens interpolated at drawn pixels, "y": int32 [P],
    "image": int [P], "move": the standardising of x, "bank": float32 [B, D], tokens, "bank_y": int32 [B]}."""
    pixels, tokens = (math.ceil(total / len(source)) for total in (settings.pixels, settings.bank))
    found = {name: [] for name in ("x", "y", "image", "bank", "bank_y")}
    for rows, out in reader(source):
        for row, grid in zip(rows, out["tokens"]):
            mask, rng = source.masks(int(row)), np.random.default_rng((seed, int(row)))
            ys, xs = np.nonzero(mask != VOID)
            some = rng.permutation(len(ys))[:pixels]
            found["x"].append(at_pixels(grid, ys[some], xs[some], mask.shape))
            found["y"].append(mask[ys[some], xs[some]])
            found["image"].append(np.full(len(some), row))
            labels = majority(mask, grid.shape[:2], classes).ravel()
            some = rng.permutation(np.flatnonzero(labels != VOID))[:tokens]
            found["bank"].append(grid.reshape(-1, grid.shape[-1])[some])
            found["bank_y"].append(labels[some])
    found = {name: np.concatenate(parts) for name, parts in found.items()}
    there = np.unique(found["y"])
    if len(there) < 2:
        held = f"only pixels of class {there[0]}" if len(there) else "no labelled pixel"
        raise ValueError(f"the training masks of {source.spec} hold {held}; expected at least two classes")
    found["y"], found["bank_y"] = (found[name].astype(np.int32) for name in ("y", "bank_y"))
    return {**found, "move": linear.standardiser(jnp.asarray(found["x"]))}


def fit(reader, source, found, classes, settings, seed):
    """-> the linear layer [D + 1, K], the intercept last, and what to say of it. found: see `gather`"""
    held = held_out(source, settings.validation, seed)
    x, y = found["move"](jnp.asarray(found["x"])), jnp.asarray(found["y"])
    inside = jnp.asarray(~np.isin(found["image"], held), jnp.float32)
    penalties = sorted((float(p) for p in settings.penalties), reverse=True)
    path, model = [], jnp.zeros((x.shape[1] + 1, classes))
    for penalty in penalties:
        model = _solve(x, y, inside, penalty, model, 1e-3, 200)
        path.append(model)
    best, value = _picked(reader, source.take(held), path, found["move"], classes)
    model = _solve(x, y, jnp.ones(len(x)), penalties[best], path[best], 1e-4, 500)
    return model, {
        "classifier": "one linear layer on tokens, logits interpolated bilinearly; L-BFGS, mean cross-entropy of "
        "pixels + penalty / 2 * |W|^2, intercept free",
        "penalties": penalties,
        "penalty": penalties[best],
        "picked_by": f"mIoU on {len(held)} training images, then fitted on all of them",
        "validation_miou": value,
        "features": "standardised by the training pixels",
        "train_pixels": len(x),
    }


_solve = jax.jit(linear.solve)


def held_out(source, share, seed):
    """The training images that pick a penalty: their rows, sorted, int [V]."""
    n = len(source)
    if n < 2:
        raise ValueError(f"{source.spec} has one training image; expected two, one of them to pick the penalty")
    return np.sort(np.random.default_rng((seed, 1)).permutation(n)[: min(max(1, round(share * n)), n - 1)])


def _picked(reader, source, path, move, classes):
    """The number of the model with the best mIoU on these images, a tie going to the stronger penalty, and its mIoU."""
    totals, models = np.zeros((len(path), classes, classes), np.int64), jnp.stack(path)
    for rows, out in reader(source):
        tokens = out["tokens"]
        x = move(tokens.reshape(-1, tokens.shape[-1]))
        for i, model in enumerate(models):
            values = np.asarray(linear.logits(model, x)).reshape(*tokens.shape[:3], classes)
            for row, one in zip(rows, values):
                truth = source.masks(int(row))
                totals[i] += confusion(truth, enlarged(one, truth.shape).argmax(-1), classes)
    found = mean_iou(totals)
    return int(np.argmax(found)), float(found.max())


def _votes(found, tokens, classes, settings):
    """The share of the votes for each class, float32 [n, K], of tokens [n, D]."""
    similarity, index = neighbours(found["bank"], tokens, settings.k)
    weight = np.exp((similarity - similarity[:, :1]) / settings.temperature)
    votes = np.zeros((len(tokens), classes), np.float32)
    np.add.at(votes, (np.arange(len(tokens))[:, None], found["bank_y"][index]), weight)
    return votes / weight.sum(1, keepdims=True)


def majority(mask, grid, classes):
    """The most frequent class of the labelled pixels of each patch, uint8 [*grid], `VOID` where there are none."""
    rows, columns = (np.arange(side) * size // side for side, size in zip(mask.shape, grid))
    patch = rows[:, None] * grid[1] + columns  # [H, W]
    there = mask != VOID
    counts = np.bincount(patch[there] * classes + mask[there], minlength=grid[0] * grid[1] * classes)
    counts = counts.reshape(*grid, classes)
    return np.where(counts.any(-1), counts.argmax(-1), VOID).astype(np.uint8)


def confusion(truth, predicted, classes):
    """Pixels by true (row) and predicted (column) class, int64 [K, K], without those of no class."""
    there = truth != VOID
    pairs = truth[there].astype(np.int64) * classes + predicted[there]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(confusion):
    """Intersection over union, the mean over classes that occur or are predicted. [..., K, K] -> [...]"""
    return _mean(*_areas(confusion))


def _mean(inside, union):
    return np.sum(inside / np.maximum(union, 1), -1) / np.maximum((union > 0).sum(-1), 1)


def _areas(confusion):
    """Intersections and unions, [..., K] each."""
    inside = np.diagonal(confusion, axis1=-2, axis2=-1)
    return inside, confusion.sum(-1) + confusion.sum(-2) - inside


def interval(confusions, seed=0):
    """The 95 % bootstrap interval over images of the mean IoU, and its standard error. confusions: [M, K, K]"""
    times = resamples(len(confusions), seed)
    found = _mean(*(times @ area for area in _areas(confusions)))
    return *ends(found), float(found.std(ddof=1))


def resamples(m, seed=0):
    """How often each of m images is in each of `RESAMPLED` draws of m with replacement, int [RESAMPLED, m]."""
    return np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), RESAMPLED)


def by_class(confusion, names=None):
    """[{"class", "name" where known, "count": labelled pixels, "iou", "recall", "precision"}, ...] of the classes that
    occur or are predicted."""
    inside, union = _areas(confusion)
    count, predicted = confusion.sum(1), confusion.sum(0)
    ratio = lambda a, b: float(a / b) if b else None
    return [
        {
            "class": int(c),
            **({"name": names[c]} if names is not None and c < len(names) else {}),
            "count": int(count[c]),
            "iou": ratio(inside[c], union[c]),
            "recall": ratio(inside[c], count[c]),
            "precision": ratio(inside[c], predicted[c]),
        }
        for c in np.flatnonzero(union)
    ]


def count_classes(*sources):
    """The number of classes in the masks of these sources."""
    top = -1
    for source in sources:
        for row in range(len(source)):
            mask = source.masks(row)
            top = max([top, *(int(c) for c in np.unique(mask) if c != VOID)])
    return top + 1


def picture(path, source, shown, predictions, classes):
    """dense.png: images, truth and predictions. predictions: {title: [uint8 [H, W], ...]} of the rows `shown`"""
    colours = palette(classes)
    columns = {"image": [source.image(row) for row in shown], "truth": [colours[source.masks(row)] for row in shown]}
    columns |= {title: [colours[mask] for mask in masks] for title, masks in predictions.items()}
    names = source.class_names or [str(c) for c in range(classes)]
    sheet(path, columns, [*zip(names[:classes], colours), ("none", colours[VOID])])


def pair(splits, kind):
    """The training and the test set; ValueError where one of them has no maps of this `kind`, 'masks' or 'depths', or
    the two are the same."""
    for name, source in splits.items():
        if getattr(source, kind, None) is None:
            raise ValueError(
                f"the {name} set {source.spec} has no {kind} of its pixels; expected --data masks:PATH --test "
                f"masks:PATH, folders of images/ and {'masks' if kind == 'masks' else 'depth'}/"
            )
    train, test = splits["train"], splits["test"]
    if train is test:
        raise ValueError(f"{train.spec} would be both training and test set; expected --test masks:PATH beside it")
    return train, test


def over_images(task, name, each, settings, paired=True):
    """A score that is the mean of `each` [M], one figure for each test image. paired: whether more is better, so that
    two encoders can be compared image by image."""
    said = {"test_rows": len(each), "stderr": "over test images", "interval": "95 %, bootstrap over test images"}
    right = each if paired else None
    return entry(task, name, [each.mean()], {**settings, **said}, right=right, spread=spread_of_mean(each))


def shown_rows(n):
    """Test images for pictures, spread over all of them."""
    return [int(row) for row in np.unique(np.linspace(0, n - 1, min(SHOWN, n)).round())]


def protocol(subject):
    """Scores of both TASKS for each encoder and for raw pixels; WORKDIR/dense.png shows some predictions."""
    settings, (train, test) = subject.settings("dense", Settings()), pair(subject.splits, "masks")
    classes, shown = count_classes(train, test), shown_rows(len(test))
    scores, pictures = [], {}
    for reader in readers(subject.encoders, train, size=settings.size, layer=settings.layer):
        how = {"classes": classes, "settings": settings, "seed": subject.seed, "shown": shown}
        for task, found in segment(reader, train, test, **how).items():
            pictures[f"{'linear' if task == TASKS[0] else 'k-NN'}, {reader.name}"] = found["shown"]
            scores.append(_score(task, reader.name, found, test, train.class_names))
    picture(subject.workdir / "dense.png", test, shown, pictures, classes)
    return scores


def _score(task, name, found, test, class_names):
    """The mean IoU of all pixels together, its interval over images; paired tests are of each image's own mean IoU."""
    total = found["confusions"].sum(0)
    said = {
        "test_rows": len(test),
        "mean": "IoU, of one confusion matrix of all test pixels, the mean over classes that occur or are predicted",
        "stderr": "bootstrap over test images",
        "interval": "95 %, bootstrap over test images",
        "paired_by": "the mean IoU of each test image",
    }
    return entry(
        task,
        name,
        [mean_iou(total)],
        {**found["settings"], **said},
        right=mean_iou(found["confusions"]),
        spread=interval(found["confusions"]),
        classes=by_class(total, class_names),
    )
