"""SimCLR (Chen et al., 2020; arXiv:2002.05709).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/simclr.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/simclr.yaml; 90.7 % on-line linear probe there):
    0.4 per 256, decay 1e-4, temperature 0.2, projector 2048-256, jitter (0.8, 0.8, 0.8, 0.2); the rest, shared by the
    methods there, is `jssl.recipes.cifar10`. Blur is off, as in the paper (B.9) and solo-learn's first script; the yaml
    shares its views with other methods and blurs. Its projector has no batch norm, which the paper's code has.
cifar10_200: 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark (82.8 to 84.8 % k-NN, k = 200,
    T = 0.1 there), the paper's jitter for CIFAR (strength 0.5, B.9), solo-learn's temperature.
cifar10_200_dcl: the same with the decoupled loss (DCL; Yeh et al., 2021; arXiv:2110.06848) at temperature 0.1, the
    default of lightly's loss (84.0 % k-NN there, at the best epoch).
All read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's default (section 2.3): ResNet-50, batch 4096, LARS at 0.3 per 256, decay 1e-6, 10 epochs of
    warm-up, temperature 0.1, 1000 epochs (69.3 % linear probe in the paper; 64.5 % after 100). Images stay in [0, 1],
    as in the authors' code. For small batches the paper (B.1) scales by the square root:
    --config.optim.scale=sqrt --config.optim.lr=1.2, which is 0.075 sqrt(batch).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "simclr:SimCLR"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: tuned on training labels alone."""
    return recipes.digits(METHOD, hidden=128, dim=64, temperature=0.5)


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), hidden=16, dim=8)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=400)


def folder():
    return recipes.folder(METHOD, hidden=512, dim=128, temperature=0.2)


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=256, temperature=0.2)
    config.optim.update({"lr": 0.4, "weight_decay": 1e-4})
    return config


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.augment.strength = 0.5
    return config


def cifar10_200_dcl():
    config = cifar10_200()
    config.method.update({"decoupled": True, "temperature": 0.1})
    return config


def imagenet():
    config = recipes.imagenet(METHOD, hidden=2048, dim=128, temperature=0.1)
    recipes.views(config, "simclr", 224, strength=1.0, blur=0.5, interpolation="bicubic", mean=(0.0,), std=(1.0,))
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
    "cifar10_200_dcl": cifar10_200_dcl,
    "imagenet": imagenet,
}
