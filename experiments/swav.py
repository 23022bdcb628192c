"""SwAV (Caron et al., 2020; arXiv:2006.09882).

folder: any folder of images; what is None is chosen from the data and the device, and logged. For small crops too, add
    --config.augment.local_views=6, and a local_size that suits.
    jssl train --config experiments/swav.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/swav.yaml; 89.2 % on-line linear probe there): two
    views, 0.6 per 256, decay 1e-6, projector 2048-128, 3000 prototypes, still for 2 epochs, a queue of 3840 from epoch
    50, SimCLR's strongest jitter. Blur is off, as in solo-learn's first script; the yaml shares its views with other
    methods and blurs. The rest, shared by the methods there, is `jssl.recipes.cifar10`.
cifar10_200: 200 epochs, batch 512, after lightly's CIFAR-10 benchmark (83.3 to 84.2 % k-NN with k = 200, T = 0.1
    there): two views of 14 % and more, projector 512-128, 512 prototypes, Adam at 1e-3 per 128, decay 1e-6 (here
    decoupled).
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's recipe and the authors' swav_800ep_pretrain.sh: ResNet-50, 2 crops of 224 and 6 of 96 pixels,
    batch 4096, LARS at 0.3 per 256, decay 1e-6, 10 epochs of warm-up, half a cosine to a thousandth of the rate, 800
    epochs, prototypes still for the first epoch (75.3 % linear probe in the paper). Shorter runs keep everything else:
    --config.train.epochs=400 (74.6 % in the authors' README), 200 (73.9 %), 100 (72.1 %). Their optimizer also adapts
    and decays biases and norms, and their warm-up starts from 0.3.
imagenet_256: for one machine, as swav_400ep_bs256_pretrain.sh: batch 256, 0.6 per 256 without warm-up, a queue of 3840
    from epoch 15, 400 epochs (74.3 % in the authors' README; 72.7 % after 200).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "swav:SwAV"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    config = recipes.digits(METHOD, hidden=128, dim=64, prototypes=60)
    config.augment.update({"local_views": 2, "local_area": (0.25, 0.6)})
    return still(config, 30.0)


def tiny():
    """For the contract tests: seconds on a CPU; the queue is full after three steps."""
    config = recipes.tiny(demo(), hidden=16, dim=8, prototypes=10, queue_size=160, queue_start=0.1)
    config.optim.update({"lr": 0.02, "groups": ()})
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    crops = {"area": (0.2, 1.0), "local_size": 14, "local_views": 2, "local_area": (0.1, 0.3)}
    return recipes.fashion(demo(), steps=300, name="multicrop", **crops, jitter=(0.4, 0.4, 0.4, 0.1), blur=(0.0,) * 3)


def folder():
    config = recipes.folder(METHOD, hidden=512, dim=128, prototypes=300, queue_size=3840, queue_start=5.0)
    recipes.views(config, "multicrop", None, local_views=0, blur=(0.2, 0.2, 0.2))
    return config


def cifar10():
    config = recipes.cifar10(METHOD, queue_size=3840, queue_start=50.0)
    config.optim.update({"lr": 0.6, "weight_decay": 1e-6})
    return still(config, 2.0)


def cifar10_200():
    config = recipes.lightly(recipes.cifar10(METHOD, hidden=512, prototypes=512))
    config.augment.area = (0.14, 1.0)
    config.optim.update({"name": "adamw", "lr": 2e-3, "weight_decay": 1e-6, "warmup": 0.0})
    return config


def imagenet():
    config = recipes.imagenet(METHOD)
    recipes.views(config, "multicrop", 224, **recipes.IMAGENET)
    config.train.update({"epochs": 800.0, "batch_size": 4096})
    config.optim.update({"name": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 10.0, "end": 0.001})
    return still(config, 1.0)


def imagenet_256():
    config = imagenet()
    config.method.update({"queue_size": 3840, "queue_start": 15.0})
    config.train.update({"epochs": 400.0, "batch_size": 256})
    config.optim.update({"lr": 0.6, "warmup": 0.0})
    return config


def still(config, until):
    """Prototypes that do not learn until then, in the unit of the warm-up: against a collapse at the beginning."""
    config.optim.groups = ({"pattern": "^prototypes$", "frozen_until": until},)
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_256": imagenet_256,
}
