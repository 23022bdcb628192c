"""`folder:PATH`: image files below a folder or listed in a manifest, of any size, some of them perhaps broken."""

import collections
import concurrent.futures
import dataclasses
import io
import os
import time

import numpy as np
from absl import logging

from jssl.data.decode import BadImage, decode, open_image, upright_size
from jssl.data.manifest import read_manifest
from jssl.data.source import Source

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
OTHERS = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".ppm", ".pgm", ".exr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),  # of cameras
)  # images too, but not read: they are counted
HEADERS = 200_000  # files whose headers are read at opening: about a minute
HELD = 512  # pixels, the longest side of images that are kept in memory: larger ones are cheaper to crop here
CHECKED = 150e6  # pixels decoded at opening to find files that break half-way: a few seconds


@dataclasses.dataclass(frozen=True)
class Files:
    """Opens file `row`. Small enough to be sent to the worker processes."""

    root: str
    names: list[str]

    def __call__(self, row):
        try:
            with open(self.path(row), "rb") as file:
                return open_image(io.BytesIO(file.read()))
        except OSError as error:
            raise BadImage(error.strerror) from None

    def size(self, row):
        """(height, width), from the header alone."""
        try:
            with open(self.path(row), "rb") as file:
                image = open_image(file)
                # A PNG may keep its rotation behind its pixels: too far to look for it here.
                return image.size[::-1] if image.format == "PNG" else upright_size(image)
        except OSError as error:
            raise BadImage(error.strerror) from None

    def path(self, row):
        return os.path.join(self.root, self.names[row])


def open_folder(spec, path, rows, channels, max_bad, fits):
    """A Source of the files that `listed` finds; `rows` is a slice of them.

    Files that cannot be decoded are named in the log and left out; more than `max_bad` of them is an error.
    """
    began = time.monotonic()
    files, named, _ = listed(spec, path, rows)
    kept, bad, images = scan(files, channels, fits)
    check_bad(spec, bad, len(files.names), max_bad)
    source = Source(
        spec=spec,
        names=[files.names[row] for row in kept],
        channels=channels,
        images=images,
        open=Files(files.root, [files.names[row] for row in kept]),
        bad=tuple(bad),
        max_bad=max_bad,
        **{field: _rows(value, kept) for field, value in named.items()},
    )
    classes = f" in {len(source.label_names)} classes" if source.label_names else _stray(source.names)
    where = "on disk" if images is None else f"in memory, {images.nbytes >> 20} MiB"
    seconds = time.monotonic() - began
    logging.info("%s: %d images%s (%s), %d bad, %.1f s", spec, len(source), classes, where, len(bad), seconds)
    return source


def listed(spec, path, rows=slice(None)):
    """-> Files, {"labels", "label_names", "groups", "group_names"} as `read_manifest` has them, what is not read of the
    folder, as text or "", which the log says too; nothing is opened yet.

    path: a folder, whose images come sorted by name and whose labels are the first folders of the names, where every
    file is in one and there are two or more; or a manifest, see `read_manifest`, in its order.
    """
    named, others = {"labels": None, "label_names": None, "groups": None, "group_names": None}, ""
    if path.lower().endswith(".csv") and os.path.isfile(path):
        root, names, named = read_manifest(spec, path)
        for name in names[rows] if len(names) <= HEADERS else ():
            if not os.path.exists(os.path.join(root, name)):
                raise FileNotFoundError(
                    f"{spec}: there is no file {name}, which {path} lists; paths are relative to it"
                )
    elif os.path.isdir(path):
        root, (names, others) = path, list_images(path)
        if not names:
            found = f"; found {others}" if others else ""
            raise ValueError(f"{spec}: no images below {path}, expected files named {', '.join(SUFFIXES)}{found}")
        if others:
            logging.warning("%s: %s are not read", spec, others)
    elif os.path.exists(path):
        raise ValueError(f"{spec}: {path} is a file, expected a folder or a manifest named .csv")
    else:
        raise FileNotFoundError(f"{spec}: {path} is not there, expected a folder or a manifest named .csv")
    if not names[rows]:
        raise ValueError(f"{spec}: the slice keeps none of the {len(names)} images")
    if named["labels"] is None:
        named["labels"], named["label_names"] = labels_of(names)
    return Files(root, names[rows]), {field: _rows(value, rows) for field, value in named.items()}, others


def _rows(value, rows):
    """Rows of an array; names and None as they are."""
    return value[rows] if isinstance(value, np.ndarray) else value


def list_images(path):
    """-> names below `path`, sorted, with / between folders; "3 files of other types (.heic)", or "". Links are
    followed, hidden files and folders are not read."""
    names, others, seen = [], collections.Counter(), set()
    for folder, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            below = os.path.relpath(folder, path)
            files = [name for name in files if not name.startswith(".")]
            found = [name for name in files if name.lower().endswith(SUFFIXES)]
            names += [name if below == "." else os.path.join(below, name).replace(os.sep, "/") for name in found]
            others.update(os.path.splitext(name.lower())[1] for name in files if name.lower().endswith(OTHERS))
        seen.add(real)
    said = f"{others.total():,} files of other types ({', '.join(sorted(others))})" if others else ""
    return sorted(names), said


def labels_of(names):
    """-> int32 [N] and the classes' names, or (None, None)."""
    folders = [name.partition("/")[0] if "/" in name else None for name in names]
    classes = sorted(set(folders), key=str)
    if None in classes or len(classes) < 2:
        return None, None
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in folders], np.int32), tuple(classes)


def _stray(names):
    """Why there are no classes, where four of five images lie in folders, as text or ""."""
    loose = [name for name in names if "/" not in name]
    if not 0 < len(loose) <= len(names) / 5:
        return ""
    return f", of no classes since not all lie in sub-folders, such as {loose[0]}"


def scan(files, channels, fits):
    """Reads the headers, then, where that takes seconds, every pixel.

    -> rows that can be read, [(name, reason)] of the others, images uint8 [N, H, W, C] if they are of one size and fit.
    """
    n, images = len(files.names), None
    if n > HEADERS:
        logging.info("%s: %d files, too many to look into now: bad ones are left out as they come", files.root, n)
        return list(range(n)), [], None
    with concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        found = dict(enumerate(pool.map(lambda row: _try(files.size, row), range(n))))  # row -> (h, w) or BadImage
        good, pixels, one_size = _readable(found)
        hold = one_size and pixels * channels <= fits and max(found[good[0]]) <= HELD
        if hold:
            images = np.empty((n, *found[good[0]], channels), np.uint8)
        if hold or pixels <= CHECKED:
            found |= zip(good, pool.map(lambda row: _try(_load, files, row, channels, images), good))
            good, _, one_size = _readable(found)
    bad = [(files.names[row], str(size)) for row, size in found.items() if isinstance(size, BadImage)]
    for name, reason in bad:
        logging.warning("%s is left out: %s", os.path.join(files.root, name), reason)
    if images is not None and bad:
        images = images[good]
    return good, bad, images if one_size else None


def check_bad(spec, bad, n, max_bad):
    """Raises ValueError where more than the share `max_bad` of n files is bad: [(name, reason)]."""
    if len(bad) > max_bad * n or len(bad) == n:
        named = "; ".join(f"{name}: {reason}" for name, reason in bad[:3]) + ("; ..." if len(bad) > 3 else "")
        raise ValueError(
            f"{spec}: {len(bad)} of {n} images cannot be decoded, more than data.max_bad={max_bad:g} allows ({named})"
        )


def _readable(found):
    good = [row for row, size in found.items() if not isinstance(size, BadImage)]
    return good, sum(found[row][0] * found[row][1] for row in good), len({found[row] for row in good}) == 1


def _load(files, row, channels, images):
    pixels = np.asarray(decode(files(row), channels))
    if images is not None and pixels.shape[:2] == images.shape[1:3]:
        images[row] = pixels.reshape(images.shape[1:])
    return pixels.shape[:2]


def _try(read, *args):
    try:
        return read(*args)
    except BadImage as error:
        return error
