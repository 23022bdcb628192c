"""BEiT: BERT Pre-Training of Image Transformers.

Hangbo Bao, Li Dong, Songhao Piao, Furu Wei, 2021; arXiv:2106.08254.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jssl.codes import predictions_sheet, resized
from jssl.health import perplexity
from jssl.masking import block_share, hidden_first
from jssl.method import Method
from jssl.nets.dvae import pixels
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, beside, init_net
from jssl.nets.vit import check_mask_token, grid


@dataclasses.dataclass(frozen=True)
class BEiT(Method):
    """The encoder sees an image with some blocks of patches hidden and names the hidden ones' codes, which a tokenizer
    that was trained before gives them: masked language modelling on images.

    Codes leave out the detail that pixels would ask for (section 2.1). Nothing can collapse: the tokenizer,
    `carry['frozen']`, never moves.
    """

    encoder: Net  # a ViT
    tokenizer: str = "jssl.nets.dvae:Encoder"  # import path of a network that gives 'logits' of codes
    tokenizer_fields: tuple = ()  # of that network: (name, value) pairs
    mask_ratio: float = 0.4  # of the patches, in blocks (section 2.3)
    block: int = 16  # patches of the smallest block
    mean: tuple[float, ...] = (0.0,)  # of the views, which is undone for the tokenizer
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        check_mask_token("BEiT", self.encoder)

    @property
    def masked(self):
        return self.encoder.clone(mask_token=True)

    @property
    def teacher(self):
        return beside(self.encoder, self.tokenizer, self.tokenizer_fields)

    @property
    def head(self):
        return MLP(0, self.teacher.vocabulary, depth=1, dtype=self.encoder.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_head, rng_tokenizer = jax.random.split(rng, 3)
        encoder, _ = init_net(self.masked, rng_encoder, x)
        head, _ = init_net(self.head, rng_head, jnp.zeros((1, 1, self.encoder.dim)))
        tokenizer, _ = init_net(self.teacher, rng_tokenizer, self.seen(x))
        return {"encoder": encoder, "head": head}, {"frozen": {"tokenizer": tokenizer}}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_mask, rng_drop = jax.random.split(rng)
        hidden = self.mask(rng_mask, x)  # [N, L]
        place = hidden_first(hidden, round(hidden.shape[1] * self.mask_ratio))  # [N, S]
        z = jnp.take_along_axis(self.codes(carry["frozen"], x), place, 1)  # [N, S]

        h, out, _ = apply_net(self.masked, params["encoder"], {}, x, hidden=hidden, train=True, rng=rng_drop)
        tokens = jnp.take_along_axis(out["tokens"], place[..., None], 1)
        logits, _, _ = apply_net(self.head, params["head"], {}, tokens, train=True)  # [N, S, K]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, z).mean()  # eq. 1, of hidden patches alone
        metrics = {"accuracy": jnp.mean(logits.argmax(-1) == z), "perplexity": perplexity(z, self.teacher.vocabulary)}
        return loss, (carry, {"metrics": metrics, "embedding": h[:, None], "features": h[:, None]})

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def reconstruct(self, params, carry, x, rng):
        """The images, what the encoder sees of them, the tokenizer's codes, and those with the predicted ones."""
        hidden = self.mask(rng, x)
        _, out, _ = apply_net(self.masked, params["encoder"], {}, x, hidden=hidden)
        found = apply_net(self.head, params["head"], {}, out["tokens"])[0].argmax(-1)
        z = self.codes(carry["frozen"], x)
        return predictions_sheet(x, hidden, z, found, self.teacher.vocabulary, self.encoder.patch)

    def mask(self, rng, x):
        return block_share(rng, len(x), grid(x, self.encoder.patch), self.mask_ratio, self.block)

    def seen(self, x):
        """What the tokenizer sees of images: smaller ones, where its codes are of other squares than the patches."""
        return pixels(resized(x, grid(x, self.encoder.patch), self.teacher.stride), self.mean, self.std)

    def codes(self, frozen, x):
        """The code of every patch: images [N, H, W, C] -> int32 [N, L]. No gradient passes."""
        _, out, _ = apply_net(self.teacher, lax.stop_gradient(frozen["tokenizer"]), {}, self.seen(x))
        return out["logits"].argmax(-1).reshape(len(x), -1)
