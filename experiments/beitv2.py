"""BEiT v2 (Peng et al., 2022; arXiv:2208.06366). Its tokenizer is trained first, by experiments/vqkd.py.

The steps on digits, each from the run of the one before:
    jssl train --config experiments/ibot.py:demo
    jssl train --config experiments/vqkd.py:demo
    jssl train --config experiments/beitv2.py:demo
`init_run` names the tokenizer's run (--config.init_run=RUN), `method.tokenizer` and `method.tokenizer_fields` its
encoder and that one's fields.

folder: any folder of images; what is None is chosen from the data and the device, and logged. After vqkd.py:folder:
    jssl train --config experiments/beitv2.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4, blocks of 4 patches and more, batch 512, 5e-4 per 256, 1000
    epochs; all else is the paper's. cifar10_200: 200 epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the authors' PRETRAINING.md, ViT-B/16 at 224 for 1600 epochs: relative positions that all blocks share,
    LayerScale 0.1, 75 of 196 patches hidden, the bottleneck of 2 blocks on the patches of block 9, crops of 20 % and
    more, batch 2048, AdamW at 1.5e-3 to 1e-5, decay 0.05, 10 epochs of warm-up, drop path 0.1, gradients clipped to
    norm 3 (85.5 % fine-tuned and 80.1 % linear in the paper, tables 1 and 2, with CLIP as the tokenizer's teacher).
imagenet_300: 300 epochs, without drop path, the second beta 0.98 (85.0 % fine-tuned in the paper, table 1).
"""

from ml_collections import FieldReference

from jssl import recipes
from jssl.config import choose

METHOD = "beitv2:BEiTv2"
BLOCKS = {"positions": "none", "relative": "shared", "layer_scale": 0.1, "pool": "cls"}
PLAIN = (("positions", "learned"), ("relative", None), ("layer_scale", None), ("drop_path", 0.0))  # VQ-KD's encoder


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU. Positions and rate are those of BEiT's demo, for the same reason."""
    config = recipes.digits(METHOD, vocabulary=64, dim=8, block=2, early=1, depth=1)
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": 96, "depth": 2, "heads": 4, "patch": 4}
    config.encoder.positions = "sincos"
    recipes.views(config, "mae", 16, flip=0.0, area=(0.5, 1.0))
    config.optim.update({"lr": 2e-3, "weight_decay": 0.05, "warmup": 60.0})
    tokens(config, "runs/vqkd-demo")
    config.method.tokenizer_fields = ()
    return config


def tiny():
    """For the contract tests, with a tokenizer that is none: seconds on a CPU."""
    config = recipes.tiny(demo(), vocabulary=16, early=1)
    config.init_from = {}
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=400, name="mae")
    config.method.update({"vocabulary": 256, "block": 4})
    config.init_run = "runs/vqkd-fashion"
    return config


def folder():
    config = recipes.folder_vit(METHOD, vocabulary=1024, block=4, early=None)
    config.encoder.update(BLOCKS)
    recipes.views(config, "mae", None)
    config.optim.clip = 3.0
    return tokens(config, "runs/vqkd-folder")


def cifar10():
    config = recipes.cifar10_vit(METHOD, vocabulary=1024, block=4)
    config.encoder.update(BLOCKS)
    recipes.views(config, "mae", 32, **recipes.CIFAR)
    config.optim.clip = 3.0
    return tokens(config, "runs/vqkd-cifar10")


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = recipes.imagenet(METHOD, mask_ratio=75 / 196)
    config.encoder = {"name": "jssl.nets.vit:vit_base", "drop_path": 0.1, **BLOCKS}
    recipes.views(config, "beit", 224, area=(0.2, 1.0), **recipes.IMAGENET)
    config.train.update({"epochs": 1600.0, "batch_size": 2048})
    config.optim.update({"name": "adamw", "lr": 1.5e-3, "scale": "none", "weight_decay": 0.05, "warmup": 10.0})
    config.optim.update({"clip": 3.0, "end": 1e-5 / 1.5e-3})
    return tokens(config, "runs/vqkd-imagenet")


def imagenet_300():
    config = imagenet()
    config.encoder.drop_path = 0.0
    config.train.epochs = 300.0
    config.optim.b2 = 0.98
    return config


def tokens(config, run):
    """The config with the tokenizer of `run`."""
    config.init_run = FieldReference(run)
    origin = config.get_ref("init_run")
    config.init_from = {
        "carry/frozen/tokenizer": origin + "#params/encoder",
        "carry/frozen/projector": origin + "#params/projector",
        "carry/frozen/codebook": origin + "#carry/codebook",
    }
    config.method.tokenizer_fields = PLAIN
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_300": imagenet_300,
}
