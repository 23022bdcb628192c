"""data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language.

Alexei Baevski, Wei-Ning Hsu, Qiantong Xu, Arun Babu, Jiatao Gu, Michael Auli, 2022; arXiv:2202.03555.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jssl.masking import block_share
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, init_net
from jssl.nets.vit import check_mask_token, grid
from jssl.transforms import ema, mean_over, normalised


@dataclasses.dataclass(frozen=True)
class Data2Vec(Method):
    """A student that sees part of an image predicts what its teacher makes of the hidden patches, seeing all of it.

    Targets are not of one layer but the mean of the teacher's top K, so they are contextual and rich. The teacher is a
    slow average of the student; normalising every target keeps them from becoming constant (section 3.3).
    """

    encoder: Net  # a ViT
    mask_ratio: float = 0.6  # of the patches, in blocks (section 4.1)
    block: int = 16  # patches of the smallest block
    top: int = 6  # K
    beta: float = 2.0  # of the smooth L1 loss, eq. 4
    tau_start: float = 0.9998  # of the teacher
    tau: float = 0.9998  # reached along a line, then constant
    tau_epochs: float = 0.0  # until then
    post_norm: bool = False  # targets normalised once more after the mean: the authors' code for ViT-B

    def __post_init__(self):
        check_mask_token("Data2Vec", self.encoder)
        if not 0 < self.top <= self.encoder.depth:
            raise ValueError(
                f"method.top={self.top}: the encoder has {self.encoder.depth} blocks, expected 1 to as many"
            )

    @property
    def student(self):
        return self.encoder.clone(mask_token=True)

    @property
    def teacher(self):
        return self.encoder.clone(drop_path=0.0)

    @property
    def head(self):
        return MLP(0, self.encoder.dim, depth=1, dtype=self.encoder.dtype)

    def init(self, rng, views):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_encoder, rng_head = jax.random.split(rng)
        encoder, _ = init_net(self.student, rng_encoder, x)
        head, _ = init_net(self.head, rng_head, jnp.zeros((1, 1, self.encoder.dim)))
        return {"encoder": encoder, "head": head}, {"target": jax.tree.map(jnp.copy, encoder)}

    def loss(self, params, carry, views, rng, time):
        x = views["image"][:, 0]  # [N, H, W, C]
        rng_mask, rng_drop = jax.random.split(rng)
        hidden = self.mask(rng_mask, x)  # [N, L]

        # The teacher sees the whole image; its top K blocks are the targets (section 3.3).
        h, out, _ = apply_net(self.teacher, carry["target"], {}, x)
        length = hidden.shape[1]
        y = self.targets([layer[:, -length:] for layer in out["layers"][-self.top :]])  # [N, L, D]

        # The student sees mask tokens in the place of hidden patches.
        _, out, _ = apply_net(self.student, params["encoder"], {}, x, hidden=hidden, train=True, rng=rng_drop)
        f, _, _ = apply_net(self.head, params["head"], {}, out["tokens"], train=True)  # [N, L, D]

        loss = mean_over(smooth_l1(f, y, self.beta).mean(-1), hidden)  # of hidden patches alone
        metrics = {"tau": self.momentum(time)}
        return loss, (carry, {"metrics": metrics, "embedding": h[:, None], "features": h[:, None]})

    def targets(self, layers):
        """The mean of layers [N, L, D], each normalised without learned scale (section 3.3). No gradient passes."""
        y = sum(normalised(layer) for layer in layers) / len(layers)
        return lax.stop_gradient(normalised(y) if self.post_norm else y)

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], params["encoder"], self.momentum(time))}

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def mask(self, rng, x):
        return block_share(rng, len(x), grid(x, self.encoder.patch), self.mask_ratio, self.block)

    def momentum(self, time):
        """From tau_start to tau along a line (section 3.2)."""
        return time.line(self.tau_start, self.tau, self.tau_epochs)


def smooth_l1(f, y, beta):
    """Eq. 4: quadratic where the error is below beta, else linear."""
    return optax.huber_loss(f, y, delta=beta) / beta
