"""`folder:MANIFEST.csv`: images by a list of their paths, as `jssl curate` writes one."""

import csv
import os

import numpy as np

from jssl.config import nearest

PATH, LABEL = "path", "label"


def read_manifest(spec, file):
    """-> folder of the manifest, paths in its order, labels int32 [N] and label names, or None and None.

    A CSV file whose first line names the columns: `path`, relative to the manifest or absolute, and where there are
    classes `label`, a text each. Raises ValueError in one line.
    """
    try:
        with open(file, newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            columns = rows.fieldnames or []
            if PATH not in columns:
                found = f"found {', '.join(columns)}{nearest(PATH, columns)}" if columns else "it is empty"
                raise ValueError(f"{spec}: {file} has no column `{PATH}`, {found}")
            read = [(row[PATH] or "", row.get(LABEL) or "") for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{spec}: {file} cannot be read as CSV ({error}), expected a column `{PATH}`") from None
    if not read:
        raise ValueError(f"{spec}: {file} lists no images, expected one path a line below the first")
    for number, (path, _) in enumerate(read, 2):
        if not path:
            raise ValueError(f"{spec}: {file} has no path in line {number}, expected one in each")
    root, paths, texts = os.path.dirname(file), [path for path, _ in read], [label for _, label in read]
    if LABEL not in columns or not any(texts):
        return root, paths, None, None
    if "" in texts:
        number = texts.index("") + 2
        raise ValueError(f"{spec}: {file} has no label in line {number}, expected one in each or no column `{LABEL}`")
    label_names, labels = np.unique(texts, return_inverse=True)
    return root, paths, labels.astype(np.int32), tuple(label_names.tolist())


def write_manifest(file, paths, labels=None):
    """Writes paths and, where given, the texts of their labels."""
    columns = {PATH: paths, **({} if labels is None else {LABEL: labels})}
    write_csv(file, list(columns), zip(*columns.values(), strict=True))


def write_csv(file, columns, rows):
    part = f"{file}.part"
    with open(part, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    os.replace(part, file)
