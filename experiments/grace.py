"""GRACE (Zhu et al., 2020; arXiv:2006.04131).

    jssl train --config experiments/grace.py:cora --config.data.source=planetoid:FOLDER@cora

demo: the graph of the digits' nearest neighbours.
cora, citeseer, pubmed: the authors' config.yaml. The paper's table: 83.3 ± 0.4 % on Cora, 72.1 ± 0.5 on Citeseer,
    86.7 ± 0.1 on Pubmed, on random splits with a tenth of the nodes for training, not the public ones.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "grace:GRACE"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """The digits, each joined to its nearest, on a CPU."""
    config = recipes.nearest(METHOD, {"dims": (128, 64)}, hidden=64, dim=64)
    return recipes.graph_views(config, "Drop")


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny_graphs(demo(), hidden=8, dim=8)
    config.encoder.pool = "mean"
    config.augment.features = (0.1, 0.1)  # of three: without any all nodes are alike
    return config


def cora():
    config = recipes.cora(METHOD, {"dims": (256, 128)}, epochs=200)
    recipes.graph_views(config, "Drop", normalise="shares", edges=(0.2, 0.4), features=(0.3, 0.4))
    config.optim.update({"lr": 5e-4, "weight_decay": 1e-5, "decay_all": True})
    return config


def citeseer():
    config = cora()
    config.data.source = "planetoid:data/planetoid@citeseer"
    config.encoder.update({"dims": (512, 256), "activation": "prelu"})
    config.method.update({"hidden": 256, "dim": 256, "temperature": 0.9})
    config.augment.update({"edges": (0.2, 0.0), "features": (0.3, 0.2)})
    config.optim.lr = 1e-3
    return config


def pubmed():
    config = citeseer()
    config.data.source = "planetoid:data/planetoid@pubmed"
    config.encoder.activation = "relu"
    config.method.temperature = 0.7
    config.augment.update({"edges": (0.4, 0.1), "features": (0.0, 0.2)})
    config.train.epochs = 1500.0
    return config


VARIANTS = {"demo": demo, "tiny": tiny, "cora": cora, "citeseer": citeseer, "pubmed": pubmed}
