"""Which part of an encoder is trained, its small file, and the merged encoder."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl.encoder import Encoder, export
from jssl.evals import finetune, peft
from jssl.evals.adapted import Adapted, merge, save
from jssl.evals.scores import title
from jssl.evals.subject import Subject
from jssl.experiment import fill, prepare
from jssl.feed import Feed
from jssl.nets.net import apply_net, init_net
from jssl.nets.resnet import ResNet
from jssl.nets.vit import Block, ViT
from jssl.peft import KINDS, Tuning, count
from jssl.sharding import flatten, make_mesh, replicated
from tests.oracles import load
from tests.shuffled import assert_chance

RNG = jax.random.key(0)
NET = ViT(16, 2, 2, patch=4)
IMAGES = jax.random.normal(RNG, (3, 8, 8, 1))
RESNET = ResNet((1, 1), False, widths=(4, 8), stem_width=4, stem="cifar")
SHORT = finetune.Settings(epochs=1.0, least=4, batch_size=16, lr=3e-2)
LABELLED, OTHERS = data.open_source("digits@[:64]"), data.open_source("digits@test[:40]")


@pytest.fixture(scope="module")
def params():
    """Weights of `NET`, no bias of which is zero."""
    params, _ = init_net(NET, RNG, IMAGES)
    return jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)


def made(folder, variant):
    """The exported encoder of a run before its first step."""
    config = configs.load(variant)
    source = data.open_source(config.data.source)
    config, _ = fill(config, source)
    method, augment, preprocess, *_ = prepare(config)
    views = jax.eval_shape(augment, RNG, {"image": jnp.zeros((2, 8, 8, 1), jnp.uint8), "index": jnp.arange(2)})
    init = lambda rng: method.init(rng, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), views))
    params, carry = jax.device_put(jax.jit(init)(RNG), replicated(make_mesh()))
    export(folder, config, method, preprocess, params, carry, source)
    return Encoder(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mae"), "mae:tiny")


@pytest.fixture(scope="module")
def lora(encoder, tmp_path_factory):
    """LoRA trained for a few steps -> (its file, what it predicts)."""
    tuning, file = Tuning("lora"), tmp_path_factory.mktemp("peft") / "lora.npz"
    found = finetune.finetune(encoder, LABELLED, OTHERS, classes=10, settings=SHORT, tuning=tuning)
    size = save(file, encoder, tuning, found["trained"], run="mae", settings=found["settings"])
    assert size == file.stat().st_size
    return file, found["predictions"]


# ---- what is trained
def test_low_rank_updates_are_those_of_hugging_faces_peft():
    manifest, tensors = load("lora")
    tensor = lambda kind, name, part: tensors[f"{kind}.base_model.model.{name}.{part}.weight"].T
    added, frozen = {}, {}
    for name in "qk":
        parts = {"a": "lora_A.default", "b": "lora_B.default"}
        added[name] = {"kernel": {key: tensor("model", name, part) for key, part in parts.items()}}
        frozen[name] = {"kernel": tensor("model", name, "base_layer")}
    tuning, bias = Tuning("lora", manifest["hyper"]["r"], manifest["hyper"]["lora_alpha"]), tensors[BIAS]

    def loss(added):
        weights, _ = tuning.join(added, frozen)
        y = (tensors["in.x"] @ weights["q"]["kernel"] + bias) * jnp.tanh(tensors["in.x"] @ weights["k"]["kernel"])
        return jnp.mean(y**2), (y, weights)

    grads, (y, weights) = jax.grad(loss, has_aux=True)(added)
    np.testing.assert_allclose(y, tensors["out.y"], rtol=1e-5, atol=1e-6)
    for name in "qk":
        np.testing.assert_allclose(weights[name]["kernel"].T, tensors[f"out.merged_{name}_weight"], rtol=1e-5)
        for key, part in (("a", "lora_A.default"), ("b", "lora_B.default")):
            np.testing.assert_allclose(grads[name]["kernel"][key], tensor("grad", name, part), rtol=1e-5, atol=1e-5)


BIAS = "model.base_model.model.q.base_layer.bias"
D, MLP, PATCH = 16, 64, 16  # of NET
EXPECTED = {
    "lora": 2 * 3 * (D + 3 * D + D + D),
    "adapter": 2 * (D * 5 + 5 + 5 * D + D),
    "prompt": 2 * 7 * D,
    "bias": 2 * (3 * D + D + MLP + D + 2 * D) + D + D,
    "last": (D * 3 * D + 3 * D) + (D * D + D) + (D * MLP + MLP) + (MLP * D + D) + 4 * D + 2 * D,
}


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_exact_and_the_first_outputs_the_frozen_encoders(kind, params):
    """But for prompts, which are further tokens from the start."""
    tuning = Tuning(kind, rank=3, width=5, tokens=7, blocks=1)
    moved, frozen = tuning.split(NET, params, RNG)
    assert count(moved) == EXPECTED[kind]
    weights, added = tuning.join(moved, frozen)
    assert flatten(weights).keys() == flatten(params).keys()
    before, now = (apply_net(NET, *one, {}, IMAGES, **more)[0] for *one, more in ((params, {}), (weights, added)))
    if kind == "prompt":
        assert np.abs(now - before).max() > 1e-3
    else:
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize(("blocks", "names"), [(1, {"stage2"}), (2, {"stage1", "stage2"})])
def test_the_last_blocks_of_a_residual_network_are_its_stages(blocks, names):
    params, _ = init_net(RESNET, RNG, IMAGES)
    moved, frozen = Tuning("last", blocks=blocks).split(RESNET, params, RNG)
    assert set(moved) == names
    assert set(frozen) == set(params) - names


def test_shallow_prompts_are_registers(params):
    """Tokens that only the first block is given: what further registers of the network would be."""
    prompts = jax.random.normal(RNG, (1, 5, D))
    h, out, _ = apply_net(NET, params, {}, IMAGES, prompts=prompts)
    expected, other, _ = apply_net(NET.clone(registers=5), {**params, "registers": prompts[0]}, {}, IMAGES)
    np.testing.assert_allclose(h, expected, atol=1e-6)
    np.testing.assert_allclose(out["tokens"], other["tokens"], atol=1e-6)


def test_deep_prompts_take_the_places_of_those_before(params):
    first, second = jax.random.normal(RNG, (2, 5, D))
    _, out, _ = apply_net(NET, params, {}, IMAGES, prompts=jnp.stack([first, second]))
    between = apply_net(NET, params, {}, IMAGES, prompts=first[None])[1]["layers"][0].at[:, 1:6].set(second)
    last, _ = Block(2, MLP, None, 1e-6, jnp.float32, 0.0).apply({"params": params["block1"]}, between)
    np.testing.assert_allclose(out["layers"][1], last, atol=1e-5)


def test_an_adapter_is_a_bottleneck_beside_the_mlp(params):
    tuning = Tuning("adapter", width=5, scale=0.5)
    moved, frozen = tuning.split(NET, params, RNG)
    layer = {"kernel": jnp.ones((5, D)), "bias": jnp.ones(D)}
    moved["block1"]["up"] = layer
    weights, added = tuning.join(moved, frozen)
    now, before = (apply_net(NET, weights, {}, IMAGES, **more)[1]["layers"] for more in (added, {}))
    np.testing.assert_array_equal(now[0], before[0])
    # The second block's MLP adds to x what it does without; x is found by taking the MLP away.
    silent = {**params["block1"], "fc2": jax.tree.map(jnp.zeros_like, params["block1"]["fc2"])}
    x, _ = Block(2, MLP, None, 1e-6, jnp.float32, 0.0).apply({"params": silent}, before[0])
    norm = params["block1"]["norm2"]
    y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]
    hidden = jnp.maximum(y @ moved["block1"]["down"]["kernel"], 0)
    np.testing.assert_allclose(now[1] - before[1], 0.5 * (hidden.sum(-1, keepdims=True) + 1) + 0 * x, atol=1e-4)


# ---- a training
@pytest.mark.parametrize(("variant", "kind"), [("simclr:tiny", "bias"), ("mae:tiny", "prompt"), ("mae:tiny", "lora")])
def test_what_is_frozen_stays_to_the_bit_and_all_else_moves(variant, kind, encoder, tmp_path):
    encoder = encoder if variant == "mae:tiny" else made(tmp_path, variant)
    settings = finetune.chosen(SHORT, len(LABELLED), 0.0)
    method, augment = finetune.build(encoder, settings, 10, len(LABELLED), Tuning(kind, blocks=1))
    program = finetune.compiled(method, augment, encoder.preprocess, settings, 4, 1.0)
    batch = {"image": LABELLED.images[:16], "index": np.arange(16)}
    state = finetune.given(program.begin(RNG, batch), method, encoder, encoder.embed(LABELLED), LABELLED.labels, RNG)
    before = jax.device_get(state)
    feed = Feed(LABELLED, program.mesh, batch_size=16, seed=0, crops=augment.crops, resident=True, workers=0)
    with jax.set_mesh(program.mesh), feed.items(0, 1) as items:
        state = jax.device_put(state, replicated(program.mesh))
        for _ in range(3):
            state, _, _ = program.steps(state, feed.held, next(items), RNG)
    for part in "frozen", "stats":
        jax.tree.map(np.testing.assert_array_equal, state.carry[part], before.carry[part])
    assert state.carry["frozen"]
    still = [path for path, x in flatten(state.params).items() if (x == flatten(before.params)[path]).all()]
    assert not still


def test_the_file_is_small_and_says_what_it_is(lora, encoder):
    file, predictions = lora
    adapted = Adapted(encoder, file)
    assert file.stat().st_size < 4 * count(adapted.trained) + 8000  # numbers, and what names them
    assert adapted.header["parameters"] == {"trained": 2 * 4 * 6 * D, "classifier": 10 * D + 10, "encoder": 6880}
    assert adapted.header["tuning"] == {"kind": "lora", "rank": 4, "alpha": 8.0}
    np.testing.assert_array_equal(adapted.predict(OTHERS), predictions)


def test_another_process_predicts_the_same_and_merged_weights_too(lora, encoder, tmp_path):
    file, predictions = lora
    merge(encoder.folder, file, tmp_path / "merged")
    program = f"""
import numpy as np
from jssl import data
from jssl.encoder import Encoder
from jssl.evals.adapted import Adapted
others = data.open_source("digits@test[:40]")
for name, folder, file in (("one", {str(encoder.folder)!r}, {str(file)!r}), ("merged", "merged", "merged/head.npz")):
    np.save(name, Adapted(Encoder(folder), file).scores(others))
"""
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    here = Adapted(encoder, file).scores(OTHERS)
    one, merged = np.load(tmp_path / "one.npy"), np.load(tmp_path / "merged.npy")
    np.testing.assert_array_equal(np.argmax(one, -1), predictions)
    np.testing.assert_allclose(one, here, atol=1e-5)
    np.testing.assert_allclose(merged, here, rtol=1e-5, atol=1e-5)
    assert np.abs(Encoder(tmp_path / "merged")(OTHERS.images) - encoder(OTHERS.images)).max() > 1e-4


# ---- the protocol
def test_a_kind_is_a_task_of_both_encoders_and_leaves_its_file(encoder, tmp_path, capsys):
    fields = {"kinds": "last", "blocks": "1", "least": "2", "epochs": "0.1", "control": "true"}
    subject = subject_of(encoder, tmp_path, {"peft": fields})
    scores = peft.peft(subject)
    assert [(score["encoder"], score["task"]) for score in scores] == [
        (name, "peft-last-1") for name in ("trained", "untrained")
    ]
    assert f"{title('peft-last-1')}: {EXPECTED['last']:,} parameters trained" in capsys.readouterr().err
    for score in scores:
        assert score["settings"]["parameters"]["trained"] == EXPECTED["last"]
        assert (score["settings"]["steps"], score["settings"]["layer_decay"]) == (2, 1.0)
    adapted = Adapted(encoder, tmp_path / "peft" / "last-1.npz")
    np.testing.assert_array_equal(adapted.predict(OTHERS), scores[0]["rows"]["predictions"])


def test_kinds_that_a_network_has_not_are_left_out_unless_asked_for(tmp_path, capsys):
    encoder = made(tmp_path, "simclr:tiny")
    subject = subject_of(encoder, tmp_path, {})
    assert [tuning.name for tuning in peft.tunings(subject, peft.Options())] == ["bias", "last-2"]
    assert "LoRA is left out: peft: encoder ConvNet has no attention" in capsys.readouterr().err
    with pytest.raises(ValueError, match="encoder ConvNet takes no adapters"):
        peft.tunings(subject, peft.Options(kinds="bias,adapter"))


def subject_of(encoder, workdir, options):
    encoders, splits = {"trained": encoder, "untrained": encoder}, {"train": LABELLED, "test": OTHERS}
    return Subject(workdir, {"augment": {}}, encoders, splits, options=options)


def test_a_part_that_learns_shuffled_labels_ends_at_chance(encoder):
    assert_chance(encoder, Tuning("lora"))


# ---- what cannot be
def test_a_mistake_is_one_clear_line(lora, encoder, tmp_path):
    params, _ = init_net(RESNET, RNG, IMAGES)
    for tuning, match in (
        (Tuning("lora"), "encoder ResNet has no attention for lora to change; expected a vision transformer, or kind"),
        (Tuning("prompt"), "encoder ResNet takes no prompts"),
        (Tuning("adapter"), "encoder ResNet takes no adapters"),
        (Tuning("last", blocks=9), "has 2 blocks or stages; expected peft.blocks up to that"),
    ):
        with pytest.raises(ValueError, match=match):
            tuning.split(RESNET, params, RNG)
    with pytest.raises(ValueError, match="there is no kind 'lorra'; did you mean lora"):
        Tuning("lorra")
    with pytest.raises(ValueError, match="rank is 0; expected 1 or more"):
        Tuning("lora", rank=0)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Adapted(encoder, tmp_path / "none.npz")
    with pytest.raises(ValueError, match="does not hold what was trained of an encoder"):
        Adapted(encoder, encoder.folder / "weights.npz")
    with pytest.raises(ValueError, match="does not hold what was trained of an encoder"):
        Adapted(encoder, encoder.folder / "config.json")
    with pytest.raises(ValueError, match="was trained on the encoder"):
        Adapted(made(tmp_path / "other", "simclr:tiny"), lora[0])
    with pytest.raises(ValueError, match="is not empty; expected a new folder"):
        merge(encoder.folder, lora[0], encoder.folder)


def test_adapters_have_no_place_in_the_weights(encoder, tmp_path):
    moved, _ = (tuning := Tuning("adapter")).split(encoder.method.encoder, encoder.params["encoder"], RNG)
    classifier, features = {"kernel": np.zeros((D, 3)), "bias": np.zeros(3)}, {"mean": np.zeros(D), "std": np.ones(D)}
    trained = {"encoder": moved, "classifier": classifier, "features": features}
    save(tmp_path / "adapter.npz", encoder, tuning, trained)
    with pytest.raises(ValueError, match="kind adapter, which stays beside the encoder; expected lora, bias, last"):
        merge(encoder.folder, tmp_path / "adapter.npz", tmp_path / "merged")
