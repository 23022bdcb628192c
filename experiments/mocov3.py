"""MoCo v3 (Chen et al., 2021; arXiv:2104.02057).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/mocov3.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/mocov3.yaml; 93.1 % on-line linear probe there): a
    ResNet, 0.3 per 256, decay 1e-6, temperature 0.2, projector (2 layers) and predictor 4096-256, m from 0.99 to 1,
    views asymmetric without blur; the rest, shared by the methods there, is `jssl.recipes.cifar10`.
cifar10_200: 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark, which lists no MoCo v3.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the authors' ViT-B/16 (CONFIG.md of their code): batch 4096, AdamW at 1.5e-4 per 256, decay 0.1 on all
    parameters, 40 epochs of warm-up, temperature 0.2, m from 0.99 to 1, BYOL's views, sine-cosine positions, the patch
    projection frozen as it was drawn, 300 epochs (76.7 % linear probe there).
imagenet_vit_small: the same with ViT-S/16, of 12 heads (73.2 % there).
imagenet_resnet50: LARS at 0.3 per 256, decay 1e-6, 10 epochs of warm-up, temperature 1, a projector of 2 layers, crops
    of 20 % and more, 300 epochs (72.8 % there).
imagenet_resnet50_1000: 1000 epochs, decay 1.5e-6, m from 0.996 (74.6 % there).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "mocov3:MoCoV3"
FROZEN = ({"pattern": "^encoder/patch/", "lr_scale": 0.0},)  # section 4.2


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU; features are the mean over the patches."""
    config = recipes.digits(METHOD, hidden=256, dim=64)
    vit(config, dim=96, depth=2, heads=4, patch=4, pool="mean")
    config.optim.update({"lr": 3e-3, "weight_decay": 0.1, "warmup": 60.0})
    config.train.steps = 400
    return config


def tiny():
    """For the contract tests: seconds on a CPU; every parameter learns. In 32 dimensions images differ enough that
    batch norm, which divides by how much, does not make rounding count."""
    config = recipes.tiny(demo(), hidden=16, dim=8, temperature=1.0)
    config.encoder.dim = 32
    config.optim.update({"lr": 0.02, "groups": ()})
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=240)


def folder():
    config = recipes.folder(METHOD, hidden=1024, dim=128)
    recipes.views(config, "byol", None, blur=(0.2, 0.2))
    vit(config, dim=None, depth=None, heads=None, patch=None)
    # Above the paper's 1.5e-4, which is for batches of 4096: a folder gives few steps.
    config.optim.update({"lr": 5e-4, "weight_decay": 0.1})
    return config


def cifar10():
    config = recipes.cifar10(METHOD, hidden=4096, dim=256, depth=2)
    recipes.views(config, "byol", 32, blur=(0.0, 0.0), **recipes.CIFAR)
    config.optim.update({"lr": 0.3, "weight_decay": 1e-6})
    return config


def cifar10_200():
    return recipes.lightly(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD, hidden=4096, dim=256, temperature=0.2, m=0.99)
    recipes.views(config, "byol", 224, interpolation="bilinear", **recipes.IMAGENET)
    vit(config, dim=768, depth=12, heads=12, patch=16)
    config.train.update({"epochs": 300.0, "batch_size": 4096})
    config.optim.update({"name": "adamw", "lr": 1.5e-4, "weight_decay": 0.1, "decay_all": True, "warmup": 40.0})
    return config


def imagenet_vit_small():
    config = imagenet()
    config.encoder.dim = 384
    return config


def imagenet_resnet50():
    config = recipes.imagenet(METHOD, hidden=4096, dim=256, depth=2, temperature=1.0, m=0.99)
    recipes.views(config, "byol", 224, area=(0.2, 1.0), interpolation="bilinear", **recipes.IMAGENET)
    config.train.update({"epochs": 300.0, "batch_size": 4096})
    config.optim.update({"name": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 10.0})
    return config


def imagenet_resnet50_1000():
    config = imagenet_resnet50()
    config.method.m = 0.996
    config.train.epochs = 1000.0
    config.optim.weight_decay = 1.5e-6
    return config


def vit(config, **sizes):
    """A vision transformer with the paper's positions and its frozen patch projection."""
    config.encoder = {"name": "jssl.nets.vit:ViT", "positions": "sincos", **sizes}
    config.optim.groups = FROZEN


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_vit_small": imagenet_vit_small,
    "imagenet_resnet50": imagenet_resnet50,
    "imagenet_resnet50_1000": imagenet_resnet50_1000,
}
