"""DINOv2's network against transformers' figures; its last phase at a larger size; its distillation."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl import train as loop
from jssl.checkpoint import checkpoint_steps, fill, read_arrays
from jssl.experiment import fill as fill_config
from jssl.experiment import open_data
from jssl.losses import cross_crops, cross_patches, shares
from jssl.nets import vit
from jssl.nets.net import apply_net, init_net
from jssl.nets.vit import ViT
from jssl.sharding import make_mesh
from jssl.train import Run, train
from jssl.transforms import ema
from tests import oracles
from tests.contract import assert_equal
from tests.test_ibot import KEY, OTHER, SMALL, START, VIEWS
from tests.test_vit import HF, close, joined, learned, torch_params
from tests.torch_weights import nhwc

DINOV2 = {
    r"^embeddings\.(?=mask|register)": "",
    **HF,
    r"^register_tokens": "registers",
    r"^mask_token": "mask",
    r"layer_scale(\d)\.lambda1": r"scale\1",
    r"\.mlp\.": ".",
    r"weights_in": "fc1",
    r"weights_out": "fc2",
}
NETS = {
    "hf_dinov2": ViT(24, 2, 4, patch=4, mlp=48, layer_scale=1.0),
    "hf_dinov2_registers": ViT(24, 2, 4, patch=4, mlp=48, layer_scale=1.0, registers=4),
    "hf_dinov2_swiglu": ViT(24, 2, 4, patch=4, layer_scale=1.0, registers=4, ffn="swiglu"),
}
IMAGE = np.random.RandomState(0).randn(1, 16, 16, 3).astype(np.float32)


@pytest.mark.parametrize("name", NETS)
def test_tokens_and_input_gradient_are_transformers(name):
    """With some patches hidden; in float64 there."""
    _, tensors = oracles.load(name)
    net = NETS[name].clone(mask_token=True)
    params = learned(torch_params(tensors, DINOV2))
    params["mask"] = params["mask"].reshape(1, -1)
    hidden = tensors.get("in.bool_masked_pos", np.zeros((2, 16), bool))

    def loss(x):
        _, out, _ = apply_net(net, params, {}, x, hidden=hidden)
        tokens = jnp.concatenate(
            [out["cls"][:, None], *([out["registers"]] if net.registers else []), out["tokens"]], 1
        )
        return 0.5 * jnp.mean(tokens**2), out

    grad, out = jax.jit(jax.grad(loss, has_aux=True))(nhwc(tensors["in.pixel_values"]))
    close(joined(out), tensors["out.last_hidden_state"])
    np.testing.assert_allclose(grad, nhwc(tensors["grad.pixel_values"]), rtol=1e-4, atol=1e-7)


def test_the_giant_has_the_published_number_of_parameters():
    """Theirs has a position of the class token, and a table of 518 pixels."""
    manifest, _ = oracles.load("hf_dinov2_swiglu")
    net = vit.vit_giant2(layer_scale=1e-5, table=37)
    shapes = jax.eval_shape(lambda rng: init_net(net, rng, jnp.zeros((1, 224, 224, 3)))[0], jax.random.key(0))
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(shapes)) == manifest["scalars"]["giant"] - 1536


def test_the_width_of_swiglu_is_two_thirds_rounded_up_to_a_multiple_of_eight():
    for net, width in (ViT(24, 1, 4, patch=4, mlp=20, ffn="swiglu"), 16), (vit.vit_large(ffn="swiglu"), 2736):
        shapes = jax.eval_shape(lambda net=net: init_net(net, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))[0])
        assert shapes["block0"]["fc1"]["kernel"].shape == (net.dim, 2 * width)
        assert shapes["block0"]["fc2"]["kernel"].shape == (width, net.dim)


@pytest.mark.parametrize("uniform", [False, True])
def test_drop_path_rises_over_the_blocks_or_is_the_same_in_all(uniform):
    """Of one image many times over: each of a block's two branches is there or not, so up to four outcomes."""
    net = ViT(16, 3, 2, patch=8, drop_path=0.5, drop_path_uniform=uniform)
    images = np.repeat(IMAGE, 400, 0)
    params, _ = jax.jit(lambda rng: init_net(net, rng, IMAGE))(jax.random.key(0))
    run = jax.jit(lambda rng: apply_net(net, params, {}, images, train=True, rng=rng)[1]["layers"])
    first, *_, before, last = (np.asarray(layer).reshape(400, -1) for layer in run(jax.random.key(1)))
    _, counts = np.unique(first.round(4), axis=0, return_counts=True)
    assert len(counts) == (4 if uniform else 1)
    assert counts.max() < 140 if uniform else counts == 400
    assert np.mean((before == last).all(1)) == pytest.approx(0.25, abs=0.07)  # neither branch of the last block


def test_a_table_of_another_size_is_read_as_one_that_was_trained_there():
    """Initialised at 24 pixels with the 4 x 4 table of 16 pixels, whose weights then fit, and are resized."""
    small, large = ViT(16, 1, 2, patch=4), ViT(16, 1, 2, patch=4, table=4)
    images = np.random.RandomState(1).randn(2, 24, 24, 3).astype(np.float32)
    trained, _ = init_net(small, jax.random.key(0), IMAGE)
    fresh, _ = init_net(large, jax.random.key(1), images)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, trained)
    assert fresh["positions"].shape == (4, 4, 16)
    jax.tree.map(
        np.testing.assert_array_equal,
        apply_net(large, trained, {}, images)[0],
        apply_net(small, trained, {}, images)[0],
    )


def test_an_unknown_kind_of_feed_forward_is_refused():
    with pytest.raises(ValueError, match="ViT ffn is 'swiglufused', expected one of mlp, quick_gelu, swiglu"):
        ViT(24, 1, 4, ffn="swiglufused")


TEACHER = {"teacher": "jssl.nets.vit:ViT", "teacher_fields": (("dim", 24), ("depth", 3), ("heads", 2), ("patch", 4))}


@pytest.fixture(scope="module", params=[SMALL, OTHER], ids=["iBOT", "DINOv2"])
def distilled(request):
    """(method, params, carry), all of it moved from its start."""
    method = dataclasses.replace(request.param, **TEACHER)
    params, carry = jax.jit(method.init)(jax.random.key(0), VIEWS)
    return method, params, jax.tree.map(lambda x: 0.9 * x + 0.02, carry)


def test_a_student_without_hidden_patches_says_of_all_patches_what_the_frozen_teacher_says(distilled):
    """By hand, network by network."""
    method, params, carry = distilled
    method = dataclasses.replace(method, koleo_weight=0.0)
    value, (after, _) = jax.jit(method.loss)(params, carry, VIEWS, KEY, START)
    large, frozen, patch = VIEWS["image"].reshape(12, 16, 16, 3), carry["frozen"], method.patch_head
    _, teacher, _ = apply_net(ViT(24, 3, 2, patch=4), frozen["encoder"], {}, large)
    _, student, _ = apply_net(method.encoder, params["encoder"], {}, large)
    _, small, _ = apply_net(method.encoder, params["encoder"], {}, VIEWS["local"].reshape(18, 8, 8, 3))
    h = jnp.concatenate([student["cls"].reshape(6, 2, 16), small["cls"].reshape(6, 3, 16)], 1)

    t = method.scores("head", frozen, teacher["cls"].reshape(6, 2, 24))[0]
    every = jnp.ones((12, 16), bool)
    t_patch = method.scores(patch, frozen, teacher["tokens"])[0]
    p, p_patch = method.targets(t, t_patch, every, carry, START)
    said = lambda name, x: jax.nn.log_softmax(method.scores(name, params, x)[0] / 0.1)
    expected = cross_crops(p, said("head", h)) + cross_patches(p_patch, said(patch, student["tokens"]), shares(every))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    if "center" in carry:
        np.testing.assert_allclose(after["center"]["cls"], ema(carry["center"]["cls"], t.mean((0, 1)), 0.9), atol=1e-6)


def test_no_gradient_reaches_the_frozen_teacher_and_nobody_writes_it(distilled):
    method, params, carry = distilled
    run = jax.value_and_grad(lambda carry: method.loss(params, carry, VIEWS, KEY, START), has_aux=True)
    (_, (after, _)), grads = jax.jit(run)(carry)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    assert_equal(after["frozen"], carry["frozen"])
    assert_equal(method.update(params, after, START)[1]["frozen"], carry["frozen"])


def test_what_is_kept_is_the_students_average(distilled):
    method, params, carry = distilled
    _, after = method.update(params, carry, START)
    jax.tree.map(np.testing.assert_array_equal, after["target"], ema(carry["target"], params, np.float32(0.996)))
    x = VIEWS["image"][:, 0]
    features = method.embed(params, after, {"image": x})["features"]
    close(features, apply_net(method.encoder, after["target"]["encoder"], {}, x)[0])
    assert features.shape == (6, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": "jssl.nets.conv:convnet", "teacher_fields": ()}, "encoder ConvNet has none, expected a ViT"),
        (
            {"teacher_fields": (("dim", 24), ("depth", 1), ("heads", 2), ("patch", 8))},
            "the student's patches have 4 pixels, the teacher's 8; expected the same",
        ),
    ],
)
def test_a_teacher_that_cannot_be_compared_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(SMALL, **(TEACHER | fields))
    assert "\n" not in str(error.value)


SMALLER = {"dtype": "float32", "eval.every": 0, "train.batch_size": 64, "log_every": 1, "optim.warmup": 0.0}
SMALLER |= {
    "encoder.positions": "learned",
    "encoder.dim": 32,
    "encoder.depth": 2,
    "method.hidden": 64,
    "optim.lr": 2e-3,
}
PHASES = {
    "first": ("dinov2:demo", 80, {}),
    "fresh": ("dinov2:demo", 1, {"augment.size": 24}),
    "last": ("dinov2:demo_high", 5, {"optim.lr": 2e-4}),
    "distilled": ("dinov2_distill:demo", 60, {"encoder.dim": 16, "encoder.depth": 1}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (folder, config, final state)}: digits at 16 pixels; the first step of a training at 24; the last phase at
    24, from the first run's state; a student of the first run."""
    root, made = tmp_path_factory.mktemp("dinov2"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
        for name, (variant, steps, own) in PHASES.items():
            own = {**SMALLER, "train.steps": steps, "checkpoint.every": steps, **own}
            if name in ("last", "distilled"):
                own["init_run"] = str(root / "first")
            if name == "distilled":
                teacher = made["first"][1].encoder.to_dict()
                del teacher["name"]
                own["method.teacher_fields"] = tuple(teacher.items())
            config = configs.load(variant, own)
            made[name] = root / name, config, train(config, root / name)
    return made


def begun(config):
    """The state before step 0, as `train` makes it."""
    mesh = make_mesh(1, 1, jax.devices()[:1])
    source = open_data(config)
    with jax.set_mesh(mesh):
        run = Run(fill_config(config, source, jax.devices()[:1])[0], source, mesh, None)
        return run.begin(), fill(run.begin(), config.init_from)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_last_phase_begins_with_every_leaf_of_the_first_and_a_new_optimizer(runs):
    _, _, first = runs["first"]
    fresh, start = begun(runs["last"][1])
    assert jax.tree.structure((start.params, start.carry)) == jax.tree.structure((first.params, first.carry))
    assert_equal(start.params, first.params)
    assert_equal(start.carry, first.carry)
    assert_equal(start.opt, fresh.opt)
    assert start.step == 0
    assert start.params["encoder"]["positions"].shape == (4, 4, 32)  # of 16 pixels; at 24 there are 6 x 6 patches


def test_the_loss_of_the_last_phase_goes_on_where_the_first_ended(runs):
    before, fresh, after = (losses(runs[name][0]) for name in ("first", "fresh", "last"))
    assert before[-1] < fresh[0] - 1
    assert abs(after[0] - before[-1]) < 0.25 * (fresh[0] - before[-1])
    assert max(after) < (fresh[0] + before[-1]) / 2


def test_the_schedules_of_the_last_phase_are_those_of_the_first_in_its_steps():
    first, last = (configs.load(f"dinov2:{variant}") for variant in ("imagenet22k", "imagenet22k_high"))
    assert (last.train.steps, last.augment.size, last.encoder.table) == (10_000, 518, 16)
    for of in (
        lambda config: config.optim.warmup,
        lambda config: config.method.tau_t_warmup,
        lambda config: config.optim.groups[0]["frozen_until"],
    ):
        assert of(last) / 10_000 == pytest.approx(of(first) / 625_000)
    rate = lambda config: (config.optim.lr, config.optim.lr * config.optim.end)
    assert rate(last) == pytest.approx((rate(first)[0] / 10, rate(first)[1]))


def test_the_frozen_teacher_is_the_first_runs_bit_by_bit_after_training_and_in_no_checkpoint(runs):
    folder, _, student = runs["distilled"]
    assert_equal(student.carry["frozen"], runs["first"][2].carry["target"])
    step = checkpoint_steps(folder / "checkpoints")[0]
    saved = read_arrays(folder / "checkpoints" / str(step) / "state")
    assert "carry/target/encoder/cls" in saved
    assert not [path for path in saved if path.startswith("carry/frozen")]
    assert len(list((folder / "frozen").iterdir())) == 1


def test_the_students_loss_falls_and_its_average_alone_is_exported(runs):
    folder, _, student = runs["distilled"]
    found = losses(folder)
    assert np.mean(found[-5:]) < np.mean(found[:5]) - 1
    exported = dict(np.load(folder / "encoder" / "weights.npz"))
    assert {path.split("/")[1] for path in exported} == {"target"}
    np.testing.assert_array_equal(exported["carry/target/encoder/cls"], student.carry["target"]["encoder"]["cls"])


def test_without_the_size_of_its_table_the_last_phase_is_refused_in_one_line(runs):
    config = configs.load("dinov2:demo_high", {**SMALLER, "init_run": str(runs["first"][0]), "encoder.table": None})
    with pytest.raises(ValueError, match=r"positions is \[6, 6, 32\], but \[4, 4, 32\] in") as error:
        begun(config)
    assert "\n" not in str(error.value)
