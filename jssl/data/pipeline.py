"""The host pipeline: batch `s` is a function of (seed, s) alone, whichever hosts and processes make it."""

import functools
import itertools
import os

import numpy as np

from jssl.data.crop import centre_crop, random_crops
from jssl.data.parts import Batches, Parts, made_ahead

ENDLESS = 1 << 32  # batches


def default_workers():
    """Worker processes for decoding: one for each core that this process may use, less one for the training loop.

    0, threads of this process, where that leaves a single one: threads were faster on two cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, 32) if cores > 2 else 0


def order(n, seed):
    """The order of n rows: `order(n, seed)(step, batch_size)` -> int32 [batch_size], the global batch at `step`.

    Random access: nothing is replayed to reach a step. Each epoch is a permutation of its own; a batch may run over the
    end of one into the next. Raises ValueError where n is less than one batch.
    """

    def rows_at(step, batch_size):
        if batch_size > n:
            raise ValueError(f"the data has {n} examples, fewer than one batch: expected train.batch_size <= {n}")
        at = step * batch_size + np.arange(batch_size)
        first, last = int(at[0] // n), int(at[-1] // n)
        epochs = [_permutation(n, seed, epoch) for epoch in range(first, last + 1)]
        return np.concatenate(epochs)[at - first * n] if last > first else epochs[0][at - first * n]

    return rows_at


def stream(source, *, batch_size, seed, start, rows, crops=None, size=None, workers=0):
    """Training batches of steps start, start + 1, ... without end, as `Batches`.

    rows: int array, which rows of the global batch this process holds. Yields {'image': uint8 [len(rows), H, W, C],
    'index': int32 [len(rows)]} for images in memory; for those on disk, the crops are made here, a group under its own
    name: {crop.name: uint8 [len(rows), views, size, size, C], ..., 'index'}, or without `crops` their central squares
    [len(rows), size, size, C] as 'image'.

    The random numbers of an element depend on the seed and its number in the run alone: neither the start, nor the
    hosts' rows, nor the workers change a bit. An image that cannot be decoded is named in the log and the next good row
    takes its place; more than `source.max_bad` of them raise ValueError.
    """
    rows, rows_at = np.asarray(rows), order(len(source), seed)
    rows_at(start, batch_size)
    if source.images is not None:
        indices = (rows_at(step, batch_size)[rows] for step in itertools.count(start))
        return Batches({"image": source.images[index], "index": index} for index in indices)
    if not crops and size is None:
        raise ValueError(f"{source.spec}: images on disk are cropped by the host, which needs crops or a size")

    def cut(image, batch, i):
        if not crops:
            return {"image": centre_crop(image, source.channels, size, 1.0)}
        element = (start + batch) * batch_size + int(rows[i])
        return random_crops(image, source.channels, crops, np.random.default_rng((seed, 1, element)))

    rows_of = lambda batch: rows_at(start + batch, batch_size)[rows]
    return made_ahead(Parts(source, rows_of, cut, width=len(rows), batches=ENDLESS), workers)


def every(source, *, batch_size, rows=None, size=None, crop=0.875, workers=0):
    """One pass over the source in order, as `Batches`: {'image': uint8 [B, H, W, C], 'index': int32 [B]}.

    rows: which rows of each batch this process holds; all, by default. The last batch is padded: index -1, image zeros;
    so are images that cannot be decoded. Images on disk become their central squares, `crop` of the short side, resized
    to [size, size, C].
    """
    index = np.full((-(-len(source) // batch_size), batch_size), -1, np.int32)
    index.flat[: len(source)] = np.arange(len(source))
    index = index if rows is None else index[:, rows]
    if source.images is not None:
        return Batches(_padded(source.images, i) for i in index)
    if size is None:
        raise ValueError(f"{source.spec}: images on disk are cropped by the host, which needs a size")
    cut = lambda image, *_: {"image": centre_crop(image, source.channels, size, crop)}
    blank = {"image": np.zeros((size, size, source.channels), np.uint8)}
    parts = Parts(source, index.__getitem__, cut, width=index.shape[1], batches=len(index), blank=blank)
    return made_ahead(parts, workers)


@functools.lru_cache(maxsize=4)
def _permutation(n, seed, epoch):
    return np.random.default_rng((seed, 0, epoch)).permutation(n).astype(np.int32)


def _padded(images, index):
    batch = images[index]
    batch[index < 0] = 0
    return {"image": batch, "index": index}
