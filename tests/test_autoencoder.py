"""The autoencoder: what the encoder sees, what the decoder has, and that images come back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl.method import Time
from jssl.methods.autoencoder import Autoencoder
from jssl.nets.conv import Decoder, convnet
from jssl.nets.net import apply_net, init_net

SMALL = Autoencoder(convnet((8, 16)), widths=(16, 8))
IMAGES = np.random.RandomState(0).randn(6, 1, 8, 12, 3).astype(np.float32)
START = Time(0, 100, 10.0)


@pytest.fixture(scope="module")
def state():
    return jax.jit(SMALL.init)(jax.random.key(0), {"image": IMAGES})


def test_the_loss_is_the_squared_error_of_the_decoders_image_of_the_code(state):
    params, carry = state
    loss, (after, out) = jax.jit(SMALL.loss)(params, carry, {"image": IMAGES}, jax.random.key(1), START)
    x, stats = IMAGES[:, 0], carry["stats"]
    h, _, _ = apply_net(SMALL.encoder, params["encoder"], stats["encoder"], x, train=True)
    y, _, _ = apply_net(SMALL.decoder(x), params["decoder"], stats["decoder"], h, train=True)
    assert y.shape == x.shape
    np.testing.assert_allclose(loss, np.mean((y - x) ** 2), rtol=1e-5)
    np.testing.assert_allclose(out["features"][:, 0], h, atol=1e-5)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)


def test_noise_is_on_the_input_and_never_on_the_target(state):
    noisy = dataclasses.replace(SMALL, noise=0.5)
    x = np.zeros((50, 8, 12, 3), np.float32)
    assert np.asarray(noisy.corrupted(x, jax.random.key(0))).std() == pytest.approx(0.5, abs=0.02)
    masked = np.asarray(dataclasses.replace(SMALL, drop=0.3).corrupted(x + 1, jax.random.key(0)))
    assert (masked == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (masked.min(-1) == masked.max(-1)).all()  # all channels of a pixel together
    np.testing.assert_array_equal(SMALL.corrupted(x, jax.random.key(0)), x)
    params, carry = state
    loss = jax.jit(lambda params, rng: noisy.loss(params, carry, {"image": IMAGES}, rng, START)[0])
    assert loss(params, jax.random.key(0)) != loss(params, jax.random.key(1))
    blank = {**params, "decoder": jax.tree.map(jnp.zeros_like, params["decoder"])}
    np.testing.assert_allclose(loss(blank, jax.random.key(0)), np.mean(IMAGES**2), rtol=1e-5)


def test_images_come_back():
    """Eight of them, by heart."""
    method = Autoencoder(convnet((16, 32)), widths=(32, 16))
    x = np.random.RandomState(0).rand(8, 1, 8, 8, 1).astype(np.float32)
    params, carry = jax.jit(method.init)(jax.random.key(0), {"image": x})
    tx = optax.adam(1e-2)
    opt = tx.init(params)

    @jax.jit
    def step(params, carry, opt, rng):
        run = lambda params: method.loss(params, carry, {"image": x}, rng, START)
        (loss, (carry, _)), grads = jax.value_and_grad(run, has_aux=True)(params)
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(params, updates), carry, opt, loss

    for i in range(300):
        params, carry, opt, loss = step(params, carry, opt, jax.random.key(i))
    assert loss < x.var() / 10
    image, seen, again = jnp.moveaxis(jax.jit(method.reconstruct)(params, carry, x[:, 0], jax.random.key(0)), 1, 0)
    np.testing.assert_array_equal(image, x[:, 0])
    np.testing.assert_array_equal(seen, x[:, 0])  # without noise
    assert np.mean((again - x[:, 0]) ** 2) < x.var() / 4


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="images of 10 x 12 pixels cannot be halved 2 times"):
        Decoder((10, 12), 3, (8, 8, 8))
    with pytest.raises(ValueError, match=r"method\.drop=1\.0: expected a share"):
        dataclasses.replace(SMALL, drop=1.0)
    net = Decoder((9, 5), 2, (4,))
    params, stats = init_net(net, jax.random.key(0), jnp.zeros((1, 3)))
    assert apply_net(net, params, stats, jnp.ones((2, 3)))[0].shape == (2, 9, 5, 2)
