"""DeepCluster (Caron et al., 2018; arXiv:1807.05520).

folder: any folder of images, in 100 clusters; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/deepcluster.py:folder --config.data.source=folder:PHOTOS --config.method.k=50

cifar10, cifar10_200: no public table has DeepCluster with this network; the optimizer and the views are those of the
    methods that solo-learn and lightly train there (LARS at 0.6 per 256, decay 1e-6; SGD), in 1000 clusters.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's method (section 3.4 and the authors' main.py): 10,000 clusters of features that are whitened to 256
    dimensions, anew every epoch, edges instead of colours (Sobel), one view (crop and flip), SGD at a constant 0.05 per
    256, decay 1e-5. The paper's networks, AlexNet and VGG-16 with dropout, are not among ours: this is ResNet-50 with
    batch 512 and 200 epochs, as in OpenMMLab's mmselfsup (deepcluster-sobel_resnet50_8xb64-steplr-200e: 46.9 % linear
    probe of the pooled features there, with rotations and colour jitter besides). The authors' and their classifier has
    no momentum.
"""

from jssl import recipes
from jssl.config import choose

METHOD = "deepcluster:DeepCluster"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: a new clustering every fourth epoch, since a new classifier needs some steps."""
    config = recipes.digits(METHOD, k=100)
    config.train.refresh_every = 20
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), k=8, iterations=5)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=700)


def folder():
    return epochs(recipes.folder(METHOD, k=100))


def cifar10():
    config = epochs(recipes.cifar10(METHOD, k=1000))
    config.optim.update({"lr": 0.6, "weight_decay": 1e-6})
    return config


def cifar10_200():
    return recipes.lightly(cifar10())


def imagenet():
    config = epochs(recipes.imagenet(METHOD, sobel=True))
    recipes.views(config, "mae", 224, area=(0.08, 1.0), interpolation="bilinear", **recipes.IMAGENET)
    config.train.update({"epochs": 200.0, "batch_size": 512})
    config.optim.update({"name": "sgd", "lr": 0.05, "end": 1.0, "weight_decay": 1e-5, "decay_all": True})
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
}
