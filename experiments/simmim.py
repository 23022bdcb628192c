"""SimMIM (Xie et al., 2021; arXiv:2111.09886).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/simmim.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4 and squares of 8 pixels, batch 512, 5e-4 per 256, 40 epochs of
    warm-up, 1000 epochs; all else is the paper's (60 % hidden, L1, AdamW, decay 0.05, crops of 67 % and more, flip).
    cifar10_200: 200 epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's ablations (section 4.1): Swin-B with windows of 6 at 192 pixels, 60 % of squares of 32 pixels
    hidden, batch 2048, AdamW at 8e-4, decay 0.05, 10 epochs of warm-up, then half a cosine to 1e-5, 100 epochs,
    gradients clipped to norm 5 as in the authors' code (82.8 % fine-tuned at 192 pixels in the paper, table 1).
imagenet_vit_base: their code's simmim_pretrain__vit_base__img224__800ep: ViT-B/16 at 224 with relative positions alone,
    shared by the blocks, and LayerScale 0.1, 4e-4 with a tenth from epoch 700, drop path 0.1, 800 epochs (83.8 %
    fine-tuned in the paper, table 7).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "simmim:SimMIM"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    config = recipes.digits(METHOD, mask_size=4)
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": 96, "depth": 4, "heads": 4, "patch": 4}
    config.encoder.update({"positions": "sincos", "pool": "mean"})
    recipes.views(config, "mae", 16, flip=0.0)
    config.optim.update({"lr": 1e-3, "weight_decay": 0.05, "warmup": 60.0})
    return recipes.finetuned(config)


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), mask_size=8)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=400, name="mae")


def folder():
    config = recipes.folder_vit(METHOD, mask_size=None)
    recipes.views(config, "mae", None, area=(0.67, 1.0))
    config.optim.clip = 5.0
    return config


def cifar10():
    config = recipes.cifar10_vit(METHOD, mask_size=8)
    recipes.views(config, "mae", 32, area=(0.67, 1.0), **recipes.CIFAR)
    config.optim.clip = 5.0
    return recipes.finetuned(config)


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD)
    config.encoder = {"name": "jssl.nets.swin:swin_base", "window": 6}
    recipes.views(config, "mae", 192, area=(0.67, 1.0), interpolation="bilinear", **recipes.IMAGENET)
    config.train.update({"epochs": 100.0, "batch_size": 2048})
    config.optim.update({"name": "adamw", "lr": 1e-4, "weight_decay": 0.05, "warmup": 10.0, "end": 0.0125, "clip": 5.0})
    return config


def imagenet_vit_base():
    config = imagenet()
    config.encoder = {"name": "jssl.nets.vit:vit_base", "positions": "none", "relative": "shared"}
    config.encoder.update({"layer_scale": 0.1, "drop_path": 0.1, "pool": "mean"})
    recipes.views(config, "mae", 224, area=(0.67, 1.0), interpolation="bilinear", **recipes.IMAGENET)
    config.train.epochs = 800.0
    config.optim.update({"lr": 5e-5, "end": 0.0, "milestones": (700.0,)})
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
}
