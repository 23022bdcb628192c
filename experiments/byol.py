"""BYOL (Grill et al., 2020; arXiv:2006.07733)."""

from ml_collections import FieldReference

from jssl.config import base, choose


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    config = base()
    size = FieldReference(16)
    config.method = {"name": "jssl.methods.byol:BYOL", "hidden": 256, "dim": 64, "tau_base": 0.98}
    config.encoder = {"name": "jssl.nets.conv:convnet", "widths": (32, 64, 128)}
    config.augment = {"name": "jssl.augment.image:strokes", "size": size}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size, "crop": 1.0}
    config.data.source = "digits"
    config.data.eval_source = "digits@test"
    config.train.steps = 600
    config.train.batch_size = 256
    config.train.steps_per_call = None
    config.optim.name = "adamw"
    config.optim.lr = 2e-3
    config.optim.weight_decay = 1e-4
    config.optim.warmup = 30.0
    config.checkpoint.every = 200
    config.eval.every = 100
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = demo()
    config.encoder.widths = (8, 16)
    config.method.update({"hidden": 16, "dim": 8})
    config.optim.update({"name": "sgd", "lr": 0.05, "warmup": 0.0})
    config.train.update({"batch_size": 64, "steps": 8})
    return config


VARIANTS = {"demo": demo, "tiny": tiny}
