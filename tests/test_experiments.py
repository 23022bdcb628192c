"""Every variant of every experiment builds, and states the numbers of its paper."""

import functools
import importlib
import math

import jax
import numpy as np
import pytest

from jssl import config as configs
from jssl import recipes
from jssl.data import open_source, sample
from jssl.experiment import fill, prepare
from jssl.feed import Feed
from jssl.step import init_state
from tests.test_experiment import GPU, files, held

NODES, GRAPHS = "knn:digits@test", "pixels:digits@test[:200]"  # in place of sets that are not at hand
SOURCES = {
    **dict.fromkeys(("cora", "citeseer", "pubmed", "wikics"), functools.partial(open_source, NODES)),
    "sampled": lambda: sample(open_source(NODES), "neighbours"),
    **dict.fromkeys(("mutag", "nci1", "proteins"), functools.partial(open_source, GRAPHS)),
    "fashion": functools.partial(held, 10_000, 28),
    "folder": functools.partial(files, 5096, [(128, 170), (200, 128)]),
    "cifar10": functools.partial(held, 50_000, 32),
    "cifar10_200": functools.partial(held, 50_000, 32),
    "imagenet": functools.partial(files, 1_281_167, [(500, 375)]),
}
ALL = [
    (name, variant)
    for name in configs.experiments()
    for variant in importlib.import_module(f"experiments.{name}").VARIANTS
]
MILLION = 1e6


@functools.cache
def built(name, variant):
    """The filled config, its objects and the shapes of the state: nothing is compiled."""
    config = configs.load(f"{name}:{variant}")
    kind = max((name for name in SOURCES if variant.startswith(name)), key=len, default=None)
    source = SOURCES[kind]() if kind else open_source(config.data.source)
    if config.data.centrality:
        source = source.weighted(config.data.centrality)
    config, _ = fill(config, source, [GPU])
    experiment = prepare(config)
    feed = Feed(
        source,
        None,
        batch_size=config.train.batch_size,
        seed=0,
        crops=getattr(experiment.augment, "crops", None),
        resident=False,
        workers=0,
        rows=config.data.rows,
    )
    rng = jax.random.key(0)
    views = jax.eval_shape(experiment.augment, rng, feed.shapes())
    state = jax.eval_shape(functools.partial(init_state, experiment.method, experiment.tx, views=views), rng)
    return config, experiment, state


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("name", "variant"), ALL, ids=lambda x: x)
def test_variant_builds(name, variant):
    config, experiment, state = built(name, variant)
    assert count(state.params) > 0
    if config.modality != "image":
        return
    inputs = {"image": jax.ShapeDtypeStruct((2, 300, 400, 3), np.uint8)}
    inputs = jax.eval_shape(experiment.preprocess, inputs)["image"]
    assert inputs.shape == (2, config.augment.size, config.augment.size, 3)


@pytest.mark.parametrize("name", configs.experiments())
def test_experiment_has_the_variants_that_people_look_for(name):
    wanted = {
        "image": {"demo", "tiny", "folder", "cifar10", "cifar10_200", "imagenet"},
        "graph": {"demo", "tiny", "proteins" if name in ("graphcl", "infograph") else "cora"},
    }
    assert wanted[configs.load(name).modality] <= {v for n, v in ALL if n == name}


def test_unknown_variant_is_refused_with_the_near_miss():
    with pytest.raises(ValueError, match="did you mean cifar10"):
        configs.load("simclr:cifar")


# Papers' networks, without their classifiers: ResNet as torchvision counts it, ViT-L without its fixed positions.
@pytest.mark.parametrize(
    ("name", "variant", "parameters"),
    [
        ("simclr", "cifar10", 11_168_832),
        ("byol", "cifar10", 11_168_832),
        ("simclr", "imagenet", 23_508_032),
        ("byol", "imagenet", 23_508_032),
        ("mae", "imagenet", 303_099_904),
        ("mae", "imagenet_vit_huge", 630_435_840),
        ("dinov2", "imagenet_vit_small", 21_674_880),  # timm's with LayerScale; a mask token, no class position
        ("ijepa", "imagenet", 630_434_560),
        ("simmim", "imagenet", 86_725_304),  # torchvision's with 11 x 11, not 13 x 13, biases a head, and a mask token
    ],
)
def test_encoder_has_the_size_of_its_name(name, variant, parameters):
    assert count(built(name, variant)[2].params["encoder"]) == parameters


@pytest.mark.parametrize(
    ("name", "variant", "optimizer", "batch", "rate", "decay", "warmup", "epochs", "last"),
    [
        ("simclr", "cifar10", "lars", 256, 0.4, 1e-4, 10, 1000, 0.0),
        ("simclr", "cifar10_200", "sgd", 512, 0.24, 5e-4, 10, 200, 0.0),
        ("simclr", "imagenet", "lars", 4096, 4.8, 1e-6, 10, 1000, 0.0),
        ("byol", "cifar10", "lars", 256, 1.0, 1e-5, 10, 1000, 0.0),
        ("byol", "cifar10_200", "sgd", 512, 0.24, 5e-4, 10, 200, 0.0),
        ("byol", "imagenet", "lars", 4096, 3.2, 1.5e-6, 10, 1000, 0.0),
        ("mae", "cifar10", "adamw", 512, 1e-3, 0.05, 40, 1000, 0.0),
        ("mae", "cifar10_200", "adamw", 512, 1e-3, 0.05, 10, 200, 0.0),
        ("mae", "imagenet", "adamw", 4096, 2.4e-3, 0.05, 40, 800, 0.0),
        ("mae", "imagenet_vit_huge", "adamw", 4096, 2.4e-3, 0.05, 40, 1600, 0.0),
        ("simmim", "imagenet", "adamw", 2048, 8e-4, 0.05, 10, 100, 1e-5),
        ("simmim", "imagenet_vit_base", "adamw", 2048, 4e-4, 0.05, 10, 800, 4e-5),
        ("data2vec", "imagenet", "adamw", 2048, 2e-3, 0.05, 10, 800, 1e-5),
        ("data2vec", "imagenet_vit_large", "adamw", 4096, 1e-3, 0.05, 80, 800, 1e-5),
        ("ijepa", "imagenet", "adamw", 2048, 1e-3, 0.04, 40, 300, 1e-6),
        ("ijepa", "imagenet_vit_base", "adamw", 2048, 1e-3, 0.04, 40, 600, 1e-6),
        ("maskfeat", "imagenet", "adamw", 2048, 1.6e-3, 0.05, 30, 300, 0.0),
        ("beit", "imagenet", "adamw", 2048, 1.5e-3, 0.05, 10, 800, 1e-5),
        ("beitv2", "imagenet", "adamw", 2048, 1.5e-3, 0.05, 10, 1600, 1e-5),
        ("vqkd", "imagenet", "adamw", 512, 2e-4, 1e-4, 10, 100, 1e-5),
        ("ibot", "imagenet", "adamw", 1024, 2e-3, 0.04, 10, 800, 1e-6),
        ("barlow_twins", "cifar10", "lars", 256, 0.3, 1e-4, 10, 1000, 0.0),
        ("barlow_twins", "imagenet", "lars", 2048, 1.6, 1.5e-6, 10, 1000, 0.0016),
        ("cpc", "imagenet", "adamw", 512, 4e-4, 0.0, 0, 200, 4e-4),
        ("deepcluster", "imagenet", "sgd", 512, 0.1, 1e-5, 0, 200, 0.1),
        ("deepcluster2", "cifar10", "lars", 256, 0.6, 1e-6, 11, 1000, 6e-4),
        ("deepcluster2", "imagenet", "lars", 4096, 4.8, 1e-6, 10, 800, 0.0048),
        ("dino", "cifar10", "lars", 256, 0.3, 1e-6, 10, 1000, 0.0),
        ("dino", "imagenet", "adamw", 1024, 0.002, 0.04, 10, 300, 1e-6),
        ("dino", "imagenet_resnet50", "sgd", 512, 0.06, 1e-4, 10, 100, 1e-6),
        ("lejepa", "imagenet", "adamw", 512, 5e-4, 0.05, 10, 100, 5e-7),
        ("moco", "cifar10", "sgd", 256, 0.3, 1e-4, 10, 1000, 0.0),
        ("moco", "imagenet", "sgd", 256, 0.03, 1e-4, 0, 200, 0.0),
        ("moco", "imagenet_v1", "sgd", 256, 0.03, 1e-4, 0, 200, 3e-4),
        ("mocov3", "cifar10", "lars", 256, 0.3, 1e-6, 10, 1000, 0.0),
        ("mocov3", "imagenet", "adamw", 4096, 2.4e-3, 0.1, 40, 300, 0.0),
        ("mocov3", "imagenet_resnet50", "lars", 4096, 4.8, 1e-6, 10, 300, 0.0),
        ("nnclr", "cifar10", "lars", 256, 0.4, 1e-5, 10, 1000, 0.0),
        ("simclr2", "imagenet", "lars", 4096, 6.4, 1e-4, 40, 800, 0.0),
        ("simclr2", "imagenet_finetune_1", "lars", 1024, 0.16, 0.0, 0, 60, 0.0),
        ("simsiam", "cifar10", "sgd", 256, 0.5, 1e-5, 10, 1000, 0.0),
        ("simsiam", "imagenet", "sgd", 512, 0.1, 1e-4, 0, 100, 0.0),
        ("swav", "cifar10", "lars", 256, 0.6, 1e-6, 10, 1000, 0.0),
        ("swav", "imagenet", "lars", 4096, 4.8, 1e-6, 10, 800, 0.0048),
        ("swav", "imagenet_256", "lars", 256, 0.6, 1e-6, 0, 400, 6e-4),
        ("tico", "imagenet", "lars", 256, 0.2, 1.5e-6, 10, 100, 0.0),
        ("vicreg", "cifar10", "lars", 256, 0.3, 1e-4, 10, 1000, 0.0),
        ("vicreg", "imagenet", "lars", 2048, 1.6, 1e-6, 10, 1000, 0.002),
    ],
)
def test_recipe_is_that_of_the_table(name, variant, optimizer, batch, rate, decay, warmup, epochs, last):
    config, experiment, _ = built(name, variant)
    assert (config.optim.name, config.train.batch_size, config.optim.weight_decay) == (optimizer, batch, decay)
    steps = round(warmup * config.train.per_epoch)
    assert float(experiment.rate(0)) == pytest.approx(0 if warmup else rate)
    assert float(experiment.rate(steps)) == pytest.approx(rate, rel=1e-4)
    assert float(experiment.rate(config.train.steps)) == pytest.approx(last, rel=1e-4, abs=1e-9)
    assert config.train.steps == pytest.approx(epochs * config.train.per_epoch, abs=10)


def test_views_of_imagenet_are_the_papers():
    simclr, byol, mae = (built(name, "imagenet")[1] for name in ("simclr", "byol", "mae"))
    assert simclr.augment.distort[0][0].jitter == (0.8, 0.8, 0.8, 0.2)
    assert (simclr.augment.mean, simclr.augment.std) == ((0.0,), (1.0,))
    first, second = byol.augment.distort[0]
    assert (first.blur, first.solarise, second.blur, second.solarise) == (1.0, 0.0, 0.1, 0.2)
    assert first.jitter == second.jitter == (0.4, 0.4, 0.2, 0.1)
    assert mae.augment.crops[0].area == (0.2, 1.0)
    for experiment in simclr, byol, mae:
        assert experiment.augment.crops[0].size == experiment.preprocess.size == 224
        assert (experiment.preprocess.mean, experiment.preprocess.std) == (
            experiment.augment.mean,
            experiment.augment.std,
        )


def test_views_of_cifar10_are_not_blurred():
    for name in "simclr", "byol", "mae":
        for variant in "cifar10", "cifar10_200":
            views = built(name, variant)[1].augment.distort[0]
            assert [view.blur for view in views] == [0.0] * len(views)
    assert [view.solarise for view in built("byol", "cifar10")[1].augment.distort[0]] == [0.0, 0.2]


def test_masked_autoencoder_of_imagenet_is_the_papers():
    _, experiment, state = built("mae", "imagenet")
    method = experiment.method
    assert (method.mask_ratio, method.norm_pix) == (0.75, True)
    assert state.params["decoder"]["pixels"]["kernel"].shape == (512, 16 * 16 * 3)
    assert len([name for name in state.params["decoder"] if name.startswith("block")]) == 8


@pytest.mark.parametrize(
    ("name", "variant", "fields"),
    [
        ("simmim", "imagenet", {"mask_ratio": 0.6, "mask_size": 32}),
        ("maskfeat", "imagenet", {"mask_ratio": 0.4, "cell": 8, "bins": 9}),
        ("beit", "imagenet", {"mask_ratio": 75 / 196, "block": 16, "tokenizer_fields": ()}),
        ("beitv2", "imagenet", {"mask_ratio": 75 / 196, "vocabulary": 8192, "dim": 32, "early": 9, "depth": 2}),
        ("vqkd", "imagenet", {"vocabulary": 8192, "dim": 32, "depth": 3, "decay": 0.99, "beta": 1.0}),
        ("vqkd", "imagenet_clip", {"mean": recipes.IMAGENET["mean"], "teacher_mean": recipes.CLIP["mean"]}),
        ("ibot", "imagenet", {"prototypes": 8192, "patch_prototypes": None, "dim": 256, "block": 16, "tau_t": 0.07}),
        ("ibot", "imagenet", {"mask_ratio": (0.1, 0.5), "mask_probability": 0.5, "koleo_weight": 0.0}),
        ("ibot", "imagenet", {"lambda_base": 0.996, "centering": "mean", "center_hidden": False}),
        ("dinov2", "imagenet", {"prototypes": 65536, "patch_prototypes": None, "block": 4, "koleo_weight": 0.1}),
        ("dinov2", "imagenet", {"lambda_base": 0.992, "centering": "mean", "center_hidden": True}),
        ("dinov2", "imagenet22k", {"prototypes": 131072, "dim": 384, "patch_prototypes": 131072, "patch_dim": 256}),
        ("dinov2", "imagenet22k", {"lambda_base": 0.994, "centering": "sinkhorn", "block": 4, "mask_group": 16}),
        ("ijepa", "imagenet", {"targets": 4, "predictor_dim": 384, "predictor_depth": 12, "distance": "smooth_l1"}),
        ("data2vec", "imagenet", {"mask_ratio": 120 / 196, "top": 6}),
    ],
)
def test_method_is_that_of_the_paper(name, variant, fields):
    method = built(name, variant)[1].method
    assert {field: getattr(method, field) for field in fields} == fields


@pytest.mark.parametrize(("variant", "depth"), [("imagenet", 24), ("imagenet_vit_base", 12)])
def test_dinov2s_rate_grows_from_block_to_block_up_to_the_heads(variant, depth):
    scales = {group["pattern"]: group.get("lr_scale") for group in built("dinov2", variant)[0].optim.groups}
    assert scales[f"^encoder/block{depth - 1}/"] == pytest.approx(0.9)
    assert scales["^encoder/block0/"] == pytest.approx(0.9**depth)
    assert scales["^encoder/(cls|mask|registers|positions)$"] == pytest.approx(0.9 ** (depth + 1))
    assert scales["(^|/)(last|gain)(/|$)"] is None
    assert scales["^encoder/patch/"] == pytest.approx(0.2 * 0.9 ** (depth + 1))
    assert f"^encoder/block{depth}/" not in scales
    blocks = [name for name in built("dinov2", variant)[2].params["encoder"] if name.startswith("block")]
    assert len(blocks) == depth


def test_dinov2s_patches_have_a_bottleneck_of_their_own():
    params = built("dinov2", "imagenet22k")[2].params
    assert params["head"]["last"]["dense0"]["kernel"].shape == (384, 131072)
    assert params["patch_head"]["last"]["dense0"]["kernel"].shape == (256, 131072)
