"""DeepCluster: Deep Clustering for Unsupervised Learning of Visual Features.

Mathilde Caron, Piotr Bojanowski, Armand Joulin, Matthijs Douze, 2018; arXiv:1807.05520.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jssl.kmeans import by_row, collect, kmeans, whiten
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_net, apply_views, init_nets
from jssl.transforms import gather, rows, unit


@dataclasses.dataclass(frozen=True)
class DeepCluster(Method):
    """k-means of all images' features gives every image a label; a classifier and the network learn to predict it.

    The two take turns (`train.refresh_every`; an epoch in the paper). Labels that say nothing are ruled out: a cluster
    that loses its images takes half of the largest, and clusters count alike in the loss however many images they have
    (the paper's ways out of trivial solutions), so that one output for all images predicts no better than a guess.
    """

    encoder: Net  # f
    k: int = 10000  # clusters
    dim: int = 256  # of the features that are clustered, after PCA
    iterations: int = 20  # of k-means; here and below, what the paper leaves open is as in the authors' code
    sobel: bool = False  # whether the encoder sees edges instead of colours, as in most of the paper's experiments
    rows: int | None = None  # of the data; None: filled in by the engine

    @property
    def nets(self):
        return {"encoder": self.encoder, "classifier": MLP(0, self.k, depth=1, dtype=self.encoder.dtype)}  # f, g

    def init(self, rng, views):
        if self.rows is None or self.rows < self.k:
            raise ValueError(f"method.rows={self.rows}: expected the rows of the data, at least method.k={self.k}")
        params, stats = init_nets(self.nets, rng, self.see(views["image"][:, 0]))
        params["classifier"] = fresh(jax.random.fold_in(rng, 2), params["classifier"])
        # Until the first refresh, which comes before the first step, labels are dealt round.
        labels = jnp.arange(self.rows, dtype=jnp.int32) % self.k
        carry = {"labels": labels, "sizes": sizes(labels, self.k), "centroids": jnp.zeros((self.k, self.width(params)))}
        return params, {"stats": stats, **carry}

    def loss(self, params, carry, views, rng, time):
        out, stats = apply_views(self.nets, params, carry["stats"], self.see(views["image"]), rng=rng)
        h, logits = out["encoder"], out["classifier"]  # [N, V, D], [N, V, K]
        y = carry["labels"][views["index"]]  # [N], -1 where an image has none

        # The paper draws images uniformly over the clusters. Here each step's images are given, and weights of one
        # over the cluster's size have the same effect on average.
        w = jnp.where(y < 0, 0, 1 / jnp.maximum(carry["sizes"][y], 1))
        loss = weighted_cross_entropy(logits, y, w)  # eq. 1

        metrics = {"health/used": jnp.mean(carry["sizes"] > 0, dtype=jnp.float32)}  # clusters that have images
        return loss, ({**carry, "stats": stats}, {"metrics": metrics, "embedding": h, "features": h})

    def refresh(self, params, carry, batches, rng):
        h, index = collect(functools.partial(features, self, params, carry), batches, self.rows)  # [S, B, D], [S, B]
        classifier, clusters = recluster(self, params["classifier"], h, index, rng)
        return {**params, "classifier": classifier}, {**carry, **clusters}

    def embed(self, params, carry, inputs):
        x = self.see(inputs["image"])
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], x)
        return {"features": h, **out}

    def see(self, x):
        return sobel(x) if self.sobel else x

    def width(self, params):
        """Dimensions of the centroids."""
        return min(self.dim, params["classifier"]["dense0"]["kernel"].shape[0])


@functools.partial(jax.jit, static_argnums=0)
def features(method, params, carry, inputs):
    return rows(method.embed(gather(params), carry, inputs)["features"].astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def recluster(method, classifier, h, index, rng):
    """New labels of all rows, and a classifier that knows none of them."""
    rng_clusters, rng_classifier = jax.random.split(rng)
    present = index >= 0
    # PCA-reduced, whitened and normalised as in the paper, then clustered by distance from a random start.
    h = unit(whiten(h, method.dim, weights=present))
    found = kmeans(h, rng_clusters, method.k, weights=present, iterations=method.iterations, start="random")
    labels = by_row(found.labels, index, method.rows)
    carry = {"labels": labels, "sizes": sizes(labels, method.k), "centroids": found.centroids}
    return gather((fresh(rng_classifier, classifier), carry))


def fresh(rng, classifier):
    """Untrained: normal weights of deviation 0.01, no bias."""
    draw = lambda x: 0.01 * jax.random.normal(rng, x.shape)
    return jax.tree.map(lambda x: draw(x) if x.ndim > 1 else jnp.zeros_like(x), classifier)


def sizes(labels, k):
    """How many rows each cluster has, int32 [K]; those of label -1 are in none."""
    return jnp.zeros(k, jnp.int32).at[jnp.where(labels < 0, k, labels)].add(1, mode="drop")


def weighted_cross_entropy(logits, y, w):
    """Mean over the images in proportion to w [N], and over their views. logits: [N, V, K], y: int [N] -> []."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    of_label = jnp.take_along_axis(log_p, jnp.maximum(y, 0)[:, None, None], -1)[..., 0]  # [N, V]
    return -jnp.sum(w * of_label.mean(1)) / jnp.maximum(jnp.sum(w), 1e-12)


def sobel(x):
    """The grey image's slopes along width and height: [..., H, W, C] -> [..., H, W, 2]."""
    x = jnp.pad(x.mean(-1), [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1)])
    smooth = lambda x: x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    slope = lambda x: x[..., :-2] - x[..., 2:]
    turn = lambda x: x.swapaxes(-1, -2)
    return jnp.stack([slope(turn(smooth(turn(x)))), turn(slope(turn(smooth(x))))], -1)
