"""`jssl list`: the methods there are, and the variants of their configs."""

import importlib

from jssl.config import experiments


def listing():
    """One line per experiment: its name, its paper, its variants."""
    lines = []
    for name in experiments():
        module = importlib.import_module(f"experiments.{name}")
        paper = module.__doc__.strip().splitlines()[0].rstrip(".")
        lines.append(f"{name:<12} {paper:<60} {', '.join(module.VARIANTS)}")
    return "\n".join([*lines, "", "jssl train --config NAME:VARIANT --workdir RUN"])
