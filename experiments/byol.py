"""BYOL (Grill et al., 2020; arXiv:2006.07733).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/byol.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/byol.yaml; 92.6 % on-line linear probe there): 1.0
    per 256, decay 1e-5, projector and predictor 4096-256, tau from 0.99 to 1, the paper's views without blur; the rest,
    shared by the methods there, is `jssl.recipes.cifar10`.
cifar10_200: 200 epochs, batch 512, with the optimizer and heads (1024-256) of lightly's CIFAR-10 benchmark (86.8 to
    87.2 % k-NN with k = 200, T = 0.1 there).
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's recipe for 1000 epochs (section 3.3): ResNet-50, batch 4096, LARS at 0.2 per 256, decay 1.5e-6,
    10 epochs of warm-up, tau_base 0.996 (74.3 % linear probe in the paper). Brightness is multiplied here and added
    in the authors' code.
imagenet_300, imagenet_100: the shorter schedules of the authors' code: 0.3 and 0.45 per 256, decay 1e-6, tau_base 0.99.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "byol:BYOL"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return recipes.digits(METHOD, hidden=256, dim=64, tau_base=0.98)


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), hidden=16, dim=8)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=500)


def folder():
    config = recipes.folder(METHOD, hidden=1024, dim=128, tau_base=0.99)
    recipes.views(config, "byol", None, blur=(0.2, 0.2))
    return config


def cifar10():
    config = recipes.cifar10(METHOD, hidden=4096, dim=256, tau_base=0.99)
    recipes.views(config, "byol", 32, blur=(0.0, 0.0), **recipes.CIFAR)
    config.optim.update({"lr": 1.0, "weight_decay": 1e-5})
    return config


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.method.hidden = 1024
    return config


def imagenet():
    config = recipes.imagenet(METHOD, hidden=4096, dim=256, tau_base=0.996)
    recipes.views(config, "byol", 224, interpolation="bicubic", **recipes.IMAGENET)
    config.train.update({"epochs": 1000.0, "batch_size": 4096})
    config.optim.update({"name": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup": 10.0})
    return config


def imagenet_300():
    return shorter(epochs=300.0, lr=0.3)


def imagenet_100():
    return shorter(epochs=100.0, lr=0.45)


def shorter(epochs, lr):
    config = imagenet()
    config.method.tau_base = 0.99
    config.train.epochs = epochs
    config.optim.update({"lr": lr, "weight_decay": 1e-6})
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_300": imagenet_300,
    "imagenet_100": imagenet_100,
}
