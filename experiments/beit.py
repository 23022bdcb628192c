"""BEiT (Bao et al., 2021; arXiv:2106.08254). Its tokenizer is trained first, by experiments/dvae.py.

The two steps on digits, the second from the run of the first:
    jssl train --config experiments/dvae.py:demo
    jssl train --config experiments/beit.py:demo
`init_run` names the tokenizer's run (--config.init_run=RUN); `method.tokenizer_fields` are the fields of its encoder.

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/dvae.py:folder --config.data.source=folder:PHOTOS
    jssl train --config experiments/beit.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4, blocks of 4 patches and more, batch 512, 5e-4 per 256, 1000
    epochs; all else is the paper's. cifar10_200: 200 epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's pretraining (section 3.1): ViT-B/16 at 224 with relative positions that all blocks share and
    LayerScale 0.1, 75 of 196 patches hidden, images of 112 pixels for the tokenizer, crops, flips and colour jitter of
    0.4, batch 2048, AdamW at 1.5e-3, 10 epochs of warm-up, decay 0.05, drop path 0.1, 800 epochs, gradients clipped
    to norm 3 and a last rate of 1e-5 as in the authors' code (83.2 % fine-tuned in the paper, table 1, with DALL-E's
    own tokenizer).
"""

from ml_collections import FieldReference

from jssl import recipes
from jssl.config import choose

METHOD = "beit:BEiT"
BLOCKS = {"positions": "none", "relative": "shared", "layer_scale": 0.1, "pool": "mean"}


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU. Relative positions, which begin at 0, say too little in so few steps: with fixed
    ones, no LayerScale and twice the rate, k-NN within the training images rose from 57.7 to 87.3 %."""
    config = recipes.digits(METHOD, block=2)
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": 96, "depth": 4, "heads": 4, "patch": 4}
    config.encoder.update({"positions": "sincos", "pool": "mean"})
    recipes.views(config, "mae", 16, flip=0.0, area=(0.5, 1.0))
    config.optim.update({"lr": 2e-3, "weight_decay": 0.05, "warmup": 60.0})
    config.train.steps = 1000
    return tokens(config, "runs/dvae-demo", vocabulary=64, hidden=16, groups=3, blocks=1)


def tiny():
    """For the contract tests, with a tokenizer that is none: seconds on a CPU."""
    config = recipes.tiny(demo())
    config.method.tokenizer_fields = (("vocabulary", 16), ("hidden", 8), ("groups", 3), ("blocks", 1))
    config.init_from = {}
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=400, name="mae")
    config.method.block = 4
    return tokens(config, "runs/dvae-fashion", vocabulary=256, hidden=16, groups=3, blocks=1)


def folder():
    config = recipes.folder_vit(METHOD, block=4)
    config.encoder.update(BLOCKS)
    recipes.views(config, "mae", None)
    config.optim.clip = 3.0
    return tokens(config, "runs/dvae-folder", vocabulary=1024, hidden=64)


def cifar10():
    config = recipes.cifar10_vit(METHOD, block=4)
    config.encoder.update(BLOCKS)
    recipes.views(config, "mae", 32, **recipes.CIFAR)
    config.optim.clip = 3.0
    return tokens(config, "runs/dvae-cifar10", vocabulary=1024, hidden=64, groups=3)


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD, mask_ratio=75 / 196)
    config.encoder = {"name": "jssl.nets.vit:vit_base", "drop_path": 0.1, **BLOCKS}
    recipes.views(config, "beit", 224, **recipes.IMAGENET)
    config.train.update({"epochs": 800.0, "batch_size": 2048})
    config.optim.update({"name": "adamw", "lr": 1.5e-3, "scale": "none", "weight_decay": 0.05, "warmup": 10.0})
    config.optim.update({"clip": 3.0, "end": 1e-5 / 1.5e-3})
    return tokens(config, "runs/dvae-imagenet")


def tokens(config, run, **fields):
    """The config with the averaged encoder of the tokenizer's `run`, of these fields, as what names the tokens."""
    config.init_run = FieldReference(run)
    config.init_from = {"carry/frozen/tokenizer": config.get_ref("init_run") + "#carry/average/encoder"}
    config.method.tokenizer_fields = tuple(fields.items())
    return recipes.undone(config)


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
}
