"""report.html of `jssl curate`: how many images were removed and why, beside the one that is kept."""

import numpy as np

from jssl import figures, report
from jssl.data.decode import BadImage, decode
from jssl.sections import escape, percent, tile

SHOWN = 24  # pictures of each reason
GROUPS, BESIDE = 40, 5  # of near-duplicates, and pictures of each beside the one kept
MEANING = {
    "broken": "cannot be decoded",
    "tiny": "the shorter side is below --min-side",
    "long": "longer side / shorter is above --max-aspect",
    "blank": "of nearly one colour",
    "duplicate": "nearly the same as an image that is kept, which has more pixels or the larger file",
    "far": "not among the nearest neighbours of any image of --like",
    "surplus": "left over by the even sample of --count",
}


def write(out, files, kept, reason, of, similarity, said, how):
    """-> path. kept: rows; reason, of, similarity, said: of every image, as in removed.csv; how: {what: value}."""
    counts = {why: int((reason == why).sum()) for why in MEANING}
    picture = lambda row, text, kind="": _tile(files, row, text, kind)
    parts = [_head(out, len(kept), len(reason), counts), _table(counts, len(reason), how)]
    parts.append(_section("Near-duplicates", _copies(of, similarity, picture)))
    for why in MEANING:
        rows = _spread(np.flatnonzero(reason == why), SHOWN)
        if why == "broken":
            lines = "".join(f"<li>{escape(files.names[row])}: {escape(said[row])}</li>" for row in rows)
            parts.append(_section("Broken", f"<p>{MEANING[why]}</p><ul>{lines}</ul>" if len(rows) else ""))
        elif why != "duplicate":
            parts.append(_section(why.capitalize(), _grid(MEANING[why], [picture(row, said[row]) for row in rows])))
    some = _spread(kept, SHOWN)
    parts.append(_section("Kept", _grid("Some of what is left.", [picture(row, said[row]) for row in some])))
    made = "jssl curate, which touched no image"
    return report.page(out / "report.html", out.resolve().name, parts, made)


def _head(out, kept, looked, counts):
    figures_ = [
        (f"{kept:,}", "images kept"),
        (f"{looked - kept:,}", "removed"),
        (f"{counts['duplicate']:,}", "near-duplicates"),
    ]
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{what}</span></div>' for value, what in figures_)
    lead = f"{looked:,} images looked at; manifest.csv names those kept, removed.csv all others"
    return f'<h1>{escape(out.resolve().name)}</h1><p class="lead">{lead}</p><div class="tiles">{tiles}</div>'


def _table(counts, looked, how):
    rows = "".join(
        f"<tr><td>{why}<br><small>{escape(MEANING[why])}</small></td><td>{n:,}</td><td>{percent(n / looked)}</td></tr>"
        for why, n in counts.items()
        if n
    )
    head = "<thead><tr><th>reason</th><th>images</th><th>share</th></tr></thead>"
    table = f'<table class="classes">{head}<tbody>{rows}</tbody></table>' if rows else "<p>Nothing was removed.</p>"
    text = " · ".join(f"{what}: {value}" for what, value in how.items())
    return f"<section><h2>What was removed</h2><p>{escape(text)}</p>{table}</section>"


def _copies(of, similarity, picture):
    rows, (groups, sizes) = [], np.unique(of[of >= 0], return_counts=True)
    for best in _spread(groups[np.argsort(-sizes, kind="stable")], GROUPS):
        others = np.flatnonzero(of == best)
        others = others[np.argsort(similarity[others], kind="stable")]
        tiles = [picture(best, f"1 of {len(others) + 1}")]
        tiles += [picture(row, f"{similarity[row]:.3f}", "other") for row in others[:BESIDE]]
        tiles += ["<figure></figure>"] * (BESIDE + 1 - len(tiles))
        columns = f"1.35fr repeat({BESIDE}, 1fr)"
        rows.append(f'<div class="row" style="grid-template-columns: {columns}">{"".join(tiles)}</div>')
    lead = f"{len(groups):,} groups, {len(rows)} of them shown, " if len(groups) > len(rows) else ""
    lead += "the largest first. On the left the image that is kept, then those removed, the least alike first, with "
    lead += "their cosine to it: below the threshold where others of the group are between the two."
    lead = lead[0].upper() + lead[1:]
    return f'<p>{lead}</p><div class="neighbours">{"".join(rows)}</div>' if rows else ""


def _grid(lead, tiles):
    columns = "repeat(auto-fill, minmax(90px, 1fr))"
    return (
        f'<p>{lead}</p><div class="row" style="grid-template-columns: {columns}">{"".join(tiles)}</div>'
        if tiles
        else ""
    )


def _section(title, text):
    return f"<section><h2>{title}</h2>{text}</section>" if text else ""


def _tile(files, row, text, kind):
    name = files.names[row]
    try:
        image = decode(files(row), 3, 2)
        image.thumbnail((256, 256))
    except BadImage as error:  # gone or changed since it was looked at
        return f"<figure><figcaption>{escape(name)}: {escape(error)}</figcaption></figure>"
    return tile(figures.thumbnail(np.asarray(image)), text, name, kind)


def _spread(rows, most):
    """At most so many, from all over."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
