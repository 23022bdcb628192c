"""Image files to pixels: whatever a folder holds becomes upright 8-bit grey or RGB, or a BadImage that says why not."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # by content; Pillow's others may run other programs
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """An image that cannot be decoded; the message says why, in a few words."""


def open_image(file):
    """A binary file object -> PIL image whose header is read and whose pixels are not yet."""
    return _reported(lambda: _open(file))


def upright_size(image):
    """(height, width) after EXIF rotation."""
    width, height = image.size
    return (width, height) if _orientation(image) >= 5 else (height, width)


def decode(image, channels, shrink=1):
    """A freshly opened image -> upright PIL image of mode "L" (channels = 1) or "RGB" (3).

    shrink: a JPEG may come smaller by a factor of up to this (2, 4 or 8), at a fraction of the time. What is
    transparent lies on white; 16-bit grey keeps its upper 8 bits, rounded.
    """
    return _reported(lambda: _decode(image, "L" if channels == 1 else "RGB", shrink))


def _decode(image, mode, shrink):
    turn = TURNS.get(_orientation(image))
    if shrink >= 2:
        image.draft(None, (max(1, int(image.width / shrink)), max(1, int(image.height / shrink))))
    if image.mode == "F":
        raise BadImage("floating-point pixels, expected 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        deep = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert(mode)
    return image if turn is None else image.transpose(turn)


def _orientation(image):
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken metadata around good pixels
        return 1


def _open(file):
    if file.seek(0, io.SEEK_END) == 0:
        raise BadImage("an empty file")
    file.seek(0)
    return Image.open(file, formats=FORMATS)


def _reported(read):
    """Runs `read`; whatever a broken file makes Pillow raise becomes a BadImage of one line."""
    try:
        return read()
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not an image ({', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError, ...
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from None
