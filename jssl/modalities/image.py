"""Images: arrays in memory, or files of any size."""

import math

import numpy as np

from jssl import data
from jssl.augment.image import views_sheet
from jssl.config import complete, nearest
from jssl.evals.labels import share
from jssl.evals.table import PROTOCOLS

EVALUATE = "jssl.evals.images:evaluate"
SAMPLE = 64  # images whose size is looked at


def open_data(fields, seed):
    """The images of `config.data`, or its share of each class."""
    source = data.open_source(fields.source, channels=fields.channels, max_bad=fields.max_bad)
    return labelled_part(source, fields.share, seed)


def open_source(text, kept):
    """Images of as many channels as the encoder takes."""
    return data.open_source(text, channels=kept["channels"])


def labelled_part(source, part, seed):
    """The source of the rounded `part` of every class, drawn by the seed; the whole source where `part` is 1."""
    if part == 1:
        return source
    if source.labels is None:
        raise ValueError(f"data.share={part} is of every class, but {source.spec} has no labels")
    return source.take(np.flatnonzero(share(source.labels, part, np.random.default_rng(seed))))


def fill(config, source, choose, devices):
    """The size of views, the network, its shape and the batch."""
    n, device = len(source), devices[0].device_kind
    accelerator = devices[0].platform != "cpu"
    if config.augment.get("size", 0) is None:
        choose("augment.size", *_size(source, accelerator))
    size = config.augment.get("size", 32)
    choose("preprocess.size", size, "that of the views")
    if config.encoder.name is None:
        for key, value in _encoder(size, accelerator).items():
            choose(f"encoder.{key}", value, f"images of {size} pixels on a {device}")
    complete(config)
    for path, value in _transformer(size, n, accelerator).items():
        section, _, key = path.partition(".")
        if config[section].get(key, 0) is None:
            choose(path, value, f"{n:,} images of {size} pixels on a {device}")
    choose("train.batch_size", _batch_size(n, size, accelerator), f"{n:,} images of {size} pixels")


def check(config, source):
    """ValueError for a protocol of `jssl eval` that is none."""
    for name in config.eval.protocols.split(",") if config.eval.protocols else ():
        if name not in PROTOCOLS:
            known = f"expected some of {', '.join(PROTOCOLS)}{nearest(name, PROTOCOLS)}"
            raise ValueError(f"eval.protocols={config.eval.protocols}: there is no protocol {name!r}, {known}")


def example(source, fields):
    """Their channels."""
    return {"channels": source.channels}


def ready(source, kept):
    """The source itself. ValueError for other channels."""
    if source.channels != kept["channels"]:
        raise ValueError(
            f"{source.spec} has images of {source.channels} channels; expected {kept['channels']}, as the encoder was "
            "trained on"
        )
    return source


def sheet(augment, views):
    """The views of a few images side by side, as the method sees them."""
    return views_sheet(views, augment.mean, augment.std)


def _size(source, accelerator):
    """A multiple of 16 near the median short side, up to what the device trains in reasonable time -> size, why."""
    most = 224 if accelerator else 48
    if source.shape is not None:
        short = min(source.shape[:2])
    else:
        rows = np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(int)
        short = np.median([min(side) for row in rows if (side := _sides(source, row))] or [most])
    return max(16, min(most, round(short / 16) * 16)), f"short sides of about {short:.0f} pixels"


def _sides(source, row):
    """(width, height) from the file's header, or None if it cannot be read."""
    try:
        return source.open(row).size
    except data.BadImage:
        return None


def _encoder(size, accelerator):
    """The encoder's fields where none is named."""
    if not accelerator:
        return {"name": "jssl.nets.conv:convnet"}
    if size <= 64:
        return {"name": "jssl.nets.resnet:resnet18", "stem": "cifar"}
    return {"name": "jssl.nets.resnet:resnet50"}


def _transformer(size, n, accelerator):
    """Fields of a ViT and of what reads its tokens, where they are None: 36 to 64 patches on a CPU, up to 196
    elsewhere."""
    dim, depth, heads = (128, 4, 4) if not accelerator else (384, 12, 6) if n < 300_000 else (768, 12, 12)
    patch = min(16, 2 ** int(math.log2(size / (8 if accelerator else 6))))
    shape = lambda name, *values: dict(zip((f"{name}dim", f"{name}depth", f"{name}heads"), values))
    return {
        **shape("encoder.", dim, depth, heads),
        "encoder.patch": patch,
        **shape("method.decoder_", *((512, 8, 16) if accelerator else (64, 2, 4))),
        **shape("method.predictor_", dim // 2, depth // 2, heads),
        "method.mask_size": 2 * patch,
        "method.cell": min(patch, 8),
        "method.early": 3 * depth // 4,
    }


def _batch_size(n, size, accelerator):
    """A power of two, with at least 4 batches in the data, that leaves room on a device of 40 GB."""
    most = 512 if accelerator and size <= 32 else 128 if size > 128 else 256
    return max(2, min(most, 2 ** int(math.log2(max(n / 4, 2)))))
