"""Files that are written whole or not at all, by one process; names that are not UTF-8, as old disks have them."""

import contextlib
import os
import pathlib
import tempfile

from jssl.processes import first

NAMES = "surrogateescape"  # how Python has such a name as text: written so it is the same bytes again


@contextlib.contextmanager
def whole(path, mode="w", **how):
    """`open` for writing, beside `path`; at the end the file takes its place, and until then `path` is as it was. What
    other processes than the first write is lost."""
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.part")
    how |= {} if "b" in mode else {"encoding": "utf-8", "errors": NAMES}
    if not first():
        with tempfile.TemporaryFile(mode, **how) as file:
            yield file
        return
    with part.open(mode, **how) as file:
        yield file
    os.replace(part, path)


def remove(path):
    """Deletes a file that may be there; the first process alone does."""
    if first():
        pathlib.Path(path).unlink(missing_ok=True)


def place_for(path):
    """Makes the folder that a file is to be written to, before the work whose result it is; ValueError where a file is
    in its place."""
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{path} cannot be written: {pathlib.Path(path).parent} is a file, expected a folder"
        ) from None
