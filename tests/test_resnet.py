"""Residual networks against timm's and transformers'."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nets import resnet
from jssl.nets.net import apply_net, init_net
from jssl.nets.resnet import Block, ResNet
from tests import oracles
from tests.torch_weights import convert, nhwc

TIMM = {
    r"^conv1": "stem.conv",
    r"^bn1": "stem.norm",
    r"^layer(\d)\.(\d)": r"stage\1.block\2",
    r"bn(\d)": r"norm\1",
    r"downsample\.0": "shortcut_conv",
    r"downsample\.1": "shortcut_norm",
}
HF = {
    r"^embedder\.embedder": "stem",
    r"^encoder\.stages\.(\d)\.layers\.(\d)": lambda m: f"stage{int(m[1]) + 1}.block{m[2]}",
    r"layer\.(\d)\.convolution": lambda m: f"conv{int(m[1]) + 1}",
    r"layer\.(\d)\.normalization": lambda m: f"norm{int(m[1]) + 1}",
    r"shortcut\.convolution": "shortcut_conv",
    r"shortcut\.normalization": "shortcut_norm",
    r"stem\.convolution": "stem.conv",
    r"stem\.normalization": "stem.norm",
}


def weights(tensors, rules):
    return convert({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, rules)


@pytest.fixture(scope="module")
def timm():
    _, tensors = oracles.load("timm_resnet_basic")
    net = ResNet((1, 1, 1, 1), False, widths=(8, 12, 16, 20))
    params, stats = weights(tensors, TIMM)
    return net, params, stats, nhwc(tensors["in.x"]), tensors


def test_evaluation_is_timms(timm):
    net, params, stats, x, tensors = timm
    y, out, _ = jax.jit(lambda p, s: apply_net(net, p, s, x))(params, stats)
    np.testing.assert_allclose(y, tensors["out.pooled"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["map"], nhwc(tensors["out.map"]), rtol=1e-5, atol=1e-5)


def test_training_is_timms_with_the_biased_running_variance(timm):
    net, params, stats, x, tensors = timm
    y, _, new = jax.jit(lambda p, s: apply_net(net, p, s, x, train=True))(params, stats)
    np.testing.assert_allclose(y, tensors["out.train.pooled"], rtol=1e-4, atol=1e-4)
    expected = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    _, expected = convert(expected, TIMM)
    for stage, positions in {"stem": 16, "stage1": 8, "stage2": 4, "stage3": 2, "stage4": 1}.items():
        n = len(x) * positions**2
        norm = (lambda tree: tree["norm"]) if stage == "stem" else (lambda tree: tree["block0"]["norm1"])
        old, ours, torchs = (norm(tree[stage]) for tree in (stats, new, expected))
        np.testing.assert_allclose(ours["mean"], torchs["mean"], rtol=1e-4, atol=1e-5)
        unbiased = 0.9 * old["var"] + (ours["var"] - 0.9 * old["var"]) * n / (n - 1)
        np.testing.assert_allclose(unbiased, torchs["var"], rtol=1e-4, atol=1e-5)


def test_stem_stages_and_input_gradient_are_transformers():
    _, tensors = oracles.load("hf_resnet_basic")
    net = ResNet((1, 1, 1, 1), False, widths=(8, 16, 24, 32), stem_width=8)
    params, stats = weights(tensors, HF)

    def loss(x):
        y, out, _ = apply_net(net, params, stats, x)
        return 0.5 * jnp.mean(out["map"] ** 2), (y, out)

    grad, (y, out) = jax.jit(jax.grad(loss, has_aux=True))(nhwc(tensors["in.pixel_values"]))
    np.testing.assert_allclose(y, tensors["out.pooler_output"][..., 0, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["stem"], nhwc(tensors["out.hidden_states.0"]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["stage1"], nhwc(tensors["out.hidden_states.1"]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad, nhwc(tensors["grad.pixel_values"]), rtol=1e-4, atol=1e-7)


# Published with the classifier of 1000 classes; SimCLR's table for the wide ones (arXiv:2002.05709, in millions).
PUBLISHED = {
    ("resnet18", 1): 11_689_512 - 513_000,
    ("resnet34", 1): 21_797_672 - 513_000,
    ("resnet50", 1): 25_557_032 - 2_049_000,
    ("resnet101", 1): 44_549_160 - 2_049_000,
    ("resnet152", 1): 60_192_808 - 2_049_000,
    ("resnet200", 1): 64_673_832 - 2_049_000,
    ("resnet50", 2): 94e6,
    ("resnet50", 4): 375e6,
}


@pytest.mark.parametrize("name, width", PUBLISHED)
def test_named_sizes_have_the_published_number_of_parameters(name, width):
    net = getattr(resnet, name)(width=width)
    params, _ = jax.eval_shape(lambda rng: init_net(net, rng, jnp.zeros((1, 32, 32, 3))), jax.random.key(0))
    assert params["stem"]["conv"]["kernel"].shape == (7, 7, 3, 64 * width)
    count = sum(math.prod(p.shape) for p in jax.tree.leaves(params))
    assert count == PUBLISHED[name, width] if width == 1 else round(count / 1e6) == PUBLISHED[name, width] / 1e6


@pytest.mark.parametrize("stem, side", [("imagenet", 8), ("cifar", 32)])
def test_the_cifar_stem_keeps_the_resolution(stem, side):
    net = resnet.resnet50(stem=stem)
    init = lambda rng: net.init_with_output(rng, jnp.zeros((2, 32, 32, 3)))[0]
    y, out = jax.eval_shape(init, jax.random.key(0))
    sides = [out[name].shape[1] for name in ("stem", "stage1", "stage2", "stage3", "stage4")]
    assert sides == [side, side, side // 2, side // 4, side // 8]
    assert y.shape == (2, 2048)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_starts_a_block_as_the_identity(bottleneck):
    x = jnp.abs(jax.random.normal(jax.random.key(0), (2, 4, 4, 16)))
    block = lambda zero: Block(1, 4 if bottleneck else 16, bottleneck, zero, jnp.float32)
    run = lambda zero: jax.jit(lambda rng: block(zero).init_with_output(rng, x, True)[0])(jax.random.key(1))
    np.testing.assert_array_equal(run(True), x)
    assert np.abs(run(False) - x).max() > 0.1


def test_the_bottleneck_strides_in_its_3x3_convolution():
    block, x = Block(2, 4, True, False, jnp.float32), jax.random.normal(jax.random.key(0), (1, 4, 4, 16))
    run = lambda x: block.init_with_output(jax.random.key(1), x, False)[0]
    grad = jax.jit(jax.grad(lambda x: run(x).sum()))(x)
    assert (np.abs(grad).sum(-1) > 0).all()  # a strided 1x1 would never see the odd pixels


def test_bfloat16_keeps_statistics_and_features_in_float32(timm):
    net, params, stats, x, tensors = timm
    half = net.clone(dtype=jnp.bfloat16)
    run = lambda train: lambda p, s: apply_net(half, p, s, x, train=train)
    y, out, new = jax.eval_shape(run(True), params, stats)
    assert out["stage1"].dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((y, new))} == {jnp.dtype("float32")}
    y, _, _ = jax.jit(run(False))(params, stats)
    np.testing.assert_allclose(y, tensors["out.pooled"], atol=0.05)


def test_a_misspelt_stem_is_one_clear_line():
    with pytest.raises(ValueError, match=r"^ResNet stem is 'cifer', expected one of imagenet, cifar$"):
        resnet.resnet18(stem="cifer")
