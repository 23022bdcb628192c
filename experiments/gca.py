"""GCA: GRACE with adaptive views (Zhu et al., 2020; arXiv:2010.14945).

    jssl train --config experiments/gca.py:wikics --config.data.source=npz:wikics.npz

Edges and features of little importance are left out more often. Importance is by degree (GCA-DE, the default here and
in the authors' code), --config.data.centrality=pagerank (GCA-PR) or eigenvector (GCA-EV).

demo: the graph of the digits' nearest neighbours.
wikics: the authors' settings. The paper's table 2, on the set's 20 splits: 78.30 ± 0.00 % (DE), 78.35 ± 0.05 (PR).
cora: ours, GRACE's with adaptive views; the paper has no such row.
"""

from experiments import grace
from jssl import recipes
from jssl.config import choose

METHOD = "grace:GRACE"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """The digits, each joined to its nearest, on a CPU."""
    return adaptive(grace.demo())


def tiny():
    """For the contract tests: seconds on a CPU."""
    return adaptive(grace.tiny())


def cora():
    return adaptive(grace.cora())


def wikics():
    config = recipes.cora(METHOD, {"dims": (512, 256), "activation": "prelu"}, epochs=3000, hidden=256, dim=256)
    config.data.source = "npz:data/wikics.npz"
    recipes.graph_views(config, "Drop", normalise="shares", edges=(0.2, 0.3), features=(0.1, 0.1))
    config.optim.update({"lr": 1e-2, "weight_decay": 1e-5, "decay_all": True})
    return adaptive(config)


def adaptive(config):
    config.data.centrality = "degree"
    config.augment.adaptive = True
    return config


VARIANTS = {"demo": demo, "tiny": tiny, "cora": cora, "wikics": wikics}
