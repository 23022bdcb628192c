"""The protocols of images: a name, and the function that scores a `Subject`, imported where it is asked for."""

import importlib

from jssl.config import nearest

ALL = "all"  # that the data allow
DEFAULT = "knn,linear,fewshot"  # which take seconds
PROTOCOLS = {
    "knn": "jssl.evals.frozen:knn_of",
    "linear": "jssl.evals.frozen:linear_of",
    "linear-sgd": "jssl.evals.frozen:sgd_of",
    "linear-grid": "jssl.evals.grid:protocol",
    "retrieval": "jssl.evals.retrieval:protocol",
    "rank": "jssl.evals.rank:protocol",
    "fewshot": "jssl.evals.frozen:fewshot_of",
    "semi": "jssl.evals.tuned:few",
    "finetune": "jssl.evals.tuned:of_all",
    "peft": "jssl.evals.peft:peft",
    "dense": "jssl.evals.dense:protocol",
    "depth": "jssl.evals.depth:protocol",
    "corloc": "jssl.evals.boxes:protocol",
    "anomaly": "jssl.evals.anomaly:protocol",
    "robustness": "jssl.evals.robustness:protocol",
    "transfer": "jssl.evals.transfer:protocol",
    "fairness": "jssl.evals.fairness:protocol",
}


def find(name):
    """A protocol: a function from a `Subject` to scores. ValueError for an unknown name, with the near misses."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}{nearest(name, PROTOCOLS)}")
    module, _, function = PROTOCOLS[name].partition(":")
    return getattr(importlib.import_module(module), function)
