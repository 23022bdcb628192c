"""The discrete autoencoder of DALL-E (Ramesh et al., 2021; arXiv:2102.12092), which BEiT takes its tokens from.

Its codes are looked at in reconstructions.png; `health/perplexity` says how many are in use.

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/dvae.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: codes of 4 x 4 pixels, 1024 of them, a network of 64 channels, batch 512, 200 epochs, Adam
    at 1e-3; the temperature falls to 1/16 over 15,000 steps, the divergence's weight rises over 2,000. cifar10_200: the
    same.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's appendix A.2 on ImageNet's images instead of its own 250 million: 8192 codes of 8 x 8 pixels, 256
    pixels, batch 512, AdamW at 1e-4 with decay 1e-4, which falls to 1.25e-6 over 1,200,000 steps (where this recipe
    ends; the paper goes on to 3,000,000), temperature to 1/16 over 150,000, the divergence's weight to 6.6 over 5,000.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "dvae:DVAE"
ENCODER = "jssl.nets.dvae:Encoder"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: 64 codes of 4 x 4 pixels."""
    config = recipes.digits(METHOD, initial=32, beta=0.5, beta_steps=100, tau_steps=400, momentum=0.98)
    config.encoder = {"name": ENCODER, "vocabulary": 64, "hidden": 16, "groups": 3, "blocks": 1}
    recipes.views(config, "mae", 16, flip=0.0, area=(0.5, 1.0))
    config.optim.update({"lr": 3e-3, "warmup": 30.0})
    return finished(config)


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny(demo(), initial=8)
    config.encoder = {"name": ENCODER, "vocabulary": 16, "hidden": 8, "groups": 3, "blocks": 1, "activation": "gelu"}
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=400, name="mae")
    config.encoder.vocabulary = 256
    return finished(config)


def folder():
    config = recipes.folder(METHOD, tau_steps=5000, beta_steps=1000)
    config.encoder = {"name": ENCODER, "vocabulary": 1024, "hidden": 64}
    recipes.views(config, "mae", None)
    config.optim.lr = 3e-4
    return finished(config)


def cifar10():
    config = recipes.cifar10(METHOD, tau_steps=15_000, beta_steps=2000)
    config.encoder = {"name": ENCODER, "vocabulary": 1024, "hidden": 64, "groups": 3}
    recipes.views(config, "mae", 32, **recipes.CIFAR)
    config.train.update({"epochs": 200.0, "batch_size": 512})
    config.optim.update({"name": "adamw", "lr": 1e-3, "scale": "none", "weight_decay": 1e-4})
    return finished(config)


def imagenet():
    config = recipes.imagenet(METHOD)
    config.encoder = {"name": ENCODER}
    recipes.views(config, "mae", 256, **recipes.IMAGENET)
    config.train.update({"steps": 1_200_000, "epochs": None, "batch_size": 512})
    config.optim.update({"name": "adamw", "lr": 1e-4, "scale": "none", "weight_decay": 1e-4, "end": 0.0125})
    return finished(config)


def finished(config):
    """With pixels in [0, 1], and no alarm for features that are alike (a spread of 0.1 on the digits in a good run):
    what can collapse here is the use of the codes, which is watched."""
    config.watch.std = 0.01
    return recipes.undone(config)


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10,
    "imagenet": imagenet,
}
