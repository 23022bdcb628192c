"""Sources: rows of images, opened from a line of text, `KIND[:PATH][@[SPLIT][a:b]]`."""

import dataclasses
import difflib
import os
import re
from collections.abc import Sequence

import numpy as np

KINDS = ("digits", "npz", "folder", "tfds")


class BadImage(ValueError):
    """An image that cannot be decoded; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Rows of images, by number.

    images: uint8 [N, H, W, C], or None where they stay on disk; labels: int32 [N] or None; names: N texts (file names,
    or row numbers in the original set); bad: [(name, reason)] of what was left out when the source was opened.
    """

    spec: str
    names: Sequence[str]
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    bad: tuple[tuple[str, str], ...] = ()

    def __len__(self):
        return len(self.names)

    @property
    def shape(self):
        """(H, W, C) of every image, or None where images differ or stay on disk: those the host crops."""
        return None if self.images is None else self.images.shape[1:]

    def image(self, row):
        """-> uint8 [H, W, C]; raises BadImage where the file cannot be decoded."""
        return self.images[row]


def open_source(spec, channels=None, max_bad=0.01):
    """Opens "digits@test", "npz:PATH@[:10000]", "folder:PATH" or "tfds:NAME@train[:90%]".

    channels: 1 (grey) or 3 (RGB); None keeps what arrays have and makes files RGB. max_bad: the share of files that may
    be undecodable. Raises ValueError or FileNotFoundError.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels = {channels}: expected 1 (grey), 3 (RGB) or None (as the data has it)")
    kind, _, rest = re.fullmatch(r"(\w*)(:?)(.*)", spec, re.DOTALL).groups()
    if kind == "digits":
        return _digits(spec, rest, channels)
    if kind == "npz" and rest:
        return _npz(spec, rest, channels)
    near = difflib.get_close_matches(kind, KINDS, 1) or KINDS
    raise ValueError(f"data source {spec!r}: expected KIND[:PATH][@[SPLIT][a:b]], KIND {' or '.join(near)}")


def _digits(spec, rest, channels):
    """scikit-learn's handwritten digits, 1,297 for training and 50 of each class for testing."""
    from sklearn.datasets import load_digits

    split, rows = _split(spec, rest.removeprefix("@"), ("train", "test", "all"), "train")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    test = np.zeros(len(images), bool)
    shuffled = np.random.RandomState(0).permutation(len(images))  # a stream that numpy has promised never to change
    for label in range(10):
        test[shuffled[digits.target[shuffled] == label][:50]] = True
    keep = np.flatnonzero({"train": ~test, "test": test, "all": test | True}[split])[rows]
    names = [str(row) for row in keep]
    labels = digits.target[keep].astype(np.int32)
    return Source(
        spec=spec,
        names=names,
        images=with_channels(images[keep], channels),
        labels=labels,
        label_names=tuple("0123456789"),
    )


def _npz(spec, rest, channels):
    path, rows = _path(spec, rest)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{spec}: there is no file {path}")
    try:
        arrays = np.load(path, allow_pickle=False)
        keys = arrays.files
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{spec}: not an .npz of arrays ({error})") from None
    key = next((key for key in ("image", "images", "x") if key in keys), None)
    if key is None:
        raise ValueError(f"{spec}: expected an array `image` (or `images`, `x`), found {', '.join(keys) or 'nothing'}")
    images = arrays[key]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{spec}: `{key}` is {images.dtype} {list(images.shape)}, expected uint8 [N, H, W, C]")
    key = next((key for key in ("label", "labels", "y") if key in keys), None)
    labels = arrays[key] if key else None
    if key and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise ValueError(f"{spec}: `{key}` is {labels.dtype} {list(labels.shape)}, expected integers [{len(images)}]")
    names = [str(row) for row in range(len(images))[rows]]
    return Source(
        spec=spec,
        names=names,
        images=with_channels(images[rows], channels),
        labels=labels[rows].astype(np.int32) if key else None,
        label_names=tuple(str(name) for name in arrays["label_names"]) if "label_names" in keys else None,
    )


def with_channels(images, channels):
    """uint8 [..., C] -> uint8 [..., channels]: grey repeated, or RGB's luma (ITU-R 601, as Pillow computes it)."""
    if channels in (None, images.shape[-1]):
        return images
    if images.shape[-1] == 1:
        return np.repeat(images, channels, -1)
    if images.shape[-1] != 3:
        raise ValueError(f"images have {images.shape[-1]} channels: only 1 or 3 can become {channels}")
    luma = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def _path(spec, rest):
    """Cuts `PATH@[a:b]`; a file whose own name has an @ is taken as it is. -> path, slice"""
    path, at, tail = rest.rpartition("@")
    if not at or os.path.exists(rest):
        return rest, slice(None)
    return path, _split(spec, tail, (), "")[1]


def _split(spec, tail, splits, default):
    """Reads `[SPLIT][a:b]` -> split, slice"""
    match = re.fullmatch(r"(\w*)(?:\[(-?\d+)?:(-?\d+)?\])?", tail)
    if not match or (match[1] and match[1] not in splits):
        names = f"@{' or @'.join(splits)}, with or without" if splits else "@"
        raise ValueError(f"{spec}: cannot read {'@' + tail!r}, expected {names} a slice such as [:1000]")
    a, b = (int(x) if x else None for x in match.groups()[1:])
    return match[1] or default, slice(a, b)
