"""VQ-KD, the tokenizer of BEiT v2: vector-quantised knowledge distillation.

Zhiliang Peng, Li Dong, Hangbo Bao, Qixiang Ye, Furu Wei, 2022: BEiT v2: Masked Image Modeling with Vector-Quantized
Visual Tokenizers; arXiv:2208.06366.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from jssl.codes import assign, averaged, painted
from jssl.health import tokens
from jssl.kmeans import collect, kmeans
from jssl.method import Method
from jssl.nets.mlp import MLP, code_head
from jssl.nets.net import Net, apply_net, beside, init_net
from jssl.nets.vit import ViT, grid
from jssl.transforms import cosine, gather, rows, unit


@dataclasses.dataclass(frozen=True)
class VQKD(Method):
    """An encoder gives each patch one code of a codebook; a decoder finds in the codes what a frozen teacher, trained
    before, makes of the patches. So codes stand for what the teacher knows, not for pixels (section 2.2).

    What can collapse is the codebook. It is an average of what is assigned to each code, starts at the k-means of the
    data, and lies with the vectors on a sphere of few dimensions, where nearly all codes stay in use.
    """

    encoder: Net  # the tokenizer's, a ViT
    teacher: str | None = None  # import path of a network that gives 'tokens', or a 'map'; None: the encoder's own
    teacher_fields: tuple = ()  # of that network, or in which it differs from the encoder: (name, value) pairs
    vocabulary: int = 8192  # K, codes
    dim: int = 32  # D, of a code
    depth: int = 3  # blocks of the decoder, which is as wide as the encoder
    decay: float = 0.99  # of the codebook's average
    beta: float = 1.0  # weight of the distance to the codes
    mean: tuple[float, ...] = (0.0,)  # of the views
    std: tuple[float, ...] = (1.0,)
    teacher_mean: tuple[float, ...] | None = None  # of the images that the teacher knows; None: those of the views
    teacher_std: tuple[float, ...] | None = None
    rows: int | None = None  # of the data

    def __post_init__(self):
        if not isinstance(self.encoder, ViT):
            raise ValueError(f"VQKD gives patches codes: encoder {type(self.encoder).__name__}, expected a ViT")

    @property
    def frozen(self):
        """The teacher's network."""
        return beside(self.encoder, self.teacher, self.teacher_fields)

    @property
    def projector(self):
        return code_head(self.encoder.dim, self.dim, self.encoder.dtype)

    def nets(self, targets):
        """What comes after the encoder; targets: dimensions of the teacher's tokens."""
        f = self.encoder
        return {
            "projector": self.projector,
            "decoder": ViT(f.dim, self.depth, f.heads, 1, f.mlp, pool="mean", class_token=False, dtype=f.dtype),
            "head": MLP(f.dim, targets, norm=False, activation="tanh", dtype=f.dtype),
        }

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_teacher, rng_codes, *rngs = jax.random.split(rng, 6)
        teacher, stats = init_net(self.frozen, rng_teacher, x)
        targets = jax.eval_shape(lambda: self.targets({"params": teacher, "stats": stats}, x)).shape
        height, width = grid(x, self.encoder.patch)
        if targets[1] != height * width:
            raise ValueError(
                f"the teacher makes {targets[1]} tokens of an image, the encoder {height * width}; expected as many"
            )
        sizes = ((1, self.encoder.dim), (1, height, width, self.dim), (1, self.encoder.dim))
        params = {"encoder": init_net(self.encoder, rng_encoder, x)[0]}
        for key, (name, net), shape in zip(rngs, self.nets(targets[-1]).items(), sizes, strict=True):
            params[name], _ = init_net(net, key, jnp.zeros(shape))
        codebook = unit(jax.random.normal(rng_codes, (self.vocabulary, self.dim)))
        carry = {"codebook": codebook, "usage": jnp.zeros(self.vocabulary)}
        return params, {**carry, "frozen": {"params": teacher, "stats": stats}}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        t = self.targets(carry["frozen"], x)  # [N, L, T]
        nets = self.nets(t.shape[-1])
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, x, train=True, rng=rng)
        z, _, _ = apply_net(nets["projector"], params["projector"], {}, out["tokens"], train=True)  # [N, L, D], unit

        # The decoder reads codes; its gradient goes on to what they stand for, as if they were that (section 2.2).
        codes = assign(lax.stop_gradient(z), carry["codebook"])  # [N, L]
        v = carry["codebook"][codes]
        quantised = (z + lax.stop_gradient(v - z)).reshape(len(x), *grid(x, self.encoder.patch), self.dim)
        _, out, _ = apply_net(nets["decoder"], params["decoder"], {}, quantised, train=True)
        o, _, _ = apply_net(nets["head"], params["head"], {}, out["tokens"], train=True)  # [N, L, T]

        likeness = cosine(o, t).mean()
        loss = (
            1 - likeness + self.beta * jnp.square(z - lax.stop_gradient(v)).mean()
        )  # eq. 3; the codebook is an average
        codebook, counts = averaged(carry["codebook"], z, codes, self.decay)
        usage = self.decay * carry["usage"] + (1 - self.decay) * counts
        metrics = {"cosine": likeness, **tokens(codes, self.vocabulary)}
        carry = {**carry, "codebook": codebook, "usage": usage}
        return loss, (carry, {"metrics": metrics, "embedding": z.mean(1)[:, None], "features": h[:, None]})

    def refresh(self, params, carry, batches, rng):
        """The codebook starts at the spherical k-means of the data, one patch of each image; only once."""
        if carry["usage"].any():
            return params, carry
        z, index = collect(functools.partial(one_patch, self, params), batches, self.rows)  # [S, B, D], [S, B]
        if (index >= 0).sum() < self.vocabulary:
            return params, carry
        found = kmeans(z, rng, self.vocabulary, weights=index >= 0, iterations=10, start="random", spherical=True)
        return params, {**carry, "codebook": found.centroids}

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def targets(self, frozen, x):
        """What the teacher makes of each patch, [N, L, T]. No gradient passes."""
        stats = frozen.get("stats", {})
        x = renormalised(x, self.mean, self.std, self.teacher_mean or self.mean, self.teacher_std or self.std)
        _, out, _ = apply_net(self.frozen, lax.stop_gradient(frozen["params"]), lax.stop_gradient(stats), x)
        return out["tokens"] if "tokens" in out else out["map"].reshape(len(x), -1, out["map"].shape[-1])

    def reconstruct(self, params, carry, x, rng):
        """The images, and their codes as colours."""
        out = self.embed(params, carry, {"image": x})
        z, _, _ = apply_net(self.projector, params["projector"], {}, out["tokens"])
        codes = assign(z, carry["codebook"]).reshape(len(x), *grid(x, self.encoder.patch))
        return jnp.stack([x, painted(codes, x, self.vocabulary)], 1)


def renormalised(x, mean, std, new_mean, new_std):
    """Images [N, H, W, C] of one mean and deviation with others; bit by bit the same where those are the same."""
    if (mean, std) == (new_mean, new_std):
        return x
    mean, std, new_mean, new_std = map(jnp.asarray, (mean, std, new_mean, new_std))
    return (x * std + mean - new_mean) / new_std


@functools.partial(jax.jit, static_argnums=0)
def one_patch(method, params, batch):
    """The vector of one patch of each image, another one for each row of the data. [B, D]"""
    params = gather(params)
    _, out, _ = apply_net(method.encoder, params["encoder"], {}, batch["image"])
    z, _, _ = apply_net(method.projector, params["projector"], {}, out["tokens"])
    place = jnp.abs(batch["index"]) % z.shape[1]
    return rows(jnp.take_along_axis(z, place[:, None, None], 1)[:, 0])
