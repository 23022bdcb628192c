"""LeJEPA (Balestriero & LeCun, 2025; arXiv:2511.08544).

The method to begin with on data that nobody has tried: one trade-off, no teacher, no schedule to tune.

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/lejepa.py:folder --config.data.source=folder:PHOTOS

cifar10, cifar10_200: ours, not the paper's, which has no such table: ResNet-18 with the CIFAR stem, the optimizer that
    the authors recommend for residual networks (AdamW at 5e-4, decay 5e-4, cosine to a thousandth), SimCLR's views.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: ViT-L/14 with the settings that the authors' README lists: 2 views of 224 pixels (30 to 100 % of the image),
    6 of 98 (5 to 30 %), each blurred and solarised with the same probability, AdamW at 5e-4, decay 5e-2, warm-up and
    cosine to a thousandth, bfloat16, 100 epochs. Batch 512 is ours. The abstract's 79 % linear probe is of ViT-H/14:
    --config.encoder.name=jssl.nets.vit:vit_huge.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "lejepa:LeJEPA"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    config = recipes.digits(METHOD, hidden=256, dim=64, slices=256)
    config.optim.lr = 3e-3
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), hidden=16, dim=8, slices=16)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=400)


def folder():
    return recipes.folder(METHOD, hidden=512, dim=64, slices=256)


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=64)
    config.optim.update({"name": "adamw", "lr": 5e-4, "weight_decay": 5e-4, "end": 1e-3})
    return config


def cifar10_200():
    config = cifar10()
    config.train.update({"epochs": 200.0, "batch_size": 512})
    return config


def imagenet():
    config = recipes.imagenet(METHOD)
    config.encoder = {"name": "jssl.nets.vit:vit_large", "patch": 14}
    crops = {"area": (0.3, 1.0), "local_size": 98, "local_views": 6, "local_area": (0.05, 0.3)}
    distort = {"jitter": (0.4, 0.4, 0.2, 0.1), "blur": (0.5,) * 3, "solarise": (0.2,) * 3}
    recipes.views(config, "multicrop", 224, **crops, **distort, **recipes.IMAGENET)
    config.train.update({"epochs": 100.0, "batch_size": 512})
    optim = {"name": "adamw", "lr": 5e-4, "scale": "none", "weight_decay": 5e-2, "warmup": 10.0, "end": 1e-3}
    config.optim.update(optim)
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
}
