"""Where examples come from, and in which order: everything the host does before a batch reaches the devices."""

from jssl.data.crop import sample_box
from jssl.data.decode import BadImage
from jssl.data.graph import Graphs
from jssl.data.parts import Batches
from jssl.data.pipeline import default_workers, every, order, stream
from jssl.data.sampled import Sampled, sample
from jssl.data.source import Source, open_source

__all__ = [
    "BadImage",
    "Batches",
    "Graphs",
    "Sampled",
    "Source",
    "default_workers",
    "every",
    "open_source",
    "order",
    "sample",
    "sample_box",
    "stream",
]
