"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def whole(path, mode="w", **how):
    """`open` for writing, beside `path`; at the end the file takes its place, and until then `path` is as it was."""
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.part")
    text = {} if "b" in mode else {"encoding": "utf-8"}
    with part.open(mode, **text, **how) as file:
        yield file
    os.replace(part, path)
