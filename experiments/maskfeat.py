"""MaskFeat (Wei et al., 2021; arXiv:2112.09133).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/maskfeat.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4 in one histogram each, blocks of 4 patches and more, batch 512,
    5e-4 per 256, 1000 epochs; all else is the paper's. cifar10_200: 200 epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: ViT-B/16 as MMPretrain trains it (maskfeat_vit-base-p16_8xb256-amp-coslr-300e.py): 40 % of the patches hidden,
    crops of 50 to 100 %, batch 2048, AdamW at 2e-4 per 256 with 30 epochs of warm-up, decay 0.05, gradients clipped to
    norm 0.02, 300 epochs (83.4 % fine-tuned there).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "maskfeat:MaskFeat"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: a patch is a histogram. This rate and clipping were the best of those tried: in
    five folds of the training images k-NN was 66.6 % and the linear probe 92.1 after 300 steps; untrained it was 56.1
    and 91.6."""
    config = recipes.digits(METHOD, block=2, cell=4, window=0)
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": 96, "depth": 4, "heads": 4, "patch": 4}
    config.encoder.update({"positions": "sincos", "pool": "mean"})
    recipes.views(config, "mae", 16, flip=0.0, area=(0.5, 1.0))
    config.optim.update({"lr": 1.5e-3, "weight_decay": 0.05, "warmup": 60.0, "clip": 0.1})
    return recipes.finetuned(alike(config))


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny(demo())
    config.optim.clip = None
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=300, name="mae")
    config.method.block = 4
    return config


def folder():
    config = recipes.folder_vit(METHOD, block=4, cell=None)
    recipes.views(config, "mae", None, area=(0.5, 1.0))
    return alike(config)


def cifar10():
    config = recipes.cifar10_vit(METHOD, block=4, cell=4)
    recipes.views(config, "mae", 32, area=(0.5, 1.0), **recipes.CIFAR)
    return recipes.finetuned(alike(config))


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD)
    config.encoder = {"name": "jssl.nets.vit:vit_base", "pool": "mean"}
    recipes.views(config, "mae", 224, area=(0.5, 1.0), **recipes.IMAGENET)
    config.train.update({"epochs": 300.0, "batch_size": 2048})
    config.optim.update({"name": "adamw", "lr": 2e-4, "weight_decay": 0.05, "warmup": 30.0, "clip": 0.02})
    return alike(config)


def alike(config):
    """The mean tokens of different images stay much alike in good runs too (a spread of 0.04 to 0.07 on the digits and
    Fashion-MNIST), and nothing can collapse: the targets are made of pixels."""
    config.watch.std = 0.01
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
