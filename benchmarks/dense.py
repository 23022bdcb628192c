"""Segmentation of CamVid, and defects planted in its asphalt, by a MAE trained on its images alone.

    python -m benchmarks.dense --camvid FOLDER    # with train.npz and test.npz: jpeg, offsets and mask, 11 is void

The MAE is small, of 1,200 steps and one seed: the figures show what these protocols say, not how good MAE is. The
images that pick the penalty are frames of the same drives as those fitted on, so validation is easier than the test.
Asphalt: squares of 64 pixels of nothing but road, good ones of training images to learn from, others of test images;
half of these get a crack (a dark random walk), a spot (a pale ellipse) or a patch (of another part of the image).
"""

import argparse
import io
import itertools
import json
import pathlib

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
ROAD, SQUARE = NAMES.index("road"), 64  # pixels
KINDS = ("crack", "spot", "patch")
FIELDS = {
    "augment.size": 64,
    "augment.flip": 0.5,
    "augment.interpolation": "bilinear",
    "encoder.patch": 8,
    "encoder.dim": 96,
    "encoder.depth": 4,
    "method.decoder_dim": 48,
    "method.decoder_depth": 1,
    "train.batch_size": 64,
    "eval.every": 0,
    "log_every": 100,
    "checkpoint.every": 400,
}


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.dense", description=__doc__.partition("\n")[0])
    parser.add_argument("--camvid", required=True, help="a folder of train.npz and test.npz")
    parser.add_argument("--workdir", default="runs/dense", help="where data and run go; a finished run is used again")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args(argv)

    from benchmarks import results
    from jssl.config import load
    from jssl.evals.run import evaluate
    from jssl.train import train

    folder = pathlib.Path(arguments.workdir)
    run, asphalt = folder / "run", folder / "asphalt"
    masks = {split: f"masks:{unpacked(arguments.camvid, split, folder)}" for split in ("train", "test")}
    if not (run / "encoder" / "weights.npz").is_file():
        data = {"data.source": masks["train"], "data.eval_source": masks["test"], "train.steps": arguments.steps}
        train(load("experiments/mae.py:demo", FIELDS | data), run)
    if not asphalt.is_dir():
        plant(masks, asphalt)
    parts = {split: f"mvtec:{asphalt}@{split}" for split in ("train", "test")}
    rows, notes = [], [" ".join(__doc__.split("\n\n")[2].split())]
    for protocol, data, options in (("dense", masks, {}), ("anomaly", parts, {"size": str(2 * SQUARE)})):
        evaluate(run, protocol=protocol, data=data["train"], test=data["test"], options={protocol: options})
        content = json.loads((run / "scores.json").read_text())
        rows += table(content["scores"])
        notes += [f"{one['task']}: {one['words']}." for one in content["comparisons"]]
        notes += [said(score) for score in content["scores"] if score["encoder"] == "trained"]
    results.write(arguments.out or results.FOLDER, "dense_camvid_cpu", "Dense scores on CamVid", rows, notes)


def unpacked(camvid, split, folder):
    """A pack of JPEGs as arrays that `masks:` opens -> its path."""
    path, packed = folder / f"{split}.npz", np.load(pathlib.Path(camvid, f"{split}.npz"))
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        ends = packed["offsets"]
        files = (io.BytesIO(packed["jpeg"][a:b].tobytes()) for a, b in itertools.pairwise(ends))
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        mask = np.where(packed["mask"] == len(NAMES), 255, packed["mask"]).astype(np.uint8)
        np.savez(path, images=images, masks=mask, class_names=NAMES)
    return path


def plant(masks, folder):
    """Squares of asphalt, with defects in every second of the test images', in the layout of MVTec AD."""
    from jssl.data import open_source

    for split, spec in masks.items():
        source = open_source(spec)
        for row in range(len(source)):
            rng = np.random.default_rng((split == "test", row))
            image, mask = source.image(row), source.masks(row)
            place = somewhere(rng, mask)
            if place is None:
                continue
            square = np.s_[place[0] : place[0] + SQUARE, place[1] : place[1] + SQUARE]
            part, kind = image[square], KINDS[row // 2 % len(KINDS)] if split == "test" and row % 2 else "good"
            if kind != "good":
                part, defect = with_defect(rng, part, kind, image[:SQUARE, :SQUARE])
                save(defect, folder / "ground_truth" / kind / f"{row:03}_mask.png")
            save(part, folder / split / kind / f"{row:03}.png")


def somewhere(rng, mask):
    """The corner of a square of road alone, or None."""
    for _ in range(200):
        y, x = rng.integers(0, np.array(mask.shape) - SQUARE + 1)
        if (mask[y : y + SQUARE, x : x + SQUARE] == ROAD).all():
            return y, x
    return None


def with_defect(rng, part, kind, other):
    """-> the part with a defect, and where it is, uint8 [SQUARE, SQUARE], 255 there."""
    where = Image.new("L", (SQUARE, SQUARE))
    draw, centre = ImageDraw.Draw(where), rng.integers(14, SQUARE - 14, 2)
    if kind == "crack":
        steps = rng.normal(0, 1.2, (24, 2)) + rng.normal(0, 1, 2)
        path = np.clip(centre + np.cumsum(steps, 0), 2, SQUARE - 3)
        draw.line([tuple(point) for point in path], fill=255, width=2)
        changed = part * 0.45
    else:
        size = rng.integers(4, 9, 2)
        shape = draw.ellipse if kind == "spot" else draw.rectangle
        shape([*(centre - size), *(centre + size)], fill=255)
        changed = 0.6 * part + 0.4 * 235 if kind == "spot" else other
    defect = np.asarray(where)
    return np.where(defect[..., None] > 0, changed, part).astype(np.uint8), defect


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def table(scores):
    """One row for each task, one column for each encoder, in per cent with the 95 % interval."""
    from jssl.evals.scores import title

    show = lambda s: f"{100 * s['mean']:.1f} [{100 * s['low']:.1f}, {100 * s['high']:.1f}]"
    encoders, rows = list(dict.fromkeys(s["encoder"] for s in scores)), {}
    for score in scores:
        row = rows.setdefault(score["task"], {"%": title(score["task"]), **dict.fromkeys(encoders)})
        row[score["encoder"]] = show(score)
    return list(rows.values())


def said(score):
    """The protocol of a score on one line, and what it is class by class or kind by kind."""
    settings = ", ".join(f"{name}: {value}" for name, value in score["settings"].items() if value is not None)
    each = [f"{row['name']} {100 * row['iou']:.0f}" for row in score.get("classes", [])]
    each += [f"{row['kind']} {100 * row['auroc']:.0f} ({row['count']} parts)" for row in score.get("kinds", [])]
    return f"{score['task']}: {', '.join(each)}{'; ' if each else ''}{settings}."


if __name__ == "__main__":
    main()
