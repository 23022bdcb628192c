"""BGRL (Thakoor et al., 2021; arXiv:2102.06514).

    jssl train --config experiments/bgrl.py:wikics --config.data.source=npz:wikics.npz

demo: the graph of the digits' nearest neighbours.
wikics: the authors' settings for WikiCS: GCN 512-256 with batch norm and PReLU, AdamW at 5e-4, decay 1e-5, 1,000
    epochs of warm-up and a cosine over 10,000. The paper's table 2, on the set's 20 splits: 79.98 ± 0.10 %.
cora: ours, the same network and views for 1,000 epochs; the paper has no such row.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "bgrl:BGRL"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """The digits, each joined to its nearest, on a CPU."""
    config = recipes.nearest(METHOD, {"dims": (128, 64), "norm": True, "activation": "prelu"}, hidden=128)
    recipes.graph_views(config, "Drop", edges=(0.3, 0.2), features=(0.3, 0.4))
    config.optim.update({"name": "adamw", "lr": 5e-3, "weight_decay": 1e-5, "warmup": 20.0, "end": 0.0})
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny_graphs(demo(), hidden=8)
    config.encoder.pool = "mean"
    config.augment.features = (0.1, 0.1)  # of three: without any all nodes are alike
    return config


def cora():
    config = recipes.cora(METHOD, {"dims": (512, 256), "norm": True, "activation": "prelu"}, epochs=1000)
    recipes.graph_views(config, "Drop", normalise="shares", edges=(0.3, 0.2), features=(0.3, 0.4))
    config.optim.update({"name": "adamw", "lr": 5e-4, "weight_decay": 1e-5, "decay_all": True})
    config.optim.update({"warmup": 100.0, "end": 0.0})
    return config


def wikics():
    config = cora()
    config.data.source = "npz:data/wikics.npz"
    recipes.graph_views(config, "Drop", normalise="standard", edges=(0.2, 0.3), features=(0.2, 0.1))
    config.train.epochs = 10000.0
    config.optim.warmup = 1000.0
    return config


VARIANTS = {"demo": demo, "tiny": tiny, "cora": cora, "wikics": wikics}
