"""Configs: Python files that return plain values; overrides from the command line; objects built by import path."""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import pathlib
import pkgutil
import typing

from ml_collections import ConfigDict

# Sections whose `name` is an import path; their other fields are its keyword arguments.
BUILT = ("method", "encoder", "augment", "preprocess")
ENGINE_ARGUMENTS = ("dtype", "encoder")  # arguments that the engine gives, not the config
LINEN_ARGUMENTS = ("name", "parent")  # of every Linen module; `name` is the import path here

PLAIN = (bool, int, float, str, tuple, type(None))


def base():
    """The skeleton that every config shares. A field that is None is chosen from the data and the device."""
    return ConfigDict(
        {
            "modality": "image",  # of the examples, see `jssl.modalities`
            "seed": 0,
            "dtype": None,  # compute: "bfloat16" on accelerators, "float32" on CPU; parameters are always float32
            "log_every": 50,
            "init_from": {},  # {state path: "RUN_OR_FILE" or "RUN_OR_FILE#path there"}
            "init": {  # see `jssl.start`: the encoder of another run, as far as it fits, whatever its method
                "encoder": None,  # "RUN_OR_FILE": --init-from
                "warmup": 0.1,  # share of the steps in which only what is not the encoder moves
            },
            "method": {"name": None},
            "encoder": {"name": None},
            "augment": {"name": None},
            "preprocess": {"name": None},
            "data": {
                "source": "digits",
                "eval_source": None,  # labelled test images for `jssl eval`
                "share": 1.0,  # of every class, drawn by the seed: for training on few labels
                "channels": None,  # of decoded files: 1 or 3
                "max_bad": 0.01,  # share of files that may fail to decode
                "workers": None,  # decoding processes; 0: threads of this one
                "resident": None,  # whether the images live on the device
                "rows": None,  # that a batch of small graphs lies in, without effect on it; None: one for each device
                "held_edges": 0.0,  # share of a graph's edges that training does not see, to be predicted afterwards
                "sample": None,  # neighbours or walk: small graphs around the nodes of one too large to be a batch
                "fanouts": (10, 10),  # neighbours drawn at each hop
                "walks": (4, 10),  # walks from each node, and their steps
                "centrality": None,  # degree, pagerank or eigenvector, for views that spare what matters in a graph
            },
            "train": {
                "steps": None,
                "epochs": None,
                "batch_size": 256,  # of the whole machine, whatever its number of devices
                "accumulate": 1,  # micro-batches per step; negatives and batch norm see the micro-batch
                "steps_per_call": 1,  # steps per dispatch; divides every cadence
                "refresh_every": 0,  # steps between calls of the method's `refresh`; 0: never; None: about an epoch
            },
            "optim": {
                "name": "sgd",  # sgd, lars, lamb, adam, adamw
                "lr": 0.1,  # per 256 images
                "scale": "linear",  # with the global batch: linear, sqrt, none
                "warmup": 0.0,  # in epochs if `train.epochs` is given, else in steps
                "end": 0.0,  # the cosine's last value, as a share of the peak
                "milestones": (),  # instead of the cosine: the rate falls to a tenth at each, in the unit of `warmup`
                "weight_decay": 0.0,  # on matrices and convolutions only: no bias, no norm, no token
                "weight_decay_end": None,  # where it has moved to, along half a cosine, at the last step
                "decay_all": False,  # decay biases, norms and tokens too, as torch does unless told otherwise
                "momentum": 0.9,
                "nesterov": False,
                "b1": 0.9,
                "b2": 0.999,
                "clip": None,  # largest norm of the whole gradient
                "trust_coefficient": 0.001,  # LARS
                "clip_lr": False,  # LARS: a kernel's rate is the smaller of its trust ratio and the rate
                "groups": (),  # of dicts: pattern of paths, and what `jssl.optim.GROUP` lists
            },
            "mesh": {"data": -1, "fsdp": 1},
            "watch": {  # what is wrong is said in words; see `jssl.watch`
                "policy": "warn",  # or stop: ends the run, the last good checkpoint kept
                "patience": 3,  # rows in a row of which something must be wrong to end it; k-NN: evaluations
                "std": 0.1,  # spread of embeddings, at least; two unit embeddings then have a mean cosine of 0.99
                "rankme": 2.0,  # dimensions in use, at least
                "information": 0.1,  # nats that an assignment tells of its input, at least: on digits 1 and more
                "entropy": 0.01,  # distance of a teacher's entropy from ln K, at least, as a share of it
                "codes": 2.0,  # perplexity of a tokenizer's codes, at least
                "used": 0.01,  # share of prototypes or codes in use, of those that could be: DINO on digits 0.07
                "knn": 0.05,  # accuracy that k-NN may lie below its best
                "start": 0.02,  # and below that of the weights that a run started from, where `init.encoder` is given
            },
            "checkpoint": {"every": 1000, "keep": 2, "best": "knn"},
            "eval": {
                "every": 0,
                "k": 20,
                "temperature": 0.07,
                "rows": 5000,
                "batch_size": 512,
                "protocols": None,  # of `jssl eval` without --protocol: "knn,finetune"; None: those that take seconds
                "probe_lr": 0.0,  # per 256 images, of a linear probe trained beside the method; 0: none
            },
        },
        type_safe=False,
    )


def load(spec, overrides=None):
    """The complete config of `FILE[:VARIANT]` or of a bare `NAME[:VARIANT]`, overridden by {path: text or value}.

    Every hyper-parameter of the method, encoder and views is filled in with its default, so that the resolved config
    says it all and a misspelt override can be refused. The recipe's test set goes with its training set: of another
    source there is none until it is given.
    """
    overrides = dict(overrides or {})
    path, _, variant = spec.partition(":")
    get_config = _experiment(path).get_config
    config = get_config(variant) if variant else get_config()
    for section in BUILT:
        name = overrides.pop(f"{section}.name", None)
        if name is not None and name != config[section].name:
            config[section] = {"name": name, **_kept(name, config[section], section)}
    complete(config)
    before, of = config.data.source, lambda source: str(source).partition("@")[0]
    for path, value in overrides.items():
        override(config, path, value)
    if of(config.data.source) != of(before) and "data.eval_source" not in overrides:
        config.data.eval_source = None
    return config


def complete(config):
    """Fills in the defaults of everything that is built by name."""
    for section in BUILT:
        if config[section].name is not None:
            for key, value in _defaults(config[section].name).items():
                if key not in config[section]:
                    config[section][key] = value
    return config


def choose(variants, name):
    """variants[name](), or an error that names the near misses."""
    if name not in variants:
        raise ValueError(f"there is no variant {name!r}{nearest(name, variants)}")
    return variants[name]()


def build(section, **more):
    """The object that `section.name` names, with the section's other fields and `more` as keyword arguments."""
    target = resolve(section["name"])
    arguments = {key: value for key, value in section.items() if key != "name"} | more
    known = _arguments(section["name"])
    for key in arguments:
        if key not in known:
            raise ValueError(f"{section['name']} has no argument {key!r}{nearest(key, known)}")
    return target(**{key: _hashable(value) for key, value in arguments.items()})


def _hashable(value):
    """Lists, as JSON gives them, as tuples: modules and methods are compared and hashed by their fields."""
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value


def resolve(name):
    """'package.module:attribute' -> the object."""
    try:
        return pkgutil.resolve_name(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name!r}: there is no module {error.name!r}; expected 'package.module:name'") from None
    except AttributeError:
        module, _, attribute = name.partition(":")
        raise ValueError(
            f"{module} has no {attribute!r}{nearest(attribute, dir(pkgutil.resolve_name(module)))}"
        ) from None


def nearest(name, names):
    """'; did you mean ...?' with the near misses, else a list of what there is."""
    names = [n for n in names if not n.startswith("_")]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; expected one of {', '.join(sorted(names))}"


def plain(config):
    """A config as nested dicts of JSON values."""
    if isinstance(config, ConfigDict | dict):
        return {key: plain(value) for key, value in config.items()}
    return [plain(value) for value in config] if isinstance(config, list | tuple) else config


def flat(config, prefix=""):
    """{'train.batch_size': 256, ...}"""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict) and len(value):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def difference(old, new):
    """['optim.lr: 0.1 -> 0.2', ...] between two plain configs."""
    old, new = flat(old), flat(new)
    return [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "absent") != new.get(key, "absent")
    ]


def experiments(modality=None):
    """{name: path} of the experiment files that come with jssl: all of them, or those of one modality."""
    folder = pathlib.Path(importlib.util.find_spec("experiments").origin).parent
    found = {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}
    if modality is None:
        return found
    return {name: path for name, path in found.items() if _experiment(name).get_config().modality == modality}


def _experiment(path):
    file = pathlib.Path(path)
    if not file.is_file():
        known = experiments()
        if file.stem not in known:
            raise FileNotFoundError(f"there is no config file {path!r}{nearest(file.stem, known)}")
        file = known[file.stem]
    spec = importlib.util.spec_from_file_location(f"jssl_experiment_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no get_config(variant), which a config file returns its config by")
    return module


def _arguments(name):
    parameters = inspect.signature(resolve(name)).parameters
    return {key: parameter for key, parameter in parameters.items() if key not in LINEN_ARGUMENTS}


def _defaults(name):
    return {
        key: parameter.default
        for key, parameter in _arguments(name).items()
        if key not in ENGINE_ARGUMENTS and isinstance(parameter.default, PLAIN)
    }


def _required(kind, section):
    """The arguments without a default of what a section of `BUILT` names, which it need not hold yet."""
    if kind not in BUILT or section is None or section.name is None:
        return set()
    found = {key for key, one in _arguments(section.name).items() if one.default is inspect.Parameter.empty}
    return found - {*ENGINE_ARGUMENTS}


def _kept(name, section, kind):
    """The fields of a section that serve its new `name` too, references to other sections included.

    Only views keep them between modules: a residual network's stem suits a deeper one, a small network's widths do not.
    """
    module = str(section.name).partition(":")[0]
    if kind in ("method", "encoder") and name.partition(":")[0] != module:
        return {}
    known = _arguments(name)
    return {key: value for key, value in section.items(preserve_field_references=True) if key in known}


def override(config, path, value):
    """Sets the field at `path`, 'optim.lr', to `value`, of the type that it has; text is read as a Python literal.

    Raises ValueError for a field that is not there, with the near misses, or for another type.
    """
    *parents, last = path.split(".")
    section = config
    for parent in parents:
        section = section[parent] if isinstance(section, ConfigDict) and parent in section else None
        if section is None:
            break
    known = isinstance(section, ConfigDict) and (last in section or section is config.get("init_from"))
    if not known and not (len(parents) == 1 and last in _required(parents[0], section)):
        raise ValueError(f"the config has no {path!r}{nearest(path, flat(config))}")
    section[last] = _typed(path, value, section.get(last))


def _typed(path, value, current):
    """`value`, read as a Python literal if it is text, checked against the type of the value that it replaces."""
    if value == "None":  # but optim.scale=none is a word
        return None
    if isinstance(value, str) and not isinstance(current, str):
        try:
            value = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        except (ValueError, SyntaxError):
            if current is not None:
                raise ValueError(f"{path}={value}: expected {type(current).__name__}, such as {current!r}") from None
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if current is not None and value is not None and type(value) is not type(current):
        raise ValueError(f"{path}={value!r}: expected {type(current).__name__}, such as {current!r}")
    return value


def with_fields(default, given):
    """`default`, a dataclass, with other values of some fields, {name: value}; text is read as a Python literal.

    Raises ValueError for a field that is not there, with the near misses, or a value of another type than its own.
    """
    hints, made = typing.get_type_hints(type(default)), {}
    for name, value in given.items():
        if name not in hints:
            raise ValueError(f"{name}: there is no such field{nearest(name, hints)}")
        hint = hints[name]
        if isinstance(value, str) and typing.get_args(hint)[1:] == (...,):
            value = f"{value.strip('()[] ')},"  # a single number is a tuple of one
        value = _typed(name, value, getattr(default, name))
        made[name] = value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, hint):
            expected = str(hint).replace(" | ", " or ") if typing.get_args(hint) else hint.__name__
            raise ValueError(f"{name}={value!r}: expected {expected}")
    return dataclasses.replace(default, **made)


def _fits(value, hint):
    parts = typing.get_args(hint)
    if parts[1:] == (...,):
        return isinstance(value, tuple) and all(_fits(one, parts[0]) for one in value)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if parts:  # a union
        return any(_fits(value, part) for part in parts)
    return type(value) in ((int, float) if hint is float else (hint,))
