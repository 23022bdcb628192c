"""MAE (He et al., 2021; arXiv:2111.06377).

folder: any folder of images; what is None below is chosen from the data and the device, and logged.
    jssl train --config experiments/mae.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4, a decoder 192 wide of 4 blocks, batch 512, 5e-4 per 256; all
    else is the paper's (mask 0.75, pixels normalised per patch, AdamW, betas 0.9 and 0.95, decay 0.05, 40 epochs of
    warm-up, crops of 20 % and more, flip). 1000 epochs, as solo-learn's mae.yaml has for CIFAR. cifar10_200: 200
    epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's recipe (appendix A.1, table 8): ViT-L/16 at 224, batch 4096, AdamW at 1.5e-4 per 256, betas 0.9
    and 0.95, decay 0.05, 40 epochs of warm-up, 800 epochs, decoder of 8 blocks, 512 wide (85.4 % fine-tuned in the
    paper, table 1d). ViT-B: --config.encoder.name=jssl.nets.vit:vit_base; the longest run:
    --config.train.epochs=1600. Training labels are not read; for scores, jssl eval --data
    'tfds:imagenet2012@train[:10%]'.
"""

from ml_collections import FieldReference

from jssl.config import base, choose


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
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


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = demo()
    config.augment.size = 28
    config.augment.flip = 0.5
    config.data.source = "tfds:fashion_mnist@train[:10000]"
    config.data.eval_source = "tfds:fashion_mnist@test"
    config.train.steps = 500
    config.eval.every = config.checkpoint.every = 125
    return config


def folder():
    config = base()
    size = FieldReference(None, field_type=int)
    config.method = {"name": "jssl.methods.mae:MAE", "decoder_dim": None, "decoder_depth": None, "decoder_heads": None}
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": None, "depth": None, "heads": None, "patch": None}
    config.encoder.update({"positions": "sincos", "pool": "mean"})
    config.augment = {"name": "jssl.augment.image:mae", "size": size}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size}
    config.data.source = "folder:photos"
    config.train.update({"batch_size": None, "steps_per_call": None})
    # Above the paper's 1.5e-4, which is for batches of 4096: a folder gives few steps.
    config.optim.update(
        {"name": "adamw", "lr": 5e-4, "scale": "sqrt", "b2": 0.95, "weight_decay": 0.05, "warmup": None}
    )
    config.log_every = config.checkpoint.every = config.eval.every = None
    config.eval.rows = 2000
    return config


def cifar10():
    config = base()
    size = FieldReference(32)
    config.method = {"name": "jssl.methods.mae:MAE", "decoder_dim": 192, "decoder_depth": 4, "decoder_heads": 3}
    config.encoder = {"name": "jssl.nets.vit:vit_tiny", "patch": 4, "positions": "sincos", "pool": "mean"}
    config.augment = {"name": "jssl.augment.image:mae", "size": size, **CIFAR}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size, "crop": 1.0, **CIFAR}
    config.data.source = "tfds:cifar10"
    config.data.eval_source = "tfds:cifar10@test"
    config.train.update({"epochs": 1000.0, "batch_size": 512, "steps_per_call": None})
    config.optim.update({"name": "adamw", "lr": 5e-4, "b2": 0.95, "weight_decay": 0.05, "warmup": 40.0})
    config.log_every = 100
    config.checkpoint.every = 2000
    config.eval.update({"every": 2000, "k": 200, "temperature": 0.1, "rows": 10000})
    return config


def cifar10_200():
    config = cifar10()
    config.train.epochs = 200.0
    config.optim.warmup = 10.0
    return config


def imagenet():
    config = base()
    size = FieldReference(224)
    config.method = {"name": "jssl.methods.mae:MAE", "decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}
    config.encoder = {"name": "jssl.nets.vit:vit_large", "patch": 16, "positions": "sincos"}
    config.augment = {"name": "jssl.augment.image:mae", "size": size, **IMAGENET}
    config.preprocess = {
        "name": "jssl.augment.image:evaluation",
        "size": size,
        "interpolation": "bicubic",
        **IMAGENET,
    }
    config.data.source = "tfds:imagenet2012"
    config.data.eval_source = "tfds:imagenet2012@validation"
    config.train.update({"epochs": 800.0, "batch_size": 4096})
    config.optim.update({"name": "adamw", "lr": 1.5e-4, "b2": 0.95, "weight_decay": 0.05, "warmup": 40.0})
    config.checkpoint.every = 1000
    return config


CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
}
