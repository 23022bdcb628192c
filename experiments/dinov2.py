"""DINOv2 (Oquab et al., 2023; arXiv:2304.07193): iBOT with KoLeo, balanced targets and a head for patches.

folder: any folder of images; what is None is chosen from the data and the device, and logged.
    jssl train --config experiments/dinov2.py:folder --config.data.source=folder:PHOTOS

cifar10: ours, not a paper's: ViT-Ti with patches of 4 and 4 registers (Darcet et al., 2023; arXiv:2309.16588), two
    crops, blocks of 4 patches and more, 4096 dimensions, batch 512, 5e-4 per 256, 1000 epochs; all else is the paper's.
    cifar10_200: 200 epochs, 10 of warm-up.
Both read `tfds:cifar10`; from arrays, --config.data.source=npz:TRAIN.npz --config.data.eval_source=npz:TEST.npz.

demo_high: the last phase, at a larger size, on digits: from the whole state of demo's run (parameters, teacher, centres
    if any), which `init_run` names.
    jssl train --config experiments/dinov2.py:demo --workdir runs/dinov2
    jssl train --config experiments/dinov2.py:demo_high --workdir runs/dinov2_high --config.init_run=runs/dinov2

imagenet: the authors' vitl16_short.yaml, ViT-L/16 for 125,000 steps: batch 2048 (64 on each of 32 GPUs), 2 crops of 224
    pixels (32 to 100 % of the image) and 8 of 96 (5 to 32 %), AdamW at 4e-3 for 1024, with the root of the batch, 10
    epochs of warm-up, then half a cosine to 1e-6, decay 0.04 to 0.4, the rate of a block 0.9 of the next one's and that
    of the patches' projection a fifth, LayerScale 1e-5, drop path 0.3, one head of 65536 dimensions, means as centres,
    average 0.992 (81.6 % k-NN, 82.9 % linear probe in their README). Drop path is the same in all blocks. Of 16 large
    crops in a row eight have hidden patches, one of 10 to 15 %, one of 15 to 20 %, ...: so the head of patches has 16 %
    of all places, not the half that each crop may need (in the authors' code it is 64 or 128 crops, all of a GPU). A
    device's images are to be a multiple of 8 then, or --config.method.mask_group has to be lower. For ViT-S/14, 16
    images of 98 pixels, two heads of 16384 dimensions and Sinkhorn, the step that XLA makes for a CPU has 1.77 GiB of
    temporaries and 492 GFLOP; with scores of each crop's half, after a projector of all places, 2.03 and 569; with
    scores of all places 2.27 and 597. Of 8 such images what patches have after the encoder took 0.37 seconds of a core
    of a busy machine, 1.27 and 2.49 (median of two).
imagenet_vit_base, imagenet_vit_small: ours: the same with 12 blocks and drop path 0.1 (the authors distil theirs from
    ViT-g, see dinov2_distill.py).
imagenet22k: their vitl14.yaml, ViT-L/14 for 625,000 steps: batch 3072, small crops of 98 pixels, 2e-4 for 1024, 80
    epochs of warm-up, decay to 0.2, no decay of the rate over the blocks, SwiGLU, drop path 0.4, two heads of 131072
    dimensions, Sinkhorn, a bottleneck of 384 before the class tokens, average 0.994. Give it data.source.
imagenet22k_giant: their vitg14.yaml: the same with ViT-g/14, the teacher of dinov2_distill.py.
imagenet22k_high, imagenet22k_giant_high: the last phase of those two (section 4 and appendix B.2): 10,000 steps at 518
    pixels from the whole state of `init_run`, whose 16 x 16 positions are resized; all schedules from their start, in
    so many steps; the optimizer's moments are new. The rate "is reduced" there: to a tenth here. Small crops stay.
    With 32 images on a device, what patches have after the encoder takes 42 GiB in XLA's plan for a CPU, the weights
    not counted; it would be 130 with each crop's half, 260 with all places.
Registers, in any of them: --config.encoder.registers=4. Neither the paper nor the code has a schedule over time of drop
path or of the share of hidden patches.
"""

from ml_collections import FieldReference

from experiments import ibot
from experiments.dino import still
from jssl import recipes
from jssl.config import choose

METHOD = "ibot:IBOT"
PAPER = {"centering": "sinkhorn", "koleo_weight": 0.1}
EPOCH = 1250  # steps, in the authors' configs


def get_config(variant="demo"):
    return choose(VARIANTS, variant)


def demo():
    """scikit-learn's digits, on a CPU."""
    return beyond(ibot.demo())


def demo_high():
    """Digits at 24 pixels, from the run at 16."""
    return high(demo(), "runs/dinov2", 24, 100)


def tiny():
    """For the contract tests: seconds on a CPU. A random teacher's balanced targets, sharp as at 0.04, tell the order
    of sums."""
    config = beyond(ibot.tiny())
    config.method.update({"patch_prototypes": 24, "tau_t_start": 0.2, "tau_t": 0.2})
    return config


def fashion():
    """Fashion-MNIST's first 10,000 images, on a CPU."""
    return beyond(ibot.fashion())


def folder():
    config = beyond(ibot.folder())
    config.encoder.registers = 4
    config.augment.area = (0.32, 1.0)
    return config


def cifar10():
    config = beyond(ibot.cifar10())
    config.encoder.registers = 4
    return config


def cifar10_200():
    return recipes.shorter(cifar10())


def beyond(config):
    """iBOT's recipe with what DINOv2 adds to it, a head for patches included."""
    config.method.update({"patch_prototypes": config.method.prototypes, **PAPER})
    return config


def imagenet(network="vit_large", depth=24, drop_path=0.3):
    config = recipes.imagenet(METHOD, prototypes=65536, norm_last_layer=False, koleo_weight=0.1, lambda_base=0.992)
    config.method.update({"block": 4, "center_hidden": True, "mask_group": 16})
    config.method.tau_t_warmup = 30.0 * EPOCH * 2048 / 1281167  # in epochs of ImageNet
    config.encoder = {"name": f"jssl.nets.vit:{network}", "layer_scale": 1e-5}
    config.encoder.update({"drop_path": drop_path, "drop_path_uniform": True})
    crops = {"area": (0.32, 1.0), "local_area": (0.05, 0.32)}
    recipes.views(config, "dino", 224, **crops, **recipes.IMAGENET)
    config.train.update({"steps": 100 * EPOCH, "epochs": None, "batch_size": 2048})
    config.optim.update({"name": "adamw", "lr": 4e-3 / 2, "scale": "sqrt", "warmup": 10.0 * EPOCH, "clip": 3.0})
    config.optim.update({"end": 1e-6 / (4e-3 * 2**0.5), "weight_decay": 0.04, "weight_decay_end": 0.4})
    return layerwise(still(config, 1.0 * EPOCH), depth, 0.9)


def imagenet_vit_base():
    return imagenet("vit_base", 12, 0.1)


def imagenet_vit_small():
    return imagenet("vit_small", 12, 0.1)


def imagenet22k():
    config = imagenet()
    config.data.source = None
    heads = {"prototypes": 131072, "dim": 384, "patch_prototypes": 131072, "patch_dim": 256}
    config.method.update({**heads, "lambda_base": 0.994, **PAPER})
    config.method.tau_t_warmup = 30.0 * EPOCH * 3072 / 14197122  # in epochs of ImageNet-22k
    config.encoder.update({"patch": 14, "ffn": "swiglu", "drop_path": 0.4})
    config.augment.local_size = 98
    config.train.update({"steps": 500 * EPOCH, "batch_size": 3072})
    config.optim.update({"lr": 2e-4 / 2, "warmup": 80.0 * EPOCH, "end": 1e-6 / (2e-4 * 3**0.5)})
    config.optim.weight_decay_end = 0.2
    return layerwise(still(config, 1.0 * EPOCH), 24, 1.0)


def imagenet22k_giant():
    config = imagenet22k()
    config.encoder.name = "jssl.nets.vit:vit_giant2"
    return config


def imagenet22k_high():
    return high(imagenet22k(), "runs/dinov2_imagenet22k", 518, 10_000)


def imagenet22k_giant_high():
    return high(imagenet22k_giant(), "runs/dinov2_imagenet22k_giant", 518, 10_000)


def high(config, run, size, steps):
    """The config turned into that of the phase after `run`, of so many steps on images of another size: at a tenth of
    the rate, to the same last one."""
    share = steps / config.train.steps
    config.encoder.table = config.augment.size // config.encoder.patch
    config.augment.size = size
    config.train.steps = steps
    config.method.tau_t_warmup *= share
    config.optim.update({"lr": config.optim.lr / 10, "end": config.optim.end * 10})
    config.optim.warmup *= share
    earlier = lambda group: {key: x * share if key == "frozen_until" else x for key, x in group.items()}
    config.optim.groups = tuple(earlier(group) for group in config.optim.groups)
    config.init_run = FieldReference(run)
    config.init_from = {path: config.get_ref("init_run") for path in ("params", "carry")}
    return config


def layerwise(config, depth, decay, patch=0.2):
    """The rate of each block is `decay` of the next one's, that of the patches' projection `patch` of the tokens'."""
    first = decay ** (depth + 1)
    groups = [{"pattern": "^encoder/patch/", "lr_scale": patch * first}]
    if decay != 1:
        groups.append({"pattern": "^encoder/(cls|mask|registers|positions)$", "lr_scale": first})
        groups += [{"pattern": f"^encoder/block{i}/", "lr_scale": decay ** (depth - i)} for i in range(depth)]
    config.optim.groups = (*config.optim.groups, *groups)
    return config


VARIANTS = {
    "demo": demo,
    "demo_high": demo_high,
    "tiny": tiny,
    "fashion": fashion,
    "folder": folder,
    "cifar10": cifar10,
    "cifar10_200": cifar10_200,
    "imagenet": imagenet,
    "imagenet_vit_base": imagenet_vit_base,
    "imagenet_vit_small": imagenet_vit_small,
    "imagenet22k": imagenet22k,
    "imagenet22k_giant": imagenet22k_giant,
    "imagenet22k_high": imagenet22k_high,
    "imagenet22k_giant_high": imagenet22k_giant_high,
}
