"""The figures of the report as inline SVG and data URIs: they take the page's colours, light or dark."""

import base64
import html
import io
import math

import numpy as np
from PIL import Image

PALETTE = ["#3b76b8", "#d9782d", "#4a9a5b", "#c4473f", "#8366ad", "#8c6a52", "#d173a8", "#7f8a91", "#a8a132", "#2fa5b5"]
POINTS = 400  # of a curve: more cannot be told apart at this size


def colour(index, count):
    """The colour of class `index` of `count`: a fixed palette of ten, beyond it hues a golden angle apart."""
    if count <= len(PALETTE):
        return PALETTE[index % len(PALETTE)]
    return f"hsl({index * 137.508 % 360:.0f}, 55%, {(46, 58, 66)[index % 3]}%)"


def chart(steps, values, percent=False, zero=False):
    """A curve over steps; logarithmic where it spans more than a factor of 50. -> SVG text.

    steps, values: [T]; a value that is not finite breaks the line. percent: they are shares; zero: the axis has a 0.
    """
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    finite = values[np.isfinite(values)]
    log = len(finite) > 0 and finite.min() > 0 and finite.max() > 50 * finite.min() and not (percent or zero)
    ticks, label = _axis(np.append(finite, 0) if zero else finite, log, percent)
    scale = np.log10 if log else lambda y: y
    left, right, top, bottom, width, height = 46, 306, 10, 150, 360, 176
    low, high = scale(min(ticks[0], finite.min(initial=math.inf))), scale(max(ticks[-1], finite.max(initial=-math.inf)))
    x = lambda s: left + (right - left) * (s - steps[0]) / max(steps[-1] - steps[0], 1)
    y = lambda v: bottom - (bottom - top) * (scale(v) - low) / ((high - low) or 1)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{right}"/>')
        parts.append(f'<text x="{left - 7}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{label(tick)}</text>')
    parts.append(f'<text x="{left}" y="{bottom + 18}">step {steps[0]:,.0f}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{steps[-1]:,.0f}</text>')
    keep = _thin(values)
    segments = np.split(keep, np.flatnonzero(~np.isfinite(values[keep])))
    segments = [[i for i in part if np.isfinite(values[i])] for part in segments]
    for part in filter(None, segments):
        points = " ".join(f"{x(steps[i]):.1f},{y(values[i]):.1f}" for i in part)
        parts.append(f'<polyline points="{points}"/>')
    if len(finite):
        last = np.flatnonzero(np.isfinite(values))[-1]
        shown = label(values[last], True)
        parts.append(f'<circle class="last" cx="{x(steps[last]):.1f}" cy="{y(values[last]):.1f}" r="3"/>')
        parts.append(f'<text class="value" x="{x(steps[last]) + 7:.1f}" y="{y(values[last]) + 4:.1f}">{shown}</text>')
    if len(keep) <= 120:  # readings under the pointer
        parts += [
            f'<circle class="hit" cx="{x(steps[i]):.1f}" cy="{y(values[i]):.1f}" r="6">'
            f"<title>step {steps[i]:,.0f}: {label(values[i], True)}</title></circle>"
            for i in keep
            if np.isfinite(values[i])
        ]
    return "".join(parts) + "</svg>"


def scatter(xy, labels=None, names=None):
    """The map as points, coloured by class with the names of up to 12 classes in place. -> SVG text.

    xy: [M, 2]; labels: int [M], index of names, or None; names: class names.
    """
    points, (width, height) = _fit(xy, 720, 480, 14)
    parts = [f'<svg class="map" viewBox="0 0 {width} {height}" role="img">']
    size = 3.2 if len(points) <= 2000 else 1.8
    count = len(names) if names is not None else 1
    for index in range(count):
        rows = points if labels is None else points[labels == index]
        title = "" if labels is None else f"<title>{html.escape(str(names[index]))}</title>"
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>' for x, y in rows)
        parts.append(f'<g fill="{colour(index, count)}">{title}{dots}</g>')
    if labels is not None and count <= 12:
        for index in range(count):
            if np.any(labels == index):
                x, y = np.median(points[labels == index], 0)
                name = html.escape(str(names[index]))
                parts.append(f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{name}</text>')
    return "".join(parts) + "</svg>"


def network(xy, edges, classes, count, wrong, titles):
    """A graph: its edges, its nodes in the colours of `scatter`, and a ring around those that are wrong. -> SVG text.

    xy: [n, 2] as of `layout`; edges: int [E, 2]; classes: int [n] of `count`; wrong: bool [n]; titles: [n] texts, of
    which those of wrong nodes are under the pointer.
    """
    places = np.array([15, 10]) + 460 * np.asarray(xy, float)  # the frame is 1.5 wide and 1 high
    size = min(8.0, max(2.0, 70 / len(places) ** 0.5))
    circle = lambda i: f'<circle cx="{places[i, 0]:.1f}" cy="{places[i, 1]:.1f}" r="{size:.1f}"'
    point = [f"{x:.1f} {y:.1f}" for x, y in places]
    lines = "".join(f"M{point[a]}L{point[b]}" for a, b in np.asarray(edges).tolist())
    parts = [f'<svg class="network" viewBox="0 0 720 480" role="img"><path d="{lines}"/>']
    for index in range(count):
        dots = "".join(f"{circle(i)}/>" for i in np.flatnonzero((classes == index) & ~wrong))
        parts.append(f'<g fill="{colour(index, count)}">{dots}</g>')
    rings = (
        f'{circle(i)} fill="{colour(classes[i], count)}"><title>{html.escape(titles[i])}</title></circle>'
        for i in np.flatnonzero(wrong)
    )
    return f'{"".join(parts)}<g class="wrong">{"".join(rings)}</g></svg>'


def mosaic(xy, thumbs, labels=None, count=1, columns=30):
    """The map as pictures: of each cell of a grid the point nearest to its middle. -> data URI.

    xy: [T, 2]; thumbs: uint8 [T, h, w, C]; labels: int [T] of `count` classes, shown as the frame's colour.
    """
    cell, border = 48, 3
    points, (width, height) = _fit(xy, columns * cell, columns * cell * 2 // 3, cell // 2)
    cells = (points // cell).astype(int)
    distance = np.linalg.norm(points - (cells + 0.5) * cell, axis=1)
    canvas, taken = Image.new("RGBA", (width, height)), set()
    for i in np.argsort(distance, kind="stable"):
        place = tuple(cells[i])
        if place in taken:
            continue
        taken.add(place)
        frame = colour(labels[i], count) if labels is not None else "#888888"
        tile = Image.new("RGBA", (cell - 4, cell - 4), frame)
        picture = Image.fromarray(rgb(thumbs[i]))
        small = max(picture.size) < cell
        picture = picture.resize((cell - 4 - 2 * border,) * 2, Image.NEAREST if small else Image.BOX)
        tile.paste(picture, (border, border))
        canvas.paste(tile, (int(place[0]) * cell + 2, int(place[1]) * cell + 2))
    return data_uri(canvas)


def rgb(image):
    """uint8 [H, W, C] of any number of channels -> uint8 [H, W, 3]: the first channel as grey, or the first three."""
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 [H, W, C], not {image.dtype} {list(image.shape)}")
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, -1)


def thumbnail(image, size=96):
    """The middle square of uint8 [H, W, C], made smaller to `size` if it is larger. -> uint8 [s, s, C], C 1 or 3."""
    image = np.asarray(image)
    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = rgb(image[top : top + side, left : left + side])
    if side > size:
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.LANCZOS))
    return image if channels >= 3 else image[..., :1]


def data_uri(image):
    """A picture inside the page: PNG where it is tiny, else WebP. image: uint8 [H, W, C] or a PIL image."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(rgb(image))
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= 32 else "webp"
    image.save(buffer, kind, **({"quality": 82} if kind == "webp" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def short(value):
    """15234.5 -> '15.2k', 0.00031 -> '3.1e-4': three figures, as on an axis."""
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= size < 1e4:
        return f"{value:.3g}" if size < 1000 else f"{value:,.0f}"
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if factor <= size < 1e12:
            return f"{value / factor:.3g}{suffix}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _axis(finite, log, percent):
    """-> about four tick positions, and the function that writes a value."""
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [10.0**p for p in powers if p % max(1, math.ceil(len(powers) / 5)) == 0]
        return ticks or [low, high], lambda value, exact=False: short(value)
    if percent:
        low, high = max(0.0, low), min(1.0, high)
    if high - low < 1e-3 * max(abs(high), 1e-3):  # a constant: room around it
        margin = abs(high) / 2 or 1.0
        low, high = (low - margin if low else 0.0), high + margin
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    ticks = np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step
    if percent:
        digits = 0 if step >= 0.01 else 1
        return ticks, lambda value, exact=False: f"{value:.{1 if exact else digits}%}".replace("%", " %")
    return ticks, lambda value, exact=False: short(value)


def _thin(values):
    """Indices of at most about POINTS values: of each stretch the least and the greatest, so that no spike is lost."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    kept = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), POINTS // 2):
        ordered = np.where(np.isfinite(values[part]), values[part], np.inf)
        kept |= {int(part[np.argmin(ordered)]), int(part[np.argmax(ordered)])}
    return np.array(sorted(kept))


def _fit(xy, width, height, margin):
    """xy -> places on a canvas, each axis stretched to fill it; the axes of a t-SNE map have no unit."""
    xy = np.asarray(xy, float)
    low, high = xy.min(0), xy.max(0)
    unit = (xy - low) / np.where(high > low, high - low, 1)
    unit[:, 1] = 1 - unit[:, 1]
    return margin + unit * (np.array([width, height]) - 2 * margin), (width, height)
