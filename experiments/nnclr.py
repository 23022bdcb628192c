"""NNCLR (Dwibedi et al., 2021; arXiv:2104.14548).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/nnclr.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe of solo-learn (scripts/pretrain/cifar/nnclr.yaml): 0.4 per 256, decay 1e-5, temperature 0.2, queue
    of 65,536, projector 2048-256, predictor 4096; asymmetric views; the rest, shared by the methods there, is
    `jssl.recipes.cifar10`.
cifar10_200: the same method, 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: ResNet-50, batch 4096, 1000 epochs, queue of 98,304, temperature 0.1, SimCLR's views (75.6 % linear probe in
    the paper's abstract). Rate, decay and warm-up are those of SimCLR's recipe.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "nnclr:NNCLR"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return recipes.digits(METHOD, hidden=128, dim=64, predictor_hidden=256, queue=1024, temperature=0.2)


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), hidden=16, dim=8, predictor_hidden=16, queue=100, temperature=0.5)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=400)


def folder():
    return recipes.folder(METHOD, hidden=512, dim=128, predictor_hidden=1024, queue=8192, temperature=0.2)


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=256, predictor_hidden=4096, queue=65_536, temperature=0.2)
    recipes.views(config, "byol", 32, blur=(0.0, 0.0), **recipes.CIFAR)
    config.optim.update({"lr": 0.4, "weight_decay": 1e-5})
    return config


def cifar10_200():
    return recipes.lightly(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD)
    config.train.update({"epochs": 1000.0, "batch_size": 4096})
    config.optim.update({"name": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 10.0})
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
