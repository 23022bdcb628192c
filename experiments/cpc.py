"""CPC (van den Oord et al., 2018; arXiv:1807.03748) and CPC v2 (Hénaff et al., 2019; arXiv:1905.09272).

folder: any folder of images; what is None is chosen from the data and the device, and logged. Patches are a quarter of
the image wide and overlap by half, 7 x 7 of them, as in the first paper.
    jssl train --config experiments/cpc.py:folder --config.data.source=folder:PHOTOS

cifar10, cifar10_200: no public table has CPC there; patches of 8 pixels, the optimizer of the second paper.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the second paper's recipe (its appendix) with a ResNet-50: 6 x 6 patches of 80 pixels, 36 apart, of images of
    260; layer norm; predictions 3 rows away, in all four directions; batch 512, 200 epochs, Adam at a constant 4e-4,
    b1 0.8, gradients clipped at 0.01 (63.8 % linear probe with a ResNet-50 in the paper). The paper
    averages the weights (Polyak, 0.9999) and distorts patches with AutoAugment's operations and elastic deformations
    too; this recipe does neither.
"""

from ml_collections import FieldReference

from jssl import recipes
from jssl.config import choose

METHOD = "cpc:CPC"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: 3 x 3 patches of 8 pixels of 16."""
    fields = {"dim": 32, "width": 32, "depth": 2, "ignore": 1, "steps": 2}
    config = recipes.digits(METHOD, patch=8, stride=4, **fields)
    config.train.batch_size = 128
    return patches(config, 16, area=(0.5, 1.0), ratio=(3 / 4, 4 / 3), flip=0.0, noise=0.05)


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), dim=8, width=8)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=600)
    config.method.update({"patch": 14, "stride": 7})
    return patches(config, 28, area=(0.5, 1.0), ratio=(3 / 4, 4 / 3), noise=0.05)


def folder():
    config = recipes.folder(METHOD, patch=None, stride=None, ignore=1, steps=4)
    return patches(config, None, area=(0.5, 1.0), ratio=(3 / 4, 4 / 3))


def cifar10():
    config = recipes.cifar10(METHOD, patch=8, stride=4, ignore=1, steps=4)
    patches(config, 32, area=(0.5, 1.0), ratio=(3 / 4, 4 / 3), **recipes.CIFAR)
    return adam(config, 4e-4, b1=0.8, clip=0.01)


def cifar10_200():
    config = cifar10()
    config.train.update({"epochs": 200.0, "batch_size": 512})
    return config


def imagenet():
    config = recipes.imagenet(METHOD, patch=80, stride=36)
    patches(config, 260, **recipes.IMAGENET)
    config.train.update({"epochs": 200.0, "batch_size": 512})
    return adam(config, 4e-4, b1=0.8, clip=0.01)


def patches(config, size, **fields):
    """Views that are patches, as large as the method's; and layer norm."""
    recipes.views(config, "mae", size, **fields)
    config.augment.name = "jssl.augment.patches:cpc"
    for name in ("patch", "stride"):  # of the views, too
        reference = FieldReference(config.method[name], field_type=int)
        del config.method[name]
        config.method[name] = config.augment[name] = reference
    config.encoder.norm = "layer"
    return config


def adam(config, lr, b1, clip):
    config.optim.update({"name": "adamw", "lr": lr, "scale": "none", "b1": b1, "weight_decay": 0.0, "clip": clip})
    config.optim.update({"warmup": 0.0, "end": 1.0})
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
