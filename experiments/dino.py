"""DINO (Caron et al., 2021; arXiv:2104.14294).

folder: any folder of images; what is None is chosen from the data and the device, and logged. For small crops too, add
    --config.augment.local_views=6, and a local_size that suits.
    jssl train --config experiments/dino.py:folder --config.data.source=folder:PHOTOS

cifar10: the recipe behind solo-learn's table (scripts/pretrain/cifar/dino.yaml; 89.5 % on-line linear probe there): two
    asymmetric views without blur, 0.3 per 256, decay 1e-6, head 2048-256, 4096 dimensions, the last layer still for an
    epoch, the teacher's average from 0.9995, its temperature 0.04 to 0.07 in 50 epochs. The rest, shared by the methods
    there, is `jssl.recipes.cifar10`.
cifar10_200: 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark (81.3 to 86.2 % k-NN with k =
    200, T = 0.1 there): two views of 40 % and more without blur, head of two layers with batch norm, 2048 dimensions,
    the teacher's average from 0.99 (there constant), its temperature 0.04.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: ViT-S/16 as the authors' README trains it for 300 epochs: batch 1024, 2 crops of 224 and 8 of 96 pixels, AdamW
    at 5e-4 per 256 with 10 epochs of warm-up, then half a cosine to 1e-6, decay 0.04 to 0.4, drop path 0.1, 65536
    dimensions, the last layer still for an epoch and of learned length, the teacher's temperature 0.04 to 0.07 in 30
    epochs (73.3 % k-NN, 76.0 % linear probe there; 74.5 % and 77.0 % in the paper, table 2, for a longer run).
    Gradients are clipped to norm 3 as a whole here, kernel by kernel there.
imagenet_100: their shorter run: batch 512, 100 epochs, a last layer of unit length, temperature 0.04 (69.3 % k-NN,
    74.0 % linear probe there).
imagenet_resnet50: their command for convnets: imagenet_100 with a ResNet-50, SGD at 0.03 per 256, decay 1e-4, crops of
    14 to 100 % and of 5 to 14 % (the paper's 67.5 % k-NN and 75.3 % linear probe are of another run).
"""

from jssl import recipes
from jssl.config import choose

METHOD = "dino:DINO"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU. Batch norm in the head: a fresh convnet's embeddings are all alike without."""
    config = recipes.digits(METHOD, hidden=256, dim=64, prototypes=512, norm=True, lambda_base=0.98)
    config.method.update({"tau_t": 0.04, "tau_t_warmup": 0.0})
    config.augment.update({"local_views": 2, "local_area": (0.25, 0.6)})
    config.train.steps = 500
    config.optim.update({"lr": 5e-3, "clip": 3.0})
    return still(config, 30.0)


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny(demo(), hidden=32, dim=16, prototypes=64, lambda_base=0.9)
    config.optim.update({"lr": 0.1, "clip": None, "groups": ()})
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    crops = {"area": (0.25, 1.0), "local_size": 14, "local_views": 2, "local_area": (0.1, 0.4)}
    return recipes.fashion(demo(), steps=300, name="dino", **crops, blur=(0.0, 0.0, 0.0))


def folder():
    config = recipes.folder(METHOD, hidden=1024, dim=128, prototypes=4096, norm=True, lambda_base=0.99)
    config.method.update({"tau_t": 0.04, "tau_t_warmup": 0.0})
    recipes.views(config, "dino", None, area=(0.14, 1.0), local_views=0, blur=(0.5, 0.1, 0.2))
    config.optim.clip = 3.0
    return config


def cifar10():
    config = recipes.cifar10(METHOD, prototypes=4096, lambda_base=0.9995, tau_t_warmup=50.0)
    recipes.views(config, "byol", 32, blur=(0.0, 0.0), **recipes.CIFAR)
    config.optim.update({"lr": 0.3, "weight_decay": 1e-6})
    return still(config, 1.0)


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.method.update({"prototypes": 2048, "depth": 2, "norm": True, "lambda_base": 0.99})
    config.method.update({"tau_t": 0.04, "tau_t_warmup": 0.0})
    config.augment.area = (0.4, 1.0)
    config.optim.groups = ()
    return config


def imagenet():
    config = recipes.imagenet(METHOD, norm_last_layer=False)
    config.encoder = {"name": "jssl.nets.vit:vit_small", "drop_path": 0.1}
    recipes.views(config, "dino", 224, **recipes.IMAGENET)
    config.train.update({"epochs": 300.0, "batch_size": 1024})
    config.optim.update({"name": "adamw", "lr": 5e-4, "warmup": 10.0, "end": 0.0005, "clip": 3.0})
    config.optim.update({"weight_decay": 0.04, "weight_decay_end": 0.4})
    return still(config, 1.0)


def imagenet_100():
    config = imagenet()
    config.method.update({"norm_last_layer": True, "tau_t": 0.04, "tau_t_warmup": 0.0})
    config.train.update({"epochs": 100.0, "batch_size": 512})
    config.optim.end = 0.001
    return config


def imagenet_resnet50():
    config = imagenet_100()
    config.encoder = {"name": "jssl.nets.resnet:resnet50"}
    config.augment.update({"area": (0.14, 1.0), "local_area": (0.05, 0.14)})
    config.optim.update({"name": "sgd", "lr": 0.03, "end": 1e-6 / 0.06, "weight_decay": 1e-4, "weight_decay_end": None})
    return config


def still(config, until):
    """A last layer that does not learn until then, in the unit of the warm-up (the authors' code: one epoch)."""
    config.optim.groups = ({"pattern": "(^|/)(last|gain)(/|$)", "frozen_until": until},)
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_100": imagenet_100,
    "imagenet_resnet50": imagenet_resnet50,
}
