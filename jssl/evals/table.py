"""The protocols: their names, and of images the function that scores a `Subject`, imported where it is asked for."""

import pkgutil

from jssl.config import nearest, with_fields

ALL = "all"  # that the data allow
DEFAULT = "knn,linear,fewshot"  # which take seconds
OF_NODES = ("knn", "linear", "fewshot", "cluster", "links", "rank")  # of `jssl.evals.graphs`, without settings
OF_GRAPHS = ("svm", "knn", "cluster", "rank")
PROTOCOLS = {
    "knn": "jssl.evals.frozen:knn_of",
    "linear": "jssl.evals.frozen:linear_of",
    "linear-sgd": "jssl.evals.frozen:sgd_of",
    "linear-grid": "jssl.evals.grid:protocol",
    "retrieval": "jssl.evals.retrieval:protocol",
    "rank": "jssl.evals.rank:protocol",
    "fewshot": "jssl.evals.tuned:shots",
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
SETTINGS = {  # dataclasses of what the user may set
    "knn": "jssl.evals.frozen:Knn",
    "linear": "jssl.evals.frozen:Linear",
    "linear-sgd": "jssl.evals.frozen:LinearSgd",
    "linear-grid": "jssl.evals.grid:Settings",
    "retrieval": "jssl.evals.retrieval:Settings",
    "rank": "jssl.evals.rank:Settings",
    "fewshot": "jssl.evals.frozen:FewShot",
    "semi": "jssl.evals.tuned:Semi",
    "finetune": "jssl.evals.finetune:Settings",
    "peft": "jssl.evals.peft:Options",
    "dense": "jssl.evals.dense:Settings",
    "depth": "jssl.evals.depth:Settings",
    "corloc": "jssl.evals.boxes:Settings",
    "anomaly": "jssl.evals.anomaly:Settings",
    "robustness": "jssl.evals.robustness:Settings",
    "transfer": "jssl.evals.transfer:Settings",
}


def find(name):
    """A protocol: a function from a `Subject` to scores. ValueError for an unknown name, with the near misses."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}{nearest(name, PROTOCOLS)}")
    return pkgutil.resolve_name(PROTOCOLS[name])


def settings(name):
    """What a protocol that has any is set to."""
    return pkgutil.resolve_name(SETTINGS[name])()


def check(options, names):
    """Raises ValueError where options, {protocol: {field: value or text}}, are not of the protocols that are asked for,
    `names`, or not of their settings."""
    tuned = "semi" in names or ("fewshot" in names and "finetune" in options.get("fewshot", {}))
    read = {*names, *(("finetune",) if tuned else ())}  # by whose settings these fine-tune too
    for name, given in options.items():
        find(name)
        first = f"--{name}.{next(iter(given))}"
        if name not in read:
            raise ValueError(f"{first}: {name} is not asked for; expected --protocol {','.join([*names, name])}")
        if name not in SETTINGS:
            raise ValueError(f"{first}: {name} has no settings")
        try:
            with_fields(settings(name), given)
        except ValueError as error:
            raise ValueError(f"--{name}.{error}") from None
