"""Where images come from, and in which order: everything the host does before a batch reaches the devices."""

from jssl.data.crop import sample_box
from jssl.data.pipeline import default_workers, every, order, stream
from jssl.data.source import BadImage, Source, open_source

__all__ = ["BadImage", "Source", "default_workers", "every", "open_source", "order", "sample_box", "stream"]
