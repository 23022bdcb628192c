"""`folder:MANIFEST.csv`: images by a list of their paths, as `jssl curate` writes one."""

import csv
import os

import numpy as np

from jssl.config import nearest
from jssl.files import NAMES, whole

PATH, LABEL, GROUP = "path", "label", "group"


def read_manifest(spec, file):
    """-> folder of the manifest, paths in its order, {"labels": int32 [N], "label_names": texts, "groups": int32 [N],
    "group_names": texts}, each None where it has no such column.

    A CSV file whose first line names the columns: `path`, relative to the manifest or absolute, and where there are any
    `label` and `group`, a text each. Raises ValueError in one line.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig", errors=NAMES) as lines:
            rows = csv.DictReader(lines)
            columns = rows.fieldnames or []
            if PATH not in columns:
                found = f"found {', '.join(columns)}{nearest(PATH, columns)}" if columns else "it is empty"
                raise ValueError(f"{spec}: {file} has no column `{PATH}`, {found}")
            read = [tuple(row.get(column) or "" for column in (PATH, LABEL, GROUP)) for row in rows]
    except csv.Error as error:
        raise ValueError(f"{spec}: {file} cannot be read as CSV ({error}), expected a column `{PATH}`") from None
    if not read:
        raise ValueError(f"{spec}: {file} lists no images, expected one path a line below the first")
    for number, (path, *_) in enumerate(read, 2):
        if not path:
            raise ValueError(f"{spec}: {file} has no path in line {number}, expected one in each")
    paths, labels, groups = map(list, zip(*read))
    labels, label_names = _numbered(spec, file, LABEL, labels)
    groups, group_names = _numbered(spec, file, GROUP, groups)
    named = {"labels": labels, "label_names": label_names, "groups": groups, "group_names": group_names}
    return os.path.dirname(file), paths, named


def _numbered(spec, file, column, texts):
    """The texts of a column as numbers and their names, or None and None where there are none."""
    if not any(texts):
        return None, None
    if "" in texts:
        number = texts.index("") + 2
        raise ValueError(
            f"{spec}: {file} has no {column} in line {number}, expected one in each or no column `{column}`"
        )
    names, numbers = np.unique(texts, return_inverse=True)
    return numbers.astype(np.int32), tuple(names.tolist())


def write_manifest(file, paths, labels=None, groups=None):
    """Writes paths and, where given, the texts of their labels and groups."""
    given = {PATH: paths, LABEL: labels, GROUP: groups}
    columns = {name: texts for name, texts in given.items() if texts is not None}
    write_csv(file, list(columns), zip(*columns.values(), strict=True))


def write_csv(file, columns, rows):
    with whole(file, newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
