"""DGI (Veličković et al., 2018; arXiv:1809.10341).

    jssl train --config experiments/dgi.py:cora --config.data.source=planetoid:FOLDER@cora

demo: the graph of the digits' nearest neighbours.
cora: a layer of 512 with PReLU, Adam at 1e-3 without decay, as in the authors' code. They stop where the loss has not
    fallen for 20 epochs; here it is 300 epochs always. The paper's table 2: 82.3 ± 0.6 % on Cora with the public split,
    71.8 ± 0.7 on Citeseer; for Pubmed (76.8 ± 0.6) --config.encoder.dims=256,
"""

from jssl import recipes
from jssl.config import choose

METHOD = "dgi:DGI"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """The digits, each joined to its nearest, on a CPU."""
    return recipes.nearest(METHOD, {"dims": (256,), "activation": "prelu"})


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny_graphs(demo())
    config.encoder.pool = "mean"
    return config


def cora():
    return recipes.cora(METHOD, {"dims": (512,), "activation": "prelu"}, epochs=300)


VARIANTS = {"demo": demo, "tiny": tiny, "cora": cora}
