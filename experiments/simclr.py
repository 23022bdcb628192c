"""SimCLR (Chen et al., 2020; arXiv:2002.05709).

folder: any folder of images; what is None below is chosen from the data and the device, and logged.
    jssl train --config experiments/simclr.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/simclr.yaml; 90.7 % on-line linear probe there):
    ResNet-18 with the CIFAR stem, LARS (eta 0.02, momentum 0.9, no decay nor adaptation of biases and norms), 0.4 per
    256, decay 1e-4, 10 epochs of warm-up, temperature 0.2, projector 2048-256, jitter (0.8, 0.8, 0.8, 0.2). Blur is
    off, as in the paper (B.9) and solo-learn's first script; the yaml shares its views with other methods and blurs.
    Two things differ: its projector has no batch norm, which the paper's code has, and it caps the trust ratio times
    the rate at the rate (`clip_lr`), which `jssl.optim` does not.
cifar10_200: 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark (SGD, 0.06 per 128, decay 5e-4;
    82.8 to 84.8 % k-NN with k = 200, T = 0.1 there), the paper's jitter for CIFAR (strength 0.5, B.9), solo-learn's
    temperature.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's default (section 2.2, A, B.6): ResNet-50, batch 4096, LARS at 0.3 per 256, decay 1e-6, 10 epochs
    of warm-up, temperature 0.1, 1000 epochs (69.3 % linear probe in the paper; 64.5 % after 100). Images stay in [0,
    1], as in the authors' code. For small batches the paper (B.1) scales by the square root:
    --config.optim.scale=sqrt --config.optim.lr=1.2, which is 0.075 sqrt(batch). Training labels are not read; for
    scores, jssl eval --data 'tfds:imagenet2012@train[:10%]'.
"""

from ml_collections import FieldReference

from jssl.config import base, choose


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: tuned on training labels alone."""
    config = base()
    size = FieldReference(16)
    config.method = {"name": "jssl.methods.simclr:SimCLR", "hidden": 128, "dim": 64, "temperature": 0.5}
    config.encoder = {"name": "jssl.nets.conv:convnet", "widths": (32, 64, 128)}
    config.augment = {"name": "jssl.augment.image:strokes", "size": size, "area": (0.5, 1.0)}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size, "crop": 1.0}
    config.data.source = "digits"
    config.data.eval_source = "digits@test"
    config.train.steps = 600
    config.train.batch_size = 256
    config.train.steps_per_call = None
    config.optim.name = "adamw"
    config.optim.lr = 1e-2
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


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = demo()
    config.augment = {"name": "jssl.augment.image:simclr", "strength": 0.5, "area": (0.2, 1.0), "blur": 0.0}
    config.augment.size = config.preprocess.get_ref("size")
    config.augment.size = 28
    config.data.source = "tfds:fashion_mnist@train[:10000]"
    config.data.eval_source = "tfds:fashion_mnist@test"
    config.train.steps = 800
    config.eval.every = config.checkpoint.every = 200
    return config


def folder():
    config = base()
    size = FieldReference(None, field_type=int)
    config.method = {"name": "jssl.methods.simclr:SimCLR", "hidden": 512, "dim": 128, "temperature": 0.2}
    config.augment = {"name": "jssl.augment.image:simclr", "size": size, "strength": 0.5, "blur": 0.2}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size}
    config.data.source = "folder:photos"
    config.train.update({"batch_size": None, "steps_per_call": None})
    # AdamW, since LARS is for batches of thousands: on small ones it has to be tuned for every folder.
    config.optim.update({"name": "adamw", "lr": 1e-3, "scale": "sqrt", "weight_decay": 1e-4, "warmup": None})
    config.log_every = config.checkpoint.every = config.eval.every = None
    config.eval.rows = 2000
    return config


def cifar10():
    config = base()
    size = FieldReference(32)
    config.method = {"name": "jssl.methods.simclr:SimCLR", "hidden": 2048, "dim": 256, "temperature": 0.2}
    config.encoder = {"name": "jssl.nets.resnet:resnet18", "stem": "cifar"}
    config.augment = {
        "name": "jssl.augment.image:simclr",
        "size": size,
        "blur": 0.0,
        "interpolation": "bicubic",
        **CIFAR,
    }
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size, "crop": 1.0, **CIFAR}
    config.data.source = "tfds:cifar10"
    config.data.eval_source = "tfds:cifar10@test"
    config.train.update({"epochs": 1000.0, "batch_size": 256, "steps_per_call": None})
    config.optim.update({"name": "lars", "lr": 0.4, "weight_decay": 1e-4, "trust_coefficient": 0.02, "warmup": 10.0})
    config.log_every = 100
    config.checkpoint.every = 2000
    config.eval.update({"every": 2000, "k": 200, "temperature": 0.1, "rows": 10000})
    return config


def cifar10_200():
    config = cifar10()
    config.augment.strength = 0.5
    config.train.update({"epochs": 200.0, "batch_size": 512})
    config.optim.update({"name": "sgd", "lr": 0.12, "weight_decay": 5e-4})
    return config


def imagenet():
    config = base()
    size = FieldReference(224)
    pixels = {"interpolation": "bicubic", "mean": (0.0,), "std": (1.0,)}
    config.method = {"name": "jssl.methods.simclr:SimCLR", "hidden": 2048, "dim": 128, "temperature": 0.1}
    config.encoder = {"name": "jssl.nets.resnet:resnet50"}
    config.augment = {"name": "jssl.augment.image:simclr", "size": size, "strength": 1.0, "blur": 0.5, **pixels}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size, **pixels}
    config.data.source = "tfds:imagenet2012"
    config.data.eval_source = "tfds:imagenet2012@validation"
    config.train.update({"epochs": 1000.0, "batch_size": 4096})
    config.optim.update({"name": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 10.0})
    config.checkpoint.every = 1000
    return config


CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
}
