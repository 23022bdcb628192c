"""iBOT: Image BERT Pre-Training with Online Tokenizer; and DINOv2, which is built on it.

Jinghao Zhou, Chen Wei, Huiyu Wang, Wei Shen, Cihang Xie, Alan Yuille, Tao Kong, 2021; arXiv:2111.07832.
Maxime Oquab, Timothée Darcet, Théo Moutakanni et al., 2023; arXiv:2304.07193.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.config import nearest
from jssl.health import assignments
from jssl.losses import cross_crops, cross_patches, koleo, shares
from jssl.masking import block_mask, hidden_first
from jssl.method import Method
from jssl.nets.mlp import prototype_head
from jssl.nets.net import Net, apply_net, beside, init_net, init_nets
from jssl.nets.vit import grid
from jssl.transforms import ema, sinkhorn

CENTERING = ("mean", "sinkhorn", "none")


@dataclasses.dataclass(frozen=True)
class IBOT(Method):
    """DINO, and the same for patches: the student sees large crops with hidden patches, and predicts the distributions
    that its teacher, who sees all of the crop, gives those.

    The teacher is the tokenizer, learned meanwhile (section 3.2). What keeps class tokens and patches from collapse is
    DINO's centring and sharpening, of each by itself; in DINOv2 it can be SwAV's balanced assignments instead, and
    KoLeo spreads the class tokens.

    Distillation (DINOv2, section 5): with `teacher` the same loop has a larger network, trained before, as its frozen
    teacher. Nothing is hidden, all patches of the large crops are compared, and the average of the student, which
    teaches nobody then, is what `embed` reads.
    """

    encoder: Net  # f, a ViT with a class token
    hidden: int = 2048
    dim: int = 256  # of the bottleneck
    prototypes: int = 8192  # K
    patch_prototypes: int | None = None  # of a head for patches alone; None: they share that of class tokens
    patch_dim: int | None = None  # of that head's bottleneck; None: `dim`
    depth: int = 3  # layers of the head up to the bottleneck
    norm_last_layer: bool = True  # False: the last layer's columns learn their lengths
    tau_s: float = 0.1
    tau_t: float = 0.07
    tau_t_start: float = 0.04
    tau_t_warmup: float = 30.0  # epochs, from tau_t_start to tau_t
    m: float = 0.9  # of the centres
    center_hidden: bool = False  # whether the patches' centre is of the hidden ones alone, as in DINOv2's code
    lambda_base: float = 0.996  # of the teacher
    mask_probability: float = 0.5  # of a large crop to have hidden patches
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # of its patches, drawn evenly (section 4.1)
    mask_group: int = 1  # crops of which just that share have any, by ratios spread out; in DINOv2's code, a GPU's
    block: int = 16  # patches of the smallest block
    cls_weight: float = 1.0
    patch_weight: float = 1.0
    koleo_weight: float = 0.0  # of the student's class tokens of each large crop; 0.1 in DINOv2
    centering: str = "mean"  # or "sinkhorn", or "none", for the ablation
    teacher: str | None = None  # the import path of a frozen teacher's encoder; None: the student's average teaches
    teacher_fields: tuple = ()  # of that encoder: (name, value) pairs

    def __post_init__(self):
        for role in "encoder", "teacher_net":
            net = getattr(self, role)
            if not getattr(net, "class_token", False):
                name = type(net).__name__
                raise ValueError(f"IBOT compares class tokens and patches: encoder {name} has none, expected a ViT")
        if not 0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1:
            raise ValueError(f"method.mask_ratio={self.mask_ratio}: expected two shares between 0 and 1, ascending")
        masked = self.mask_probability * self.mask_group
        if self.mask_group != 1 and (self.mask_group < 1 or abs(masked - round(masked)) > 1e-6):
            whole = f"of which method.mask_probability={self.mask_probability:g} is a whole number"
            raise ValueError(f"method.mask_group={self.mask_group}: expected 1, or a number of crops {whole}")
        if self.centering not in CENTERING:
            raise ValueError(f"method.centering={self.centering!r}{nearest(self.centering, CENTERING)}")
        if self.encoder.patch != self.teacher_net.patch:
            patches = f"the student's patches have {self.encoder.patch} pixels, the teacher's {self.teacher_net.patch}"
            raise ValueError(f"IBOT compares patches one by one: {patches}; expected the same")

    @property
    def student(self):
        return self.encoder.clone(mask_token=self.teacher is None)

    @property
    def teacher_net(self):
        if self.teacher is None:
            return self.encoder.clone(drop_path=0.0)
        return beside(self.encoder, self.teacher, self.teacher_fields)

    @property
    def heads(self):
        """{"head": of class tokens, "patch_head": of patches, where they have their own}, each {name: network}."""
        make = lambda dim, k: prototype_head(self.hidden, dim, k, self.depth, dtype=self.encoder.dtype)
        heads = {"head": make(self.dim, self.prototypes)}
        if self.patch_prototypes is not None:
            heads["patch_head"] = make(self.patch_dim or self.dim, self.patch_prototypes)
        return heads

    @property
    def patch_head(self):
        """The name of the head that patches have."""
        return "head" if self.patch_prototypes is None else "patch_head"

    def init(self, rng, views):
        x = views["image"][:, 0]
        params = self.init_with_heads(self.student, rng, x)
        carry = {"target": jax.tree.map(jnp.copy, params)}
        if self.teacher is not None:
            # All that its own training left is taken over, a mask token included.
            teacher = self.teacher_net.clone(mask_token=True)
            carry["frozen"] = self.init_with_heads(teacher, jax.random.fold_in(rng, 0), x)
        if self.centering == "mean":
            numbers = {"cls": self.prototypes, "patch": self.patch_prototypes or self.prototypes}
            carry["center"] = {name: jnp.zeros(k) for name, k in numbers.items()}
        return params, carry

    def init_with_heads(self, encoder, rng, x):
        rng_encoder, *rngs = jax.random.split(rng, 3)
        params = {"encoder": init_net(encoder, rng_encoder, x)[0]}
        for key, (name, nets) in zip(rngs, self.heads.items()):
            params[name], _ = init_nets(nets, key, jnp.zeros((1, encoder.dim)))
            if not self.norm_last_layer:
                params[name]["gain"] = jnp.ones((1, nets["last"].dim))
        return params

    def loss(self, params, carry, views, rng, time):
        x = views["image"]  # [N, V, H, W, C]
        n, v = x.shape[:2]
        rng_mask, rng_large, rng_small = jax.random.split(rng, 3)
        large = x.reshape(n * v, *x.shape[2:])
        hidden, place, weights = self.patches(rng_mask, large)  # [N * V, L], [G, S], [G, S]

        # The teacher sees the large crops, whole.
        teacher = carry["target"] if self.teacher is None else carry["frozen"]
        _, out, _ = apply_net(self.teacher_net, teacher["encoder"], {}, large)
        t, _ = self.scores("head", teacher, out["cls"].reshape(n, v, -1))  # [N, V, K]
        t_patch, mean = self.taught(teacher, out["tokens"], place, weights > 0)  # [G, S, K], [K]

        # The student sees them with hidden patches, and the small ones.
        how = {"hidden": hidden, "train": True, "rng": rng_large}
        _, out, _ = apply_net(self.student, params["encoder"], {}, large, **how)
        s_patch, _ = self.scores(self.patch_head, params, at(out["tokens"], place))
        h = [out["cls"].reshape(n, v, -1)]
        if "local" in views:
            small = views["local"].reshape(-1, *views["local"].shape[2:])
            _, out, _ = apply_net(self.student, params["encoder"], {}, small, train=True, rng=rng_small)
            h.append(out["cls"].reshape(n, -1, self.encoder.dim))
        h = jnp.concatenate(h, 1)  # [N, V + L, D]
        s, z = self.scores("head", params, h)  # [N, V + L, K]

        p_t, p_patch = self.targets(t, t_patch, weights > 0, carry, time)
        cls_loss = cross_crops(p_t, jax.nn.log_softmax(s / self.tau_s))
        patch_loss = cross_patches(p_patch, jax.nn.log_softmax(s_patch / self.tau_s), weights)  # eq. 2
        loss = self.cls_weight * cls_loss + self.patch_weight * patch_loss
        metrics = {"cls_loss": cls_loss, "patch_loss": patch_loss}
        if self.koleo_weight:
            metrics["koleo"] = sum(koleo(h[:, i]) for i in range(v))
            loss += self.koleo_weight * metrics["koleo"]

        if "center" in carry:
            means = {"cls": t.mean((0, 1)), "patch": mean}
            carry = {**carry, "center": ema(carry["center"], lax.stop_gradient(means), self.m)}
        metrics |= {"tau_t": self.temperature(time), "lambda": self.momentum(time), **assignments(p_t)}
        return loss, (carry, {"metrics": metrics, "embedding": z, "features": h})

    def targets(self, t, t_patch, there, carry, time):
        """The teacher's distributions, of its scores of crops [N, V, K] and patches [G, S, K]. No gradient passes."""
        tau = self.temperature(time)
        center = carry.get("center", {"cls": 0.0, "patch": 0.0})
        t, t_patch, center = lax.stop_gradient((t, t_patch, center))
        if self.centering == "sinkhorn":
            weights = there | ~there.any()  # without any hidden patch nothing of this counts
            flat = lambda x: x.reshape(-1, x.shape[-1])
            balanced = lambda x, weights: sinkhorn([flat(x)], tau, weights=weights)[0].reshape(x.shape)
            return balanced(t, None), balanced(t_patch, [weights.reshape(-1)])
        return jax.nn.softmax((t - center["cls"]) / tau), jax.nn.softmax((t_patch - center["patch"]) / tau)

    def scores(self, name, params, h):
        """Features [..., D] -> their scores by a head, float32 [..., K], and the unit vectors before its last layer."""
        z = self.project(name, params, h)
        return self.last(name, params, z), z

    def project(self, name, params, h):
        return apply_net(self.heads[name]["projector"], params[name]["projector"], {}, h)[0]

    def last(self, name, params, z):
        scores, _, _ = apply_net(self.heads[name]["last"], params[name]["last"], {}, z)
        return scores * params[name].get("gain", 1.0)

    def taught(self, params, tokens, place, there):
        """The teacher's scores [G, S, K] of the patches at `place` [G, S] or, if None, of all; and the mean score [K]
        of all, the visible ones too, as in iBOT's code, or of those that are `there`, bool [G, S].

        Scores are linear in the vectors before them, so it is that of the mean vector.
        """
        name = self.patch_head
        if self.centering == "mean" and not self.center_hidden:
            z = self.project(name, params, tokens)
            mean, z = z.mean((0, 1)), at(z, place)
        else:
            z = self.project(name, params, at(tokens, place))
            mean = jnp.mean(z, (0, 1), where=(there | ~there.any())[..., None])
        return self.last(name, params, z), self.last(name, params, mean[None])[0]

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], params, self.momentum(time))}

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, carry["target"]["encoder"], {}, inputs["image"])
        return {"features": h, **out}

    def patches(self, rng, x):
        """-> (which are hidden, bool [M, L] or None; the places of those compared, int [G, S], each group's among all
        patches of its crops, None for all; what each of these counts, [G, S], `shares` and 0 for those not hidden)."""
        if self.teacher is not None:
            return None, None, shares(jnp.ones((len(x), math.prod(grid(x, self.encoder.patch))), bool))
        hidden = self.mask(rng, x)
        together = lambda x: x.reshape(-1, self.mask_group * hidden.shape[1])
        # Of each group as many places as may be hidden: the hidden ones first, then some that do not count.
        place = hidden_first(together(hidden), sum(self.most(hidden.shape[1])))
        return hidden, place, jnp.take_along_axis(together(shares(hidden)), place, 1)

    def mask(self, rng, x):
        """bool [M, L]: blocks of a random share of the patches of some crops, none of the others.

        In a group of crops one has its share in the lowest part of `mask_ratio`, one in the next, and so on: so fewer
        patches may be hidden in all than where each crop is drawn by itself.
        """
        rng_some, rng_ratio, rng_blocks, rng_order = jax.random.split(rng, 4)
        shape, group = grid(x, self.encoder.patch), self.mask_group
        if len(x) % group:
            crops = f"the {len(x)} large crops of a batch, or of a part of it with train.accumulate"
            raise ValueError(f"method.mask_group={group}: expected a divisor of {crops}")
        most = jnp.array(self.most(math.prod(shape)))
        order = jnp.argsort(jax.random.uniform(rng_order, (len(x) // group, group)), 1).reshape(-1)  # [M]
        some = order + jax.random.uniform(rng_some, (len(x),)) < self.mask_probability * group
        low, high = self.mask_ratio
        part = (order + jax.random.uniform(rng_ratio, (len(x),))) / len(most)
        counts = jnp.int32(some * (low + (high - low) * part) * math.prod(shape))
        return block_mask(rng_blocks, shape, jnp.minimum(counts, most[order]), self.block)

    def most(self, length):
        """How many of its `length` patches may be hidden in each of the crops of a group that have any, ascending."""
        parts = max(round(self.mask_probability * self.mask_group), 1)
        return [math.floor(ratio * length) for ratio in np.linspace(*self.mask_ratio, parts + 1)[1:]]

    def temperature(self, time):
        """From tau_t_start to tau_t along a line."""
        return time.line(self.tau_t_start, self.tau_t, self.tau_t_warmup)

    def momentum(self, time):
        """From lambda_base to 1 along half a cosine."""
        return time.cosine(self.lambda_base)


def at(x, place):
    """The rows of x [M, L, D] at these places of groups of them, int [G, S], or all -> [G, S, D] or x."""
    if place is None:
        return x
    return jnp.take_along_axis(x.reshape(len(place), -1, x.shape[-1]), place[..., None], 1)
