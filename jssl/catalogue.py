"""`jssl list`: the methods there are, and the variants of their configs."""

import importlib
import textwrap

from jssl.config import experiments

END = "jssl train --config NAME:VARIANT --workdir RUN; without :VARIANT the first of them"


def listing():
    """Of every experiment, by modality, its name, its paper and below them its variants."""
    lines = {}
    for name in experiments():
        module = importlib.import_module(f"experiments.{name}")
        paper = module.__doc__.strip().splitlines()[0].rstrip(".")
        of = lines.setdefault(f"{module.get_config().modality}s", [])
        of += [f"  {name:<14}  {paper}", *_wrapped(", ".join(module.VARIANTS))]
    return "\n".join([*(x for of, found in lines.items() for x in (f"{of}:", *found, "")), END])


def _wrapped(variants):
    return textwrap.wrap(variants, 120, initial_indent=" " * 18, subsequent_indent=" " * 18, break_on_hyphens=False)
