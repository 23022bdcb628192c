"""BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers.

Zhiliang Peng, Li Dong, Hangbo Bao, Qixiang Ye, Furu Wei, 2022; arXiv:2208.06366.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jssl.codes import assign, predictions_sheet, resized
from jssl.health import perplexity
from jssl.masking import block_share, hidden_first
from jssl.method import Method
from jssl.nets.decoder import Tower
from jssl.nets.mlp import MLP, code_head
from jssl.nets.net import Net, apply_net, beside, init_net
from jssl.nets.vit import check_mask_token, grid


@dataclasses.dataclass(frozen=True)
class BEiTv2(Method):
    """BEiT with codes that stand for what a teacher knows, those of VQ-KD, and with a bottleneck that makes the class
    token tell what is in the image: patches of a middle block and the last block's class token name the codes too.

    Nothing can collapse: the tokenizer, `carry['frozen']`, never moves.
    """

    encoder: Net  # a ViT with a class token
    tokenizer: str | None = None  # import path of the tokenizer's encoder, a ViT; None: the encoder's own
    tokenizer_fields: tuple = ()  # of that network, or in which it differs from the encoder: (name, value) pairs
    vocabulary: int = 8192  # K, codes
    dim: int = 32  # of a code
    mask_ratio: float = 0.4  # of the patches, in blocks
    block: int = 16  # patches of the smallest block
    early: int = 9  # l, the block whose patches the bottleneck sees (section 2.3)
    depth: int = 2  # blocks of the bottleneck's head; 0: none, BEiT's loss alone

    def __post_init__(self):
        check_mask_token("BEiTv2", self.encoder)
        if self.depth and not getattr(self.encoder, "class_token", False):
            raise ValueError("BEiTv2 has a bottleneck of the class token: expected an encoder with one, or depth=0")
        if not 0 < self.early <= self.encoder.depth:
            raise ValueError(f"method.early={self.early}: expected a block of the encoder, 1 to {self.encoder.depth}")

    @property
    def masked(self):
        return self.encoder.clone(mask_token=True)

    @property
    def teacher(self):
        return beside(self.encoder, self.tokenizer, self.tokenizer_fields)

    @property
    def projector(self):
        return code_head(self.teacher.dim, self.dim, self.encoder.dtype)

    @property
    def head(self):
        """From tokens to codes; the encoder's and the bottleneck's share it."""
        return MLP(0, self.vocabulary, depth=1, dtype=self.encoder.dtype)

    @property
    def tower(self):
        f = self.encoder
        drops = (*f.drops, *[f.drop_path] * self.depth)[self.early : self.early + self.depth]
        return Tower(tuple(drops), f.heads, f.relative is not None, f.layer_scale, f.eps, f.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_head, rng_tower, rng_tokenizer, rng_projector, rng_codes = jax.random.split(rng, 6)
        encoder, _ = init_net(self.masked, rng_encoder, x)
        params = {"encoder": encoder, "head": init_net(self.head, rng_head, jnp.zeros((1, 1, self.encoder.dim)))[0]}
        if self.depth:
            shape = grid(x, self.encoder.patch)
            tokens = jnp.zeros((1, 1 + shape[0] * shape[1], self.encoder.dim))
            tower, _ = init_net(self.tower, rng_tower, tokens, shape)
            params["tower"] = {name: of for name, of in tower.items() if name not in shared(encoder)}
        frozen = {
            "tokenizer": init_net(self.teacher, rng_tokenizer, self.seen(x))[0],
            "projector": init_net(self.projector, rng_projector, jnp.zeros((1, 1, self.teacher.dim)))[0],
            "codebook": jax.random.normal(rng_codes, (self.vocabulary, self.dim)),
        }
        return params, {"frozen": frozen}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_mask, rng_drop, rng_tower = jax.random.split(rng, 3)
        hidden = self.mask(rng_mask, x)  # [N, L]
        place = hidden_first(hidden, round(hidden.shape[1] * self.mask_ratio))[..., None]  # [N, S, 1]
        z = jnp.take_along_axis(self.codes(carry["frozen"], x), place[..., 0], 1)  # [N, S]

        h, out, _ = apply_net(self.masked, params["encoder"], {}, x, hidden=hidden, train=True, rng=rng_drop)
        loss, accuracy = self.named(params, jnp.take_along_axis(out["tokens"], place, 1), z)  # eq. 5
        metrics = {"accuracy": accuracy, "perplexity": perplexity(z, self.vocabulary)}
        if self.depth:
            # Patches that know little yet: what they lack, the class token has to bring (section 2.3, eq. 6).
            length = hidden.shape[1]
            tokens = jnp.concatenate([out["layers"][-1][:, :1], out["layers"][self.early - 1][:, -length:]], 1)
            tower = params["tower"] | shared(params["encoder"])
            where, how = grid(x, self.encoder.patch), {"train": True, "rng": rng_tower}
            tokens, _, _ = apply_net(self.tower, tower, {}, tokens, where, **how)
            of_class, metrics["bottleneck/accuracy"] = self.named(params, jnp.take_along_axis(tokens, 1 + place, 1), z)
            loss += of_class
        return loss, (carry, {"metrics": metrics, "embedding": h[:, None], "features": h[:, None]})

    def named(self, params, tokens, z):
        """Cross-entropy and accuracy of the codes z [N, S] by tokens [N, S, D]."""
        logits, _, _ = apply_net(self.head, params["head"], {}, tokens, train=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, z).mean()
        return loss, jnp.mean(logits.argmax(-1) == z)

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def reconstruct(self, params, carry, x, rng):
        """The images, what the encoder sees of them, the tokenizer's codes, and those with the predicted ones."""
        hidden = self.mask(rng, x)
        _, out, _ = apply_net(self.masked, params["encoder"], {}, x, hidden=hidden)
        found = apply_net(self.head, params["head"], {}, out["tokens"])[0].argmax(-1)
        z = self.codes(carry["frozen"], x)
        return predictions_sheet(x, hidden, z, found, self.vocabulary, self.encoder.patch)

    def mask(self, rng, x):
        return block_share(rng, len(x), grid(x, self.encoder.patch), self.mask_ratio, self.block)

    def seen(self, x):
        """What the tokenizer sees of images: of another size, where its patches are."""
        return resized(x, grid(x, self.encoder.patch), self.teacher.patch)

    def codes(self, frozen, x):
        """The code of every patch: images [N, H, W, C] -> int32 [N, L]. No gradient passes."""
        frozen = lax.stop_gradient(frozen)
        _, out, _ = apply_net(self.teacher, frozen["tokenizer"], {}, self.seen(x))
        v, _, _ = apply_net(self.projector, frozen["projector"], {}, out["tokens"])
        return assign(v, frozen["codebook"])


def shared(encoder):
    """What the bottleneck's blocks have of the encoder, as in the authors' code: its biases, where all its blocks have
    the same, and its last norm."""
    return {name: encoder[name] for name in ("relative", "norm") if name in encoder}
