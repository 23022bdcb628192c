"""Exact k-NN of growing banks: time, and memory beyond the bank.

    python -m benchmarks.knn
    python -m benchmarks.knn --rows 100000 --rows 1000000 --dim 512 --queries 10000

Each row is a process of its own. The bank is random, float32, in memory or memory-mapped from a file; "beyond it" is
the largest resident memory of the search, sampled every 5 ms, less what the process held just before it began, with the
bank in memory: programs, the queries, blocks of the bank on the device, the running nearest. Pages of a mapped file are
not counted: the system keeps and drops them as it likes. The nearest of 20 queries are checked against numpy's in every
row.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

K = 20


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.knn", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, action="append", help="of a bank (default: 100,000, 300,000, 1,000,000)")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--out", default=None)
    parser.add_argument(
        "--one", nargs=2, metavar=("ROWS", "WHERE"), help="measure one bank, here, and print it as JSON"
    )
    arguments = parser.parse_args(argv)
    if arguments.one:
        rows, where = arguments.one
        print(json.dumps(measured(int(rows), arguments.dim, arguments.queries, where)))
        return

    from benchmarks import results

    size = ["--dim", str(arguments.dim), "--queries", str(arguments.queries)]
    table = []
    for rows in arguments.rows or (100_000, 300_000, 1_000_000):
        for where in ("memory", "file"):
            command = [sys.executable, "-m", "benchmarks.knn", *size, "--one", str(rows), where]
            table.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    notes = [
        f"The {K} nearest of {arguments.queries:,} queries by cosine among rows of {arguments.dim} numbers, float32.",
        " ".join(__doc__.split("\n\n")[2].split()),
    ]
    results.write(arguments.out or results.FOLDER, "knn", "Exact k-NN in blocks", table, notes)


def measured(rows, dim, queries, where):
    """-> a row of the table"""
    from jssl.evals.neighbours import neighbours

    rng = np.random.default_rng(0)
    x = rng.standard_normal((queries, dim), np.float32)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        bank = np.empty((rows, dim), np.float32)
        if where == "file":
            bank = np.lib.format.open_memmap(file.name, "w+", np.float32, (rows, dim))
        for start in range(0, rows, 8192):
            bank[start : start + 8192] = rng.standard_normal((min(8192, rows - start), dim), np.float32)
        with Resident() as resident:
            began = time.monotonic()
            similarity, index = neighbours(bank, x, K)
            seconds = time.monotonic() - began
        check(bank, x[:20], similarity[:20], index[:20])
        return {
            "bank": rows,
            "held in": where,
            "bank, MiB": bank.nbytes >> 20,
            "beyond it, MiB": resident.most - resident.before,
            "seconds": round(seconds, 1),
            "GFLOP/s": round(2e-9 * rows * dim * queries / seconds, 1),
        }


class Resident:
    """The process's anonymous resident memory in MiB, just before and at most."""

    def __enter__(self):
        self.before = self.most = self.now()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def watch(self):
        while not self.done.wait(0.005):
            self.most = max(self.most, self.now())

    @staticmethod
    def now():
        with open(f"/proc/{os.getpid()}/status") as file:
            return next(int(line.split()[1]) >> 10 for line in file if line.startswith("RssAnon"))


def check(bank, queries, similarity, index):
    """Against all similarities of a few queries, by numpy."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    parts = [unit(queries) @ unit(bank[i : i + 8192]).T for i in range(0, len(bank), 8192)]
    every = np.concatenate(parts, 1)
    expected = np.argsort(-every, 1, kind="stable")[:, : index.shape[1]]
    np.testing.assert_allclose(similarity, np.take_along_axis(every, expected, 1), atol=1e-5)
    assert np.mean(index == expected) > 0.99, "rounding may swap two neighbours, not more"


if __name__ == "__main__":
    main()
