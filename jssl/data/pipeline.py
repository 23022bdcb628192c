"""The host pipeline: batch `s` is a function of (seed, s) alone, whichever hosts and processes make it."""

import functools
import os

import numpy as np


def default_workers():
    """Worker processes for decoding: one for each core that this process may use, less one for the training loop."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, 32)


def order(n, seed):
    """The order of the rows: `order(n, seed)(step, batch_size)` -> int32 [batch_size], the global batch at `step`.

    Random access: nothing is replayed to reach a step. Each epoch is a permutation of range(n) of its own; a batch may
    run over the end of one into the next.
    """

    @functools.lru_cache(maxsize=2)
    def permutation(epoch):
        return np.random.default_rng((seed, epoch)).permutation(n).astype(np.int32)

    def rows(step, batch_size):
        at = step * batch_size + np.arange(batch_size)
        epochs = range(at[0] // n, at[-1] // n + 1)
        return np.concatenate([permutation(epoch) for epoch in epochs])[at - epochs[0] * n]

    def checked(step, batch_size):
        if batch_size > n:
            raise ValueError(f"the data has {n} images, fewer than one batch of {batch_size}: lower train.batch_size")
        return rows(step, batch_size)

    return checked


def stream(source, *, batch_size, seed, start, rows, crops=None, size=None, workers=0):
    """Training batches for steps start, start + 1, ...

    rows: which rows of the global batch this process holds. Images in memory: {'image': uint8 [len(rows), H, W, C],
    'index': int32 [len(rows)]}.
    """
    rows_at = order(len(source), seed)
    rows_at(start, batch_size)
    return _in_memory(source, (rows_at(step, batch_size)[rows] for step in _count(start)))


def every(source, *, batch_size, rows=None, size=None, crop=0.875, workers=0):
    """One pass in order: {'image': uint8 [B, H, W, C], 'index': int32 [B]}, the last batch padded with index -1."""
    index = np.arange(-(-len(source) // batch_size) * batch_size, dtype=np.int32)
    index[len(source) :] = -1
    index = index.reshape(-1, batch_size)
    return _in_memory(source, index if rows is None else index[:, rows])


def _count(start):
    while True:
        yield start
        start += 1


def _in_memory(source, indices):
    for index in indices:
        image = source.images[index]
        image[index < 0] = 0
        yield {"image": image, "index": index}
