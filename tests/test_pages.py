"""A program begins again in huge pages once, where they are offered to those who ask."""

import os
import subprocess
import sys

import pytest

CODE = """
import os
from jssl import pages
pages.OFFERED = {path!r}
pages.huge()
import sys
print(os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.mark.parametrize(
    ("offered", "before", "after"),
    [
        ("always [madvise] never\n", None, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never\n", "glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        ("always [madvise] never\n", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("[always] madvise never\n", None, None),
        (None, None, None),
    ],
)
def test_the_same_process_goes_on_with_its_arguments(tmp_path, offered, before, after):
    path = tmp_path / "enabled"
    if offered:
        path.write_text(offered)
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": before} if before else {}
    command = [sys.executable, "-c", CODE.format(path=str(path)), "--data", "a b"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.communicate(timeout=60)[0] == f"{process.pid} {['--data', 'a b']} {after}\n"
