"""MoCo v1 (He et al., 2019; arXiv:1911.05722) and v2 (Chen et al., 2020; arXiv:2003.04297).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/moco.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/mocov2plus.yaml; 92.94 % on-line linear probe
    there): SGD at 0.3 per 256, decay 1e-4, temperature 0.2, projector 2048-256, queue 32768, m from 0.99 to 0.999, both
    views queries and keys, jitter (0.4, 0.4, 0.4, 0.1), batch norm over the batch; the rest, shared by the methods
    there, is `jssl.recipes.cifar10`. Two things differ: solo-learn keeps a queue for each view, here one serves both;
    its yaml blurs.
cifar10_200: 200 epochs, batch 512, with the optimizer, head (512-128), temperature 0.1, m 0.99, queue 4096 and 8 groups
    of batch norm of lightly's CIFAR-10 benchmark (84.7 % k-NN, k = 200, T = 0.1 there).
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: v2, the setting of the authors' code (--mlp --moco-t 0.2 --aug-plus --cos): ResNet-50, batch 256 in 8 groups,
    SGD at 0.03 per 256, decay 1e-4 on all parameters, queue 65536, m 0.999, crops of 20 % and more, 200 epochs (67.5 %
    linear probe in the authors' README, mean of 5 runs).
imagenet_800: the same for 800 epochs (71.1 % there).
imagenet_v1: v1: one linear layer as head, temperature 0.07, no blur, jitter (0.4, 0.4, 0.4, 0.4) of every image, a
    tenth of the rate after 120 epochs and after 160 (60.6 % linear probe in the paper). One thing differs: the paper's
    images turn grey before the jitter, here after it.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "moco:MoCo"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return recipes.digits(METHOD, hidden=128, dim=64, queue=512, m=0.99, m_end=0.99, groups=4)


def tiny():
    """For the contract tests: seconds on a CPU.

    The loss rises while true keys replace the random ones that a queue starts with: a long queue, a high temperature
    and rate let it fall within four steps.
    """
    config = recipes.tiny(demo(), hidden=16, dim=8, queue=65536, temperature=1.0)
    config.optim.lr = 1.0
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=500)
    config.method.queue = 2048
    return config


def folder():
    return recipes.folder(METHOD, hidden=512, dim=128, queue=4096, m=0.99, m_end=0.99, groups=4)


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=256, queue=32768, m=0.99, m_end=0.999, groups=1, symmetric=True)
    config.augment.strength = 0.5
    config.optim.update({"name": "sgd", "lr": 0.3, "weight_decay": 1e-4})
    return config


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.method.update({"hidden": 512, "dim": 128, "temperature": 0.1, "queue": 4096, "m_end": 0.99, "groups": 8})
    return config


def imagenet():
    config = recipes.imagenet(METHOD, hidden=2048, dim=128, temperature=0.2, queue=65536, m=0.999, groups=8)
    recipes.views(config, "simclr", 224, strength=0.5, area=(0.2, 1.0), **recipes.IMAGENET)
    config.train.update({"epochs": 200.0, "batch_size": 256})
    config.optim.update({"name": "sgd", "lr": 0.03, "weight_decay": 1e-4, "decay_all": True})
    return config


def imagenet_800():
    config = imagenet()
    config.train.epochs = 800.0
    return config


def imagenet_v1():
    config = imagenet()
    config.method.update({"depth": 1, "temperature": 0.07})
    config.optim.milestones = (120.0, 160.0)
    jitter = {"jitter": (0.4, 0.4, 0.4, 0.4), "jitter_p": 1.0, "blur": (0.0, 0.0), "solarise": (0.0, 0.0)}
    fields = {"area": (0.2, 1.0), "interpolation": "bilinear", **jitter, **recipes.IMAGENET}
    return recipes.views(config, "byol", 224, **fields)


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_800": imagenet_800,
    "imagenet_v1": imagenet_v1,
}
