"""SimCLR v2: Big Self-Supervised Models are Strong Semi-Supervised Learners.

Ting Chen, Simon Kornblith, Kevin Swersky, Mohammad Norouzi, Geoffrey Hinton, 2020; arXiv:2006.10029.

Three trainings, one after the other: `SimCLRv2` without labels, `FineTuned` on few of them, `Distilled` from that
teacher on images without labels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from jssl.losses import info_nce, nt_xent
from jssl.method import LABELS, Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_nets, apply_views, beside, init_nets
from jssl.probe import classify
from jssl.transforms import ema, push, unit


@dataclasses.dataclass(frozen=True)
class SimCLRv2(Method):
    """SimCLR with a deeper projection head, of which fine-tuning keeps the first layer, and a memory of negatives.

    Two views of an image attract each other and repel other images: those of the global batch or, with `memory`, the
    last keys of a slow average of the network, as in MoCo. The negatives forbid collapse.
    """

    encoder: Net  # f
    hidden: int = 2048  # the width of the head's hidden layers; in the authors' code that of f
    dim: int = 128
    depth: int = 3  # layers of g, section 2
    temperature: float = 0.1  # tau
    memory: int = 0  # keys kept, 65,536 in the paper; 0: no memory
    momentum: float = 0.999  # of the memory network
    layer: int = 0  # of g, whose output `embed` gives; 0: the output of f

    def __post_init__(self):
        if not 0 <= self.layer < self.depth:
            raise ValueError(
                f"layer={self.layer}: expected 0 (the encoder) to {self.depth - 1}, a hidden layer of the head"
            )

    @property
    def nets(self):
        # As in the authors' code, every layer of g ends in batch norm.
        projector = MLP(self.hidden, self.dim, self.depth, last_norm=True, dtype=self.encoder.dtype)
        return {"encoder": self.encoder, "projector": projector}

    def init(self, rng, views):
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        carry = {"stats": stats}
        if self.memory:
            target, target_stats = jax.tree.map(jnp.copy, (params, stats))
            queue = unit(jax.random.normal(jax.random.fold_in(rng, len(self.nets)), (self.memory, self.dim)))
            carry |= {"target": target, "target_stats": target_stats, "queue": queue, "pointer": jnp.int32(0)}
        return params, carry

    def loss(self, params, carry, views, rng, time):
        # Both views pass together: batch norm sees all N * V of them (global batch norm).
        out, stats = apply_views(self.nets, params, carry["stats"], views["image"], rng=rng)
        h, z = out["encoder"], out["projector"]  # [N, V, D], [N, V, E]

        if self.memory:
            loss, carry = self.remember(carry, views["image"], z)
        else:
            loss = nt_xent(z, self.temperature)
        return loss, ({**carry, "stats": stats}, {"metrics": {}, "embedding": z, "features": h})

    def remember(self, carry, images, z):
        """The paper names MoCo's mechanism and prints no formula: so each view's key is the other's positive, and the
        memory from before this batch holds the negatives."""
        out, stats = apply_views(self.nets, carry["target"], carry["target_stats"], images)
        k = stop_gradient(unit(out["projector"]))  # [N, V, E]
        pairs = [(0, 1), (1, 0)]
        losses = [info_nce(z[:, i], k[:, j], self.temperature, carry["queue"]) for i, j in pairs]
        queue, pointer = carry["queue"], carry["pointer"]
        for v in range(k.shape[1]):
            queue, pointer = push(queue, pointer, k[:, v])
        return sum(losses) / len(losses), {**carry, "target_stats": stats, "queue": queue, "pointer": pointer}

    def update(self, params, carry, time):
        if not self.memory:
            return params, carry
        return params, {**carry, "target": ema(carry["target"], params, self.momentum)}

    def embed(self, params, carry, inputs):
        return {"features": evaluated(trunk(self.encoder, self.hidden, self.layer), params, carry, inputs["image"])}


@dataclasses.dataclass(frozen=True)
class FineTuned(Method):
    """Supervised training of a pretrained encoder together with the first layer of its projection head (section 2).

    Keeping that layer, instead of the whole head or none of it, is what serves few labels best (section 3.3). The data
    of the run are its labelled images: `data.share` draws a part of every class.
    """

    encoder: Net  # f
    classes: int | None = None  # of the data
    rows: int | None = None  # of the data
    hidden: int = 2048
    layer: int = 1  # of g, on whose output the classifier sits; 0: on that of f, the paper's choice for all labels

    @property
    def nets(self):
        return trunk(self.encoder, self.hidden, self.layer)

    def init(self, rng, views):
        params, stats = init_classifier(self.nets, self.classes, rng, views["image"][:, 0])
        return params, {"stats": stats, LABELS: jnp.full(self.rows, -1, jnp.int32)}

    def loss(self, params, carry, views, rng, time):
        out, stats = apply_views(self.nets, params, carry["stats"], views["image"], rng=rng)
        h = top(out)  # [N, V, D]
        loss, accuracy = classify(params["classifier"], h, carry[LABELS][views["index"]])
        return loss, ({**carry, "stats": stats}, {"metrics": {"accuracy": accuracy}, "features": h})

    def embed(self, params, carry, inputs):
        """Beside the features, 'logits' [N, classes]."""
        h = evaluated(self.nets, params, carry, inputs["image"])
        return {"features": h, "logits": logits_of(params["classifier"], h)}


@dataclasses.dataclass(frozen=True)
class Distilled(Method):
    """A student learns the class probabilities that a fine-tuned teacher gives to images without labels (section 2).

    The teacher's weights, `carry['frozen']`, never move. The student, of the same architecture or a smaller one, has no
    projection head.
    """

    encoder: Net  # the student's
    classes: int | None = None  # of the teacher
    rows: int | None = None  # of the data
    teacher: str | None = None  # the import path of the teacher's encoder; None: the student's own architecture
    teacher_fields: tuple = ()  # of that encoder, or in which it differs from the student: (name, value) pairs
    hidden: int = 2048  # of the teacher's head
    layer: int = 1
    temperature: float = 1.0  # tau: 1.0 for a smaller student, 0.1 for the same architecture
    alpha: float = 1.0  # weight of the distillation loss; 1: labels are not read

    @property
    def nets(self):
        return {"encoder": self.encoder}

    @property
    def teacher_nets(self):
        return trunk(beside(self.encoder, self.teacher, self.teacher_fields), self.hidden, self.layer)

    def init(self, rng, views):
        rng_student, rng_teacher = jax.random.split(rng)
        x = views["image"][:, 0]
        params, stats = init_classifier(self.nets, self.classes, rng_student, x)
        frozen = dict(zip(("params", "stats"), init_classifier(self.teacher_nets, self.classes, rng_teacher, x)))
        labels = {LABELS: jnp.full(self.rows, -1, jnp.int32)} if self.alpha < 1 else {}
        return params, {"stats": stats, "frozen": frozen, **labels}

    def loss(self, params, carry, views, rng, time):
        out, stats = apply_views(self.nets, params, carry["stats"], views["image"], rng=rng)
        h = out["encoder"]  # [N, V, D]
        student = logits_of(params["classifier"], h)  # [N, V, classes]
        # The teacher sees the same augmented images, with the statistics that it was fine-tuned with.
        frozen = stop_gradient(carry["frozen"])
        out, _ = apply_views(self.teacher_nets, frozen["params"], frozen["stats"], views["image"], train=False)
        teacher = logits_of(frozen["params"]["classifier"], top(out))  # [N, V, classes]

        loss = distillation(student, teacher, self.temperature)
        metrics = {"agreement": jnp.mean(student.argmax(-1) == teacher.argmax(-1))}
        if self.alpha < 1:
            supervised, metrics["accuracy"] = classify(params["classifier"], h, carry[LABELS][views["index"]])
            loss = (1 - self.alpha) * supervised + self.alpha * loss
        return loss, ({**carry, "stats": stats}, {"metrics": metrics, "features": h})

    def embed(self, params, carry, inputs):
        """Beside the features, 'logits' [N, classes]."""
        h = evaluated(self.nets, params, carry, inputs["image"])
        return {"features": h, "logits": logits_of(params["classifier"], h)}


def trunk(encoder, hidden, layer):
    """The encoder and the first `layer` layers of the projection head, under the names that the whole head has."""
    head = MLP(hidden, hidden, layer, last_norm=True, dtype=encoder.dtype) if layer else None
    return {"encoder": encoder, "projector": head} if layer else {"encoder": encoder}


def top(out):
    """What a trunk's last network gives: a hidden layer ends in its ReLU, which an `MLP` leaves out at its end."""
    return jax.nn.relu(out["projector"]) if "projector" in out else out["encoder"]


def init_classifier(nets, classes, rng, x):
    """-> params, stats of a trunk and a linear classifier, which starts at zero as in the authors' code."""
    params, stats = init_nets(nets, rng, x)
    d = jax.eval_shape(lambda: top(apply_nets(nets, params, stats, x, train=False)[0])).shape[-1]
    return {**params, "classifier": {"kernel": jnp.zeros((d, classes)), "bias": jnp.zeros(classes)}}, stats


def evaluated(nets, params, carry, x):
    """What a trunk gives for whole images, by its running statistics. [N, H, W, C] -> [N, D]"""
    kept = carry.get("stats", {})  # an export leaves out what is empty: a network without batch norm
    return top(apply_nets(nets, params, {name: kept.get(name, {}) for name in nets}, x, train=False)[0])


def logits_of(classifier, h):
    return h.astype(jnp.float32) @ classifier["kernel"] + classifier["bias"]


def distillation(student, teacher, temperature):
    """Cross-entropy of the teacher's probabilities and the student's, both of logits / tau. [..., C] -> []."""
    targets = jax.nn.softmax(teacher / temperature)
    return jnp.mean(optax.softmax_cross_entropy(student / temperature, targets))
