"""How many planted copies `jssl curate` finds, how many of its finds are copies, how long the search takes.

    python -m benchmarks.curate --images npz:flickr8k_1000/images128.npz --images folder:PHOTOS
    python -m benchmarks.curate --images ... --search 200000

Of each set a folder is made: its images, and of every fourth one five edited copies: resized to 40 to 80 %, compressed
at quality 30, cropped to 95 % of each side at a random place, mirrored, and all of that together. A copy is found where
it and its original are in one group. Precision: the share of near-duplicates removed that are
copies of the image kept; what a set holds of copies of its own counts against it. The search is timed on random
descriptors in a file, of which 1 % are copies with noise.
"""

import argparse
import csv
import io
import os
import pathlib
import resource
import tempfile
import time

import numpy as np
from PIL import Image

EDITS = ("resized", "recompressed", "cropped", "mirrored", "all")
EVERY = 4  # images to one that is copied


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.curate", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--images", action="append", required=True, help="folder:PATH, or npz:FILE of `jpeg` and `offsets`"
    )
    parser.add_argument("--most", type=int, default=1000, help="images of each set")
    parser.add_argument("--threshold", type=float, action="append", help="(default: that of jssl curate)")
    parser.add_argument("--search", type=int, default=200_000, help="descriptors; 0: no search")
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args(argv)

    from benchmarks import results
    from jssl.curate import THRESHOLD

    rows, notes = [], [" ".join(__doc__.split("\n\n")[2].split())]
    for spec in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            plant(pathlib.Path(folder, "photos"), spec, arguments.most)
            rows += [planted(folder, spec, threshold) for threshold in arguments.threshold or [THRESHOLD]]
    if arguments.search:
        notes.append(searched(arguments.search))
    results.write(arguments.out or results.FOLDER, "curate", "Planted copies found", rows, notes)


def pictures(spec, most):
    """PIL images of a set, at most so many, at random."""
    kind, _, path = spec.partition(":")
    if kind == "npz":
        packed = np.load(path)
        data, offsets = packed["jpeg"], packed["offsets"]
        read = lambda i: io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())
        n = len(offsets) - 1
    else:
        from jssl.data.folder import listed

        files = listed(spec, path)[0]
        read, n = files.path, len(files.names)
    for i in sorted(np.random.default_rng(0).permutation(n)[:most].tolist()):
        yield Image.open(read(i)).convert("RGB")


def plant(folder, spec, most):
    """Writes 0000.png, ... and of every fourth 0000-EDIT.png or .jpg."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i, image in enumerate(pictures(spec, most)):
        image.save(folder / f"{i:05}.png")
        if i % EVERY == 0:
            width, height = (round(side * 0.95) for side in image.size)
            left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
            cropped = image.crop((left, top, left + width, top + height))
            flip = Image.Transpose.FLIP_LEFT_RIGHT
            smaller(image, rng.uniform(0.4, 0.8)).save(folder / f"{i:05}-resized.png")
            image.save(folder / f"{i:05}-recompressed.jpg", quality=30)
            cropped.save(folder / f"{i:05}-cropped.png")
            image.transpose(flip).save(folder / f"{i:05}-mirrored.png")
            smaller(cropped, rng.uniform(0.4, 0.8)).transpose(flip).save(folder / f"{i:05}-all.jpg", quality=30)


def smaller(image, share):
    return image.resize([max(1, round(side * share)) for side in image.size], Image.Resampling.BICUBIC)


def planted(folder, spec, threshold):
    """-> a row of the table"""
    from jssl.curate import curate

    folder = pathlib.Path(folder)
    began = time.monotonic()
    curate(f"folder:{folder}/photos", folder / "out", threshold=threshold, min_side=8)
    seconds = time.monotonic() - began
    name = lambda path: os.path.splitext(os.path.basename(path))[0]
    of = {
        name(row["path"]): name(row["duplicate_of"])
        for row in csv.DictReader((folder / "out" / "removed.csv").read_text().splitlines())
        if row["reason"] == "duplicate"
    }
    files = [name(file) for file in os.listdir(folder / "photos")]
    head = lambda file: of.get(file, file)  # the one kept of its group
    path = pathlib.Path(spec.partition(":")[2])
    row = {
        "images": path.name if spec.startswith("folder:") else path.parent.name,
        "files": len(files),
        "threshold": threshold,
    }
    for edit in EDITS:
        copies = [file for file in files if file.endswith(f"-{edit}")]
        row[f"{edit} %"] = 100 * np.mean([head(file) == head(file.partition("-")[0]) for file in copies]).item()
    right = [file.partition("-")[0] == kept.partition("-")[0] for file, kept in of.items()]
    return {**row, "precision %": 100 * float(np.mean(right)) if right else None, "seconds": round(seconds)}


def searched(count):
    """A line on the search among so many descriptors."""
    from benchmarks.results import device
    from jssl.curate import THRESHOLD
    from jssl.curate.near import groups
    from jssl.data import descriptor

    rng, block, planted = np.random.default_rng(0), 4096, 0
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        x = np.lib.format.open_memmap(file.name, "w+", np.float16, (count, descriptor.DIM))
        for start in range(0, count, block):
            rows = rng.standard_normal((min(block, count - start), descriptor.DIM), np.float32)
            copies = len(rows) // 100
            planted += copies
            rows[:copies] = rows[-copies:] + 0.2 * rng.standard_normal((copies, descriptor.DIM), np.float32)
            x[start : start + block] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        before, began = peak(), time.monotonic()
        first = groups(x, THRESHOLD, descriptor.split)
        found, seconds = int((first != np.arange(count)).sum()), time.monotonic() - began
    return (
        f"Search among {count:,} descriptors of {descriptor.DIM} numbers ({x.nbytes >> 20:,} MiB on disk), mirrored "
        f"ones too: {seconds:,.0f} s on a {device()}, {found:,} copies found of {planted:,} planted; the "
        f"process's peak was {before:,} MiB before and {peak():,} MiB after, pages of the file included."
    )


def peak():
    """MiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
