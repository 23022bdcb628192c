"""DGI (Veličković et al., 2018; arXiv:1809.10341).

    jssl train --config experiments/dgi.py:cora --config.data.source=planetoid:FOLDER@cora
    jssl train --config experiments/dgi.py:sampled --config.data.source=npz:GRAPH.npz

demo: the graph of the digits' nearest neighbours.
cora: a layer of 512 with PReLU, Adam at 1e-3 without decay, as in the authors' code. They stop where the loss has not
    fallen for 20 epochs; here it is 300 epochs always. The paper's table 2: 82.3 ± 0.6 % on Cora with the public split,
    71.8 ± 0.7 on Citeseer; for Pubmed (76.8 ± 0.6) --config.encoder.dims=256,
sampled: a graph of any size, as the paper trains on Reddit: 256 nodes a step, a graph sampled around each, shuffled by
    itself, one summary of the nodes. Here ten of a node's neighbours and ten of each of theirs, two layers of GraphSAGE
    and a rate of 1e-3, a twentieth of the paper's work; its own are --config.encoder.dims=512,512,512
    --config.data.fanouts=10,10,25 --config.optim.lr=1e-5, drawn with replacement there, with layers that lay side by
    side what SAGE adds. Measured on a graph of a million nodes: benchmarks/results/big-graph.md.
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


def sampled():
    return recipes.sampled_graph(METHOD, {"dims": (512, 512), "activation": "prelu"})


VARIANTS = {"demo": demo, "tiny": tiny, "cora": cora, "sampled": sampled}
