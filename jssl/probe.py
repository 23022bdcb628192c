"""The online probe: a linear classifier trained beside any method, on features that feel nothing of it.

Its accuracy on test images (`accuracy`) is what solo-learn's tables give (da Costa et al., 2022; arXiv:2108.01775).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jssl.method import LABELS, Method, Time

NAME = "probe"  # of its parameters, beside the method's own
PATTERN = f"^{NAME}(/|$)"
CLIP = 10.0  # of its gradient's norm: far above what features of a usual size give


@dataclasses.dataclass(frozen=True)
class Probed(Method):
    """A method and a linear classifier on its features, all views of them, with the gradient stopped between the two.

    It holds the method and hands everything through: the method's parameters keep their paths, and move as they would
    alone, bit by bit. `loss` in the metrics is the method's own; the classifier's are probe/loss and probe/accuracy, on
    the labelled rows of the batch (0 where there are none).
    """

    inner: Method
    classes: int
    rows: int  # of the source

    def init(self, rng, views):
        params, carry = self.inner.init(rng, views)
        if NAME in params:
            raise ValueError(f"{type(self.inner).__name__} has a {NAME!r} of its own; set eval.probe_lr=0")
        loss = lambda params, carry: self.inner.loss(params, carry, views, rng, Time(jnp.int32(0), 1, 1.0))
        features = jax.eval_shape(loss, params, carry)[1][1].get("features")
        if features is None:
            raise ValueError(f"{type(self.inner).__name__}'s loss returns no features to probe; set eval.probe_lr=0")
        probe = {"kernel": jnp.zeros((features.shape[-1], self.classes)), "bias": jnp.zeros(self.classes)}
        return {**params, NAME: probe}, {**carry, LABELS: jnp.full(self.rows, -1, jnp.int32)}

    def loss(self, params, carry, views, rng, time):
        loss, (new, out) = self.inner.loss(own(params), carry, views, rng, time)
        # The barrier keeps the compiler from computing the method's part in another order on the probe's account.
        x = lax.optimization_barrier(lax.stop_gradient(out["features"]))  # [N, V, D]
        labels = labels_of(carry[LABELS], views["index"], len(x))  # [N]
        mean, accuracy = classify(params[NAME], x, labels)
        metrics = {"loss": loss, **out["metrics"], "probe/loss": mean, "probe/accuracy": accuracy}
        return loss + mean, ({**new, LABELS: carry[LABELS]}, {**out, "metrics": metrics})

    def update(self, params, carry, time):
        return self._beside(params, carry, self.inner.update, time)

    def refresh(self, params, carry, batches, rng):
        return self._beside(params, carry, self.inner.refresh, batches, rng)

    def embed(self, params, carry, inputs):
        return self.inner.embed(own(params), carry, inputs)

    def reconstruct(self, params, carry, x, rng):
        return self.inner.reconstruct(own(params), carry, x, rng)

    def _beside(self, params, carry, change, *args):
        """What `change` makes of the method's own parameters and carry, with the probe's as they are."""
        new, moved = change(own(params), carry, *args)
        return {**new, NAME: params[NAME]}, {**moved, LABELS: carry[LABELS]}


def labels_of(labels, index, n):
    """The labels of a batch's n examples by their numbers `index`, -1 for padding; of all nodes where it is a graph."""
    index = index.reshape(-1)
    return jnp.where(index >= 0, labels[index], -1) if len(index) == n else labels


def classify(probe, features, labels):
    """-> mean cross-entropy [], accuracy [], over all views of the rows whose label is not negative.

    probe: {'kernel' [D, C], 'bias' [C]}; features: [N, V, D] or [N, D]; labels: int32 [N].
    """
    x = features.astype(jnp.float32).reshape(len(features), -1, features.shape[-1])
    logits = x @ probe["kernel"] + probe["bias"]  # [N, V, C]
    known = jnp.broadcast_to((labels >= 0)[:, None], logits.shape[:2])
    y = jnp.broadcast_to(jnp.maximum(labels, 0)[:, None], logits.shape[:2])
    mean = lambda values: jnp.sum(jnp.where(known, values, 0.0)) / jnp.maximum(jnp.sum(known), 1)
    crosses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return mean(crosses), mean(jnp.argmax(logits, -1) == y)


def accuracy(probe, features, labels):
    """The trained probe's accuracy on embedded images, as solo-learn publishes it. [N, D], [N] -> float."""
    return float(classify(probe, jnp.asarray(features), jnp.asarray(labels, jnp.int32))[1])


def classes_of(config, source):
    """How many classes a probe tells apart: 0 where `eval.probe_lr` is 0 or the source has not two classes."""
    labels = None if source is None else source.labels
    if not config.eval.probe_lr or labels is None or len(np.unique(labels[labels >= 0])) < 2:
        return 0
    return int(labels.max()) + 1


def group(config, peak, batch):
    """The probe's entry of `optim.groups`: SGD at `eval.probe_lr` per 256 examples of a `batch`, no decay, warmed up
    and decayed like the rate of the run, whose highest value is `peak`; with a clip of its own, which `optim.clip` does
    not see."""
    wanted = config.eval.probe_lr * batch / 256
    return {
        "pattern": PATTERN,
        "name": "sgd",
        "lr_scale": wanted / peak if peak else 0.0,
        "weight_decay": 0.0,
        "clip": CLIP,
    }


def own(params):
    """The method's own parameters, without the probe's."""
    return {name: tree for name, tree in params.items() if name != NAME}
