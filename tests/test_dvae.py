"""The discrete autoencoder against OpenAI's, and the statements of the paper about its codes and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import health, watch
from jssl.method import Time
from jssl.methods.dvae import DVAE, anneal, from_uniform, logit_laplace
from jssl.nets.conv import convnet
from jssl.nets.dvae import Decoder, Encoder, images, pixels
from jssl.nets.net import apply_net
from tests import oracles
from tests.torch_weights import nhwc

SMALL = DVAE(Encoder(12, hidden=8, groups=3, blocks=1), initial=8, mean=(0.5,), std=(0.25,), tau_steps=100)
VIEWS = {"image": np.random.RandomState(0).randn(5, 1, 16, 8, 3).astype(np.float32)}


def openai(tensors, part):
    """Their weights under our names."""
    params = {}
    for name, value in tensors.items():
        if not name.startswith(f"model.{part}.blocks."):
            continue
        *path, leaf = name.removeprefix(f"model.{part}.blocks.").split(".")
        if path[0].startswith("group"):
            group, block = int(path[0][-1]) - 1, int(path[1][-1]) - 1
            inner = "same" if path[2] == "id_path" else f"conv{int(path[3][-1]) - 1}"
            tree = params.setdefault(f"block{group}_{block}", {}).setdefault(inner, {})
        else:
            last = "logits" if part == "encoder" else "pixels"
            tree = params.setdefault("stem" if path[0] == "input" else last, {})
        tree["bias" if leaf == "b" else "kernel"] = value if leaf == "b" else value.transpose(2, 3, 1, 0)
    return params


def test_the_networks_are_openais():
    _, tensors = oracles.load("dalle_dvae")
    x = pixels(nhwc(tensors["in.image"]), (0.0,), (1.0,))
    np.testing.assert_allclose(x, nhwc(tensors["out.mapped"]), rtol=1e-6)
    encoder, decoder = Encoder(24, hidden=8), Decoder(3, initial=8, hidden=8)
    h, out, _ = apply_net(encoder, openai(tensors, "encoder"), {}, x)
    np.testing.assert_allclose(out["logits"], nhwc(tensors["out.logits"]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(h, out["map"].mean((1, 2)), rtol=1e-5)
    y, _, _ = apply_net(decoder, openai(tensors, "decoder"), {}, jax.nn.softmax(nhwc(tensors["out.logits"])))
    np.testing.assert_allclose(y, nhwc(tensors["out.stats"]), rtol=1e-5, atol=1e-5)
    again = images(jax.nn.sigmoid(y[..., :3]), (0.0,), (1.0,))
    np.testing.assert_allclose(again, nhwc(tensors["out.image"]), rtol=1e-5, atol=1e-6)


def test_in_bfloat16_the_networks_stay_near():
    _, tensors = oracles.load("dalle_dvae")
    x = pixels(nhwc(tensors["in.image"]), (0.0,), (1.0,))
    half = Encoder(24, hidden=8, dtype=jnp.bfloat16)
    _, out, _ = apply_net(half, openai(tensors, "encoder"), {}, x)
    assert out["logits"].dtype == jnp.float32
    np.testing.assert_allclose(out["logits"], nhwc(tensors["out.logits"]), atol=0.05)


@pytest.mark.parametrize(("mu", "b"), [(0.0, 0.5), (1.5, 1.0), (-2.0, 0.2)])
def test_logit_laplace_is_a_density(mu, b):
    """It sums to 1 over (0, 1), and half of it lies below sigmoid(mu)."""
    edges = jax.nn.sigmoid(jnp.linspace(-40, 40, 400_001))
    x, width = (edges[1:] + edges[:-1]) / 2, jnp.diff(edges)
    inside = (x > 1e-6) & (x < 1 - 1e-6)
    density = jnp.where(inside, jnp.exp(-logit_laplace(jnp.clip(x, 1e-6, 1 - 1e-6), mu, np.log(b))), 0)
    np.testing.assert_allclose(jnp.sum(density * width), 1, atol=1e-3)
    np.testing.assert_allclose(jnp.sum((density * width)[x < jax.nn.sigmoid(mu)]), 0.5, atol=1e-3)


def test_divergence_from_uniform_is_0_of_even_logits_and_log_k_of_one_code():
    logits = jnp.stack([jnp.zeros(8), 1e3 * jax.nn.one_hot(3, 8)])
    np.testing.assert_allclose(from_uniform(logits), [0, np.log(8)], atol=1e-6)


def test_schedules_end_where_the_paper_says():
    np.testing.assert_allclose([anneal(1.0, 1 / 16, s, 100) for s in (0, 100, 500)], [1, 1 / 16, 1 / 16], rtol=1e-6)
    np.testing.assert_allclose(anneal(0.0, 6.6, 50, 100), 3.3, rtol=1e-6)


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), VIEWS)


def test_the_loss_is_the_evidence_bound_of_drawn_codes(state):
    params, carry = state
    key, time = jax.random.key(1), Time(jnp.int32(40), 200, 10.0)
    value, (_, out) = jax.jit(SMALL.loss)(params, carry, VIEWS, key, time)
    x = pixels(VIEWS["image"][:, 0], (0.5,), (0.25,))
    logits = apply_net(SMALL.encoder, params["encoder"], {}, x)[1]["logits"]
    tau, beta = anneal(1.0, 1 / 16, 40, 100), anneal(0.0, 6.6, 40, 5000)
    z = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / tau)
    mu, log_b = jnp.split(apply_net(SMALL.decoder(x), params["decoder"], {}, z)[0], 2, -1)
    expected = logit_laplace(x, mu, log_b).mean() + beta * from_uniform(logits).sum() / x.size
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(out["metrics"]["tau"], tau, rtol=1e-6)
    assert out["metrics"]["health/perplexity"] > 1


def test_what_is_kept_is_an_average_of_the_weights(state):
    params, carry = state
    moved = jax.tree.map(lambda x: x + 1, params)
    _, after = SMALL.update(moved, carry, Time(jnp.int32(0), 100, 1.0))
    for new, old in zip(jax.tree.leaves(after["average"]), jax.tree.leaves(params)):
        np.testing.assert_allclose(new, old + 0.001, rtol=1e-5, atol=1e-6)


def test_reconstructions_are_of_one_code_each(state):
    """The decoder gets whole codes, so images whose codes are alike come back alike."""
    params, carry = state
    x = VIEWS["image"][:, 0]
    shown = np.asarray(jax.jit(SMALL.reconstruct)(params, carry, x, jax.random.key(0)))
    assert shown.shape == (5, 3, 16, 8, 3)
    np.testing.assert_array_equal(shown[:, 0], x)
    squares = shown[:, 1].reshape(5, 4, 4, 2, 4, 3)
    np.testing.assert_array_equal(squares, np.broadcast_to(squares[:, :, :1, :, :1], squares.shape))
    found = np.asarray(SMALL.embed(params, carry, {"image": x})["logits"].argmax(-1))
    colours = {code: squares[:, :, 0, :, 0][found == code] for code in np.unique(found)}
    assert len(colours) > 1
    for of_code in colours.values():
        np.testing.assert_array_equal(of_code, np.broadcast_to(of_code[0], of_code.shape))


def test_perplexity_counts_the_codes_in_use():
    assert health.perplexity(jnp.zeros((3, 4), int), 16) == pytest.approx(1)
    assert health.perplexity(jnp.arange(16).reshape(2, 8), 16) == pytest.approx(16, rel=1e-5)
    assert health.perplexity(jnp.array([1, 1, 5, 5]), 16) == pytest.approx(2, rel=1e-5)


def test_a_collapsed_codebook_is_warned_of():
    assert "uses about 1.3 of its codes" in watch.findings([{"health/perplexity": 1.3}])["codes"]
    assert not watch.findings([{"health/perplexity": 12.0}])


def test_what_cannot_be_is_one_line():
    with pytest.raises(ValueError, match="encoder ConvNet has none, expected jssl"):
        DVAE(convnet())
    with pytest.raises(ValueError, match="image is 12 x 18, expected multiples of a code's 4"):
        jax.eval_shape(SMALL.init, jax.random.key(0), {"image": np.zeros((1, 1, 12, 18, 3), np.float32)})
