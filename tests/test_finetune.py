"""Fine-tuning of whole encoders, and few labels by fixed splits."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl.encoder import Encoder
from jssl.evals import finetune, frozen, run, table, tuned
from jssl.evals.labels import by_hash, per_class
from jssl.evals.scores import title
from jssl.evals.subject import Subject
from jssl.method import Time
from jssl.optim import layer_decay, optimizer
from jssl.train import train
from tests.oracles import load
from tests.shuffled import assert_chance

SHORT = finetune.Settings(epochs=1.0, least=4, batch_size=16, lr=3e-3)
LABELLED, OTHERS = data.open_source("digits@[:96]"), data.open_source("digits@test[:40]")
tune = functools.partial(finetune.finetune, classes=10, settings=SHORT)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A MAE of a few steps, whose encoder is a vision transformer."""
    folder = tmp_path_factory.mktemp("mae")
    train(configs.load("mae:tiny", {"train.steps": 2, "checkpoint.every": 2, "log_every": 2, "eval.every": 0}), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(workdir):
    return Encoder(workdir)


# ---- the recipe
def test_rates_fall_block_by_block_as_in_timm():
    """Embeddings, blocks, final norm and classifier of three blocks at 0.65, each by its own rate."""
    ours = {
        "patch_embed.proj.weight": "encoder/patch/kernel",
        "patch_embed.proj.bias": "encoder/patch/bias",
        "cls_token": "encoder/cls",
        "pos_embed": "encoder/positions",
        "norm.weight": "encoder/norm/scale",
        "head.weight": "classifier/kernel",
        "blocks.0.attn.qkv.weight": "encoder/block0/qkv/kernel",
        "blocks.1.mlp.fc1.bias": "encoder/block1/fc1/bias",
        "blocks.2.norm2.weight": "encoder/block2/norm2/scale",
    }
    groups = load("layer_decay_groups")[0]["groups"]
    expected = {ours[name]: group["lr_scale"] for group in groups for name in group["params"] if name in ours}
    assert len(expected) == len(ours)

    optim = configs.base().optim
    optim.update({"name": "sgd", "momentum": 0.0, "groups": layer_decay(3, 0.65)})
    params = {}
    for path in expected:
        *parents, last = path.split("/")
        functools.reduce(lambda tree, name: tree.setdefault(name, {}), parents, params)[last] = jnp.zeros(2)
    tx = optimizer(optim, lambda step: 1.0)
    moved, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    found = {path: -float(functools.reduce(dict.get, path.split("/"), moved)[0]) for path in expected}
    assert found == pytest.approx(expected)


def test_without_decay_there_are_no_groups():
    assert layer_decay(12, 1.0) == ()


def test_mixing_begins_where_there_are_enough_images():
    few, many = (finetune.chosen(finetune.Settings(), n, 0.5) for n in (130, 50_000))
    assert (few.mixup, few.cutmix, few.erasing, few.batch_size, few.flip) == (0, 0, 0, 16, 0.5)
    assert (many.mixup, many.cutmix, many.erasing, many.batch_size) == (0.8, 1.0, 0.25, 1024)
    given = finetune.chosen(finetune.Settings(mixup=0.2, erasing=0.1, flip=0.0), 130, 0.5)
    assert (few.area, many.area) == ((0.8, 1.0), (0.5, 1.0))
    assert (given.mixup, given.cutmix, given.erasing, given.flip) == (0.2, 0, 0.1, 0)


def test_the_batch_does_not_depend_on_the_devices(monkeypatch):
    sizes = {}
    for count in (1, 3, 8):
        monkeypatch.setattr(jax, "device_count", lambda count=count: count)
        sizes[count] = [finetune.chosen(finetune.Settings(batch_size=size), 130, 0.0).batch_size for size in (10, 64)]
    assert sizes == {1: [10, 64], 3: [10, 64], 8: [10, 64]}
    monkeypatch.undo()
    assert [len(finetune.devices(pairs)) for pairs in (1, 5, 6, 8, 9, 32)] == [1, 5, 6, 8, 3, 8]


def test_the_classifier_learns_soft_targets():
    """A smoothed target's loss is least at its own distribution, not at certainty."""
    method, (params, carry) = supervised(smoothing=0.1)
    views = {"image": jnp.ones((4, 1, 8, 8, 1)), "index": jnp.zeros(4, jnp.int32)}
    carry = {**carry, "given_labels": jnp.array([2, 2, 2, 2])}

    def loss(margin):
        bias = jnp.zeros(3).at[2].set(margin)
        return method.loss({**params, "classifier": {**params["classifier"], "bias": bias}}, carry, views, RNG, TIME)[0]

    best = np.log((0.9 + 0.1 / 3) / (0.1 / 3))
    assert float(loss(best)) < min(float(loss(best - 0.5)), float(loss(best + 0.5)))


def test_the_average_forgets_its_first_weights_and_then_follows_slowly():
    method, (params, carry) = supervised(average=0.9)
    new = jax.tree.map(jnp.ones_like, params)
    _, first = method.update(new, carry, TIME._replace(step=0))
    _, later = method.update(new, carry, TIME._replace(step=1000))
    at = lambda carry: float(carry["average"]["params"]["classifier"]["bias"][0])
    assert at(first) == pytest.approx(0.9)
    assert at(later) == pytest.approx(0.1)


RNG, TIME = jax.random.key(0), Time(0, 10, 1.0)


def supervised(**fields):
    network = configs.build({"name": "jssl.nets.conv:convnet", "widths": (4,)})
    method = finetune.Supervised(network, 3, 4, **fields)
    return method, method.init(RNG, {"image": jnp.zeros((4, 1, 8, 8, 1))})


# ---- a training
def test_labels_of_the_test_set_are_never_read(encoder):
    class Sealed(type(OTHERS)):
        def __getattribute__(self, name):
            if name == "labels":
                raise AssertionError("test labels were read")
            return object.__getattribute__(self, name)

    fields = {field.name: getattr(OTHERS, field.name) for field in dataclasses.fields(OTHERS) if field.name != "labels"}
    found = tune(encoder, LABELLED, Sealed(**fields))
    np.testing.assert_array_equal(found["predictions"], tune(encoder, LABELLED, OTHERS)["predictions"])


def test_the_encoder_that_is_given_does_not_change(encoder):
    before = jax.tree.map(np.array, (encoder.params, encoder.carry))
    tune(encoder, LABELLED, OTHERS)
    jax.tree.map(np.testing.assert_array_equal, before, (encoder.params, encoder.carry))


def test_a_seed_gives_the_same_again_and_another_seed_does_not(encoder):
    one, again, other = (tune(encoder, LABELLED, OTHERS, seed=seed)["predictions"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_training_begins_at_the_weights_that_are_given(encoder):
    settings = finetune.chosen(SHORT, len(LABELLED), 0.0)
    method, augment = finetune.build(encoder, settings, 10, len(LABELLED))
    program = finetune.compiled(method, augment, encoder.preprocess, settings, 4, 0.75)
    batch = {"image": jnp.zeros((16, 8, 8, 1), jnp.uint8), "index": jnp.arange(16)}
    state = finetune.given(program.begin(RNG, batch), method, encoder, encoder.embed(LABELLED), LABELLED.labels, RNG)
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], encoder.params["encoder"])
    np.testing.assert_array_equal(state.carry["given_labels"], LABELLED.labels)


def test_labels_are_learned(encoder):
    """Images that it was trained on are told apart, with all that mixes and erases them off."""
    settings = dataclasses.replace(SHORT, least=100, lr=2e-2, erasing=0.0, smoothing=0.0, area=(1.0, 1.0))
    found = tune(encoder, LABELLED, LABELLED, settings=settings)
    assert np.mean(found["predictions"] == LABELLED.labels) > 0.8


@pytest.mark.parametrize("variant", ["simclr:tiny", "ibot:tiny"])
def test_an_encoder_is_found_wherever_a_method_keeps_it(variant, tmp_path):
    train(configs.load(variant, {"train.steps": 1, "checkpoint.every": 1, "log_every": 1, "eval.every": 0}), tmp_path)
    found = tune(Encoder(tmp_path), LABELLED, OTHERS)
    assert found["predictions"].shape == (40,)
    assert found["settings"]["layer_decay"] == (1.0 if variant.startswith("simclr") else 0.75)


def test_from_scratch_all_blocks_have_one_rate(encoder):
    assert tune(encoder, LABELLED, OTHERS, pretrained=False)["settings"]["layer_decay"] == 1.0


def test_what_cannot_be_is_said_in_one_line(encoder):
    with pytest.raises(ValueError, match="training set has no labels"):
        tune(encoder, dataclasses.replace(LABELLED, labels=None), OTHERS)
    given = lambda field, value: Subject(None, {}, {}, {}, options={"finetune": {field: value}}).settings(
        "finetune", finetune.Settings()
    )
    assert given("area", "[0.5, 1]").area == (0.5, 1)
    assert given("mixup", "1").mixup == 1
    assert given("mixup", "None").mixup is None
    with pytest.raises(ValueError, match="did you mean layer_decay"):
        given("layer_deca", 1.0)
    with pytest.raises(ValueError, match="epochs=many: expected float"):
        given("epochs", "many")
    for field, value, expected in [
        ("mixup", "abc", "float or None"),
        ("batch_size", "0.5", "int or None"),
        ("batch_size", "True", "int or None"),
        ("area", "0.5", r"tuple\[float, float\] or None"),
        ("area", "(0.5, 1, 2)", r"tuple\[float, float\] or None"),
    ]:
        with pytest.raises(ValueError, match=f"{field}=.*: expected {expected}$"):
            given(field, value)
    with pytest.raises(ValueError, match="expected at least two classes"):
        tune(encoder, LABELLED.take(np.flatnonzero(LABELLED.labels == 3)), OTHERS)
    with pytest.raises(ValueError, match="epochs=-1 and least=0 are 0 steps; expected at least one"):
        tune(encoder, LABELLED, OTHERS, settings=finetune.Settings(epochs=-1.0, least=0))


def test_an_encoder_that_learns_shuffled_labels_ends_at_chance(encoder):
    assert_chance(encoder)


# ---- few labels
def test_a_part_of_every_class_is_picked_by_name_alone():
    names, labels = [f"{i}.png" for i in range(200)], np.repeat(np.arange(4), 50)
    chosen = by_hash(names, labels, 0.1, 0)
    assert np.bincount(labels[chosen]).tolist() == [5, 5, 5, 5]
    order = np.random.default_rng(0).permutation(200)
    again = by_hash([names[i] for i in order], labels[order], 0.1, 0)
    np.testing.assert_array_equal(again, chosen[order])
    assert (by_hash(names, labels, 0.1, 1) != chosen).any()
    assert np.flatnonzero(by_hash(names, labels, 0.01, 0)).tolist() == SPLIT


SPLIT = [36, 84, 122, 174]  # a fixed split: were it another one, scores of before could not be compared


def test_a_class_with_one_image_keeps_it(encoder):
    labels = np.r_[np.zeros(30, np.int32), np.ones(30, np.int32), 2]
    chosen = by_hash([str(i) for i in range(61)], labels, 0.1, 0)
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 1]
    source = dataclasses.replace(LABELLED.take(np.arange(61)), labels=labels)
    assert tune(encoder, source.take(np.flatnonzero(chosen)), OTHERS, classes=3)["predictions"].max() <= 2


def test_scores_carry_their_settings_and_more_draws_their_error(workdir):
    how = {
        "data": "digits@[:200]",
        "test": "digits@test[:40]",
        "options": {"finetune": {"least": "2", "epochs": "0.1"}, "semi": {"shares": "0.1"}},
    }
    text = run.evaluate(workdir, "knn,finetune,semi", draws=2, **how)
    scores = json.loads((workdir / "scores.json").read_text())["scores"]
    found = {(score["encoder"], score["task"]): score for score in scores}
    for task in "finetune", "semi-10-probe", "semi-10-finetune":
        for encoder in ("trained", "untrained", *(["raw pixels"] if task.endswith("probe") else [])):
            score = found[encoder, task]
            assert score["draws"] == 2
            assert {"classifier", "draw", "train_rows", "test_rows", "stderr"} <= set(score["settings"])
            assert title(task) in text
    assert found["trained", "semi-10-probe"]["settings"]["train_rows"] == 21
    assert found["trained", "semi-10-finetune"]["settings"]["steps"] == 2
    assert found["untrained", "finetune"]["settings"]["layer_decay"] == 1.0
    assert found["trained", "finetune"]["classes"][0]["count"] > 0


def test_few_per_class_are_fine_tuned_where_it_is_asked_for(tmp_path, monkeypatch):
    seen = []

    def fitted(encoder, part, test, *, settings, **how):
        seen.append((encoder, settings.least, np.bincount(part.labels).tolist(), set(part.names)))
        return {"predictions": test.labels, "settings": {"steps": 2}, "trained": {}}

    monkeypatch.setattr(tuned, "finetune", fitted)
    monkeypatch.setattr(frozen, "fewshot_of", lambda subject: ["probes"])
    splits, config = {"train": LABELLED, "test": OTHERS}, {"augment": {}, "eval": {"k": 1, "temperature": 1.0}}
    make = lambda **few: Subject(
        tmp_path, config, {"trained": 1, "untrained": 2}, splits, options={"fewshot": few, "finetune": {"least": "3"}}
    )
    assert tuned.shots(make(shots="(1, 2)")) == ["probes"]
    _, *scores = tuned.shots(make(shots="(1, 2, 90)", finetune="true"))  # of 90 no class has so many: the probe says it
    assert [(score["encoder"], title(score["task"]), score["draws"]) for score in scores] == [
        (name, f"fine-tuned, {words} per class", tuned.DRAWS)
        for words in ("1 label", "2 labels")
        for name in ("trained", "untrained")
    ]
    assert [(encoder, least, count) for encoder, least, count, _ in seen] == [
        (encoder, 3, [count] * 10) for count in (1, 2) for encoder in (1, 2) for _ in range(tuned.DRAWS)
    ]
    rows = per_class(LABELLED.names, LABELLED.labels, 2, 1)[0]  # of which frozen probes see the same
    assert seen[2 * tuned.DRAWS][-1] == {LABELLED.names[row] for row in rows}


def test_settings_of_fine_tuning_are_read_where_something_is_fine_tuned():
    table.check({"finetune": {"epochs": "3"}, "fewshot": {"finetune": "true"}}, ("fewshot",))
    with pytest.raises(ValueError, match="finetune is not asked for"):
        table.check({"finetune": {"epochs": "3"}}, ("fewshot",))


def test_a_misspelt_protocol_is_told_its_near_misses(workdir):
    with pytest.raises(ValueError, match="unknown protocol 'finetuned'; did you mean finetune"):
        run.evaluate(workdir, "knn,finetuned", data="digits@[:200]", test="digits@test[:40]")


def test_nothing_is_fine_tuned_unless_asked(workdir, monkeypatch):
    monkeypatch.setattr(table, "PROTOCOLS", {name: table.PROTOCOLS[name] for name in table.DEFAULT.split(",")})
    assert "fine-tuned" not in run.evaluate(workdir, data="digits@[:200]", test="digits@test[:40]")


def test_a_recipe_says_what_is_measured_where_nothing_is_asked_for(workdir, tmp_path):
    for name in "mae", "simmim", "maskfeat", "autoencoder":
        for variant, said in (
            ("demo", "knn,linear,fewshot,finetune"),
            ("fashion", None),
            ("folder", None),
            ("tiny", None),
        ):
            assert configs.load(f"{name}:{variant}").eval.protocols == said
    assert configs.load("simclr:demo").eval.protocols is None
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("scores.json", "predictions.npz"))
    content = json.loads((workdir / "config.json").read_text())
    content["config"]["eval"]["protocols"] = "knn"
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    run.evaluate(tmp_path / "run", data="digits@[:200]", test="digits@test[:40]")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]
    assert {score["task"] for score in scores} == {"knn"}


def test_titles_are_words():
    assert title("semi-1-finetune") == "fine-tuned, 1 % of labels"
    assert title("semi-10-probe") == "probe, 10 % of labels"
