"""Batches made in parts, ahead of time, by threads here or by worker processes; the parts of images on disk."""

import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable

import grain
import numpy as np
from absl import flags, logging

from jssl.data.decode import BadImage
from jssl.data.folder import check_bad
from jssl.data.source import Source

PART = 32  # images made in one go: few, so that all workers share the making of each batch


class Batches:
    """An iterator over generated batches. `close()`, leaving a `with` block or forgetting it ends its workers."""

    def __init__(self, batches):
        self._batches = batches
        self.close = weakref.finalize(self, batches.close)  # when the program ends, it is not too late yet for grain

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._batches)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@dataclasses.dataclass(frozen=True)
class Parts:
    """Part j of this process's rows of all batches, one batch after the other.

    rows_of: batch -> int32 [width], rows of the source, -1 for padding; cut: (opened image, batch, i) -> {name: uint8
    array}; blank: what `cut` would give for padding and for an image that cannot be decoded, or None: the next good row
    takes its place.
    """

    source: Source
    rows_of: Callable
    cut: Callable
    width: int
    batches: int
    blank: dict | None = None

    @property
    def per_batch(self):
        return -(-self.width // PART)

    def __len__(self):
        return self.batches * self.per_batch

    def __getitem__(self, j):
        """{name: array [<= PART, ...]} with 'index', and under 'bad' the (row, reason) of what cannot be decoded."""
        batch, part = divmod(j, self.per_batch)
        rows, bad = self.rows_of(batch), []
        made = [self._element(int(rows[i]), batch, i, bad) for i in range(self.width)[part * PART : (part + 1) * PART]]
        return {**{name: np.stack([element[name] for element in made]) for name in made[0]}, "bad": bad}

    def join(self, parts, seen):
        """A batch's parts as one batch, {} where there are none. seen: {row: reason} of the bad images so far."""
        for part in parts:
            for row, reason in part.pop("bad"):
                if row not in seen:
                    seen[row] = reason
                    logging.warning("%s: %s is left out: %s", self.source.spec, self.source.names[row], reason)
                    _check(self.source, seen)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}

    def _element(self, row, batch, i, bad):
        tried = []
        while row >= 0:
            try:
                return {**self.cut(self.source.open(row), batch, i), "index": np.int32(row)}
            except BadImage as error:
                tried.append((row, str(error)))
                bad.append(tried[-1])
            if self.blank is None:
                _check(self.source, dict(tried))
                row = (row + 1) % len(self.source)
            else:
                row = -1
        return {**self.blank, "index": np.int32(-1)}


def made_ahead(parts, workers):
    """The batches of `parts`, made by as many worker processes, or by threads of this one where there are none.

    parts: a sequence of every batch's `per_batch` parts, one batch after the other, whose `join(parts, seen)` makes one
    of them, or {} of none; `seen` is a dict that lasts.
    """
    ahead = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    if not workers:
        cores = os.cpu_count() or 1
        ahead = grain.ReadOptions(num_threads=cores, prefetch_buffer_size=2 * cores)
    dataset = grain.MapDataset.source(parts).to_iter_dataset(ahead)
    if workers:
        if not flags.FLAGS.is_parsed():  # grain's workers read their options from absl's flags
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(min(workers, len(parts)), per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=_start_worker)
    return Batches(_joined(parts, iter(dataset)))


def _joined(parts, iterator):
    seen = {}
    try:
        while batch := parts.join(list(itertools.islice(iterator, parts.per_batch)), seen):
            yield batch  # here no part is held: they are shared memory
    finally:
        iterator.close()


def _check(source, found):
    """Adds what was left out at opening to `found`, {row: reason}; raises where that is more than may be."""
    bad = [*source.bad, *((source.names[row], reason) for row, reason in found.items())]
    check_bad(source.spec, bad, len(source) + len(source.bad), source.max_bad)


def _start_worker(*_):
    """A worker needs no accelerator, leaves signals to the parent and ends with it, even when that is killed.

    It waits for its parent in a thread: `prctl(PR_SET_PDEATHSIG)` would be Linux only and speak of the *thread* that
    started the worker, which here is one of grain's.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # grain imports it
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent):
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
