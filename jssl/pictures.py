"""Sections of report.html that are pictures: views, reconstructions, and what the encoder makes of patches."""

import numpy as np
from PIL import Image

from jssl import figures
from jssl.sections import tile

OF_PIXELS = {
    "dense.png": "Test images, the class of every pixel, and what is made of it by a linear layer on frozen patch "
    "features, and by their nearest neighbours among training patches.",
    "depth.png": "Test images, how far every pixel is (light is near, black unknown), and what a linear layer on "
    "frozen patch features makes of it.",
    "boxes.png": "One box for each image, found without training: by LOST, from the similarity of its patches, or "
    "around what the class token looks at.",
    "anomaly.png": "Parts, where their defects are, and how far each patch is from those of all good parts (light is "
    "far). The last one is good.",
}


def views(path):
    return _picture(
        path,
        "The first batch as the method sees it: each image after its random crops and changes of colour. One should "
        "still recognise it; what the views change, the encoder learns to ignore.",
    )


def reconstructions(path):
    return _picture(
        path,
        "Each row: an image, what the encoder sees of it, and what the method makes of that. Visible patches are shown "
        "as they are; hidden ones should come out plausible, if blurred: more than the mean of what is possible no "
        "squared or absolute error asks for.",
    )


def of_pixels(workdir):
    """What evaluations left of classes, depths, boxes and defects, each where it was asked for."""
    return "".join(_picture(workdir / name, lead) for name, lead in OF_PIXELS.items())


def _picture(path, lead):
    if not path.exists():
        return ""
    image = Image.open(path)
    image.thumbnail((1600, 2400))
    pixels = f' pixels" style="width: min(100%, {3 * image.width}px)' if image.width < 640 else ""
    return f'<p>{lead}</p><img class="wide{pixels}" src="{figures.data_uri(image)}" alt="{path.stem}">'


def patches(arrays):
    """Patch tokens as colours, and where each head of the class token looks. arrays: what patches.npz holds"""
    if not arrays:
        return ""
    attention, rows = arrays.get("attention"), []
    for i, (image, colours) in enumerate(zip(arrays["image"], arrays["colours"], strict=True)):
        tiles = [tile(image, "image", "", ""), tile(colours, "patches", "", "")]
        for h, shares in enumerate([] if attention is None else attention[i], start=1):
            grey = np.round(255 * shares / max(shares.max(), 1e-12)).astype(np.uint8)[..., None]
            tiles.append(tile(grey, f"head {h}", f"at most {100 * shares.max():.0f} % on one patch", ""))
        rows.append(f'<div class="row" style="grid-template-columns: repeat({len(tiles)}, 1fr)">{"".join(tiles)}</div>')
    heads = (
        " Then the attention of the class token in the last block, head by head: white is the patch it looks at most."
        if attention is not None
        else ""
    )
    return (
        "<p>Patch tokens as colours: their first three principal components over these images, as red, green and blue. "
        f"Patches of one colour are alike to the encoder; things should stand out from what is behind them.{heads}</p>"
        f'<div class="neighbours broad">{"".join(rows)}</div>'
    )
