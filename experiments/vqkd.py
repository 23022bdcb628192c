"""VQ-KD (Peng et al., 2022; arXiv:2208.06366), the tokenizer of BEiT v2, taught by any encoder of a run.

The steps on digits, each from the run of the one before:
    jssl train --config experiments/ibot.py:demo
    jssl train --config experiments/vqkd.py:demo
    jssl train --config experiments/beitv2.py:demo
`init_run` names the teacher's run (--config.init_run=RUN), `method.teacher` and `method.teacher_fields` its encoder and
that one's fields; `init_from` says which of its weights: those of a method without an average of them are at
RUN#params/encoder. `health/perplexity` says how many codes are in use.

folder: any folder of images; what is None is chosen from the data and the device, and logged. After ibot.py:folder:
    jssl train --config experiments/vqkd.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4, 1024 codes, a decoder of one block, batch 512, 1e-3, 200 epochs,
    taught by the run of ibot.py:cifar10_200. cifar10_200: the same.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the authors' vqkd_encoder_base_decoder_3x768x12 (their TOKENIZER.md): ViT-B/16, 8192 codes of 32 dimensions, a
    decoder of 3 blocks, crops of 8 % and more, batch 512, AdamW with betas 0.9 and 0.99, decay 1e-4, 10 epochs of
    warm-up, 2e-4, their script's 5e-5 for 128 images, to 1e-5, 100 epochs. The teacher is a DINO ViT-B/16 of
    experiments/dino.py.

imagenet_clip: the same with their teacher, CLIP's ViT-B/16, whose patch tokens are the targets after its last norm and
    its projection to 512 dimensions. `init_run` is the folder that transformers writes:
    CLIPModel.from_pretrained("openai/clip-vit-base-patch16").save_pretrained("clip-vit-base-patch16")
    jssl train --config experiments/vqkd.py:imagenet_clip --config.init_run=clip-vit-base-patch16
    Another CLIP needs --config.method.teacher=jssl.nets.vit:ViT and the `method.teacher_fields` that the log says where
    it is read. Other variants also need --config.init_from.carry/frozen/params=FOLDER#params/encoder, and
    `method.teacher_mean` and `method.teacher_std`, by which the images are normalised for CLIP.
"""

from ml_collections import FieldReference

from jssl import recipes
from jssl.config import choose

METHOD = "vqkd:VQKD"
IBOT = (("mask_token", True),)  # which its averaged encoder has too
CLIP = (("ffn", "quick_gelu"), ("table", 14), ("eps", 1e-5), ("pre_norm", True), ("out_dim", 512))  # beside ViT-B/16


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: 64 codes of 4 x 4 pixels."""
    config = recipes.digits(METHOD, vocabulary=64, dim=8, depth=1)
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": 96, "depth": 2, "heads": 4, "patch": 4, "pool": "mean"}
    config.encoder.positions = "sincos"
    recipes.views(config, "mae", 16, flip=0.0, area=(0.5, 1.0))
    config.train.steps = 300
    config.optim.update({"lr": 1e-3, "warmup": 30.0, "b2": 0.99})
    return taught(config, "runs/ibot-demo", IBOT)


def tiny():
    """For the contract tests, with a teacher that is none: seconds on a CPU."""
    config = recipes.tiny(demo(), vocabulary=16)
    config.init_from = {}
    config.train.refresh_every = 4
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    config = recipes.fashion(demo(), steps=400, name="mae")
    config.method.vocabulary = 256
    return taught(config, "runs/ibot-fashion", IBOT)


def folder():
    config = recipes.folder_vit(METHOD, vocabulary=1024, depth=1)
    recipes.views(config, "mae", None, area=(0.08, 1.0))
    config.optim.b2 = 0.99
    config.encoder.positions = "learned"
    return taught(config, "runs/ibot-folder", IBOT)


def cifar10():
    config = recipes.cifar10_vit(METHOD, vocabulary=1024, depth=1)
    recipes.views(config, "mae", 32, area=(0.08, 1.0), **recipes.CIFAR)
    config.train.epochs = 200.0
    config.optim.update({"lr": 5e-4, "weight_decay": 1e-4, "warmup": 10.0, "b2": 0.99})
    config.encoder.positions = "learned"
    return taught(config, "runs/ibot-cifar10_200", IBOT)


def untaught():
    """ImageNet's recipe but for the teacher."""
    config = recipes.imagenet(METHOD)
    config.encoder = {"name": "jssl.nets.vit:vit_base", "pool": "mean"}
    recipes.views(config, "mae", 224, area=(0.08, 1.0), **recipes.IMAGENET)
    config.train.update({"epochs": 100.0, "batch_size": 512})
    config.optim.update({"name": "adamw", "lr": 1e-4, "end": 0.05, "b2": 0.99, "weight_decay": 1e-4})
    config.optim.warmup = 10.0
    return config


def imagenet():
    return taught(untaught(), "runs/dino-imagenet", ())


def imagenet_clip():
    config = taught(untaught(), "clip-vit-base-patch16", CLIP, "params/encoder")
    config.method.update({"teacher_mean": recipes.CLIP["mean"], "teacher_std": recipes.CLIP["std"]})
    return config


def taught(config, run, fields, path="carry/target/encoder"):
    """The config with the encoder at `path` of `run`, its average if not told, as teacher, which differs from the
    tokenizer's in these fields."""
    config.init_run = FieldReference(run)
    config.init_from = {"carry/frozen/params": config.get_ref("init_run") + f"#{path}"}
    config.method.teacher_fields = fields
    config.train.refresh_every = None
    return recipes.undone(config)


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10,
    "imagenet": imagenet,
    "imagenet_clip": imagenet_clip,
}
