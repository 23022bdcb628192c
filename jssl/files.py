"""Files that are written whole or not at all, by one process."""

import contextlib
import os
import pathlib
import tempfile

from jssl.processes import first


@contextlib.contextmanager
def whole(path, mode="w", **how):
    """`open` for writing, beside `path`; at the end the file takes its place, and until then `path` is as it was. What
    other processes than the first write is lost."""
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.part")
    how |= {} if "b" in mode else {"encoding": "utf-8"}
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
