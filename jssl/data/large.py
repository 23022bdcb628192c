"""The arrays of one large graph, which worker processes map instead of copying, and what is drawn from them."""

import os
import shutil
import tempfile
import weakref

import numpy as np

ARRAYS = ("x", "offsets", "senders", "edge_weight", "feature_weight")


class Large:
    """A graph by its receivers: node v has the edges offsets[v] to offsets[v + 1], from `senders`, ascending.

    x: float32 [n, F]; offsets: int64 [n + 1]; senders: int32 [E]; edge_weight: float32 [E] and feature_weight: float32
    [F], as in `jssl.data.graph.Graphs`, or None.

    grain starts its workers afresh, so that they inherit nothing. Sent to one, the arrays are files of a temporary
    folder that each process maps: what any of them has read lies in memory once. From then on this process maps them
    too; when it ends, unless it is killed, the folder goes. Raises ValueError where the disk has no room.
    """

    def __init__(self, **arrays):
        self._set({name: x for name, x in arrays.items() if x is not None})
        self.folder = None

    def _set(self, arrays):
        for name in ARRAYS:
            setattr(self, name, arrays.get(name))

    def __reduce__(self):
        if self.folder is None:
            self._write()
        return mapped, (self.folder,)

    def _write(self):
        folder = tempfile.mkdtemp(prefix="jssl-graph-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            for name in ARRAYS:
                if getattr(self, name) is not None:
                    np.save(os.path.join(folder, f"{name}.npy"), getattr(self, name))
        except OSError as error:
            raise ValueError(f"{folder} cannot hold the graph for workers ({error}); expected data.workers=0") from None
        self._set(_arrays(folder))
        self.folder = folder

    def degree(self, nodes):
        """How many edges each node has, int64."""
        return self.offsets[nodes + 1] - self.offsets[nodes]

    def drawn(self, nodes, noise, most):
        """Up to `most` edges into each node, without replacement. noise: uint64 [M], one for each of the nodes [M].

        -> int [K] whose edge it is, 0 to M - 1; int [K] which of all edges.
        """
        count = self.degree(nodes)
        few, many = np.flatnonzero(count <= most), np.flatnonzero(count > most)
        of = [np.repeat(few, count[few]), np.repeat(many, most)]
        place = [within(count[few]), subsets(noise[many], count[many], most).ravel()]
        of, place = np.concatenate(of), np.concatenate(place)
        return of, self.offsets[nodes[of]] + place

    def step(self, nodes, noise):
        """The sender of a random edge into each node, the node itself where it has none. Any shape, noise the same."""
        count = self.degree(nodes)
        edge = self.offsets[nodes] + below(noise, np.maximum(count, 1))
        return np.where(count > 0, self.senders[np.minimum(edge, len(self.senders) - 1)], nodes)

    def find(self, senders, receivers):
        """int64: which edge goes from one to the other, -1 where none does, by halving each receiver's edges."""
        low, end = self.offsets[receivers], self.offsets[receivers + 1]
        high, last = end, len(self.senders) - 1
        for _ in range(int((end - low).max(initial=0)).bit_length()):
            middle = (low + high) // 2
            left = self.senders[np.minimum(middle, last)] < senders
            low, high = np.where(left & (low < high), middle + 1, low), np.where(left, high, middle)
        return np.where((low < end) & (self.senders[np.minimum(low, last)] == senders), low, -1)


def mapped(folder):
    """The graph that another process has written."""
    large = Large(**_arrays(folder))
    large.folder = folder
    return large


def _arrays(folder):
    names = [name for name in ARRAYS if os.path.exists(os.path.join(folder, f"{name}.npy"))]
    # As plain arrays: numpy's own class for files costs time at each look-up.
    return {name: np.asarray(np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r")) for name in names}


def within(count):
    """0, ..., count[0] - 1, 0, ..., count[1] - 1, ... int [M] -> int [sum]"""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def subsets(noise, count, k):
    """k of the numbers 0 to count - 1, of each count > k (Floyd's algorithm: k draws, however many there are).

    noise: uint64 [M]; count: int [M] -> int64 [M, k]
    """
    chosen = np.empty((len(count), k), np.int64)
    for j in range(k):
        last = count - k + j
        drawn = below(mix(noise + np.uint64(j)), last + 1)
        chosen[:, j] = np.where((chosen[:, :j] == drawn[:, None]).any(1), last, drawn)
    return chosen


def below(noise, bound):
    """Random whole numbers from 0 to bound - 1 < 2^32, of uint64 noise. The same shape -> int64"""
    return ((noise >> np.uint64(32)) * bound.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def mix(x):
    """SplitMix64's output function (Steele, Lea and Flood, 2014): uint64 -> uint64, one to one, and looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def noise(start, *numbers):
    """uint64 noise that is a function of uint64 `start` and whole `numbers`, arrays that broadcast (not of no axis)."""
    for x in numbers:
        start = mix((start ^ np.asarray(x).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15))
    return start
