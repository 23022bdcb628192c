"""DeepCluster-v2 (Caron et al., 2020; arXiv:2006.09882, appendix).

folder: any folder of images, in 100 clusters; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/deepcluster2.py:folder --config.data.source=folder:PHOTOS --config.method.k=50

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/deepclusterv2.yaml; 88.9 % on-line linear probe
    there): two views, 0.6 per 256, decay 1e-6, 11 epochs of warm-up, projector 2048-128, three times 3000 prototypes,
    SimCLR's strongest jitter. Blur, which the yaml shares with other methods, is off, as in our SimCLR. The rest,
    shared by the methods there, is `jssl.recipes.cifar10`.
cifar10_200: the same method, 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the authors' deepclusterv2_800ep_pretrain.sh: ResNet-50, 2 crops of 224 and 6 of 96 pixels, batch 4096, LARS
    at 0.3 per 256, decay 1e-6, 10 epochs of warm-up, half a cosine to a thousandth of the rate, 800 epochs, three times
    3000 prototypes, temperature 0.1 (75.2 % linear probe in the authors' README). Their optimizer also adapts and
    decays biases and norms, and their warm-up starts from 0.3.
imagenet_2x224: without small crops, as deepclusterv2_400ep_2x224_pretrain.sh: 400 epochs, crops of 8 % and more (70.2 %
    in the authors' README).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "deepcluster2:DeepCluster2"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: a new clustering every fourth epoch, since an epoch is five steps only."""
    config = recipes.digits(METHOD, hidden=128, dim=64, k=60)
    config.augment.update({"local_views": 2, "local_area": (0.25, 0.6)})
    config.train.update({"steps": 400, "refresh_every": 20})
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny(demo(), hidden=16, dim=8, heads=2, k=8, iterations=5)
    config.data.source = "digits@train[:256]"
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return epochs(recipes.fashion(demo(), steps=360))


def folder():
    config = recipes.folder(METHOD, hidden=512, dim=128, k=100)
    recipes.views(config, "multicrop", None, local_size=96, local_views=4, blur=(0.2, 0.2, 0.2))
    return epochs(config)


def cifar10():
    config = epochs(recipes.cifar10(METHOD))
    config.optim.update({"lr": 0.6, "weight_decay": 1e-6, "warmup": 11.0, "end": 1e-3})
    return config


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.optim.update({"warmup": 10.0, "end": 0.0})
    return config


def imagenet():
    config = epochs(recipes.imagenet(METHOD))
    recipes.views(config, "multicrop", 224, **recipes.IMAGENET)
    config.train.update({"epochs": 800.0, "batch_size": 4096})
    config.optim.update({"name": "lars", "lr": 0.3, "end": 1e-3, "weight_decay": 1e-6, "warmup": 10.0})
    return config


def imagenet_2x224():
    config = imagenet()
    config.augment.update({"area": (0.08, 1.0), "local_views": 0})
    config.train.epochs = 400.0
    return config


def epochs(config):
    """A new clustering every epoch."""
    config.train.refresh_every = None
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_2x224": imagenet_2x224,
}
