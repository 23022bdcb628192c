"""InfoGraph (Sun et al., 2019; arXiv:1908.01000).

    jssl train --config experiments/infograph.py:mutag --config.data.source=tu:MUTAG

demo: graphs of the digits' pixels.
mutag, nci1, proteins: GIN of 3 layers of 32, batch norm after the activation, all layers' sums side by side, 20 epochs
    in batches of 128; the paper picks layers and rate (1e-2 to 1e-4) by cross-validation, here it is always 1e-3. Its
    table 1, an SVM on 10 folds: MUTAG 89.01 ± 1.13 %.
"""

from experiments import graphcl
from jssl import recipes
from jssl.config import choose

METHOD = "infograph:InfoGraph"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """The digits' pixels, each joined to those beside it, on a CPU."""
    config = of_tu("")
    config.data.source = "pixels:digits@all"
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny_graphs(demo())
    config.encoder.pool = "mean"  # scores are products with sums over 64 nodes, and rounding is of their size
    return config


def of_tu(name):
    return recipes.small_graphs(METHOD, {**graphcl.GIN, "dims": (32,) * 3}, name, epochs=20, batch_size=128)


def mutag():
    return of_tu("MUTAG")


def nci1():
    return of_tu("NCI1")


def proteins():
    return of_tu("PROTEINS")


VARIANTS = {"demo": demo, "tiny": tiny, "mutag": mutag, "nci1": nci1, "proteins": proteins}
