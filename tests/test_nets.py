"""The network functions, the MLP heads and the small encoder."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jssl.nets.conv import convnet
from jssl.nets.mlp import MLP, Dense, gelu
from jssl.nets.net import apply_net, apply_nets, init_net, init_nets
from tests import oracles
from tests.torch_weights import convert

CHAIN = {"encoder": convnet((4, 8)), "projector": MLP(6, 5)}
IMAGES = np.random.RandomState(0).randn(8, 6, 6, 1).astype(np.float32)


@pytest.fixture(scope="module")
def chain():
    return jax.jit(lambda rng: init_nets(CHAIN, rng, IMAGES))(jax.random.key(0))


def run(nets, params, stats, train):
    return jax.jit(lambda p, s: apply_nets(nets, p, s, IMAGES, train=train))(params, stats)


def test_training_moves_the_statistics_and_evaluation_keeps_them(chain):
    params, stats = chain
    _, trained = run(CHAIN, params, stats, train=True)
    assert jax.tree.structure(trained) == jax.tree.structure(stats)
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(stats)))
    _, evaluated = run(CHAIN, params, trained, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, trained)


def test_evaluation_uses_the_running_statistics_training_the_batch(chain):
    params, stats = chain
    half = lambda train: apply_net(CHAIN["encoder"], params["encoder"], stats["encoder"], IMAGES[:4], train=train)[0]
    whole = lambda train: run(CHAIN, params, stats, train)[0]["encoder"][:4]
    np.testing.assert_allclose(half(False), whole(False), atol=1e-6)
    assert np.abs(half(True) - whole(True)).max() > 1e-3


def test_a_chain_feeds_each_network_with_the_one_before(chain):
    params, stats = chain
    outputs, _ = run(CHAIN, params, stats, train=False)
    features, _, _ = apply_net(CHAIN["encoder"], params["encoder"], stats["encoder"], IMAGES)
    projected, _, _ = apply_net(CHAIN["projector"], params["projector"], stats["projector"], features)
    np.testing.assert_allclose(outputs["encoder"], features, atol=1e-6)
    np.testing.assert_allclose(outputs["projector"], projected, atol=1e-6)


def test_a_shorter_chain_runs_on_the_weights_of_a_longer_one(chain):
    params, stats = chain
    outputs, new = run({"encoder": CHAIN["encoder"]}, params, stats, train=True)
    assert list(outputs) == ["encoder"]
    jax.tree.map(np.testing.assert_array_equal, new["projector"], stats["projector"])


def test_leading_networks_start_the_same_whatever_follows(chain):
    init = jax.jit(lambda rng: init_nets({"encoder": CHAIN["encoder"]}, rng, IMAGES))
    jax.tree.map(np.testing.assert_array_equal, init(jax.random.key(0))[0]["encoder"], chain[0]["encoder"])


def test_init_needs_shapes_only():
    params, stats = jax.eval_shape(lambda rng: init_net(CHAIN["encoder"], rng, IMAGES), jax.random.key(0))
    assert params["conv1"]["kernel"].shape == (3, 3, 1, 4)
    assert stats["norm2"]["mean"].shape == (8,)


def test_bfloat16_computes_in_it_and_keeps_parameters_statistics_and_output_in_float32(chain):
    half = {name: net.clone(dtype=jnp.bfloat16) for name, net in CHAIN.items()}
    shapes = jax.eval_shape(lambda rng: init_nets(half, rng, IMAGES), jax.random.key(0))
    outputs, stats = run(half, *chain, train=True)
    assert {a.dtype for a in jax.tree.leaves((shapes, outputs, stats))} == {jnp.dtype("float32")}
    _, out = jax.eval_shape(lambda: half["encoder"].init_with_output(jax.random.key(0), IMAGES)[0])
    assert out["stage1"].dtype == jnp.bfloat16
    exact, _ = run(CHAIN, *chain, train=True)
    np.testing.assert_allclose(outputs["projector"], exact["projector"], atol=0.05)


def test_no_convolution_before_a_norm_has_a_bias(chain):
    params, _ = chain
    assert set(params["encoder"]["conv1"]) == set(params["projector"]["dense0"]) == {"kernel"}


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 7)])
def test_the_small_encoder_takes_images_of_any_size(shape):
    net = convnet((4, 8, 8))
    (y, out), _ = net.init_with_output(jax.random.key(0), jnp.ones((2, *shape, 3)))
    assert y.shape == (2, 8)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(out["map"], out["stage3"])


HEADS = {
    "simclr": MLP(14, 8, last_norm=True),
    "moco": MLP(14, 8, norm=False),
    "byol_proj": MLP(14, 8),
    "simsiam_proj": MLP(14, 8, depth=3, last_norm=True, last_affine=False),
    "simsiam_pred": MLP(14, 8),
    "barlow": MLP(14, 8, depth=3),
}


def head_weights(tensors, name):
    """torch counts linear layers, norms and activations in one row, we by linear layer."""
    weights = {k.removeprefix(f"model.{name}."): v for k, v in tensors.items() if k.startswith(f"model.{name}.")}
    linear = [k.split(".")[1] for k, v in weights.items() if k.startswith("layers") and v.ndim == 2]
    rules = {}
    for i, layer in enumerate(sorted(linear, key=int)):
        rules |= {rf"^layers\.{layer}\.": f"dense{i}.", rf"^layers\.{int(layer) + 1}\.": f"norm{i}."}
    return convert(weights, rules)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_lightlys(name):
    _, tensors = oracles.load("projection_heads")
    params, stats = head_weights(tensors, name)
    net, x = HEADS[name], tensors["in.x"]
    y, _, _ = apply_net(net, params, stats, x)
    np.testing.assert_allclose(y, tensors[f"out.{name}.eval"], rtol=1e-5, atol=1e-6)
    y, _, new = apply_net(net, params, stats, x, train=True)
    np.testing.assert_allclose(y, tensors[f"out.{name}.train"], rtol=1e-4, atol=1e-5)
    if stats:
        expected = tensors[f"state.{name}.layers.1.running_mean_after_train_step"]
        np.testing.assert_allclose(new["norm0"]["mean"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, norm", [("dino", False), ("dino_bn", True)])
def test_dinos_head_is_an_mlp_on_the_sphere_and_a_last_layer_of_unit_columns(name, norm):
    _, tensors = oracles.load("projection_heads")
    params, stats = head_weights(tensors, name)
    last = params.pop("last_layer")
    mlp = MLP(14, 6, depth=3, norm=norm, activation="gelu", output="l2")
    nets = {"mlp": mlp, "last": MLP(0, 8, depth=1, bias=False, output="weight_norm")}
    params, stats = {"mlp": params, "last": {"dense0": {"kernel": last["weight_v"].T}}}, {"mlp": stats, "last": {}}
    for mode in ("eval", "train"):
        outputs, _ = apply_nets(nets, params, stats, tensors["in.x"], train=mode == "train")
        np.testing.assert_allclose(np.linalg.norm(outputs["mlp"], axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(outputs["last"], tensors[f"out.{name}.{mode}"], rtol=1e-4, atol=1e-5)


def test_gelu_is_that_of_float64_and_its_gradient_keeps_one_array():
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)):
        z = jnp.linspace(-9, 9, 2001, dtype=dtype)
        exact = np.asarray(z, np.float64)
        phi, density = scipy.stats.norm.cdf(exact), scipy.stats.norm.pdf(exact)
        y, back = jax.vjp(gelu, z)
        (slope,) = back(jnp.ones_like(z))
        assert y.dtype == slope.dtype == dtype
        np.testing.assert_allclose(np.asarray(y, np.float64), exact * phi, rtol=tolerance, atol=1e-6)
        np.testing.assert_allclose(np.asarray(slope, np.float64), phi + exact * density, rtol=tolerance, atol=1e-6)
        assert [(kept.shape, kept.dtype) for kept in jax.tree.leaves(back)] == [(z.shape, dtype)]


def test_a_linear_layer_is_flaxs_of_any_shape_and_its_gradient_transposes_nothing():
    class Two(nn.Module):
        layer: type

        @nn.compact
        def __call__(self, x):
            return self.layer(5, name="last")(jnp.tanh(self.layer(12, name="first")(x)))

    for shape in ((7, 3), (8, 6, 3), (2, 3, 4, 3)):
        x, compiled, gradients = jax.random.normal(jax.random.key(1), shape), {}, []
        params = Two(nn.Dense).init(jax.random.key(0), x)
        for layer in (nn.Dense, Dense):
            loss = lambda params, x, layer=layer: jnp.sum(Two(layer).apply(params, x) ** 2)
            compiled[layer] = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(params, x).compile()
            gradients.append(compiled[layer](params, x))
        assert gradients[1][1][1].shape == shape
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *gradients)
        assert " transpose(" not in compiled[Dense].as_text()


def test_a_zero_row_on_the_sphere_has_a_finite_gradient():
    net = MLP(4, 3, depth=1, output="l2", bias=False)
    params, stats = init_net(net, jax.random.key(0), jnp.zeros((2, 5)))
    grads = jax.grad(lambda p: apply_net(net, p, stats, jnp.zeros((2, 5)))[0].sum())(params)
    assert np.isfinite(jax.tree.leaves(grads)[0]).all()


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"activation": "rleu"}, {"output": "unit"}])
def test_a_wrong_head_is_one_clear_line(wrong):
    (value,) = wrong.values()
    with pytest.raises(ValueError, match=rf"^MLP \w+ is {re.escape(repr(value))}[^\n]*expected [^\n]*$"):
        MLP(4, 3, **wrong)
