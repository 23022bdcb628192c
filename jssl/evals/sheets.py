"""Pictures that are rows of images side by side: predictions beside the truth, boxes, heat maps."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from jssl.data.masks import VOID
from jssl.figures import rgb
from jssl.files import whole

SIDE, GAP, LINE = 224, 6, 18  # pixels: the longer side of an image, between images, of a line of text
STOPS = ((0.0, (13, 8, 60)), (0.35, (150, 25, 110)), (0.7, (240, 110, 35)), (1.0, (252, 250, 165)))  # of `heat`


def palette(classes):
    """A colour for each class, uint8 [VOID + 1, 3]; neighbouring numbers are far apart, `VOID` is black."""
    colours = np.zeros((VOID + 1, 3), np.uint8)
    for i in range(classes):
        hue, bright = (0.58 + 0.618034 * i) % 1, (0.95, 0.7, 0.85)[i % 3]
        colours[i] = np.round(255 * np.array(colorsys.hsv_to_rgb(hue, (0.75, 0.55)[i % 2], bright)))
    return colours


def heat(values, low, high):
    """Numbers [H, W] as colours from dark (`low`) to light (`high`), uint8 [H, W, 3]."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    places, colours = zip(*STOPS)
    channels = [np.interp(share, places, channel) for channel in zip(*colours)]
    return np.round(np.stack(channels, -1)).astype(np.uint8)


def boxed(image, boxes):
    """The image with frames: boxes, [((y0, x0, y1, x1), colour), ...] in its pixels."""
    canvas = Image.fromarray(rgb(image))
    for (y0, x0, y1, x1), colour in boxes:
        width = max(1, round(max(image.shape[:2]) / 80))
        ImageDraw.Draw(canvas).rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=width)
    return np.asarray(canvas)


def sheet(path, columns, legend=()):
    """Writes a PNG: {title: [uint8 [H, W, C], ...]}, one column for each title, brought to one height row by row; below
    them `legend`, [(text, colour), ...]."""
    titles, rows = list(columns), list(zip(*columns.values(), strict=True))
    tiles = [[_tile(image, row[0].shape) for image in row] for row in rows]
    widths = [max(tile.width for tile in column) for column in zip(*tiles)]
    heights = [max(tile.height for tile in row) for row in tiles]
    width = sum(widths) + GAP * (len(widths) + 1)
    lines = _lines(legend, width)
    height = LINE + sum(heights) + GAP * (len(heights) + 1) + LINE * len(lines)
    canvas = Image.new("RGB", (width, height), "white")
    draw, y = ImageDraw.Draw(canvas), LINE + GAP
    x = GAP
    for title, column in zip(titles, widths):
        draw.text((x, GAP), title, fill="black")
        x += column + GAP
    for row, tall in zip(tiles, heights):
        x = GAP
        for tile, column in zip(row, widths):
            canvas.paste(tile, (x, y))
            x += column + GAP
        y += tall + GAP
    for line in lines:
        for x, text, colour in line:
            draw.rectangle((x, y + 3, x + 10, y + 13), fill=tuple(int(c) for c in colour))
            draw.text((x + 14, y + 3), text, fill="black")
        y += LINE
    with whole(path, "wb") as file:
        canvas.save(file, "PNG")


def _tile(image, like):
    scale = SIDE / max(like[:2])
    size = max(1, round(like[1] * scale)), max(1, round(like[0] * scale))
    return Image.fromarray(rgb(image)).resize(
        size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    )


def _lines(legend, width):
    """The legend's entries with their places, as many on a line as fit."""
    lines, x = [[]], GAP
    for text, colour in legend:
        wide = 14 + 6 * len(text) + 16
        if x + wide > width and lines[-1]:
            lines, x = [*lines, []], GAP
        lines[-1].append((x, text, colour))
        x += wide
    return lines if legend else []
