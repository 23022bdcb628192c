"""One look at every image of a folder, for `jssl curate`: can it be read, how large is it, what does it look like."""

import dataclasses

import numpy as np

from jssl.data import descriptor
from jssl.data.crop import centre_crop
from jssl.data.decode import BadImage, decode, upright_size
from jssl.data.folder import Files
from jssl.data.parts import made_ahead

CHUNK = 64  # images in one go
FINE, BROKEN, TINY, LONG, BLANK = range(5)
REASONS = ("", "broken", "tiny", "long", "blank")
FLAT = 2 / 255  # standard deviation of the pixels of a small copy, below which the image is of one colour


@dataclasses.dataclass(frozen=True)
class Looks:
    """Chunk j of the files, as `made_ahead` asks for them.

    min_side: pixels of the shorter side, below which an image is tiny; max_aspect: longer side / shorter, above which
    it is long; size, crop, channels: of the squares that an encoder is to see, or no size.
    """

    files: Files
    min_side: int
    max_aspect: float
    size: int | None = None
    crop: float = 1.0
    channels: int = 3
    per_batch = 1

    def __len__(self):
        return -(-len(self.files.names) // CHUNK)

    def __getitem__(self, j):
        rows = range(j * CHUNK, min((j + 1) * CHUNK, len(self.files.names)))
        looks = [self._look(row) for row in rows]
        return {
            name: [x[name] for x in looks] if name == "said" else np.stack([x[name] for x in looks])
            for name in looks[0]
        }

    def join(self, parts, seen):
        return parts[0] if parts else {}

    def _look(self, row):
        found = {"reason": np.int8(BROKEN), "pixels": np.int64(0), "said": ""}
        found["descriptor"] = np.zeros(descriptor.DIM, np.float16)
        if self.size is not None:
            found["square"] = np.zeros((self.size, self.size, self.channels), np.uint8)
        try:
            image = self.files(row)
            height, width = upright_size(image)
            found |= {"pixels": np.int64(height * width), "said": f"{width} x {height} pixels"}
            short, long = sorted((height, width))
            if short < self.min_side:
                return {**found, "reason": np.int8(TINY)}
            if long > self.max_aspect * short:
                return {**found, "reason": np.int8(LONG)}
            small = descriptor.small(decode(image, 3, short / (2 * descriptor.SIDE)))
            if small.std((0, 1)).max() < FLAT:
                return {**found, "reason": np.int8(BLANK)}
            fine = {"reason": np.int8(FINE), "descriptor": descriptor.describe(small).astype(np.float16)}
            if self.size is not None:
                fine["square"] = centre_crop(self.files(row), self.channels, self.size, self.crop)
            return {**found, **fine}
        except BadImage as error:
            return {**found, "reason": np.int8(BROKEN), "said": str(error)}


def look(files, workers=0, **how):
    """One pass over the files, in order, as `Batches` of up to `CHUNK`: {'reason': int8 [B], of `REASONS`, 'pixels':
    int64 [B], 'said': B texts, the size or what is wrong, 'descriptor': float16 [B, DIM], of zeros where there is a
    reason, and with a size 'square': uint8 [B, size, size, C]}. how: the other fields of `Looks`."""
    return made_ahead(Looks(files, **how), workers)
