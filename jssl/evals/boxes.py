"""Where an encoder sees the object of an image: one box without training, from its last block (CorLoc)."""

import dataclasses

import numpy as np
from scipy import ndimage

from jssl.data.masks import VOID
from jssl.evals import sheets
from jssl.evals.dense import over_images, shown_rows
from jssl.evals.patches import readers

AROUND = np.ones((3, 3), bool)  # pixels that touch at a corner are of one region
FOUND = 0.5  # intersection over union from which a box is right
TRUE, GUESS = (40, 200, 90), (235, 50, 50)  # colours of frames


@dataclasses.dataclass(frozen=True)
class Settings:
    """The fields of --corloc.FIELD=VALUE."""

    size: int | None = None  # pixels of the images' shorter side; None: see `patches.readers`
    k: int = 100  # patches of lowest degree among which LOST's seed may grow
    mass: float = 0.6  # share of the attention that is kept
    things: tuple | None = None  # classes that are objects; None: all but 0, which is what is behind them


def lost(features, k=100):
    """LOST (Siméoni et al., 2021; arXiv:2109.14279, section 3.2): the region of an object's patches, bool [h, w].

    Two patches are joined where the product of their features is not negative. The seed is the patch that is joined to
    the fewest: an object covers less than what is behind it. The `k` patches of lowest degree that are joined to the
    seed grow it: a patch is inside where its products with them sum to no less than 0; of these, the region that
    touches the seed. features: [h, w, D], keys of the last block as they are, or others with their mean taken out.
    """
    height, width, _ = features.shape
    flat = features.reshape(height * width, -1).astype(np.float32)
    products = flat @ flat.T  # [L, L]
    degree = (products >= 0).sum(1)
    order = np.argsort(degree, kind="stable")
    seed = order[0]
    grown = [patch for patch in order[:k] if products[seed, patch] >= 0]
    inside = (products[grown].sum(0) >= 0).reshape(height, width)
    inside[divmod(seed, width)] = True
    regions, _ = ndimage.label(inside)
    return regions == regions[divmod(seed, width)]


def attended(shares, mass=0.6):
    """Where the class token looks: the largest region of the patches that hold `mass` of its attention, the mean over
    heads, as DINO draws it (arXiv:2104.14294, figure 1). shares: [heads, h, w] -> bool [h, w]"""
    share = shares.mean(0)
    order = np.argsort(-share.ravel(), kind="stable")
    before = np.cumsum(share.ravel()[order]) / share.sum() - share.ravel()[order] / share.sum()
    kept = np.zeros(share.size, bool)
    kept[order[before < mass]] = True
    regions, count = ndimage.label(kept.reshape(share.shape))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    return regions == 1 + int(np.argmax(sizes))


def box_of(region, shape):
    """The box (y0, x0, y1, x1) around a region of patches, in pixels of an image of `shape`; ends are outside."""
    places, scale = np.argwhere(region), np.array(shape) / region.shape
    return *(places.min(0) * scale), *((places.max(0) + 1) * scale)


def boxes_of(mask, things=None):
    """The boxes around every connected region of one class that is a thing, [B, 4] (y0, x0, y1, x1)."""
    found = []
    for c in np.unique(mask):
        if c == VOID or (c == 0 if things is None else c not in things):
            continue
        slices = ndimage.find_objects(ndimage.label(mask == c, AROUND)[0])
        found += [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in slices]
    return np.array(found, float).reshape(-1, 4)


def overlap(box, boxes):
    """Intersection over union of one box with each of others [B, 4] -> [B]"""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inside = np.prod(np.maximum(high - low, 0), 1)
    area = lambda x: np.prod(x[..., 2:] - x[..., :2], -1)
    return inside / (area(np.asarray(box)) + area(boxes) - inside)


def locate(reader, source, settings):
    """One box for each image by each way there is -> {"corloc": boxes [N, 4] by LOST, and of a class token
    "corloc-attention": the same by its attention}, and what to say of them."""
    found, said = {}, "tokens, their mean over the image taken out"
    for rows, out in reader(source):
        if "keys" in out:
            features, said = out["keys"], "keys of the last block"
        else:
            features = out["tokens"] - out["tokens"].mean((1, 2), keepdims=True)
        for i, row in enumerate(rows):
            shape = source.masks(int(row)).shape
            found.setdefault("corloc", []).append(box_of(lost(features[i], settings.k), shape))
            if "attention" in out:
                region = attended(out["attention"][i], settings.mass)
                found.setdefault("corloc-attention", []).append(box_of(region, shape))
    ways = {
        "corloc": {"boxes_by": f"LOST on {said}", "k": settings.k},
        "corloc-attention": {"boxes_by": "attention of the class token, mean over heads", "mass": settings.mass},
    }
    return {task: np.array(boxes) for task, boxes in found.items()}, {task: ways[task] for task in found}


def right(boxes, truth):
    """1 where a box overlaps one of its image's true boxes by half, else 0. boxes: [N, 4]; truth: N of [B, 4]"""
    return np.array([float(overlap(box, true).max() >= FOUND) for box, true in zip(boxes, truth, strict=True)])


def picture(path, source, shown, truth, boxes):
    """boxes.png: boxes: {title: [N, 4], ...}, truth: N of [B, 4]; of the rows `shown`"""
    frames = lambda row, found: [*((box, TRUE) for box in truth[row]), (found[row], GUESS)]
    columns = {
        title: [sheets.boxed(source.image(row), frames(row, found)) for row in shown] for title, found in boxes.items()
    }
    sheets.sheet(path, columns, [("truth", TRUE), ("found", GUESS)])


def protocol(subject):
    """Scores of "corloc", and of encoders with a class token "corloc-attention": the share of test images whose one box
    is right; WORKDIR/boxes.png shows some. Nothing is trained: of the training set the shape of its images is read."""
    settings, source = subject.settings("corloc", Settings()), subject.splits["test"]
    if getattr(source, "masks", None) is None:
        raise ValueError(f"the test set {source.spec} has no masks, of which true boxes are made; expected masks:PATH")
    truth = [boxes_of(source.masks(row), settings.things) for row in range(len(source))]
    there = [row for row, boxes in enumerate(truth) if len(boxes)]
    if not there:
        said = "classes above 0" if settings.things is None else f"classes {settings.things}"
        raise ValueError(f"the masks of {source.spec} have no object, a region of {said}; expected one in some image")
    source, truth = source.take(there), [truth[row] for row in there]
    whole = [(0, 0, *source.masks(row).shape) for row in range(len(source))]
    more = {
        "right": "one box, overlapping a true one by half (IoU); true: around every connected region of one class",
        "things": settings.things,
        "without_objects": len(subject.splits["test"]) - len(there),
        "whole_image_as_box": float(right(np.array(whole, float), truth).mean()),
    }
    scores, drawn = [], {}
    for reader in readers(subject.encoders, source, size=settings.size, want=("tokens", "keys", "attention")):
        found, said = locate(reader, source, settings)
        for task, boxes in found.items():
            scores.append(
                over_images(task, reader.name, right(boxes, truth), {**said[task], **reader.described(), **more})
            )
            drawn[f"{'LOST' if task == 'corloc' else 'attention'}, {reader.name}"] = boxes
    picture(subject.workdir / "boxes.png", source, shown_rows(len(source)), truth, drawn)
    return scores
