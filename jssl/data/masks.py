"""`masks:PATH`: images with a class or a depth for every pixel; `mvtec:PATH@SPLIT`: parts with and without defects."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
from PIL import Image

from jssl.data.source import Source, Taken, open_npz, path_and_slice, split_and_slice

VOID = 255  # the class of pixels that nobody has labelled
NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes of one number per pixel
MASKS, DEPTHS = (".png", ".bmp", ".tif", ".tiff", ".gif"), (".npy", ".png", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense(Source):
    """Images, and for each row what is known of its pixels, at the image's own size.

    masks: row -> uint8 [H, W], classes from 0, `VOID` where there is none; depths: row -> float32 [H, W], in the unit
    of the files, 0 where there is none; either may be None. class_names: of the masks, for people, or None.
    """

    masks: Callable[[int], np.ndarray] | None = None
    depths: Callable[[int], np.ndarray] | None = None
    class_names: tuple[str, ...] | None = None

    def take(self, rows):
        some = {name: Taken(read, rows) for name in ("masks", "depths") if (read := getattr(self, name)) is not None}
        return dataclasses.replace(super().take(rows), **some)


def open_dense(spec, kind, rest, channels, max_bad, fits):
    """A Dense source. Raises ValueError or FileNotFoundError, in one line, for maps that are missing or do not fit.

    masks:FILE.npz has `masks` uint8 [N, H, W], or `depth` float [N, H, W], beside the images of `npz:`, and maybe
    `class_names`. masks:FOLDER has images/, and in masks/ a grey or palette image of the same name, or in depth/ such
    an image or a float .npy, and maybe class names by line in classes.txt. mvtec:FOLDER@train is FOLDER/train/good,
    mvtec:FOLDER@test is FOLDER/test/KIND with FOLDER/ground_truth/KIND/*_mask.png, which good parts need not have:
    class 1 is a defect.
    """
    if kind == "mvtec":
        path, at, tail = rest.rpartition("@")
        path, (split, rows) = path if at else rest, split_and_slice(spec, tail if at else "", ("train", "test"))
        return _inspected(spec, os.path.expanduser(path), split, rows, channels, max_bad, fits)
    path, rows = path_and_slice(spec, rest)
    if path.lower().endswith(".npz"):
        return _of_arrays(spec, rest, path, rows, channels)
    return _of_folder(spec, path, rows, channels, max_bad, fits)


@dataclasses.dataclass(frozen=True)
class Maps:
    """Reads the map of a row from its file; without one it is of zeros. shapes: (H, W) of each; kind: 'masks', 'depths'
    or 'defects', which are 1 wherever a file is not 0."""

    spec: str
    files: list
    shapes: list
    kind: str

    def __call__(self, row):
        file = self.files[row]
        if file is None:
            return np.zeros(self.shapes[row], np.uint8)
        x = np.load(file) if file.endswith(".npy") else np.asarray(Image.open(file))
        if self.kind == "defects":
            return (x > 0).astype(np.uint8)
        return _checked(f"{self.spec}: {file}", x, self.kind)


def _of_arrays(spec, rest, path, rows, channels):
    base = open_npz(spec, rest, channels)
    found = {}
    with np.load(path) as arrays:
        for kind, keys in (("masks", ("masks", "mask")), ("depths", ("depths", "depth"))):
            key = next((key for key in keys if key in arrays), None)
            if key is None:
                continue
            maps = arrays[key][rows]
            if maps.shape != base.images.shape[:3]:
                n, height, width = base.images.shape[:3]
                raise ValueError(f"{spec}: `{key}` is {list(maps.shape)}, expected {[n, height, width]}, as the images")
            found[kind] = _checked(f"{spec}: `{key}`", maps, kind).__getitem__
        names = tuple(str(name) for name in arrays["class_names"]) if "class_names" in arrays else None
    if not found:
        raise ValueError(f"{spec}: expected an array `masks`, uint8 [N, H, W], or `depth`, float, beside the images")
    return _dense(base, class_names=names, **found)


def _of_folder(spec, path, rows, channels, max_bad, fits):
    from jssl.data.folder import open_folder

    there = {kind: os.path.join(path, kind) for kind in ("images", "masks", "depth")}
    there = {kind: folder for kind, folder in there.items() if os.path.isdir(folder)}
    if "images" not in there or len(there) < 2:
        found = ", ".join(f"{kind}/" for kind in there) or "neither"
        raise FileNotFoundError(f"{spec}: expected folders images/ and masks/ (or depth/) in {path}, found {found}")
    base = open_folder(spec, there["images"], rows, channels or 3, max_bad, fits)
    shapes, found = _shapes(base), {}
    for folder, kind, endings in (("masks", "masks", MASKS), ("depth", "depths", DEPTHS)):
        if folder in there:
            files = _beside(spec, path, folder, base.names, endings)
            found[kind] = Maps(spec, _of_shapes(spec, files, shapes), shapes, kind)
    names = os.path.join(path, "classes.txt")
    if os.path.isfile(names):
        with open(names, encoding="utf-8") as file:
            found["class_names"] = tuple(file.read().split("\n")[:VOID])
    return _dense(base, **found)


def _inspected(spec, path, split, rows, channels, max_bad, fits):
    from jssl.data.folder import open_folder

    folder = os.path.join(path, *(("train", "good") if split == "train" else ("test",)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{spec}: there is no folder {folder}, expected train/good and test/KIND in {path}")
    base = open_folder(spec, folder, rows, channels or 3, max_bad, fits)
    files = [None] * len(base)
    if split == "test":
        masked = [name for name in base.names if name.partition("/")[0] != "good"]
        masks = _beside(spec, path, "ground_truth", masked, (".png",), "_mask")
        files = [dict(zip(masked, masks)).get(name) for name in base.names]
    shapes = _shapes(base)
    maps = Maps(spec, _of_shapes(spec, files, shapes), shapes, "defects")
    return _dense(base, masks=maps, class_names=("good", "defect"))


def _dense(base, **fields):
    return Dense(**{field.name: getattr(base, field.name) for field in dataclasses.fields(base)}, **fields)


def _beside(spec, path, folder, names, endings, more=""):
    """The file of each image's name in another folder, with any of the `endings`."""
    files, missing = [], []
    for name in names:
        stem = os.path.join(path, folder, os.path.splitext(name)[0] + more)
        file = next((stem + ending for ending in endings if os.path.isfile(stem + ending)), None)
        files.append(file)
        if file is None:
            missing.append(name)
    if missing:
        wanted = f"{folder}/{os.path.splitext(missing[0])[0]}{more}{endings[0]}"
        raise FileNotFoundError(f"{spec}: {len(missing)} of {len(names)} images have no mask: expected {wanted}, ...")
    return files


def _shapes(source):
    """(H, W) of every image."""
    if source.images is not None:
        return [source.shape[:2]] * len(source)
    return [tuple(source.open.size(row)) for row in range(len(source))]


def _of_shapes(spec, files, shapes):
    """The files, once each is known to be of its image's size, and to hold one number per pixel."""
    for file, shape in zip(files, shapes):
        if file is None:
            continue
        try:
            if file.endswith(".npy"):
                mode, found = "L", np.load(file, mmap_mode="r").shape
            else:
                with Image.open(file) as image:
                    mode, found = image.mode, image.size[::-1]
        except (OSError, ValueError) as error:
            raise ValueError(f"{spec}: {file} cannot be read ({error})") from None
        if mode not in NUMBERS:
            raise ValueError(f"{spec}: {file} is {mode}; expected one number per pixel, a grey or palette image")
        if found != tuple(shape):
            size = lambda shape: " x ".join(str(side) for side in shape)
            raise ValueError(f"{spec}: {file} is {size(found)}, its image {size(shape)}; expected one size")
    return files


def _checked(where, x, kind):
    """Masks as uint8, depths as float32."""
    if kind == "masks":
        if x.dtype.kind not in "uib" or (x.size and (x.min() < 0 or x.max() > VOID)):
            raise ValueError(f"{where} has other numbers than 0 to {VOID}; expected a class per pixel, {VOID} for none")
        return x.astype(np.uint8)
    x = np.nan_to_num(x.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if x.size and x.min() < 0:
        raise ValueError(f"{where} has a depth of {x.min():g}; expected positive numbers, 0 for unknown")
    return x
