"""I-JEPA (Assran et al., 2023; arXiv:2301.08243).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/ijepa.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4, a predictor 96 wide of 6 blocks, batch 512, 5e-4 per 256, 1000
    epochs; all else is the paper's. cifar10_200: 200 epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the authors' configs/in1k_vith14_ep300.yaml: ViT-H/14 at 224 without a class token, predictor 384 wide of 12
    blocks, 4 targets of 15 to 20 %, context of 85 to 100 %, crops of 30 % and more and nothing else, batch 2048, AdamW
    at 1e-3 with 40 epochs of warm-up, then half a cosine to 1e-6, decay 0.04 to 0.4, average from 0.996, smooth L1,
    300 epochs (79.3 % linear probe in the paper, table 1).
imagenet_vit_large, imagenet_vit_base: ViT-L/16 and ViT-B/16, 600 epochs (77.5 % and 72.9 % there), predictors of 12 and
    6 blocks.
Targets have 17.5 % of the patches here and their shape is drawn per image, there 15 to 20 % and per batch; the warm-up
begins at 0 here, at 2e-4 there.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "ijepa:IJEPA"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: at 18 pixels for 6 x 6 patches, since fewer leave hardly a context.

    It is slow: in five folds of the training images k-NN and a linear probe are 77.9 and 93.0 % after these steps,
    untrained 76.9 and 90.8; with targets of 4 patches instead of 6, 78.0 and 92.1. With an average from 0.99, instead
    of the paper's 0.996, targets soon differ little: the spread of its features fell to 0.12.
    """
    config = recipes.digits(METHOD, predictor_dim=32, predictor_depth=2, predictor_heads=4)
    config.encoder = vit({"name": "jssl.nets.vit:ViT", "dim": 64, "depth": 3, "heads": 4, "patch": 3})
    recipes.views(config, "mae", 18, flip=0.0, area=(0.5, 1.0))
    config.optim.update({"lr": 3e-3, "weight_decay": 0.04, "weight_decay_end": 0.4, "warmup": 100.0})
    config.train.update({"steps": 1000, "batch_size": 128})
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), predictor_dim=16, predictor_depth=1, predictor_heads=2)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=900, name="mae", area=(0.3, 1.0))
    config.encoder.patch = 4
    return config


def folder():
    config = recipes.folder_vit(METHOD, predictor_dim=None, predictor_depth=None, predictor_heads=None)
    config.encoder.class_token = False
    recipes.views(config, "mae", None, area=(0.3, 1.0), flip=0.0)
    config.optim.update({"weight_decay": 0.04, "weight_decay_end": 0.4})
    return config


def cifar10():
    config = recipes.cifar10_vit(METHOD, predictor_dim=96, predictor_depth=6, predictor_heads=3)
    config.encoder.class_token = False
    recipes.views(config, "mae", 32, area=(0.3, 1.0), flip=0.0, **recipes.CIFAR)
    config.optim.update({"weight_decay": 0.04, "weight_decay_end": 0.4})
    return config


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD, distance="smooth_l1")
    config.encoder = vit({"name": "jssl.nets.vit:vit_huge", "patch": 14})
    recipes.views(config, "mae", 224, area=(0.3, 1.0), flip=0.0, interpolation="bilinear", **recipes.IMAGENET)
    config.train.update({"epochs": 300.0, "batch_size": 2048})
    config.optim.update({"name": "adamw", "lr": 1.25e-4, "warmup": 40.0, "end": 0.001})
    config.optim.update({"weight_decay": 0.04, "weight_decay_end": 0.4})
    return config


def imagenet_vit_large():
    config = imagenet()
    config.encoder = vit({"name": "jssl.nets.vit:vit_large", "patch": 16})
    config.train.epochs = 600.0
    return config


def imagenet_vit_base():
    config = imagenet_vit_large()
    config.encoder.name = "jssl.nets.vit:vit_base"
    config.method.update({"predictor_depth": 6, "predictor_heads": 12})
    return config


def vit(fields):
    """As the paper's encoders: fixed positions, no class token."""
    return {**fields, "positions": "sincos", "class_token": False, "pool": "mean"}


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_vit_large": imagenet_vit_large,
    "imagenet_vit_base": imagenet_vit_base,
}
