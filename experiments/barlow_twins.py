"""Barlow Twins (Zbontar et al., 2021; arXiv:2103.03230).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/barlow_twins.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/barlow.yaml; 92.1 % on-line linear probe there):
    0.3 per 256, decay 1e-4, projector 2048-2048-2048, the loss times 0.1, BYOL's views without blur; the rest, shared
    by the methods there, is `jssl.recipes.cifar10`.
cifar10_200: 200 epochs, batch 512, with the optimizer, the projector of two layers and the unscaled loss of lightly's
    CIFAR-10 benchmark (81.9 to 82.7 % k-NN with k = 200, T = 0.1 there).
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's recipe (section 2.2): ResNet-50, 1000 epochs of batch 2048, LARS at 0.2 per 256 for weights and
    0.0048 for biases and batch norms, 10 epochs of warm-up, a cosine down to a thousandth, decay 1.5e-6, lambda 5e-3,
    BYOL's views (73.2 % linear probe in the paper). The authors' code has lambda 0.0051 and decay 1e-6.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "barlow_twins:BarlowTwins"
BIASES = ({"pattern": "/(bias|scale)$", "lr_scale": 0.0048 / 0.2},)


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return recipes.digits(METHOD, hidden=256, dim=256, depth=2, redundancy=0.02)


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), hidden=16, dim=16, scale=0.1)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=500)


def folder():
    config = recipes.folder(METHOD, hidden=1024, dim=1024)
    recipes.views(config, "byol", None, blur=(0.2, 0.2))
    return config


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=2048, scale=0.1)
    recipes.views(config, "byol", 32, blur=(0.0, 0.0), **recipes.CIFAR)
    config.optim.update({"lr": 0.3, "weight_decay": 1e-4})
    return config


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.method.update({"depth": 2, "scale": 1.0})
    return config


def imagenet():
    config = recipes.imagenet(METHOD, hidden=8192, dim=8192, redundancy=5e-3)
    recipes.views(config, "byol", 224, interpolation="bicubic", **recipes.IMAGENET)
    config.train.update({"epochs": 1000.0, "batch_size": 2048})
    config.optim.update({"name": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup": 10.0, "end": 1e-3})
    config.optim.groups = BIASES
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
