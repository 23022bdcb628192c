"""TiCo (Zhu et al., 2022; arXiv:2206.10698).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/tico.py:folder --config.data.source=folder:PHOTOS

cifar10, cifar10_200: ours, since no public table has it: BYOL's recipes with TiCo's loss.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the recipe of lightly (benchmarks/imagenet/resnet50/tico.py): ResNet-50, batch 256, LARS at 0.2 per 256, decay
    1.5e-6, 10 epochs of warm-up, 100 epochs, tau_base 0.99, rho 8, BYOL's views.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "tico:TiCo"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return recipes.digits(METHOD, hidden=256, dim=64, tau_base=0.98)


def tiny():
    """For the contract tests: seconds on a CPU. The memory fills slowly, so that it does not raise the loss there."""
    return recipes.tiny(demo(), hidden=16, dim=8, rho=1.0, beta=0.9999)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=500)


def folder():
    config = recipes.folder(METHOD, hidden=1024, dim=128)
    recipes.views(config, "byol", None, blur=(0.2, 0.2))
    return config


def cifar10():
    config = recipes.cifar10(METHOD)
    recipes.views(config, "byol", 32, blur=(0.0, 0.0), **recipes.CIFAR)
    config.optim.update({"lr": 1.0, "weight_decay": 1e-5})
    return config


def cifar10_200():
    return recipes.lightly(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD)
    recipes.views(config, "byol", 224, **recipes.IMAGENET)
    config.train.update({"epochs": 100.0, "batch_size": 256})
    config.optim.update({"name": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup": 10.0})
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
