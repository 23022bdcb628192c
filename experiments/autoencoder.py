"""Autoencoders, plain and denoising (Vincent et al., 2008).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/autoencoder.py:folder --config.data.source=folder:PHOTOS

cifar10, cifar10_200, imagenet: a baseline of ours for the other methods, with their encoders and schedules: a
    convolutional decoder, Gaussian noise of deviation 0.5 on the encoder's input, AdamW at 1e-3 per 256 (5e-4 for
    ImageNet), decay 0.05. --config.method.noise=0.0 is the plain one, --config.method.drop=0.5 the noise of the paper.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "autoencoder:Autoencoder"
NOISE = 0.5


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    config = recipes.digits(METHOD, noise=NOISE)
    recipes.views(config, "mae", 16, flip=0.0, area=(0.5, 1.0))
    config.optim.lr = 3e-3
    return recipes.finetuned(config)


def plain():
    """The same without noise."""
    config = demo()
    config.method.noise = 0.0
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), widths=(8, 8), activation="gelu")


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=400, name="mae")


def folder():
    config = recipes.folder(METHOD, noise=NOISE, widths=(128, 64, 32, 16))
    recipes.views(config, "mae", None)
    config.optim.update({"lr": 1e-3, "weight_decay": 0.05})
    return config


def cifar10():
    config = recipes.cifar10(METHOD, noise=NOISE, widths=(256, 128, 64, 32))
    recipes.views(config, "mae", 32, **recipes.CIFAR)
    config.optim.update({"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup": 40.0})
    return recipes.finetuned(config)


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD, noise=NOISE, widths=(512, 256, 128, 64, 32, 16))
    recipes.views(config, "mae", 224, **recipes.IMAGENET)
    config.train.update({"epochs": 300.0, "batch_size": 1024})
    config.optim.update({"name": "adamw", "lr": 5e-4, "weight_decay": 0.05, "warmup": 10.0})
    return config


VARIANTS = {
    "demo": demo,
    "plain": plain,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
}
