"""GraphCL (You et al., 2020; arXiv:2010.13902).

    jssl train --config experiments/graphcl.py:mutag --config.data.source=tu:MUTAG

demo: graphs of the digits' pixels.
mutag, nci1, proteins: the settings of the authors' unsupervised code: GIN of 3 layers of 32, batch norm after the
    activation, all layers' sums side by side, Adam at 1e-2 for 20 epochs in batches of 128; a graph beside a view of
    it, of nodes left out (section 4.1 finds that and subgraphs good for molecules). Their README leaves it open which
    sets had random2, random3 or random4 instead: --config.augment.kinds="('none', 'random4')". The paper's table 5, an
    SVM on 10 folds, 5 seeds: MUTAG 86.80 ± 1.34 %, NCI1 77.87 ± 0.41, PROTEINS 74.39 ± 0.45.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "graphcl:GraphCL"
GIN = {"layer": "gin", "norm": True, "inner_norm": False, "norm_last": True, "jumping": True, "pool": "sum"}


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """The digits' pixels, each joined to those beside it, on a CPU."""
    config = recipes.small_graphs(METHOD, {**GIN, "dims": (32,) * 3}, "", epochs=20, batch_size=128)
    recipes.graph_views(config, "GraphCL")
    config.data.source = "pixels:digits@all"
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny_graphs(demo(), hidden=16, dim=16)
    config.encoder.update({"dims": (16, 16), "pool": "mean"})  # narrower, untrained embeddings are too much alike
    config.optim.lr = 0.004
    return config


def of_tu(name):
    config = recipes.small_graphs(METHOD, {**GIN, "dims": (32,) * 3}, name, epochs=20, batch_size=128)
    recipes.graph_views(config, "GraphCL", kinds=("none", "nodes"))
    config.optim.lr = 1e-2
    return config


def mutag():
    return of_tu("MUTAG")


def nci1():
    return of_tu("NCI1")


def proteins():
    return of_tu("PROTEINS")


VARIANTS = {"demo": demo, "tiny": tiny, "mutag": mutag, "nci1": nci1, "proteins": proteins}
