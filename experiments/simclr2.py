"""SimCLR v2 (Chen et al., 2020; arXiv:2006.10029): pretraining, fine-tuning on few labels, distillation.

The three steps on digits, each from the run of the one before:
    jssl train --config experiments/simclr2.py:demo --workdir runs/simclr2
    jssl train --config experiments/simclr2.py:demo_finetune --workdir runs/simclr2_finetuned
    jssl train --config experiments/simclr2.py:demo_distill --workdir runs/simclr2_distilled
`init_run` names the run that weights come from (--config.init_run=RUN), `data.share` the part of every class that
fine-tuning sees. The student of demo_distill is half as wide as its teacher.

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/simclr2.py:folder --config.data.source=folder:PHOTOS

cifar10, cifar10_200: as simclr.py has them (optimizer and views after solo-learn, 200 epochs after lightly), with the
    head of three layers; neither table has SimCLR v2.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

imagenet: the paper's pretraining (section 3.1): batch 4096, 800 epochs, LARS at 0.1 sqrt(batch) = 6.4, warmed up over
    5 % of the epochs, decay 1e-4, memory of 64K keys, momentum 0.999, SimCLR's views (71.7 % linear probe with this
    ResNet-50 in the paper, table 1). The memory is not in the public code. Selective kernels are not here; deeper and
    wider: --config.encoder.name=jssl.nets.resnet:resnet152 --config.encoder.width=3 --config.method.hidden=6144
imagenet_finetune_1, imagenet_finetune_10: the paper's own 1 % and 10 % of the labels (tfds:imagenet2012_subset), from
    the head's first layer: batch 1024, 60 and 30 epochs, LARS at 0.005 sqrt(batch), no warm-up nor decay, crops and
    flips alone (57.9 and 68.4 % top-1 in the paper, table 1). The rate of wider networks is 0.002 sqrt(batch).
imagenet_distill: the fine-tuned network taught to one of the same architecture on all images, without labels: 400
    epochs, temperature 0.1, else as pretraining. A smaller student has temperature 1.0:
    --config.encoder.name=jssl.nets.resnet:resnet18 --config.method.teacher=jssl.nets.resnet:resnet50
    --config.method.temperature=1.0
"""

from ml_collections import FieldReference

from jssl import recipes
from jssl.config import choose

METHOD = "simclr2:SimCLRv2"


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return recipes.digits(METHOD, hidden=128, dim=64, temperature=0.5)


def demo_finetune():
    """A tenth of the digits' labels: 130 of them."""
    config = fine_tuned(recipes.digits(METHOD, hidden=128), "runs/simclr2", epochs=None)
    config.data.share = 0.1
    config.augment.views = 1
    config.train.update({"steps": 100, "batch_size": 64})
    config.optim.update({"name": "sgd", "lr": 0.2, "weight_decay": 0.0, "warmup": 0.0})
    config.checkpoint.every = 100
    config.eval.every = 50
    return config


def demo_distill():
    """A student of half the width learns from the teacher on all digits, without labels."""
    config = distilled(recipes.digits(METHOD, hidden=128), "runs/simclr2_finetuned", epochs=None)
    config.encoder.widths = (16, 32, 64)
    config.method.update({"classes": 10, "teacher": "jssl.nets.conv:convnet", "temperature": 1.0})
    config.augment.views = 1
    config.train.steps = 300
    return config


def tiny():
    """For the contract tests: seconds on a CPU."""
    return recipes.tiny(demo(), hidden=16, dim=8)


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return recipes.fashion(demo(), steps=400)


def folder():
    return recipes.folder(METHOD, hidden=512, dim=128, temperature=0.2)


def cifar10():
    config = recipes.cifar10(METHOD, hidden=2048, dim=128, temperature=0.2)
    config.optim.update({"lr": 0.4, "weight_decay": 1e-4})
    return config


def cifar10_200():
    config = recipes.lightly(cifar10())
    config.augment.strength = 0.5
    return config


def imagenet():
    config = recipes.imagenet(METHOD, hidden=2048, dim=128, temperature=0.1, memory=65536)
    recipes.views(config, "simclr", 224, strength=1.0, blur=0.5, interpolation="bicubic", mean=(0.0,), std=(1.0,))
    config.train.update({"epochs": 800.0, "batch_size": 4096})
    config.optim.update({"name": "lars", "lr": 1.6, "scale": "sqrt", "weight_decay": 1e-4, "warmup": 40.0})
    return config


def imagenet_finetune_1():
    config = crops(fine_tuned(imagenet(), "runs/simclr2_imagenet", epochs=60.0))
    config.data.source = "tfds:imagenet2012_subset/1pct"
    config.method.classes = 1000
    config.train.batch_size = 1024
    config.optim.update({"lr": 0.08, "weight_decay": 0.0, "warmup": 0.0})
    return config


def imagenet_finetune_10():
    config = imagenet_finetune_1()
    config.data.source = "tfds:imagenet2012_subset/10pct"
    config.train.epochs = 30.0
    return config


def imagenet_distill():
    config = crops(distilled(imagenet(), "runs/simclr2_imagenet_finetuned", epochs=400.0))
    config.method.update({"classes": 1000, "temperature": 0.1})
    config.optim.warmup = 20.0
    return config


def fine_tuned(config, run, epochs):
    """A pretraining's config turned into that of its fine-tuning, from the encoder and the head's first layer."""
    config.method = {"name": "jssl.methods.simclr2:FineTuned", "hidden": config.method.hidden, "layer": 1}
    kept = ("params/encoder", "params/projector/dense0", "params/projector/norm0")
    kept += ("carry/stats/encoder", "carry/stats/projector/norm0")
    config.init_run = FieldReference(run)
    config.init_from = {path: config.get_ref("init_run") for path in kept}
    config.train.epochs = epochs
    return config


def distilled(config, run, epochs):
    """The config turned into that of a distillation of the fine-tuned network of `run`."""
    config.method = {"name": "jssl.methods.simclr2:Distilled", "hidden": config.method.hidden, "layer": 1}
    config.init_run = FieldReference(run)
    teacher = config.get_ref("init_run")
    config.init_from = {"carry/frozen/params": teacher + "#params", "carry/frozen/stats": teacher + "#carry/stats"}
    config.train.epochs = epochs
    return config


def crops(config):
    """Fine-tuning and distillation see random crops and flips alone."""
    return recipes.views(config, "mae", 224, area=(0.08, 1.0), interpolation="bicubic", mean=(0.0,), std=(1.0,))


VARIANTS = {
    "demo": demo,
    "demo_finetune": demo_finetune,
    "demo_distill": demo_distill,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_finetune_1": imagenet_finetune_1,
    "imagenet_finetune_10": imagenet_finetune_10,
    "imagenet_distill": imagenet_distill,
}
