"""What the recipes of many methods share, as functions from a method to a config; at the end, those of graphs.

An experiment file names its method and what the paper says of it; data, networks, evaluation and the optimizers that
several papers or public tables agree on are here. Each function returns an `ml_collections.ConfigDict` whose fields an
experiment goes on to change.
"""

from ml_collections import FieldReference

from jssl.config import base

CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def views(config, name, size, **fields):
    """The views `jssl.augment.image:NAME` of `size` pixels; evaluation keeps its crop and follows in all else."""
    reference = FieldReference(size, field_type=int)
    config.augment = {"name": f"jssl.augment.image:{name}", "size": reference, **fields}
    kept = {"crop": config.preprocess.crop} if "crop" in config.preprocess else {}
    kept |= {key: fields[key] for key in ("mean", "std", "interpolation") if key in fields}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": reference, **kept}
    return config


def undone(config):
    """Gives the method the mean and deviation of its views, so that a tokenizer may see pixels in [0, 1] again."""
    for key, default in (("mean", (0.5,)), ("std", (0.25,))):
        config.augment[key] = FieldReference(config.augment.get(key, default), field_type=tuple)
        config.method[key] = config.augment.get_ref(key)
    return config


def digits(method, **fields):
    """scikit-learn's digits on a CPU: 1,297 images of 8 x 8 pixels, seen at 16 x 16 by a small network."""
    config = base()
    config.method = {"name": f"jssl.methods.{method}", **fields}
    config.encoder = {"name": "jssl.nets.conv:convnet", "widths": (32, 64, 128)}
    views(config, "strokes", 16, area=(0.5, 1.0))
    config.preprocess.crop = 1.0
    config.data.update({"source": "digits", "eval_source": "digits@test"})
    config.train.update({"steps": 600, "batch_size": 256, "steps_per_call": None})
    config.optim.update({"name": "adamw", "lr": 1e-2, "weight_decay": 1e-4, "warmup": 30.0})
    config.checkpoint.every = 200
    config.eval.every = 100
    return config


def finetuned(config):
    """The config with `jssl eval` fine-tuning too, as the papers of what predicts pixels do: minutes on the digits."""
    config.eval.protocols = "knn,linear,fewshot,finetune"
    return config


def tiny(config, **fields):
    """A demo made so small that the contract tests take seconds on a CPU; `fields` are the method's.

    Its encoder is smooth: of many inputs of a ReLU one is so near 0 that the order of a sum may decide on its gradient,
    and tests then find another number of devices to change what it does not.
    """
    if config.encoder.name.endswith(":convnet"):
        config.encoder.update({"widths": (8, 16), "activation": "gelu"})
    else:
        config.encoder.update({"dim": 16, "depth": 2, "heads": 2})
    config.method.update(fields)
    config.optim.update({"name": "sgd", "lr": 0.02, "warmup": 0.0})
    config.train.update({"batch_size": 64, "steps": 8})
    config.eval.protocols = None
    return config


def fashion(config, steps, name="simclr", **fields):
    """A demo on Fashion-MNIST's first 10,000 images instead of the digits; `fields` are of the views NAME."""
    if name == "simclr":
        fields = {"strength": 0.5, "area": (0.2, 1.0), "blur": 0.0, **fields}
    views(config, name, 28, **fields)
    config.data.source = "tfds:fashion_mnist@train[:10000]"
    config.data.eval_source = "tfds:fashion_mnist@test"
    config.train.steps = steps
    config.eval.every = config.checkpoint.every = steps // 4
    config.eval.protocols = None  # fine-tuning on so many images is no matter of minutes for a CPU
    return config


def folder(method, **fields):
    """Any folder of images: what is None is chosen from the data and the device."""
    config = base()
    config.method = {"name": f"jssl.methods.{method}", **fields}
    views(config, "simclr", None, strength=0.5, blur=0.2)
    config.data.source = "folder:photos"
    config.train.update({"batch_size": None, "steps_per_call": None})
    # AdamW, since LARS is for batches of thousands: on small ones it has to be tuned for every folder.
    config.optim.update({"name": "adamw", "lr": 1e-3, "scale": "sqrt", "weight_decay": 1e-4, "warmup": None})
    config.log_every = config.checkpoint.every = config.eval.every = None
    config.eval.rows = 2000
    return config


def cifar10(method, **fields):
    """CIFAR-10 as solo-learn's table has it: ResNet-18 with the CIFAR stem, 1000 epochs, batch 256, LARS (eta 0.02,
    momentum 0.9, no decay nor adaptation of biases and norms, trust ratio times rate at most the rate), 10 epochs of
    warm-up, a linear classifier trained beside it. The rate, the decay and the views are each method's own."""
    config = base()
    config.method = {"name": f"jssl.methods.{method}", **fields}
    config.encoder = {"name": "jssl.nets.resnet:resnet18", "stem": "cifar"}
    views(config, "simclr", 32, blur=0.0, interpolation="bicubic", **CIFAR)
    config.preprocess.crop = 1.0
    config.data.update({"source": "tfds:cifar10", "eval_source": "tfds:cifar10@test"})
    config.train.update({"epochs": 1000.0, "batch_size": 256, "steps_per_call": None})
    config.optim.update({"name": "lars", "trust_coefficient": 0.02, "clip_lr": True, "warmup": 10.0})
    config.log_every = 100
    config.checkpoint.every = 2000
    config.eval.update({"every": 2000, "k": 200, "temperature": 0.1, "rows": 10000, "probe_lr": 0.1})
    return config


def lightly(config):
    """200 epochs of batch 512 with the optimizer of lightly's CIFAR-10 benchmark: SGD at 0.06 per 128, decay 5e-4 on
    every parameter, as torch has it; the warm-up of 10 epochs is ours."""
    config.train.update({"epochs": 200.0, "batch_size": 512})
    config.optim.update({"name": "sgd", "lr": 0.12, "weight_decay": 5e-4, "decay_all": True})
    return config


def folder_vit(method, **fields):
    """`folder` with a vision transformer, for methods that hide patches."""
    config = folder(method, **fields)
    config.encoder = {"name": "jssl.nets.vit:ViT", "dim": None, "depth": None, "heads": None, "patch": None}
    config.encoder.update({"positions": "sincos", "pool": "mean"})
    # Above the papers' rates, which are for batches of thousands: a folder gives few steps.
    config.optim.update({"lr": 5e-4, "weight_decay": 0.05})
    return config


def cifar10_vit(method, **fields):
    """CIFAR-10 for methods that hide patches, ours: ViT-Ti with patches of 4, batch 512, AdamW at 5e-4 per 256, decay
    0.05, 40 epochs of warm-up; the rest is `cifar10`."""
    config = cifar10(method, **fields)
    config.encoder = {"name": "jssl.nets.vit:vit_tiny", "patch": 4, "positions": "sincos", "pool": "mean"}
    config.train.batch_size = 512
    config.optim.update({"name": "adamw", "lr": 5e-4, "weight_decay": 0.05, "warmup": 40.0})
    return config


def shorter(config):
    """200 epochs, 10 of them warm-up."""
    config.train.epochs = 200.0
    config.optim.warmup = 10.0
    return config


def imagenet(method, **fields):
    """ImageNet at 224 pixels with a ResNet-50; batch, optimizer, schedule, epochs and views are each paper's own.

    Training labels are not read; for scores, jssl eval --data 'tfds:imagenet2012@train[:10%]'.
    """
    config = base()
    config.method = {"name": f"jssl.methods.{method}", **fields}
    config.encoder = {"name": "jssl.nets.resnet:resnet50"}
    views(config, "simclr", 224, **IMAGENET)
    config.data.update({"source": "tfds:imagenet2012", "eval_source": "tfds:imagenet2012@validation"})
    config.checkpoint.every = 1000
    return config


def graph(method, source, encoder, **fields):
    """Any source of graphs; `encoder` and `fields` are those of the network `jssl.nets.graph:GNN` and of the method."""
    config = base()
    config.modality = "graph"
    config.method = {"name": f"jssl.methods.{method}", **fields}
    config.encoder = {"name": "jssl.nets.graph:GNN", **encoder}
    graph_views(config, "Whole")
    config.data.source = source
    config.train.update({"batch_size": None, "steps_per_call": None})
    config.optim.update({"name": "adam", "lr": 1e-3, "scale": "none", "end": 1.0})
    return config


def graph_views(config, name, normalise=None, **fields):
    """The views `jssl.augment.graph:NAME`; evaluation follows in how features are normalised."""
    config.augment = {"name": f"jssl.augment.graph:{name}", "normalise": normalise, **fields}
    config.preprocess = {"name": "jssl.augment.graph:Evaluation", "normalise": normalise}
    return config


def nearest(method, encoder, **fields):
    """The graph of the digits' nearest neighbours, 1,797 nodes, on a CPU."""
    config = graph(method, "knn:digits@all", encoder, **fields)
    config.train.update({"steps": 200, "batch_size": 1})
    config.eval.every = config.checkpoint.every = 100
    return config


def cora(method, encoder, epochs, **fields):
    """Cora from Planetoid's raw files; other citation graphs by another `data.source`.

    Features are divided by their sum, as in the papers' code.
    """
    config = graph(method, "planetoid:data/planetoid@cora", encoder, **fields)
    graph_views(config, "Whole", normalise="shares")
    config.train.update({"epochs": float(epochs), "batch_size": 1})
    config.checkpoint.every = config.eval.every = max(epochs // 4, 1)
    return config


def sampled_graph(method, encoder, **fields):
    """One graph of any size, as small graphs sampled around its nodes, of which the embeddings and the losses are."""
    config = graph(method, "npz:data/graph.npz", {"layer": "sage", "pool": "first", **encoder}, **fields)
    config.data.sample = "neighbours"
    config.train.update({"steps": 5000, "batch_size": 256})
    config.log_every = config.checkpoint.every = config.eval.every = None
    return config


def small_graphs(method, encoder, name, epochs, batch_size, **fields):
    """The set NAME of the TU collection; other sets by another `data.source`."""
    config = graph(method, f"tu:data/{name}", encoder, **fields)
    config.train.update({"epochs": float(epochs), "batch_size": batch_size})
    config.log_every = config.checkpoint.every = config.eval.every = None
    return config


def tiny_graphs(config, **fields):
    """A graph recipe made so small that the contract tests take seconds on a CPU: the digits' pixels, joined. Smooth,
    see `tiny`."""
    config.data.source = "pixels:digits@train[:256]"
    config.encoder.update({"dims": (8, 8), "activation": "gelu"})
    config.method.update(fields)
    config.optim.update({"name": "sgd", "lr": 0.02, "warmup": 0.0, "weight_decay": 0.0})
    config.train.update({"batch_size": 64, "steps": 8, "epochs": None, "steps_per_call": 1})
    config.update({"log_every": 4})
    config.checkpoint.every = config.eval.every = 4
    return config
