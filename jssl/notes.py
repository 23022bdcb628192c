"""What stands on stderr beside the progress: one plain line for each note of jssl's and each warning of anybody's."""

import logging
import pathlib
import sys

from jssl.processes import first

OURS = str(pathlib.Path(__file__).parent)


class Plain(logging.Handler):
    """Shows records without a prefix; of other packages, and of other processes than the first, only warnings, and of
    these the first line."""

    def filter(self, record):
        return record.levelno >= logging.WARNING or (record.pathname.startswith(OURS) and first())

    def emit(self, record):
        text = record.getMessage().strip().partition("\n")[0]
        _write(text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}")


def listen():
    """Shows the log of this program in plain lines. For programs: a library leaves the log to who uses it."""
    logging.captureWarnings(True)
    logging.root.handlers = [Plain()]
    logging.root.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.NOTSET)


def say(text):
    """One line of the first process, see `_write`."""
    if first():
        _write(text)


def _write(text):
    """On today's stderr: while there is a progress bar, rich's, which moves the bar down."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
