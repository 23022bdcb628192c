"""MAE (He et al., 2021; arXiv:2111.06377).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/mae.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4, a decoder 192 wide of 4 blocks, batch 512, 5e-4 per 256; all
    else is the paper's (mask 0.75, pixels normalised per patch, AdamW, betas 0.9 and 0.95, decay 0.05, 40 epochs of
    warm-up, crops of 20 % and more, flip). 1000 epochs, as solo-learn's mae.yaml has for CIFAR. cifar10_200: 200
    epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's recipe (appendix A.1, table 8): ViT-L/16 at 224, batch 4096, AdamW at 1.5e-4 per 256, betas 0.9
    and 0.95, decay 0.05, 40 epochs of warm-up, 800 epochs, decoder of 8 blocks, 512 wide (85.4 % fine-tuned in the
    paper, table 1d).
imagenet_vit_base, imagenet_vit_large, imagenet_vit_huge: the longest runs, 1600 epochs: ViT-B/16, ViT-L/16 and ViT-H/14
    (83.6, 85.9 and 86.9 % fine-tuned in the paper, table 3).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "mae:MAE"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    config = recipes.digits(METHOD, decoder_dim=64, decoder_depth=2, decoder_heads=4)
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": 96, "depth": 4, "heads": 4, "patch": 4}
    config.encoder.update({"positions": "sincos", "pool": "mean"})
    recipes.views(config, "mae", 16, flip=0.0)
    config.optim.update({"lr": 1e-3, "b2": 0.95, "weight_decay": 0.05, "warmup": 60.0})
    return recipes.finetuned(config)


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), decoder_dim=16, decoder_depth=1, decoder_heads=2)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=400, name="mae")


def folder():
    config = recipes.folder_vit(METHOD, decoder_dim=None, decoder_depth=None, decoder_heads=None)
    recipes.views(config, "mae", None)
    config.optim.b2 = 0.95
    return config


def cifar10():
    config = recipes.cifar10_vit(METHOD, decoder_dim=192, decoder_depth=4, decoder_heads=3)
    recipes.views(config, "mae", 32, **recipes.CIFAR)
    config.optim.b2 = 0.95
    return recipes.finetuned(config)


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD, decoder_dim=512, decoder_depth=8, decoder_heads=16)
    config.encoder = {"name": "jssl.nets.vit:vit_large", "patch": 16, "positions": "sincos"}
    recipes.views(config, "mae", 224, interpolation="bicubic", **recipes.IMAGENET)
    config.train.update({"epochs": 800.0, "batch_size": 4096})
    config.optim.update({"name": "adamw", "lr": 1.5e-4, "b2": 0.95, "weight_decay": 0.05, "warmup": 40.0})
    return config


def imagenet_vit_large():
    config = imagenet()
    config.train.epochs = 1600.0
    return config


def imagenet_vit_base():
    config = imagenet_vit_large()
    config.encoder.name = "jssl.nets.vit:vit_base"
    return config


def imagenet_vit_huge():
    config = imagenet_vit_large()
    config.encoder.update({"name": "jssl.nets.vit:vit_huge", "patch": 14})
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_vit_base": imagenet_vit_base,
    "imagenet_vit_large": imagenet_vit_large,
    "imagenet_vit_huge": imagenet_vit_huge,
}
