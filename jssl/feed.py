"""Batches on their way to the step: images that live on the device, or a stream from the host."""

import collections
import concurrent.futures
import contextlib
import itertools

import jax
import numpy as np

from jssl import data
from jssl.sharding import everywhere, put, rows_here
from jssl.transforms import rows

AHEAD = 2  # items made while the device works


class Feed:
    """The batches of steps start, start + steps_per_call, ... as `items` for `step.train_steps`.

    Where the images live on the device, an item is the rows' numbers and `fetch` looks the images up there; else it
    holds the images. Either way the batch at step s is a function of (seed, s).
    """

    def __init__(self, source, mesh, *, batch_size, seed, crops, resident, workers):
        self.source, self.mesh, self.batch_size, self.seed = source, mesh, batch_size, seed
        self.crops, self.workers = crops, workers
        self.images = everywhere(mesh, source.images) if resident else None

    def fetch(self, images, item):
        """One step's batch {'image', 'index'} from the resident images (or None) and its item."""
        return item if images is None else rows({"image": images[item["index"]], **item})

    @contextlib.contextmanager
    def items(self, start, steps_per_call):
        """An iterator of global arrays [K, N, ...], made `AHEAD` of time in a thread of its own."""
        batches = self._indices(start) if self.images is not None else self._stream(start)
        groups = (_stack(itertools.islice(batches, steps_per_call)) for _ in itertools.count())
        made = (put(self.mesh, group, self.batch_size, axis=1) for group in groups)
        thread = concurrent.futures.ThreadPoolExecutor(1)
        with contextlib.closing(batches):
            try:
                yield _ahead(made, thread)
            finally:
                thread.shutdown(cancel_futures=True)

    def first(self, size):
        """The first `size` of this process's rows of step 0, as numpy: what the view sheet shows."""
        batches = self._stream(0, workers=0)
        with contextlib.closing(batches):
            return {name: value[:size] for name, value in next(batches).items()}

    def shapes(self):
        """Shapes of one global batch, for `eval_shape`."""
        n, source = self.batch_size, self.source
        if source.shape is not None:
            images = {"image": (n, *source.shape)}
        else:
            images = {c.name: (n, c.views, c.size, c.size, source.channels) for c in self.crops}
        shapes = {name: jax.ShapeDtypeStruct(shape, np.uint8) for name, shape in images.items()}
        return {**shapes, "index": jax.ShapeDtypeStruct((n,), np.int32)}

    def _indices(self, start):
        here, rows_at = rows_here(self.mesh, self.batch_size), data.order(len(self.source), self.seed)
        for step in itertools.count(start):
            yield {"index": rows_at(step, self.batch_size)[here]}

    def _stream(self, start, workers=None):
        return data.stream(
            self.source,
            batch_size=self.batch_size,
            seed=self.seed,
            start=start,
            rows=rows_here(self.mesh, self.batch_size),
            crops=self.crops,
            workers=self.workers if workers is None else workers,
        )


def _stack(batches):
    return jax.tree.map(lambda *rows: np.stack(rows), *batches)


def _ahead(iterator, thread):
    """The iterator's items, of which `AHEAD` are always under way."""
    waiting = collections.deque(thread.submit(next, iterator) for _ in range(AHEAD))
    while True:
        waiting.append(thread.submit(next, iterator))
        yield waiting.popleft().result()
