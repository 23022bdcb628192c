"""`jssl search`: the images of a folder that an encoder finds nearest to given ones, as a list and as a picture."""

import difflib
import hashlib
import os
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jssl import data, figures, report, sections
from jssl.data.folder import Files
from jssl.encoder import Encoder
from jssl.evals.neighbours import neighbours
from jssl.files import place_for, whole
from jssl.sharding import distribute

FOLDER = "search"  # of a run, for the features of what was searched
SIDE, GAP, LINE = 128, 8, 16  # pixels of a picture
BATCH = 256


def search(workdir, index, queries, count=10, out="search.html"):
    """The `count` images of a source nearest to each query by cosine, exactly; writes a picture, returns lines of text.

    workdir: a run directory, which keeps the features of the index for the next search, or an encoder's folder.
    index: a source such as "folder:PHOTOS"; queries: image files, each left out of its own results where it is one of
    the index; out: an .html or .png. Raises ValueError or FileNotFoundError, one line, for what cannot be opened.
    """
    distribute()
    workdir, out = pathlib.Path(workdir), pathlib.Path(out)
    if out.suffix not in (".html", ".png"):
        raise ValueError(f"--out {out}: cannot draw {out.suffix or 'a file without a suffix'}, expected .html or .png")
    if count < 1:
        raise ValueError(f"--count {count}: expected a whole number of at least 1")
    encoder = Encoder(workdir)
    if encoder.modality != "image":
        raise ValueError(f"{workdir} holds an encoder of {encoder.modality}s; expected one of images")
    pictures = [_opened(path, encoder.channels) for path in queries]
    place_for(out)
    source = data.open_source(index, channels=encoder.channels)
    if source.modality != "image":
        raise ValueError(f"--index {index} holds {source.contents}; expected images, such as folder:PHOTOS")
    features = indexed(workdir, encoder, source)
    asked = np.concatenate([_embedded(encoder, image, source.shape) for image in pictures])
    similarity, found = neighbours(features, asked, count + 1)
    rows = []
    for path, near, values in zip(queries, found, similarity, strict=True):
        others = [(row, value) for row, value in zip(near.tolist(), values.tolist()) if not _is(source, row, path)]
        rows.append(others[:count])
    _draw(out, workdir, source, queries, pictures, rows)
    lines = [f"{len(source):,} images of {source.spec} searched, {out} shows what was found"]
    for path, near in zip(queries, rows, strict=True):
        lines += ["", str(path), *(f"{value:7.3f}  {source.names[row]}" for row, value in near)]
    return "\n".join(lines)


def indexed(workdir, encoder, source):
    """Features float32 [N, D] of a source, read where WORKDIR/search has them of the same images and weights."""
    folder = pathlib.Path(workdir) / FOLDER
    path = folder / f"{hashlib.blake2b(source.spec.encode(), digest_size=8).hexdigest()}.npz"
    key = _key(encoder, source)
    if path.is_file() and str((kept := np.load(path))["key"]) == key:
        return kept["features"]
    features = encoder.embed(source, BATCH, data.default_workers())
    folder.mkdir(exist_ok=True)
    with whole(path, "wb") as file:
        np.savez(file, key=key, spec=source.spec, features=features)
    return features


def _key(encoder, source):
    """What features depend on: the weights, and the images, of files their names, sizes and times."""
    digest = hashlib.blake2b(digest_size=16)
    with open(encoder.folder / "weights.npz", "rb") as file:
        digest.update(hashlib.file_digest(file, "blake2b").digest())
    for row, name in enumerate(source.names):
        path = _path(source, row)
        status = os.stat(path) if path else None
        digest.update(repr((name, status and (status.st_size, status.st_mtime_ns))).encode())
    if _path(source, 0) is None and source.images is not None:
        digest.update(np.ascontiguousarray(source.images))
    return digest.hexdigest()


def _path(source, row):
    """The file of a row, or None."""
    return source.open.path(row) if isinstance(source.open, Files) else None


def _is(source, row, path):
    """Whether a row of the index is this file."""
    file = _path(source, row)
    return file is not None and os.path.realpath(file) == os.path.realpath(path)


def _opened(path, channels):
    """-> uint8 [H, W, C]"""
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"--query {path} is a folder; expected one image file, and --index folder:{path} to search it")
    if not path.is_file():
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ", expected an image"
        raise FileNotFoundError(f"--query {path}: there is no such file{hint}")
    try:
        return _single(path, channels).image(0)
    except data.BadImage as error:
        raise ValueError(f"--query {path} cannot be decoded: {error}") from None


def _single(path, channels):
    """One file as a source."""
    return data.Source(spec=str(path), names=[path.name], channels=channels, open=Files(str(path.parent), [path.name]))


def _embedded(encoder, image, shape):
    """[1, D], of an image cropped as those of the index, which are in memory and of one shape, or on disk."""
    if image.shape == shape:
        return encoder(image[None])
    picture = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
    source = data.Source(spec="query", names=["query"], channels=image.shape[-1], open=lambda _: picture)
    return encoder.embed(source)


def _draw(out, workdir, source, queries, pictures, rows):
    """rows: of each query its (row of the source, similarity), nearest first."""
    thumbs = report.thumbnails(source.image, sorted({row for near in rows for row, _ in near}), SIDE)
    asked = [figures.thumbnail(image, SIDE) for image in pictures]
    title = f"{len(source):,} images of {source.spec}, nearest first"
    if out.suffix == ".png":
        with whole(out, "wb") as file:
            _sheet(title, queries, asked, rows, thumbs, source.names).save(file, "PNG")
        return
    body = [f'<h1>Search</h1><p class="lead">{sections.escape(title)} by the encoder of {sections.escape(workdir)}</p>']
    for path, image, near in zip(queries, asked, rows, strict=True):
        name = lambda row: os.path.basename(source.names[row])
        tiles = [sections.tile(thumbs[row], f"{value:.3f} {name(row)}", source.names[row], "") for row, value in near]
        tiles.insert(0, sections.tile(image, "query", str(path), "same"))
        columns = "repeat(auto-fill, minmax(7rem, 1fr))"
        tiles = f'<div class="row" style="grid-template-columns: {columns}">{"".join(tiles)}</div>'
        heading = f'<h2 style="overflow-wrap: anywhere">{sections.escape(os.path.basename(path))}</h2>'
        body.append(f"<section>{heading}{tiles}</section>")
    report.page(out, "Search", body, "jssl search: cosine similarity of features, exact")


def _sheet(title, queries, asked, rows, thumbs, names):
    """A picture: a row for each query, which stands first in a frame, with the similarity and the name below each."""
    width = (1 + max(map(len, rows))) * (SIDE + GAP) + GAP
    height = 2 * LINE + GAP
    step = SIDE + 2 * LINE + 2 * GAP
    sheet = Image.new("RGB", (width, height + step * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    write = lambda x, y, text, most: draw.text((x, y), _fitted(text, draw, font, most), "black", font)
    write(GAP, GAP, title, width - 2 * GAP)
    for i, (path, image, near) in enumerate(zip(queries, asked, rows, strict=True)):
        tiles = [(image, "query", os.path.basename(path))]
        tiles += [(thumbs[row], f"{value:.3f}", os.path.basename(names[row])) for row, value in near]
        for j, (pixels, above, below) in enumerate(tiles):
            x, y = GAP + j * (SIDE + GAP), height + i * step
            filters = Image.NEAREST if len(pixels) < SIDE // 2 else Image.BICUBIC
            sheet.paste(Image.fromarray(figures.rgb(pixels)).resize((SIDE, SIDE), filters), (x, y))
            write(x, y + SIDE, above, SIDE)
            write(x, y + SIDE + LINE, below, SIDE)
        draw.rectangle(
            (GAP - 3, height + i * step - 3, GAP + SIDE + 2, height + i * step + SIDE + 2), outline="#d33", width=3
        )
    return sheet


def _fitted(text, draw, font, width):
    """A text cut so that it is no wider than so many pixels: its end says more than its beginning."""
    text = str(text)
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"…{text}", font) > width:
        text = text[1:]
    return f"…{text}"
