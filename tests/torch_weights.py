"""torch's weights under our names."""

import re

import numpy as np


def convert(weights, rules):
    """{torch name: array} -> (params, stats); `rules` {regex: replacement} are applied to the dotted names in turn."""
    params, stats = {}, {}
    for name, value in weights.items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        *modules, leaf = name.split(".")
        leaf = {"weight": "kernel" if value.ndim > 1 else "scale", "running_mean": "mean", "running_var": "var"}.get(
            leaf, leaf
        )
        tree = stats if leaf in ("mean", "var") else params
        for module in modules:
            tree = tree.setdefault(module, {})
        tree[leaf] = _kernel(value) if leaf == "kernel" else value
    return params, stats


def nhwc(images):
    return np.moveaxis(images, 1, -1)


def _kernel(value):
    """[out, in, ...] -> [..., in, out]"""
    return np.moveaxis(value, (0, 1), (-1, -2))
