"""Configs: where they come from, how they are overridden, and what a mistake says."""

import json

import pytest
from ml_collections import ConfigDict

from jssl import config as configs
from jssl.config import base, build, complete, difference, flat, load, plain
from jssl.nets.conv import ConvNet

FILE = """
from ml_collections import FieldReference
from jssl.config import base, choose

def small():
    config = base()
    config.method = {"name": "jssl.methods.simclr:SimCLR", "dim": 7}
    config.encoder = {"name": "jssl.nets.resnet:resnet18", "stem": "cifar"}
    size = FieldReference(16)
    config.augment = {"name": "jssl.augment.image:simclr", "size": size, "area": (0.08, 1.0)}
    config.preprocess = {"name": "jssl.augment.image:evaluation", "size": size}
    config.train.steps = 3
    config.data.eval_source = "digits@test"
    return config

def get_config(variant="small"):
    return choose({"small": small, "other": small}, variant)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


def test_the_test_set_of_a_recipe_goes_with_its_training_set():
    source = lambda **fields: load("simclr:demo", {f"data.{name}": value for name, value in fields.items()}).data
    assert source().eval_source == "digits@test"
    assert source(source="digits@train[:100]").eval_source == "digits@test"
    assert source(source="folder:PHOTOS").eval_source is None
    assert source(source="npz:a.npz", eval_source="npz:b.npz").eval_source == "npz:b.npz"


@pytest.mark.parametrize("spec", ["simclr", "simclr:demo", "experiments/simclr.py", "experiments/simclr.py:demo"])
def test_an_experiment_has_a_name_and_a_path(spec):
    assert load(spec) == load("simclr:demo")
    assert load(spec).method.name == "jssl.methods.simclr:SimCLR"


def test_a_config_may_be_any_file(file):
    assert load(file).method.dim == 7
    assert load(f"{file}:small").train.steps == 3


def test_every_hyper_parameter_is_filled_in_with_its_default(file):
    config = load(file)
    assert config.method.to_dict() == {
        "name": "jssl.methods.simclr:SimCLR",
        "dim": 7,
        "hidden": 2048,
        "depth": 2,
        "temperature": 0.1,
        "decoupled": False,
    }
    assert config.encoder.zero_init is True
    assert config.encoder.stem == "cifar"


@pytest.mark.parametrize(
    "name", ["jssl.nets.vit:vit_tiny", "jssl.nets.resnet:resnet18", "jssl.nets.vit:ViT", "jssl.nets.conv:convnet"]
)
def test_what_flax_and_the_engine_add_is_no_hyper_parameter(name):
    config = base()
    config.encoder.name = name
    filled = complete(config).encoder
    assert filled.name == name
    assert not {"parent", "dtype"} & set(filled)
    with pytest.raises(ValueError, match="has no argument 'parents'; ") as error:
        build({"name": name, "parents": 1})
    suggested = str(error.value).partition(";")[2]
    assert "parent" not in suggested
    assert " name" not in suggested
    with pytest.raises(ValueError, match="has no argument 'parent'"):
        build({"name": name, "parent": None})


@pytest.mark.parametrize(
    "path, text, value",
    [
        ("optim.lr", "0.5", 0.5),
        ("optim.lr", "2", 2.0),
        ("optim.lr", "1e-3", 1e-3),
        ("optim.lr", 1, 1.0),
        ("optim.nesterov", "true", True),
        ("optim.nesterov", "False", False),
        ("train.batch_size", "512", 512),
        ("train.epochs", "10", 10),
        ("train.epochs", "None", None),
        ("optim.clip", "1.0", 1.0),
        ("augment.area", "(0.1,1.0)", (0.1, 1.0)),
        ("augment.area", "[0.1, 1.0]", (0.1, 1.0)),
        ("optim.groups", "({'pattern': '^head/', 'lr_scale': 0.1},)", ({"pattern": "^head/", "lr_scale": 0.1},)),
        ("data.source", "folder:/photos", "folder:/photos"),
        ("data.source", "123", "123"),
        ("data.eval_source", "None", None),
        ("optim.scale", "none", "none"),
        ("checkpoint.best", "None", None),
        ("dtype", "bfloat16", "bfloat16"),
        ("init_from.params/encoder", "runs/a", "runs/a"),
    ],
)
def test_an_override_has_the_type_of_what_it_replaces(file, path, text, value):
    found = load(file, {path: text})
    for key in path.split("."):
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def error_of(spec, overrides=None):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(spec, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "path, text, message",
    [
        ("optim.rl", "1", "the config has no 'optim.rl'; did you mean optim.lr"),
        ("optm.lr", "1", "the config has no 'optm.lr'; did you mean optim.lr"),
        ("method.temprature", "1", "the config has no 'method.temprature'; did you mean method.temperature"),
        ("optim.lr.peak", "1", "the config has no 'optim.lr.peak'; did you mean"),
        ("encoder.parent", "1", "the config has no 'encoder.parent'"),
        ("optim.lr", "high", "optim.lr=high: expected float, such as 0.1"),
        ("train.batch_size", "2.5", "train.batch_size=2.5: expected int, such as 256"),
        ("train.batch_size", "true", "train.batch_size=True: expected int, such as 256"),
        ("augment.area", "0.1", "augment.area=0.1: expected tuple, such as (0.08, 1.0)"),
        ("encoder.name", "jssl.nets.resnet:resnet19", "jssl.nets.resnet has no 'resnet19'; did you mean resnet1"),
        (
            "encoder.name",
            "jssl.nets.resnt:resnet18",
            "'jssl.nets.resnt:resnet18': there is no module 'jssl.nets.resnt'",
        ),
    ],
)
def test_a_wrong_override_is_refused_and_the_near_miss_named(file, path, text, message):
    assert error_of(file, {path: text}).startswith(message)


def test_a_wrong_file_variant_or_hyper_parameter_is_refused_and_the_near_miss_named(file, tmp_path):
    assert error_of("simclrr").startswith("there is no config file 'simclrr'; did you mean simclr or ")
    assert error_of("simclr:demoo").startswith("there is no variant 'demoo'; did you mean demo")
    assert error_of(f"{file}:smal").startswith("there is no variant 'smal'; did you mean small?")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    assert error_of(str(empty)).startswith(f"{empty} has no get_config(variant)")
    section = load(file).method
    section["temprature"] = 0.1
    with pytest.raises(ValueError, match="SimCLR has no argument 'temprature'; did you mean temperature") as error:
        build(section, encoder=ConvNet())
    assert "\n" not in str(error.value)


def test_another_encoder_brings_its_own_fields():
    """The widths of the small encoder are no residual network's, though both have a field of that name."""
    encoder = load("simclr:demo", {"encoder.name": "jssl.nets.resnet:resnet18", "encoder.stem": "cifar"}).encoder
    assert encoder.widths == (64, 128, 256, 512)
    assert encoder.stem == "cifar"
    build(encoder)


def test_what_another_encoder_has_no_default_for_can_be_given():
    vit = {"encoder.name": "jssl.nets.vit:ViT", "encoder.dim": "96", "encoder.depth": "4"}
    made = load("simclr", vit)
    assert (made.encoder.dim, made.encoder.depth) == (96, 4)
    with pytest.raises(ValueError, match="has no 'encoder"):
        load("simclr", {**vit, "encoder.dimm": "96"})


def test_a_deeper_encoder_of_the_same_module_keeps_what_was_chosen(file):
    assert load(file, {"encoder.name": "jssl.nets.resnet:resnet50"}).encoder.stem == "cifar"


def test_another_method_has_the_defaults_of_its_paper():
    method = load("simclr:demo", {"method.name": "jssl.methods.byol:BYOL"}).method
    assert (method.hidden, method.dim, method.tau_base) == (4096, 256, 0.996)
    assert "temperature" not in method


@pytest.mark.parametrize("more", [{}, {"augment.name": "jssl.augment.image:mae"}])
def test_sizes_of_views_and_of_evaluation_are_one(file, more):
    config = load(file, {"augment.size": "24", **more})
    assert config.augment.size == config.preprocess.size == 24


def test_difference_names_each_field_that_changed_and_nothing_else(file):
    old = plain(load(file))
    assert difference(old, plain(load(file))) == []
    new = plain(load(file, {"optim.lr": "0.5", "data.eval_source": "None", "init_from.params": "runs/a"}))
    assert difference(old, new) == [
        "data.eval_source: digits@test -> None",
        "init_from: {} -> absent",
        "init_from.params: absent -> runs/a",
        "optim.lr: 0.1 -> 0.5",
    ]


def test_a_config_survives_json(file):
    """The same fields, and the same method and views: lists become tuples again where objects are built."""
    config = load(file)
    again = ConfigDict(json.loads(json.dumps(plain(config))))
    assert difference(plain(config), plain(again)) == []
    assert flat(plain(config)) == flat(plain(again))
    for section in ("encoder", "augment", "preprocess"):
        assert build(config[section]) == build(again[section])
        assert hash(build(config[section])) == hash(build(again[section]))


def test_every_variant_of_every_experiment_is_plain_and_complete():
    for name in configs.experiments():
        for variant in ("demo", "tiny"):
            config = load(f"{name}:{variant}")
            json.dumps(plain(config))
            build(config.method, encoder=build(config.encoder))
            build(config.augment)
            build(config.preprocess)
