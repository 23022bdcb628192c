"""Batches on their way to the step: examples that live on the device, or a stream from the host."""

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

    Where the examples live on the device (`held`), an item is the rows' numbers and `fetch` looks the rows up there;
    else it holds them. Either way the batch at step s is a function of (seed, s).
    """

    def __init__(self, source, mesh, *, batch_size, seed, crops, resident, workers, rows=1):
        self.source, self.mesh, self.batch_size, self.seed = source, mesh, batch_size, seed
        self.crops, self.workers = crops, workers
        self.leading = source.leading(batch_size, rows)
        self.held = {name: everywhere(mesh, x) for name, x in source.arrays.items()} if resident else None

    @staticmethod
    def fetch(held, item):
        """One step's batch {'image', 'index'}, or a graph's, from what is held (or None) and its item."""
        if held is None:
            return item
        return rows({**item, **{name: x if len(x) == 1 else x[item["index"]] for name, x in held.items()}})

    @contextlib.contextmanager
    def items(self, start, steps_per_call):
        """An iterator of global arrays [K, N, ...], made `AHEAD` of time in a thread of its own."""
        batches = self._indices(start) if self.held is not None else self._stream(start, together=steps_per_call)
        groups = (_stack(itertools.islice(batches, steps_per_call)) for _ in itertools.count())
        made = (put(self.mesh, group, self.leading, axis=1) for group in groups)
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
        shapes = self.source.shapes(self.batch_size, self.leading, self.crops)
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def item_shapes(self):
        """The same of what `items` gives for one step."""
        shapes = self.shapes()
        return shapes if self.held is None else {"index": shapes["index"]}

    def _indices(self, start):
        here, rows_at = rows_here(self.mesh, self.batch_size), data.order(len(self.source), self.seed)
        for step in itertools.count(start):
            yield {"index": rows_at(step, self.batch_size)[here]}

    def _stream(self, start, workers=None, together=1):
        return self.source.stream(
            batch_size=self.batch_size,
            seed=self.seed,
            start=start,
            leading=self.leading,
            rows=rows_here(self.mesh, self.leading),
            together=together,
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
