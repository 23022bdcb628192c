"""The figures of the report as inline SVG and data URIs: they take the page's colours, light or dark."""

import base64
import html
import io
import math

import numpy as np
from PIL import Image

PALETTE = ["#3b76b8", "#d9782d", "#4a9a5b", "#c4473f", "#8366ad", "#8c6a52", "#d173a8", "#7f8a91", "#a8a132", "#2fa5b5"]
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2")  # of curves over each other, for eyes that see no colours
POINTS = 400  # of a curve: more cannot be told apart at this size


def colour(index, count):
    """The colour of class `index` of `count`: a fixed palette of ten, beyond it hues a golden angle apart."""
    if count <= len(PALETTE):
        return PALETTE[index % len(PALETTE)]
    return f"hsl({index * 137.508 % 360:.0f}, 55%, {(46, 58, 66)[index % 3]}%)"


def chart(lines, percent=False, zero=False):
    """Curves over steps; logarithmic where they span more than a factor of 50. -> SVG text.

    lines: [(name, steps [T], values [T]) or None]; a value that is not finite breaks a line. The only one has the
    page's own colour, several have those of `colour` and dashes of their own, and their last values below the chart.
    percent: they are shares; zero: the axis has a 0.
    """
    known = [(i, name, np.asarray(s, float), np.asarray(v, float)) for i, (name, s, v) in _known(lines)]
    finite = np.concatenate([values[np.isfinite(values)] for _, _, _, values in known])
    log = len(finite) > 0 and finite.min() > 0 and finite.max() > 50 * finite.min() and not (percent or zero)
    ticks, label = _axis(np.append(finite, 0) if zero else finite, log, percent)
    scale = np.log10 if log else lambda y: y
    left, right, top, bottom, width, height = 46, 306 if len(lines) == 1 else 352, 10, 150, 360, 176
    low, high = scale(min(ticks[0], finite.min(initial=math.inf))), scale(max(ticks[-1], finite.max(initial=-math.inf)))
    first, last = min(steps[0] for _, _, steps, _ in known), max(steps[-1] for _, _, steps, _ in known)
    x = lambda s: left + (right - left) * (s - first) / max(last - first, 1)
    y = lambda v: bottom - (bottom - top) * (scale(v) - low) / ((high - low) or 1)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{right}"/>')
        parts.append(f'<text x="{left - 7}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{label(tick)}</text>')
    parts.append(f'<text x="{left}" y="{bottom + 18}">step {first:,.0f}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{last:,.0f}</text>')
    ends = []
    for i, name, steps, values in known:
        tint = colour(i, len(lines)) if len(lines) > 1 else None
        parts += _line(name, x(steps), y, steps, values, label, tint, DASHES[i % len(DASHES)])
        if tint and np.isfinite(values).any():
            shown = label(values[np.isfinite(values)][-1], True)
            ends.append(f"<span>{swatch(tint)}{html.escape(name)} <b>{shown}</b></span>")
    below = f'<div class="legend ends">{"".join(ends)}</div>' if ends else ""
    return "".join(parts) + f"</svg>{below}"


def _known(lines):
    """(place, line) of those that are there: a run that lacks a curve keeps its colour elsewhere."""
    return [(i, line) for i, line in enumerate(lines) if line is not None]


def swatch(tint):
    return f'<i style="background: {tint}"></i>'


def _line(name, places, y, steps, values, label, tint, dash):
    """The pieces of one curve: its line, its last value, and readings under the pointer. places: x of each value"""
    keep, parts = _thin(values), []
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    pen = f' style="stroke: {tint}"{dashes}' if tint else ""
    dot = f' style="fill: {tint}"' if tint else ""
    said = f"{html.escape(name)}, " if tint else ""
    segments = np.split(keep, np.flatnonzero(~np.isfinite(values[keep])))
    for part in filter(None, [[i for i in part if np.isfinite(values[i])] for part in segments]):
        points = " ".join(f"{places[i]:.1f},{y(values[i]):.1f}" for i in part)
        parts.append(f'<polyline points="{points}"{pen}/>')
    if np.isfinite(values).any():
        end = np.flatnonzero(np.isfinite(values))[-1]
        at, height = places[end], y(values[end])
        parts.append(f'<circle class="last" cx="{at:.1f}" cy="{height:.1f}" r="3"{dot}/>')
        if not tint:
            parts.append(f'<text class="value" x="{at + 7:.1f}" y="{height + 4:.1f}">{label(values[end], True)}</text>')
    if len(keep) <= 120:
        parts += [
            f'<circle class="hit" cx="{places[i]:.1f}" cy="{y(values[i]):.1f}" r="6"{dot}>'
            f"<title>{said}step {steps[i]:,.0f}: {label(values[i], True)}</title></circle>"
            for i in keep
            if np.isfinite(values[i])
        ]
    return parts


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
    digits = max(0, -math.floor(math.log10(step) + 1e-9))  # decimals that tell one tick from the next
    if percent:
        digits = max(0, digits - 2)
        return ticks, lambda value, exact=False: f"{value:.{max(digits, 1) if exact else digits}%}".replace("%", " %")
    if len({short(tick) for tick in ticks}) == len(ticks):
        return ticks, lambda value, exact=False: short(value)
    return ticks, lambda value, exact=False: f"{value:,.{digits + exact}f}"


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
