"""DeepCluster-v2: DeepCluster with the means of SwAV's paper.

Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, Mathilde Caron, Ishan Misra, Julien Mairal,
Priya Goyal, Piotr Bojanowski, Armand Joulin, 2020; arXiv:2006.09882, appendix.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from jssl.health import used
from jssl.kmeans import by_row, collect, kmeans
from jssl.method import Method
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_crops, apply_net, apply_nets, init_nets
from jssl.transforms import gather, rows, unit


@dataclasses.dataclass(frozen=True)
class DeepCluster2(Method):
    """Spherical k-means of all images' projections gives every image a cluster; its crops must lie near the centroid.

    The centroids themselves are the classifier: nothing is learned anew after a clustering, and labels may be numbered
    in any order. Several clusterings, each from a start of its own, are predicted at once. Images cannot all take one
    place, since k-means keeps every cluster inhabited and a crop must be nearer to its own centroid than to the others.

    The authors cluster what the large crops gave in the course of the epoch before, from a memory. Here `refresh`
    embeds every image's evaluation view with the network as it is: all clusterings are of one network and one view.
    """

    encoder: Net  # f
    hidden: int = 2048
    dim: int = 128
    heads: int = 3  # clusterings
    k: int = 3000  # prototypes of each
    temperature: float = 0.1
    iterations: int = 10  # of k-means
    rows: int | None = None  # of the data; None: filled in by the engine

    @property
    def nets(self):
        return {"encoder": self.encoder, "projector": MLP(self.hidden, self.dim, dtype=self.encoder.dtype)}

    def init(self, rng, views):
        if self.rows is None or self.rows < self.k:
            raise ValueError(f"method.rows={self.rows}: expected the rows of the data, at least method.k={self.k}")
        params, stats = init_nets(self.nets, rng, views["image"][:, 0])
        # Until the first refresh, which comes before the first step, labels are dealt round.
        labels = jnp.tile(jnp.arange(self.rows, dtype=jnp.int32) % self.k, (self.heads, 1))  # [heads, rows]
        prototypes = unit(jax.random.normal(jax.random.fold_in(rng, 2), (self.heads, self.k, self.dim)))
        return params, {"stats": stats, "labels": labels, "prototypes": prototypes}

    def loss(self, params, carry, views, rng, time):
        out, stats = apply_crops(self.nets, params, carry["stats"], views, rng=rng)
        z = unit(out["projector"])  # [N, V + L, dim]
        prototypes = lax.stop_gradient(carry["prototypes"])
        scores = jnp.einsum("nvd,hkd->hnvk", z, prototypes, precision=lax.Precision.HIGHEST)
        y = carry["labels"][:, views["index"]]  # [heads, N], -1 where an image has none

        loss = cross_entropy(scores / self.temperature, y)
        metrics = {"health/used": jnp.mean(jax.vmap(lambda y: used(y, self.k))(y))}
        return loss, ({**carry, "stats": stats}, {"metrics": metrics, "embedding": z, "features": out["encoder"]})

    def refresh(self, params, carry, batches, rng):
        z, index = collect(functools.partial(project, self, params, carry["stats"]), batches, self.rows)
        found = [recluster(self, z, index, jax.random.fold_in(rng, head)) for head in range(self.heads)]
        prototypes, labels = stack(found)
        return params, {**carry, "prototypes": prototypes, "labels": labels}

    def embed(self, params, carry, inputs):
        h, out, _ = apply_net(self.encoder, params["encoder"], carry["stats"]["encoder"], inputs["image"])
        return {"features": h, **out}


@functools.partial(jax.jit, static_argnums=0)
def project(method, params, stats, inputs):
    out, _ = apply_nets(method.nets, gather(params), stats, inputs["image"], train=False)
    return rows(unit(out["projector"]))


@functools.partial(jax.jit, static_argnums=0)
def recluster(method, z, index, rng):
    """One clustering of the rows z [S, B, dim] -> centroids [K, dim], labels [rows]."""
    options = {"iterations": method.iterations, "start": "random", "spherical": True}
    found = kmeans(z, rng, method.k, weights=index >= 0, **options)
    return gather((found.centroids, by_row(found.labels, index, method.rows)))


@jax.jit
def stack(trees):
    return gather(jax.tree.map(lambda *x: jnp.stack(x), *trees))


def cross_entropy(logits, y):
    """Mean over crops and over the images with a label, then over the heads.

    logits: [H, N, V, K], y: int [H, N], -1 where an image has no label -> [].
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    of_label = jnp.take_along_axis(log_p, jnp.maximum(y, 0)[:, :, None, None], -1)[..., 0].mean(2)  # [H, N]
    has = (y >= 0).astype(jnp.float32)
    return -jnp.mean(jnp.sum(of_label * has, 1) / jnp.maximum(jnp.sum(has, 1), 1))
