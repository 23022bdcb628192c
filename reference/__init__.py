"""Curves of good runs, one file per method and variant: what `jssl compare` and `jssl doctor` hold a run against.

Made by `python -m benchmarks.quality --reference reference ...`; read by `jssl.compare`.
"""
