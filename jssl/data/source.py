"""Sources: rows of images, opened from one line of text, `KIND[:PATH][@[SPLIT][a:b]]`."""

import dataclasses
import difflib
import os
import re
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from jssl.data.decode import decode

KINDS = ("digits", "npz", "folder", "tfds")
DENSE = ("masks", "mvtec")  # opened by `jssl.data.masks`
GRAPHS = ("knn", "pixels", "planetoid", "tu", "edges")  # opened by `jssl.data.graph`, and so is an npz that holds edges


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Rows of images, by number: all in memory and of one size (`images`), or opened one at a time (`open`).

    names: N texts (file names, or row numbers in the original set); channels: C of every image; images: uint8
    [N, H, W, C] or None; open: row -> PIL image of any size, not yet decoded, or None; labels: int32 [N] or None;
    groups: int32 [N] or None, of people or places, for `jssl.evals.fairness`: training never sees them; bad: [(name,
    reason)] of what was left out at opening; max_bad: the share of files that may be bad.
    """

    spec: str
    names: Sequence[str]
    channels: int
    images: np.ndarray | None = None
    open: Callable[[int], Image.Image] | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    groups: np.ndarray | None = None
    group_names: tuple[str, ...] | None = None
    bad: tuple[tuple[str, str], ...] = ()
    max_bad: float = 0.01

    modality = "image"
    said = ()  # of what was done to the data

    def __len__(self):
        return len(self.names)

    @property
    def examples(self):
        """How many rows features have."""
        return len(self)

    @property
    def contents(self):
        """How much there is, for people."""
        return f"{len(self):,} images"

    def blank(self, size):
        """One example of zeros, as a batch; of images on disk, of so many pixels."""
        return {"image": np.zeros((1, *(self.shape or (size, size, self.channels))), np.uint8)}

    @property
    def arrays(self):
        """{name: [N, ...]} of what is in memory, as batches name it, or None."""
        return None if self.images is None else {"image": self.images}

    @property
    def shape(self):
        """(H, W, C) of the images in memory, or None: those on disk are cropped by the host."""
        return None if self.images is None else self.images.shape[1:]

    @property
    def train_labels(self):
        """Labels that training may look at."""
        return self.labels

    def leading(self, batch_size, rows=None):
        """The length of a batch's arrays."""
        return batch_size

    def shapes(self, batch_size, leading, crops=None):
        """{name: (shape, dtype)} of one global batch."""
        index = {"index": ((batch_size,), np.int32)}
        if self.images is not None:
            return {**index, "image": ((batch_size, *self.shape), np.uint8)}
        shape = lambda crop: (batch_size, crop.views, crop.size, crop.size, self.channels)
        return index | {crop.name: (shape(crop), np.uint8) for crop in crops}

    def stream(self, *, leading=None, together=1, **how):
        """Training batches, see `pipeline.stream`; all are of the same shapes."""
        from jssl.data import pipeline

        return pipeline.stream(self, **how)

    def every(self, *, leading=None, **how):
        """One pass over the rows in order, see `pipeline.every`."""
        from jssl.data import pipeline

        return pipeline.every(self, **how)

    def take(self, rows):
        """The source of these rows alone, int [M], in their order."""
        return dataclasses.replace(
            self,
            names=[self.names[row] for row in rows],
            images=None if self.images is None else self.images[rows],
            open=None if self.open is None else Taken(self.open, rows),
            labels=None if self.labels is None else self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            bad=(),
        )

    def image(self, row):
        """-> uint8 [H, W, C]; raises BadImage where it cannot be decoded."""
        if self.images is not None:
            return self.images[row]
        pixels = np.asarray(decode(self.open(row), self.channels))
        return pixels if pixels.ndim == 3 else pixels[..., None]


@dataclasses.dataclass(frozen=True)
class Taken:
    """`open` of some rows, or what else there is to each row; a class, since worker processes are sent it."""

    open: Callable
    rows: Sequence[int]

    def __call__(self, row):
        return self.open(int(self.rows[row]))


def open_source(spec, channels=None, max_bad=0.01, fits=512 << 20):
    """Opens "digits@test", "npz:PATH@[:10000]", "folder:PATH" (or MANIFEST.csv), "masks:PATH", "mvtec:PATH@test",
    "tfds:NAME@train[:90%]" -> Source.

    channels: 1 (grey) or 3 (RGB); None keeps what arrays have and makes files RGB. max_bad: the share of files that may
    be undecodable. fits: bytes up to which decoded files of one size are kept in memory. Raises ValueError or
    FileNotFoundError, in one line.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: expected 1 (grey), 3 (RGB) or None (as the data has it)")
    kind, colon, rest = re.match(r"(\w*)(:?)(.*)", spec, re.DOTALL).groups()
    if kind in GRAPHS or (kind == "npz" and holds_edges(rest)):
        from jssl.data.graph import open_graphs

        return open_graphs(spec)
    if kind == "digits" and not colon:
        return _digits(spec, rest, channels)
    if kind == "npz" and rest:
        return open_npz(spec, rest, channels)
    if kind == "folder" and rest:
        from jssl.data.folder import open_folder

        return open_folder(spec, *path_and_slice(spec, rest), channels or 3, max_bad, fits)
    if kind in DENSE and rest:
        from jssl.data.masks import open_dense

        return open_dense(spec, kind, rest, channels, max_bad, fits)
    if kind == "tfds" and rest:
        from jssl.data.prepared import open_prepared

        return open_prepared(spec, rest, channels, max_bad, fits)
    from jssl.data.graph import FORMS

    forms = {"digits": "digits[@SPLIT]", "npz": "npz:PATH", "folder": "folder:PATH", "tfds": "tfds:NAME[@SPLIT]"}
    forms |= {"masks": "masks:PATH", "mvtec": "mvtec:PATH@SPLIT"}
    forms = {**FORMS, **forms}
    near = difflib.get_close_matches(kind, forms, 1) or KINDS
    if os.path.exists(path := os.path.expanduser(spec)):
        raise ValueError(f"data source {spec!r} says no kind: expected {_kind(path)}:{spec}")
    raise ValueError(f"unknown data source {spec!r}: expected {' or '.join(forms[kind] for kind in near)}")


def _kind(path):
    """The kind of source that a path is most likely meant as."""
    if not os.path.isdir(path):
        return "npz" if path.endswith(".npz") else "folder"
    ends = {"tu": "_graph_indicator.txt", "planetoid": ".test.index"}
    return next((kind for kind, end in ends.items() if any(file.endswith(end) for file in os.listdir(path))), "folder")


def holds_edges(path):
    """Whether an .npz is of graphs."""
    try:
        with zipfile.ZipFile(os.path.expanduser(path)) as file:
            return "edges.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False  # said where it is opened


def path_and_slice(spec, rest):
    """Cuts `PATH@[a:b]`; a path that has an @ of its own is taken as it is. -> path, slice"""
    path, at, tail = rest.rpartition("@")
    if not at or os.path.exists(rest):
        return os.path.expanduser(rest), slice(None)
    return os.path.expanduser(path), split_and_slice(spec, tail, ())[1]


def with_channels(spec, images, channels):
    """uint8 [..., C] -> uint8 [..., channels]: grey repeated, or RGB's luma (ITU-R 601, as Pillow computes it)."""
    if channels in (None, images.shape[-1]):
        return images
    if images.shape[-1] == 1:
        return np.repeat(images, channels, -1)
    if images.shape[-1] != 3:
        raise ValueError(f"{spec}: images have {images.shape[-1]} channels, which cannot become {channels}")
    luma = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def _digits(spec, rest, channels):
    """scikit-learn's handwritten digits: 50 of each class for testing, the other 1,297 for training."""
    from sklearn.datasets import load_digits

    split, rows = split_and_slice(spec, rest.removeprefix("@"), ("train", "test", "all"))
    digits = load_digits()
    test = np.zeros(len(digits.target), bool)
    shuffled = np.random.RandomState(0).permutation(len(test))  # a stream that numpy has promised never to change
    for label in range(10):
        test[shuffled[digits.target[shuffled] == label][:50]] = True
    keep = np.flatnonzero({"train": ~test, "test": test, "all": test | True}[split])[rows]
    images = np.round(digits.images[keep] * (255 / 16)).astype(np.uint8)[..., None]
    names, label_names = [str(row) for row in keep], tuple("0123456789")
    return _held(spec, names, with_channels(spec, images, channels), digits.target[keep], label_names)


def open_npz(spec, rest, channels):
    path, rows = path_and_slice(spec, rest)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{spec}: there is no file {path}")
    try:
        arrays = dict(np.load(path, allow_pickle=False))
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{spec}: cannot be read as an .npz of arrays ({error})") from None

    key = next((key for key in ("image", "images", "x") if key in arrays), None)
    if key is None:
        raise ValueError(f"{spec}: expected an array `image` (or `images`, `x`), found {', '.join(arrays) or 'none'}")
    images = arrays[key][..., None] if arrays[key].ndim == 3 else arrays[key]
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{spec}: `{key}` is {images.dtype} {list(images.shape)}, expected uint8 [N, H, W, C] or [N, H, W]"
        )
    key = next((key for key in ("label", "labels", "y") if key in arrays), None)
    labels = arrays.get(key)
    if key and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"{spec}: `{key}` is {labels.dtype} {list(labels.shape)}, expected whole numbers [{len(images)}]"
        )
    names = [str(row) for row in range(len(images))[rows]]
    label_names = tuple(str(name) for name in arrays["label_names"]) if "label_names" in arrays else None
    groups, group_names = _groups(spec, arrays, len(images))
    source = _held(spec, names, with_channels(spec, images[rows], channels), labels[rows] if key else None, label_names)
    return dataclasses.replace(source, groups=None if groups is None else groups[rows], group_names=group_names)


def _groups(spec, arrays, n):
    """The array `groups` of an .npz, whole numbers from 0 or texts -> int32 [n] and names, or None and None."""
    groups = arrays.get("groups", arrays.get("group"))
    if groups is None:
        return None, None
    if groups.shape != (n,) or groups.dtype.kind not in "iuU" or (groups.dtype.kind == "i" and groups.min() < 0):
        raise ValueError(
            f"{spec}: `groups` is {groups.dtype} {list(groups.shape)}, expected whole numbers from 0 or texts [{n}]"
        )
    if groups.dtype.kind == "U":
        names, groups = np.unique(groups, return_inverse=True)
    else:
        names = arrays.get("group_names", np.arange(groups.max() + 1))
        if len(names) <= groups.max():
            raise ValueError(f"{spec}: group {groups.max()} has no name, `group_names` has {len(names)}")
    return groups.astype(np.int32), tuple(map(str, names))


def _held(spec, names, images, labels, label_names):
    if not names:
        raise ValueError(f"{spec}: no images are left, expected a slice that keeps some")
    labels = None if labels is None else labels.astype(np.int32)
    channels = images.shape[-1]
    return Source(spec=spec, names=names, channels=channels, images=images, labels=labels, label_names=label_names)


def split_and_slice(spec, tail, splits):
    """Reads `[SPLIT][a:b]` -> split (the first of them by default), slice"""
    match = re.fullmatch(r"(\w*)(?:\[(-?\d+)?:(-?\d+)?\])?", tail)
    if not match or (match[1] and match[1] not in splits):
        named = f"{', '.join('@' + split for split in splits)} or " if splits else ""
        near = difflib.get_close_matches(tail, splits, 1)
        hint = f"; did you mean @{near[0]}?" if near else ""
        raise ValueError(f"{spec}: cannot read @{tail}, expected {named}a slice such as @[:1000]{hint}")
    start, stop = (int(bound) if bound else None for bound in match.groups()[1:])
    return match[1] or (splits[0] if splits else ""), slice(start, stop)
