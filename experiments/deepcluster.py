"""DeepCluster (Caron et al., 2018; arXiv:1807.05520).

folder: any folder of images, in 100 clusters; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/deepcluster.py:folder --config.data.source=folder:PHOTOS --config.method.k=50

cifar10: no public table has DeepCluster with this network: 1000 clusters, two of SimCLR's views, and the paper's
    optimizer, SGD at a constant 0.05 per 256, decay 1e-5; the rest, shared by all methods, is `jssl.recipes.cifar10`.
cifar10_200: the same method, 200 epochs, batch 512, with the optimizer of lightly's CIFAR-10 benchmark.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's method, the values of the authors' main.py: 10,000 clusters of features that are whitened to 256
    dimensions, anew every epoch, edges instead of colours (Sobel), one view (crop and flip), SGD at a constant 0.05 per
    256, decay 1e-5. The paper's networks, AlexNet and VGG-16 with dropout, are not among ours: this is ResNet-50
    with batch 512 and 200 epochs, as in OpenMMLab's mmselfsup (deepcluster-sobel_resnet50_8xb64-steplr-200e: 46.9 %
    linear probe of the pooled features there, with rotations and colour jitter besides). Theirs and the authors'
    classifiers have no momentum.
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
    return eager(config)


def tiny():
    """For the contract tests: seconds on a CPU."""
    config = recipes.tiny(demo(), k=8, dim=4, iterations=5)  # weak directions, whose rounding whitening makes large,
    config.encoder.activation = "relu"  # are left out, and smooth features would have more of them
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return epochs(recipes.fashion(demo(), steps=400))


def folder():
    return eager(epochs(recipes.folder(METHOD, k=100)))


def cifar10():
    config = epochs(recipes.cifar10(METHOD, k=1000))
    return constant(config)


def cifar10_200():
    config = eager(recipes.lightly(cifar10()))
    config.optim.update({"end": 0.0, "warmup": 10.0, "decay_all": False})
    return config


def imagenet():
    config = epochs(recipes.imagenet(METHOD, sobel=True))
    recipes.views(config, "mae", 224, area=(0.08, 1.0), interpolation="bilinear", **recipes.IMAGENET)
    config.train.update({"epochs": 200.0, "batch_size": 512})
    return constant(config)


def epochs(config):
    """A new clustering every epoch."""
    config.train.refresh_every = None
    return config


def constant(config):
    """The paper's optimizer."""
    rates = {"lr": 0.05, "warmup": 0.0, "end": 1.0}
    config.optim.update({"name": "sgd", **rates, "weight_decay": 1e-5, "decay_all": True})
    return config


def eager(config):
    """Where the rate falls, the classifier, which starts anew with each clustering, keeps the peak."""
    config.optim.groups = ({"pattern": "^classifier/", "constant": True},)
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
