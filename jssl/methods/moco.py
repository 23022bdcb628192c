"""MoCo: Momentum Contrast for Unsupervised Visual Representation Learning.

Kaiming He, Haoqi Fan, Yuxin Wu, Saining Xie, Ross Girshick, 2019; arXiv:1911.05722. And v2: Improved Baselines with
Momentum Contrastive Learning. Xinlei Chen, Haoqi Fan, Ross Girshick, Kaiming He, 2020; arXiv:2003.04297.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jssl.losses import info_nce
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_nets, init_nets
from jssl.transforms import ema, gather, push, rows, unit


@dataclasses.dataclass(frozen=True)
class MoCo(Method):
    """A query must find the key of the same image among a queue of keys from earlier batches.

    Keys come from a momentum encoder, a slow average of the query encoder, so that those in the queue stay comparable.
    The negatives forbid collapse: with all embeddings equal, the loss is that of guessing.
    """

    encoder: Net  # f
    hidden: int = 2048
    dim: int = 128
    depth: int = 2  # layers of the head: 1 in v1, 2 in v2
    temperature: float = 0.2  # tau: 0.07 in v1, 0.2 in v2
    queue: int = 65536  # K
    m: float = 0.999  # momentum of the key encoder (v1, table 4.1)
    m_end: float = 0.999  # where m moves to along half a cosine; the paper's is constant
    groups: int = 8  # of batch norm: the paper's GPUs; 1 is the whole batch
    symmetric: bool = False  # each view is once query and once key, as in public tables on CIFAR

    @property
    def nets(self):
        # No batch norm in the head (v2, section 3).
        head = MLP(self.hidden, self.dim, self.depth, norm=False, dtype=self.encoder.dtype)
        return {"encoder": self.encoder, "projector": head}

    def init(self, rng, views):
        rng_nets, rng_queue = jax.random.split(rng)
        params, stats = init_nets(self.nets, rng_nets, views["image"][:, 0])
        target, target_stats = (jax.tree.map(jnp.copy, tree) for tree in (params, stats))
        queue = unit(jax.random.normal(rng_queue, (self.queue, self.dim)))
        carry = {"stats": stats, "target": target, "target_stats": target_stats}
        return params, {**carry, "queue": queue, "pointer": jnp.int32(0)}

    def loss(self, params, carry, views, rng, time):
        x = views["image"]  # [N, V, H, W, C]
        stats, target_stats = carry["stats"], carry["target_stats"]
        queue, pointer = carry["queue"], carry["pointer"]
        losses, queries, features = [], [], []
        for i, (query, key) in enumerate(((0, 1), (1, 0))[: 1 + self.symmetric]):
            rng_drop, rng_shuffle = jax.random.split(jax.random.fold_in(rng, i))

            # Algorithm 1. Query and key of an image take their batch norm from different groups ("shuffling BN",
            # section 3.3): from statistics that they share, the pair could be told without looking at the image.
            out, stats = apply_nets(self.nets, params, stats, x[:, query], rng=rng_drop, groups=self.blocks(x))
            keys, target_stats = apply_nets(
                self.nets, carry["target"], target_stats, x[:, key], groups=self.shuffled(x, rng_shuffle)
            )
            q, k = out["projector"], stop_gradient(keys["projector"])  # [N, dim]

            losses.append(info_nce(q, k, self.temperature, stop_gradient(carry["queue"])))  # eq. 1
            queue, pointer = push(queue, pointer, unit(k))
            queries.append(q)
            features.append(out["encoder"])

        carry = {**carry, "stats": stats, "target_stats": target_stats, "queue": queue, "pointer": pointer}
        z = jnp.stack(queries if self.symmetric else [q, k], 1)  # [N, 2, dim]
        h = jnp.stack(features, 1)  # [N, 1 or 2, D]
        return sum(losses) / len(losses), (
            carry,
            {"metrics": {"m": self.momentum(time)}, "embedding": z, "features": h},
        )

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], params, self.momentum(time))}  # eq. 2

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}

    def momentum(self, time):
        return time.cosine(self.m, self.m_end)

    def blocks(self, x):
        """Groups of the queries: consecutive rows, as the paper's GPUs hold them. One-hot [N, G], or None for one."""
        return None if self.groups == 1 else one_hot(block_of(len(x), self.groups), self.groups)

    def shuffled(self, x, rng):
        """Groups of the keys, equally large, drawn anew at each call. The images themselves stay where they are."""
        if self.groups == 1:
            return None
        return one_hot(gather(jax.random.permutation(rng, block_of(len(x), self.groups))), self.groups)


def block_of(n, groups):
    """The block of each of n rows, int32 [N]: 0 0 .. 1 1 .."""
    if n % groups:
        raise ValueError(f"groups={groups} cannot share {n} images evenly: it has to divide the (micro-)batch")
    return jnp.arange(n) // (n // groups)


def one_hot(group, groups):
    return rows(jax.nn.one_hot(group, groups))
