"""The discrete autoencoder (dVAE) of DALL-E, the tokenizer of BEiT.

Aditya Ramesh, Mikhail Pavlov, Gabriel Goh, Scott Gray, Chelsea Voss, Alec Radford, Mark Chen, Ilya Sutskever, 2021:
Zero-Shot Text-to-Image Generation; arXiv:2102.12092.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jssl.codes import painted
from jssl.health import tokens
from jssl.method import Method
from jssl.nets.dvae import Decoder, images, pixels
from jssl.nets.net import Net, apply_net, init_net
from jssl.transforms import ema


@dataclasses.dataclass(frozen=True)
class DVAE(Method):
    """An encoder gives each square of an image a distribution over codes; a decoder makes the image of the codes again.

    Codes are drawn by the Gumbel-softmax (Jang et al., 2016; arXiv:1611.01144), whose temperature falls until nearly
    one code is left of each draw. What can collapse is the codebook, to a few codes: a divergence from the uniform
    distribution, with a weight that rises from 0, keeps many in use.
    """

    encoder: Net  # of jssl.nets.dvae
    initial: int = 128  # width of the decoder's first layer
    mean: tuple[float, ...] = (0.0,)  # of the views, which is undone
    std: tuple[float, ...] = (1.0,)
    beta: float = 6.6  # weight of the divergence, from 0
    beta_steps: int = 5000
    tau: float = 1 / 16  # temperature, from 1
    tau_steps: int = 150_000
    momentum: float = 0.999  # of the average of the weights, which is what counts afterwards

    def __post_init__(self):
        if not hasattr(self.encoder, "vocabulary"):
            name = type(self.encoder).__name__
            raise ValueError(f"DVAE makes codes: encoder {name} has none, expected jssl.nets.dvae:Encoder")

    def decoder(self, x):
        f = self.encoder
        return Decoder(x.shape[-1], self.initial, f.hidden, f.groups, f.blocks, f.activation, f.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_decoder = jax.random.split(rng)
        encoder, _ = init_net(self.encoder, rng_encoder, x)
        decoder, _ = init_net(self.decoder(x), rng_decoder, jnp.zeros((1, 1, 1, self.encoder.vocabulary)))
        params = {"encoder": encoder, "decoder": decoder}
        return params, {"average": jax.tree.map(jnp.copy, params)}

    def loss(self, params, carry, views, rng, time):
        x = pixels(views["image"][:, 0], self.mean, self.std)  # [N, H, W, C]
        tau, beta = anneal(1.0, self.tau, time.step, self.tau_steps), anneal(0.0, self.beta, time.step, self.beta_steps)
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, x, train=True)
        logits = out["logits"]  # [N, h, w, K]
        z = jax.nn.softmax((logits + jax.random.gumbel(rng, logits.shape)) / tau)
        y, _, _ = apply_net(self.decoder(x), params["decoder"], {}, z, train=True)

        # The evidence bound per subpixel, as the paper divides it (appendix A.3).
        nats = logit_laplace(x, *jnp.split(y, 2, -1)).mean()
        divergence = from_uniform(logits)  # [N, h, w]
        loss = nats + beta * divergence.sum() / x.size
        codes = logits.argmax(-1)
        metrics = {
            "nats": nats,
            "divergence": divergence.mean(),
            "tau": tau,
            "beta": beta,
            **tokens(codes, self.encoder.vocabulary),
        }
        return loss, (carry, {"metrics": metrics, "features": h[:, None]})

    def update(self, params, carry, time):
        return params, {**carry, "average": ema(carry["average"], params, self.momentum)}

    def embed(self, params, carry, inputs):
        x = pixels(inputs["image"], self.mean, self.std)
        h, out, _ = apply_net(self.encoder, carry["average"]["encoder"], {}, x)
        return {"features": h, "tokens": out["map"].reshape(len(x), -1, h.shape[-1]), **out}

    def reconstruct(self, params, carry, x, rng):
        """The images, their codes as colours, and what the decoder makes of those."""
        codes = self.embed(params, carry, {"image": x})["logits"].argmax(-1)  # [N, h, w]
        vocabulary = self.encoder.vocabulary
        y, _, _ = apply_net(self.decoder(x), carry["average"]["decoder"], {}, jax.nn.one_hot(codes, vocabulary))
        again = images(jax.nn.sigmoid(y[..., : x.shape[-1]]), self.mean, self.std)
        return jnp.stack([x, painted(codes, x, vocabulary), again], 1)


def anneal(start, end, step, steps):
    """From `start` to `end` along half a cosine in so many steps, then constant (appendix A.2)."""
    return end + (start - end) * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0))) / 2


def logit_laplace(x, mu, log_b):
    """-log of the density of pixels x in (0, 1), whose logits have a Laplace distribution (eq. 2). All [..., C]."""
    logit = jnp.log(x) - jnp.log1p(-x)
    return jnp.log(2.0) + log_b + jnp.log(x) + jnp.log1p(-x) + jnp.abs(logit - mu) * jnp.exp(-log_b)


def from_uniform(logits):
    """KL divergence of softmax(logits) from the uniform distribution, in nats. [..., K] -> [...]"""
    log_q = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_q) * log_q, -1) + jnp.log(logits.shape[-1])
