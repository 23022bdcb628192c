"""`jssl curate`: a folder without its broken, blank and doubled images, as a manifest that `folder:` reads.

After DINOv2's pipeline (Oquab et al., 2023; arXiv:2304.07193, section 3 and appendix A): copies are pairs whose
descriptors have a cosine above a threshold; of each connected component one image stays; then the pool's nearest
neighbours of a curated set are retrieved, 4 of each. The paper has a network of its own for copies and another to
retrieve; here copies are told by a descriptor that needs no training, since what an encoder finds alike is often no
copy. The paper joins each image to those of its 64 nearest that are above 0.6; here all pairs above 0.9 are joined.
"""

import contextlib
import functools
import os
import pathlib
import time

import numpy as np
from absl import logging

from jssl.curate import page
from jssl.curate.balance import balanced
from jssl.curate.near import groups, nearest, nearness
from jssl.data import default_workers, descriptor
from jssl.data.folder import Files, listed
from jssl.data.look import FINE, REASONS, look
from jssl.data.manifest import write_csv, write_manifest
from jssl.data.source import path_and_slice
from jssl.writers import clock

THRESHOLD = 0.9  # of descriptors, measured: benchmarks/results/curate.md
SAID = 15  # seconds between two lines on how far one has come
DUPLICATE, FAR, SURPLUS = "duplicate", "far", "surplus"  # the reasons beside those of `look`


def curate(
    data, out, workdir=None, like=None, count=None, *, neighbours=4, clusters=None, threshold=None, min_side=32,
    max_aspect=5.0, seed=0, workers=None,
):  # fmt: skip
    """Writes OUT/manifest.csv (what is kept), removed.csv (what is not, and why), report.html; returns a line of text.

    data: "folder:PATH", also of a manifest; nothing in it is touched. like: "folder:PATH" of a curated set: only the
    `neighbours` nearest images of each of its own are kept. count: how many to keep at most, evenly from `clusters`
    (default: the root of their number) of k-means. workdir: a run whose encoder says what is near for these two;
    without one the descriptor does. threshold: the cosine of descriptors above which two images are one. min_side:
    pixels of the shorter side; max_aspect: longer side / shorter. Nothing is resumed: what an earlier call wrote is
    overwritten.

    Features lie in files in OUT while this runs, in half precision; memory holds a few texts and numbers an image.
    Raises ValueError or FileNotFoundError, in one line.
    """
    _check(threshold, max_aspect, neighbours=neighbours, count=count, clusters=clusters, min_side=min_side)
    workers = default_workers() if workers is None else max(workers, 0)
    encoder = None
    if workdir is not None:
        from jssl.encoder import Encoder

        encoder = Encoder(workdir)
        if encoder.channels is None:
            raise ValueError(f"--workdir {workdir} holds an encoder of graphs; expected one of images")
    threshold = THRESHOLD if threshold is None else threshold
    split = descriptor.split if encoder is None else None
    files, named, others = _opened("--data", data)
    liked = _opened("--like", like)[0] if like else None
    out = pathlib.Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(
            f"--out {out} is a file, expected a folder to write manifest.csv, removed.csv and report.html to"
        )
    out.mkdir(parents=True, exist_ok=True)
    how = {"min_side": min_side, "max_aspect": max_aspect, "encoder": encoder, "workers": workers}
    with contextlib.ExitStack() as stack:
        pool = _looked(stack, out / ".pool", files, **how)
        reason = np.array([REASONS[r] for r in pool["reason"]], object)
        rows = np.flatnonzero(reason == "")
        if not len(rows):
            raise ValueError(f"{data}: none of the {len(reason)} images is fit to keep, the first is {_first(pool)}")
        of, similarity = _duplicates(files, pool, threshold)
        reason[of >= 0] = DUPLICATE
        said = {"looked at": len(reason), **({"not looked at": others} if others else {})}
        said |= {"threshold": threshold, "near by": workdir or "edges and colours"}
        if liked is not None:
            good = _looked(stack, out / ".like", liked, **how)
            _keep(reason, _neighbours(pool, good, np.flatnonzero(reason == ""), neighbours, split, like), FAR)
            said["neighbours of each"] = f"{neighbours} of {int((good['reason'] == FINE).sum()):,} in {like}"
        if count is not None and count < (left := np.flatnonzero(reason == "")).size:
            clusters = clusters or max(1, round(len(left) ** 0.5))
            chosen, before, after = balanced(_Even(pool["features"], split), left, count, clusters, seed)
            _keep(reason, chosen, SURPLUS)
            said["clusters"] = (
                f"{len(before)}, of {before.min():,} to {before.max():,} images, now {after.max():,} at most"
            )
    kept = np.flatnonzero(reason == "")
    _write(out, files, named, kept, reason, of, similarity, pool["said"])
    path = page.write(out, files, kept, reason, of, similarity, pool["said"], said)
    return f"{len(kept):,} of {len(reason):,} images are kept: folder:{out / 'manifest.csv'}, {path}"


def _check(threshold, max_aspect, **counts):
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"--threshold {threshold:g}: expected a cosine above 0 and up to 1, such as {THRESHOLD}")
    if max_aspect < 1:
        raise ValueError(f"--max-aspect {max_aspect:g}: expected longer side / shorter, at least 1, such as 5")
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected a whole number of at least 1")


def _opened(option, spec):
    """-> Files, sorted by name so that nothing depends on their order, {"labels", "groups": their texts or None}, what
    is not read, see `listed`."""
    kind, colon, rest = spec.partition(":")
    if kind != "folder" or not rest:
        near = f"folder:{spec}" if not colon else "folder:PATH"
        raise ValueError(f"{option} {spec}: only folders and manifests can be curated, expected {near}")
    files, named, others = listed(spec, *path_and_slice(spec, rest))
    order = sorted(range(len(files.names)), key=files.names.__getitem__)

    def texts(numbers, names):
        return None if numbers is None else [names[numbers[row]] for row in order]

    labels, groups = texts(named["labels"], named["label_names"]), texts(named["groups"], named["group_names"])
    return Files(files.root, [files.names[row] for row in order]), {"labels": labels, "groups": groups}, others


def _looked(stack, path, files, min_side, max_aspect, encoder, workers):
    """-> {'reason': int8 [N], 'pixels': int64 [N], 'said': N texts, 'descriptors': [N, DIM] and 'features': [N, D], in
    files that go when the stack is left; without an encoder the features are the descriptors}."""
    how = {"min_side": min_side, "max_aspect": max_aspect}
    if encoder is not None:
        how |= {"size": encoder.preprocess.size, "crop": encoder.preprocess.crop, "channels": encoder.channels}
    n, at, arrays, began, said = len(files.names), 0, {}, time.monotonic(), 0
    found = {"reason": np.zeros(n, np.int8), "pixels": np.zeros(n, np.int64), "said": [""] * n}
    with look(files, workers, **how) as batches:
        for batch in batches:
            made = {"descriptors": batch["descriptor"]}
            if encoder is not None:
                made["features"] = _both(encoder, batch["square"])
            rows = slice(at, at + len(batch["reason"]))
            for name, x in made.items():
                if name not in arrays:
                    file = path.with_suffix(f".{name}.npy")
                    stack.callback(file.unlink, missing_ok=True)
                    arrays[name] = np.lib.format.open_memmap(file, "w+", np.float16, (n, x.shape[1]))
                arrays[name][rows] = x
            found["reason"][rows], found["pixels"][rows], found["said"][rows] = (
                batch[name] for name in ("reason", "pixels", "said")
            )
            at = rows.stop
            if time.monotonic() - began > SAID * (said + 1):
                said = (time.monotonic() - began) // SAID
                left = clock((time.monotonic() - began) * (n / at - 1))
                logging.info("%s of %s images looked at, %s left", f"{at:,}", f"{n:,}", left)
    return {"features": arrays["descriptors"], **found, **arrays}


def _both(encoder, images):
    """An image's and its mirror image's features together: the same for both. -> [B, D] of unit length"""
    return _unit(sum(_unit(encoder(view)) for view in (images, images[:, :, ::-1])))


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _duplicates(files, pool, threshold):
    """-> which image each is a duplicate of, int64 [N], -1 where it is none; how near they are, float32 [N].

    Of a group the one of the most pixels is kept; of the same, that of the largest file, then the first name.
    """
    x = pool["descriptors"]
    first = groups(x, threshold, descriptor.split)  # features of those that are not fine are 0
    of, similarity = np.full(len(first), -1), np.zeros(len(first), np.float32)
    order = np.argsort(first, kind="stable")
    starts = np.flatnonzero(np.diff(first[order], prepend=-1))
    for group in np.split(order, starts[1:]):
        if len(group) > 1:
            best = min(group, key=lambda row: (-pool["pixels"][row], -os.path.getsize(files.path(row)), row))
            others = group[group != best]
            of[others] = best
            similarity[others] = nearness(x[others], np.repeat(x[best][None], len(others), 0), descriptor.split)
    return of, similarity


def _neighbours(pool, good, rows, count, split, like):
    """The rows among those of the pool that are nearest to an image of the curated set."""
    queries = np.flatnonzero(good["reason"] == FINE)
    if not len(queries):
        raise ValueError(f"--like {like}: none of its images is fit to look for, the first is {_first(good)}")
    found = nearest(_Taken(pool["features"], rows), _Taken(good["features"], queries), count, split)[1]
    return rows[np.unique(found)]


def _keep(reason, rows, why):
    others = reason == ""
    others[rows] = False
    reason[others] = why


def _first(found):
    return f"{REASONS[found['reason'][0]]}: {found['said'][0]}"


class _Taken:
    """Some rows of an array on disk, read when they are sliced."""

    def __init__(self, x, rows):
        self.x, self.rows = x, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        return self.x[self.rows[part]]


class _Even:
    """Features that are the same for image and mirrored image, read when rows are asked for."""

    def __init__(self, x, split):
        self.x, self.split = x, split

    def __getitem__(self, rows):
        x = np.asarray(self.x[rows], np.float32)
        return x if self.split is None else _unit(self.split(x)[0])


def _write(out, files, named, kept, reason, of, similarity, said):
    real = functools.cache(os.path.realpath)  # of folders: .. leads from where a link points to

    def place(row):
        folder, name = os.path.split(files.path(row))
        return os.path.relpath(os.path.join(real(folder), name), real(out))

    of_kept = {name: texts and [texts[row] for row in kept] for name, texts in named.items()}
    write_manifest(out / "manifest.csv", [place(row) for row in kept], **of_kept)
    rows = (
        (
            place(row),
            reason[row],
            said[row],
            *((place(of[row]), f"{similarity[row]:.3f}") if of[row] >= 0 else ("", "")),
        )
        for row in np.flatnonzero(reason != "")
    )
    write_csv(out / "removed.csv", ("path", "reason", "said", "duplicate_of", "similarity"), rows)
