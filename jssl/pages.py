"""Memory in huge pages: on a CPU, touching a step's buffers anew by pages of 4 KiB takes a good part of the step."""

import os
import sys

OFFERED = "/sys/kernel/mm/transparent_hugepage/enabled"
ASKED = "glibc.malloc.hugetlb"


def huge():
    """Begins this program again, as the same process, with glibc asking for huge pages where Linux gives them to those
    who ask: it reads its settings once, before the first line of Python. A setting of the user's own stays.

    For the first line of a program: elsewhere than in a console script or under `if __name__ == "__main__"` it would
    begin somebody else's program again, and what was done before is done twice.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _offered() and ASKED not in tunables:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{ASKED}=1".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _offered():
    try:
        with open(OFFERED) as file:
            return "[madvise]" in file.read()
    except OSError:  # not Linux, or without them
        return False
