"""`tfds:NAME`: data sets that tensorflow_datasets has prepared, read without TensorFlow."""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from jssl.data.decode import open_image, upright_size
from jssl.data.folder import check_bad, scan
from jssl.data.source import Source

LABELLED = 200_000  # rows whose labels are read at opening: that reads every record once


@dataclasses.dataclass(frozen=True)
class Records:
    """Opens the image of a record; worker processes open the record files for themselves."""

    root: str
    names: list[str]
    records: Sequence[dict]
    key: str

    def __call__(self, row):
        return open_image(io.BytesIO(self.records[int(self.names[row])][self.key]))

    def size(self, row):
        """(height, width), from the header alone."""
        return upright_size(self(row))


def open_prepared(spec, rest, channels, max_bad, fits):
    """A Source of `NAME[@SPLIT]`; SPLIT is tfds' own, such as train[:90%], and `train` if none is given.

    Raises ValueError, with what prepares it, where the set is not there in a random-access format.
    """
    name, _, split = rest.partition("@")
    records, features = _records(spec, name, f"train{split}" if split[:1] in ("", "[") else split)
    key, label = _key(features, "Image", "image"), _key(features, "ClassLabel", "label")
    if key is None:
        raise ValueError(f"{spec}: expected a feature of type Image, found {', '.join(features)}")
    if len(records) == 0:
        raise ValueError(f"{spec}: the split is empty")
    channels = channels or (1 if features[key].shape[-1] == 1 else 3)

    images = Records(spec, [str(row) for row in range(len(records))], records, key)
    kept, bad, held = scan(images, channels, fits)
    check_bad(spec, bad, len(records), max_bad)
    labels = None
    if label and len(records) <= LABELLED:
        labels = np.array([records[row][label] for row in kept], np.int32)
    elif label:
        logging.info("%s: the labels of %d rows are not read; a slice has labels", spec, len(records))
    names = [images.names[row] for row in kept]
    return Source(
        spec=spec,
        names=names,
        channels=channels,
        images=held,
        open=dataclasses.replace(images, names=names),
        labels=labels,
        label_names=tuple(features[label].names) if label else None,
        bad=tuple(bad),
        max_bad=max_bad,
    )


def _records(spec, name, split):
    """-> the split's records, their images still encoded, and the features' descriptions."""
    import tensorflow_datasets as tfds

    prepare = f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))  # tfds itself looks only when imported
        decoders = {key: tfds.decode.SkipDecoding() for key, _ in _of_type(builder.info.features, "Image")}
        return builder.as_data_source(split, decoders=decoders), builder.info.features
    except (NotImplementedError, AssertionError):
        raise ValueError(
            f"{spec}: {name} is not prepared for random access in {builder.data_dir}; this prepares it: {prepare}"
        ) from None
    except Exception as error:  # tfds has many ways to say that there is no such set or split
        raise ValueError(f"{spec}: {str(error).strip().splitlines()[0]}") from None


def _of_type(features, kind):
    return [(key, feature) for key, feature in features.items() if type(feature).__name__ == kind]


def _key(features, kind, usual):
    keys = [key for key, _ in _of_type(features, kind)]
    return usual if usual in keys else next(iter(keys), None)
