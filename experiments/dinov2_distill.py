"""Distillation of a large DINOv2 into a small one (Oquab et al., 2023; arXiv:2304.07193, section 5).

The two trainings on digits, the second from the run of the first, which `init_run` names (--config.init_run=RUN):
    jssl train --config experiments/dinov2.py:demo --workdir runs/dinov2
    jssl train --config experiments/dinov2_distill.py:demo --workdir runs/dinov2_distill
Each variant is that of dinov2.py without hidden patches and drop path. `method.teacher` and `method.teacher_fields` are
the teacher's network as its run had it, `encoder` is the student's; their patches, heads and image sizes are the same.

folder: any folder of images of 128 pixels and more, on an accelerator: the teacher has what dinov2.py:folder chooses
    there for less than 300,000 images, the student half its width.
    jssl train --config experiments/dinov2_distill.py:folder --config.data.source=folder:PHOTOS --config.init_run=RUN

cifar10, cifar10_200: ours: from a ViT-S (dinov2.py:cifar10 --config.encoder.name=jssl.nets.vit:vit_small) to a ViT-Ti.

imagenet, imagenet_vit_base, imagenet_vit_large: appendix B.1: from ViT-g/14 to ViT-S/14, B/14, L/14, whose blocks have
    no SwiGLU: batch 2048, rate 1e-3, 625,000 steps, 100,000 of warm-up, decay 0.04 to 0.2, average 0.994 to 1 (79.0,
    82.1 and 83.5 % k-NN, 81.1, 84.5 and 86.3 % linear probe in the authors' README, on their LVD-142M and after a phase
    at 518 pixels). Its table says 18 blocks for ViT-B; the published one has 12. Heads and crops are those of
    dinov2.py:imagenet22k, the teacher is a run of its imagenet22k_giant. Give it data.source.
"""

from ml_collections import FieldReference

from experiments import dinov2
from jssl import recipes
from jssl.config import choose, plain


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU: a student of half the width."""
    return distilled(dinov2.demo(), "runs/dinov2", dim=48, depth=2)


def tiny():
    """For the contract tests: seconds on a CPU. Its teacher is a random network, of no run."""
    config = dinov2.tiny()
    config.encoder.dim = 24
    config = distilled(config, "", dim=16)
    config.init_from = {}
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return distilled(dinov2.fashion(), "runs/dinov2_fashion", dim=48, depth=2)


def folder():
    config = dinov2.folder()
    config.encoder.update({"dim": 384, "depth": 12, "heads": 6, "patch": 16})
    return distilled(config, "runs/dinov2_folder", dim=192, heads=3)


def cifar10():
    config = dinov2.cifar10()
    config.encoder.name = "jssl.nets.vit:vit_small"
    return distilled(config, "runs/dinov2_cifar10", name="jssl.nets.vit:vit_tiny")


def cifar10_200():
    return recipes.shorter(cifar10())


def imagenet():
    config = dinov2.imagenet22k_giant()
    config.method.tau_t_warmup *= 2048 / config.train.batch_size
    config.train.batch_size = 2048
    config.optim.update({"lr": 1e-3 / 8**0.5, "end": 1e-6 / 1e-3})
    return distilled(config, "runs/dinov2_imagenet22k_giant", name="jssl.nets.vit:vit_small", ffn="mlp")


def imagenet_vit_base():
    config = imagenet()
    config.encoder.name = "jssl.nets.vit:vit_base"
    return config


def imagenet_vit_large():
    config = imagenet()
    config.encoder.name = "jssl.nets.vit:vit_large"
    return config


def distilled(config, run, **student):
    """The config turned into that of a distillation of the network of `run`; `student`: what differs in the student."""
    if "drop_path" in config.encoder:
        config.encoder.update({"drop_path": 0.0})
    fields = plain(config.encoder)
    config.method.teacher = fields.pop("name")
    config.method.teacher_fields = tuple(fields.items())
    config.encoder.update(student)
    config.init_run = FieldReference(run)
    config.init_from = {"carry/frozen": config.get_ref("init_run") + "#carry/target"}
    return config


VARIANTS = {
    "demo": demo,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_vit_base": imagenet_vit_base,
    "imagenet_vit_large": imagenet_vit_large,
}
