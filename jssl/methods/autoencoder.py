"""Autoencoders, plain and denoising: the generative baseline.

Geoffrey Hinton, Ruslan Salakhutdinov, 2006: Reducing the Dimensionality of Data with Neural Networks, Science 313.
Pascal Vincent, Hugo Larochelle, Yoshua Bengio, Pierre-Antoine Manzagol, 2008: Extracting and Composing Robust Features
with Denoising Autoencoders, ICML.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jssl.method import Method
from jssl.nets.conv import Decoder
from jssl.nets.net import Net, apply_net, init_net, width


@dataclasses.dataclass(frozen=True)
class Autoencoder(Method):
    """An encoder makes a vector of an image, a decoder the image of the vector again.

    The vector is all that the decoder has, so it must tell what is in the image; it tells what fills pixels, which need
    not be what one wants to know. With noise on its input the encoder cannot copy but must know what images are like
    (Vincent et al., section 2). Nothing can collapse: the targets are the pixels.
    """

    encoder: Net  # f, of any kind: its main output [N, D] is the code
    widths: tuple[int, ...] = (128, 64, 32)  # of the decoder's convolutions, g
    noise: float = 0.0  # deviation of Gaussian noise on the encoder's input, whose pixels have deviation about 1
    drop: float = 0.0  # share of its pixels at 0, in all channels: the noise of Vincent et al.
    activation: str = "relu"

    def __post_init__(self):
        if not 0 <= self.drop < 1:
            raise ValueError(f"method.drop={self.drop}: expected a share of the pixels, from 0 to below 1")

    def decoder(self, x):
        return Decoder(x.shape[1:3], x.shape[-1], tuple(self.widths), self.activation, self.encoder.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_decoder = jax.random.split(rng)
        encoder, stats = init_net(self.encoder, rng_encoder, x)
        code = jnp.zeros((1, width(self.encoder, x)))
        decoder, decoder_stats = init_net(self.decoder(x), rng_decoder, code)
        return {"encoder": encoder, "decoder": decoder}, {"stats": {"encoder": stats, "decoder": decoder_stats}}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_noise, rng_drop = jax.random.split(rng)
        stats, seen = dict(carry["stats"]), self.corrupted(x, rng_noise)
        h, _, stats["encoder"] = apply_net(
            self.encoder, params["encoder"], stats["encoder"], seen, train=True, rng=rng_drop
        )
        y, _, stats["decoder"] = apply_net(self.decoder(x), params["decoder"], stats["decoder"], h, train=True)
        loss = jnp.mean(jnp.square(y - x))
        return loss, ({**carry, "stats": stats}, {"metrics": {}, "embedding": h[:, None], "features": h[:, None]})

    def corrupted(self, x, rng):
        """What the encoder sees of images [N, H, W, C]."""
        rng_noise, rng_drop = jax.random.split(rng)
        x = x + self.noise * jax.random.normal(rng_noise, x.shape) if self.noise else x
        return x * (jax.random.uniform(rng_drop, (*x.shape[:3], 1)) >= self.drop) if self.drop else x

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}

    def reconstruct(self, params, carry, x, rng):
        seen, stats = self.corrupted(x, rng), carry["stats"]
        h = self.embed(params, carry, {"image": seen})["features"]
        return jnp.stack([x, seen, apply_net(self.decoder(x), params["decoder"], stats["decoder"], h)[0]], 1)
