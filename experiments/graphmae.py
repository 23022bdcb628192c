"""GraphMAE (Hou et al., 2022; arXiv:2205.10803).

    jssl train --config experiments/graphmae.py:cora --config.data.source=planetoid:FOLDER@cora

demo: the graph of the digits' nearest neighbours.
cora: GAT of 2 layers of 512 with 4 heads, Adam at 1e-3 with a cosine over 1,500 epochs, from the authors' configs.yml,
    as all settings here. The paper's table 1, public split, 20 runs: 84.2 ± 0.4 % on Cora, 73.4 ± 0.4 on Citeseer.
mutag, nci1: GIN; the paper's table 2, an SVM on 10 folds, 5 seeds: MUTAG 88.19 ± 1.26 %, NCI1 80.40 ± 0.30. Their
    graphs have self-loops, which for GIN is eps = 1. For NCI1 their file says `pool: sum`, which their code does not
    read: it then takes the mean.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "graphmae:GraphMAE"
GAT = {"layer": "gat", "heads": 4, "gain": 2**0.5, "activation": "prelu", "dropout": 0.2, "attention_dropout": 0.1}
GIN = {"layer": "gin", "eps": 1.0, "norm": True, "activation": "prelu", "dropout": 0.2}


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """The digits, each joined to its nearest, on a CPU."""
    config = recipes.nearest(METHOD, {**GAT, "dims": (128, 128)}, gamma=2.0)
    config.optim.update({"lr": 3e-3, "end": 0.0})
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny_graphs(demo(), decoder="gin")
    config.encoder = {"name": config.encoder.name, **GIN, "dims": (8, 8), "dropout": 0.0, "pool": "mean"}
    return config


def cora():
    config = recipes.cora(METHOD, {**GAT, "dims": (512, 512)}, epochs=1500, mask_ratio=0.5, replace_ratio=0.05)
    config.optim.update({"weight_decay": 2e-4, "decay_all": True, "end": 0.0})
    return config


def citeseer():
    config = cora()
    config.data.source = "planetoid:data/planetoid@citeseer"
    config.encoder.heads = 2
    config.method.update({"replace_ratio": 0.1, "gamma": 1.0})
    config.optim.weight_decay = 2e-5
    config.train.epochs = 300.0
    return config


def mutag():
    fields = {"decoder": "gin", "mask_ratio": 0.75, "replace_ratio": 0.1, "gamma": 2.0}
    config = recipes.small_graphs(METHOD, {**GIN, "dims": (32,) * 5, "pool": "sum"}, "MUTAG", 20, 64, **fields)
    config.optim.lr = 5e-4
    return config


def nci1():
    fields = {"decoder": "gin", "mask_ratio": 0.25, "replace_ratio": 0.1, "gamma": 2.0}
    config = recipes.small_graphs(METHOD, {**GIN, "dims": (512,) * 2, "pool": "mean"}, "NCI1", 300, 16, **fields)
    config.optim.end = 0.0
    return config


VARIANTS = {"demo": demo, "tiny": tiny, "cora": cora, "citeseer": citeseer, "mutag": mutag, "nci1": nci1}
