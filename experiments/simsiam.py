"""SimSiam (Chen & He, 2020; arXiv:2011.10566).

In all of them the predictor's rate stays at its peak (table 1 there), and every parameter decays, biases too.

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/simsiam.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/simsiam.yaml): SGD at 0.5 per 256, decay 1e-5,
    projector 2048-2048-2048, predictor 512, jitter (0.4, 0.4, 0.4, 0.1), 1000 epochs of batch 256. Blur is off, as in
    the other CIFAR recipes; the yaml shares its views with other methods and blurs.
cifar10_paper: the paper's (appendix D): SGD at 0.03 per 256, decay 5e-4, a projector of two layers, 800 epochs of batch
    512, no blur (91.8 % linear probe there).
cifar10_200: 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark, which for this method keeps the
    paper's 0.03 per 256, and its projector of two layers (76.4 to 81.4 % k-NN with k = 200, T = 0.1 there).
All read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's default (section 3, the authors' code): ResNet-50, 100 epochs of batch 512, SGD at 0.05 per 256
    without warm-up, decay 1e-4, crops of 0.2 to 1 of the image, jitter (0.4, 0.4, 0.4, 0.1) (68.1 % linear probe in
    the paper and in the authors' README).
imagenet_200, imagenet_400, imagenet_800: the same for longer (70.0, 70.8 and 71.3 % with batch 256 in the paper's
    table 4).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "simsiam:SimSiam"
PREDICTOR = ({"pattern": "^predictor/", "constant": True},)


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    config = recipes.digits(METHOD, hidden=256, dim=256, depth=2, bottleneck=64)
    config.optim.groups = PREDICTOR
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), hidden=32, dim=32, bottleneck=16)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=500)


def folder():
    config = recipes.folder(METHOD, hidden=1024, dim=1024, bottleneck=256)
    recipes.views(config, "simclr", None, strength=0.5, area=(0.2, 1.0), blur=0.2)
    config.optim.groups = PREDICTOR
    return config


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=2048, bottleneck=512)
    config.augment.strength = 0.5
    config.optim.update({"name": "sgd", "lr": 0.5, "weight_decay": 1e-5, "decay_all": True, "groups": PREDICTOR})
    return config


def cifar10_paper():
    config = cifar10()
    config.method.depth = 2
    config.augment.area = (0.2, 1.0)
    config.train.update({"epochs": 800.0, "batch_size": 512})
    config.optim.update({"lr": 0.03, "weight_decay": 5e-4, "warmup": 0.0})
    return config


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.method.depth = 2
    config.optim.lr = 0.03
    return config


def imagenet():
    config = recipes.imagenet(METHOD, hidden=2048, dim=2048, bottleneck=512)
    recipes.views(config, "simclr", 224, strength=0.5, area=(0.2, 1.0), **recipes.IMAGENET)
    config.train.update({"epochs": 100.0, "batch_size": 512})
    config.optim.update({"name": "sgd", "lr": 0.05, "weight_decay": 1e-4, "decay_all": True, "groups": PREDICTOR})
    return config


def imagenet_200():
    return longer(200.0)


def imagenet_400():
    return longer(400.0)


def imagenet_800():
    return longer(800.0)


def longer(epochs):
    config = imagenet()
    config.train.epochs = epochs
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_paper": cifar10_paper,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_200": imagenet_200,
    "imagenet_400": imagenet_400,
    "imagenet_800": imagenet_800,
}
