"""I-JEPA against lightly's and transformers', and what its two encoders may see."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.masking import Blocks
from jssl.method import Time
from jssl.methods import ijepa
from jssl.methods.ijepa import IJEPA, distance
from jssl.nets import decoder
from jssl.nets.conv import convnet
from jssl.nets.decoder import Predictor
from jssl.nets.net import apply_net, init_net
from jssl.nets.vit import ViT, patchify, unpatchify
from jssl.transforms import normalised
from tests import oracles
from tests.test_vit import HF, TIMM, close, learned, torch_params
from tests.torch_weights import nhwc

SMALL = IJEPA(
    ViT(16, 1, 2, patch=2, positions="sincos", class_token=False, pool="mean"),
    predictor_dim=8,
    predictor_depth=1,
    predictor_heads=2,
)
IMAGES = np.random.RandomState(0).randn(4, 16, 16, 3).astype(np.float32)
RNG = jax.random.key(1)
START = Time(0, 100, 10.0)
PREDICTOR = {
    r"^decoder\.blocks\.": "block",
    r"^decoder\.(?=norm|mask)": "",
    r"^mask_token": "mask",
    r"^predictor_embed": "embed",
    r"^predictor_proj": "tokens",
    r"attn\.": "",
    r"mlp\.": "",
}


def part(tensors, name):
    """The weights under `name.`, as if there were no others."""
    start = f"model.{name}."
    return {f"model.{key.removeprefix(start)}": value for key, value in tensors.items() if key.startswith(start)}


def encoder_of(tensors, name):
    return learned(torch_params(part(tensors, name), TIMM))


def test_the_whole_method_is_lightlys(monkeypatch):
    """Context, predictions, targets, loss and its gradient with respect to every pixel (through the context alone)."""
    manifest, tensors = oracles.load("ijepa_step")
    table = tensors["model.predictor.decoder.pos_embed"][0]
    monkeypatch.setattr(decoder, "sincos_positions", lambda *_: table)
    predictor = Predictor(16, 2, 4, mlp=32)
    monkeypatch.setattr(IJEPA, "predictor", predictor)
    blocks = Blocks(tensors["in.context_idx"], np.stack([tensors["in.target_idx0"], tensors["in.target_idx1"]], 1))
    monkeypatch.setattr(ijepa, "multi_block_mask", lambda *_: blocks)
    net = ViT(24, manifest["hyper"].get("depth", 2), 4, patch=5, mlp=48, class_token=False, pool="mean")
    method = IJEPA(net, distance="smooth_l1")
    weights = torch_params(part(tensors, "predictor"), PREDICTOR)
    weights.pop("decoder", None)
    params = {"encoder": encoder_of(tensors, "encoder"), "predictor": weights}
    carry = {"target": encoder_of(tensors, "target_encoder")}
    x = nhwc(tensors["in.image"])

    _, out, _ = apply_net(net, params["encoder"], {}, x, keep=blocks.context)
    close(out["tokens"], tensors["out.context"])
    predicted, _, _ = apply_net(predictor, weights, {}, out["tokens"], *blocks, (4, 4))
    close(predicted.swapaxes(0, 1).reshape(4, 3, 24), tensors["out.pred"])
    _, out, _ = apply_net(net, carry["target"], {}, x)
    close(ijepa.at(normalised(out["tokens"]), blocks.targets).swapaxes(0, 1).reshape(4, 3, 24), tensors["out.target"])

    loss = lambda x: method.loss(params, carry, {"image": x[:, None]}, RNG, START)[0]
    value, grad = jax.jit(jax.value_and_grad(loss))(x)
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    expected = nhwc(tensors["grad.image"])
    np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=2e-5 * np.abs(expected).max())


def test_encoder_is_transformers():
    _, tensors = oracles.load("hf_ijepa")
    net = ViT(24, 2, 4, patch=4, mlp=48, eps=1e-12, class_token=False, pool="mean")
    features, out, _ = apply_net(net, learned(torch_params(tensors, HF)), {}, nhwc(tensors["in.pixel_values"]))
    close(out["tokens"], tensors["out.last_hidden_state"])
    close(features, tensors["out.last_hidden_state"].mean(1))


@pytest.fixture(scope="module")
def state():
    """(params, carry), the target moved away from the context encoder."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), {"image": IMAGES[:, None]})
    return params, {"target": jax.tree.map(lambda x: 0.9 * x + 0.01, carry["target"])}


@pytest.fixture(scope="module")
def blocks():
    return jax.tree.map(np.asarray, SMALL.mask(jax.random.split(RNG)[0], IMAGES))


@pytest.fixture(scope="module")
def run(state):
    """images -> (loss, gradients of params and carry), by one mask."""
    loss = lambda params, carry, x: SMALL.loss(params, carry, {"image": x[:, None]}, RNG, START)[0]
    graded = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return functools.partial(graded, *state)


def changed(images, places):
    """The images with other pixels in patches `places` int [N, K]."""
    patches = np.array(patchify(images, 2))
    for i, k in enumerate(places):
        patches[i, k] += np.random.RandomState(1).randn(len(k), patches.shape[-1])
    return np.asarray(unpatchify(patches, 2))


def test_the_context_encoder_reads_nothing_but_the_context(state, blocks):
    tokens = jax.jit(lambda x: apply_net(SMALL.encoder, state[0]["encoder"], {}, x, keep=blocks.context)[1]["tokens"])
    first = tokens(IMAGES)
    targets = blocks.targets.reshape(4, -1)
    np.testing.assert_array_equal(tokens(changed(IMAGES, targets)), first)
    assert (np.abs(tokens(changed(IMAGES, blocks.context)) - first).max((1, 2)) > 1e-3).all()
    for context, hidden in zip(blocks.context, targets):
        assert not set(context) & set(hidden)


def test_no_gradient_reaches_the_target_and_one_reaches_all_else(run):
    _, (params, carry) = run(IMAGES)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(carry))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(params))


def test_targets_are_of_the_target_encoder_and_of_the_whole_image(state, run, blocks):
    """A patch that is in no block and not in the context changes the loss by the targets alone."""
    used = [set(c) | set(t.ravel()) for c, t in zip(*blocks)]
    free = [np.array(sorted(set(range(64)) - both)) for both in used]
    assert all(len(patches) for patches in free)
    assert abs(run(changed(IMAGES, free))[0] - run(IMAGES)[0]) > 1e-5


def test_predictions_of_a_block_do_not_hang_on_the_other_blocks():
    net = SMALL.predictor
    rs = np.random.RandomState(3)
    x, context = rs.randn(2, 5, 16).astype(np.float32), np.tile(np.arange(5), (2, 1))
    targets = np.array([[[10, 11], [20, 21]], [[12, 13], [30, 31]]])
    params, _ = init_net(net, jax.random.key(4), x, context, targets, (8, 8))
    both = apply_net(net, params, {}, x, context, targets, (8, 8))[0]
    alone = apply_net(net, params, {}, x, context, targets[:, :1], (8, 8))[0]
    np.testing.assert_allclose(both[:, :1], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(both[:, 0] - both[:, 1]).max() > 1e-3  # it is told where they are


@pytest.mark.parametrize("step, m", [(0, 0.996), (50, 0.998), (100, 1.0)])
def test_target_follows_the_context_encoder_along_the_line(state, step, m):
    params, carry = state
    _, after = SMALL.update(params, carry, Time(step, 100, 10.0))
    expected = jax.tree.map(lambda t, p: m * t + (1 - m) * p, carry["target"], params["encoder"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after["target"], expected)


def test_features_are_the_targets(state):
    params, carry = state
    embed = jax.jit(lambda params, carry: SMALL.embed(params, carry, {"image": IMAGES})["features"])
    first = embed(params, carry)
    np.testing.assert_array_equal(embed(jax.tree.map(jnp.zeros_like, params), carry), first)
    assert np.abs(embed(params, {"target": params["encoder"]}) - first).max() > 1e-3


@pytest.mark.parametrize("kind", ijepa.DISTANCES)
def test_distances_are_torchs_and_survive_bfloat16(kind):
    s_hat, s_y = 2 * np.random.RandomState(5).randn(2, 3, 4, 5, 6).astype(np.float32)
    error = np.abs(s_hat - s_y).astype(np.float64)
    expected = np.mean(error**2 if kind == "l2" else np.where(error < 1, error**2 / 2, error - 0.5))
    np.testing.assert_allclose(distance(s_hat, s_y, kind), expected, rtol=1e-5)
    half = dataclasses.replace(SMALL, encoder=SMALL.encoder.clone(dtype=jnp.bfloat16), distance=kind)
    params, carry = jax.jit(half.init)(jax.random.key(0), {"image": IMAGES[:, None]})
    losses = [
        jax.jit(lambda p, c, method=method: method.loss(p, c, {"image": IMAGES[:, None]}, RNG, START)[0])(params, carry)
        for method in (half, dataclasses.replace(SMALL, distance=kind))
    ]
    np.testing.assert_allclose(*losses, rtol=2e-2)


def test_what_it_cannot_use_is_refused():
    with pytest.raises(ValueError, match="IJEPA hides patches: encoder ConvNet has none, expected a ViT"):
        IJEPA(convnet())
    with pytest.raises(ValueError, match=r"method.distance='l1': expected one of l2, smooth_l1"):
        dataclasses.replace(SMALL, distance="l1")
