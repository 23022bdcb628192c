"""MAE (He et al., 2021; arXiv:2111.06377)."""

from ml_collections import FieldReference

from jssl.config import base, choose


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    config = base()
    size = FieldReference(16)
    config.method = {"name": "jssl.methods.mae:MAE", "decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4}
    config.encoder = {
        "name": "jssl.nets.vit:ViT",
        "dim": 96,
        "depth": 4,
        "heads": 4,
        "patch": 4,
        "positions": "sincos",
        "pool": "mean",
    }
    config.augment = {"name": "jssl.augment.image:mae", "size": size, "flip": 0.0}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size, "crop": 1.0}
    config.data.source = "digits"
    config.data.eval_source = "digits@test"
    config.train.steps = 600
    config.train.batch_size = 256
    config.train.steps_per_call = None
    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.b2 = 0.95
    config.optim.weight_decay = 0.05
    config.optim.warmup = 60.0
    config.checkpoint.every = 200
    config.eval.every = 100
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = demo()
    config.encoder.update({"dim": 16, "depth": 2, "heads": 2})
    config.method.update({"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2})
    config.optim.update({"name": "sgd", "lr": 0.05, "warmup": 0.0})
    config.train.update({"batch_size": 64, "steps": 8})
    return config


VARIANTS = {"demo": demo, "tiny": tiny}
