"""VICReg (Bardes et al., 2021; arXiv:2105.04906).

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/vicreg.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/vicreg.yaml; 92.1 % on-line linear probe there):
    0.3 per 256, decay 1e-4, expander 2048-2048-2048, crops of 0.2 to 1 of the image, jitter (0.4, 0.4, 0.2, 0.1), no
    blur, a tenth of the views solarised; the rest, shared by the methods there, is `jssl.recipes.cifar10`.
cifar10_200: the same for 200 epochs with batch 512. lightly's CIFAR-10 benchmark does not have the method.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's recipe (section 4.2, appendix C): ResNet-50, 1000 epochs of batch 2048, LARS at 0.2 per 256, 10
    epochs of warm-up, a cosine down to 0.002, decay 1e-6, BYOL's views made symmetric (73.2 % linear probe in the paper
    and in the authors' README). The authors' code halves the variance term and takes BYOL's views as they are:
    --config.method.variance=12.5 --config.augment.blur='(1.0, 0.1)' --config.augment.solarise='(0.0, 0.2)'
"""

from jssl import recipes
from jssl.config import choose

METHOD = "vicreg:VICReg"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return recipes.digits(METHOD, hidden=256, dim=256, depth=2)


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny(demo(), hidden=16, dim=16)
    config.optim.lr = 0.01
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=500)


def folder():
    config = recipes.folder(METHOD, hidden=1024, dim=1024)
    recipes.views(config, "byol", None, blur=(0.2, 0.2), solarise=(0.1, 0.1))
    return config


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=2048)
    recipes.views(config, "byol", 32, area=(0.2, 1.0), blur=(0.0, 0.0), solarise=(0.1, 0.1), **recipes.CIFAR)
    config.optim.update({"lr": 0.3, "weight_decay": 1e-4})
    return config


def cifar10_200():
    config = cifar10()
    config.train.update({"epochs": 200.0, "batch_size": 512})
    return config


def imagenet():
    config = recipes.imagenet(METHOD, hidden=8192, dim=8192)
    blur, solarise = (0.5, 0.5), (0.1, 0.1)
    recipes.views(config, "byol", 224, blur=blur, solarise=solarise, interpolation="bicubic", **recipes.IMAGENET)
    config.train.update({"epochs": 1000.0, "batch_size": 2048})
    end = 0.002 / (0.2 * 2048 / 256)
    config.optim.update({"name": "lars", "lr": 0.2, "weight_decay": 1e-6, "warmup": 10.0, "end": end})
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
