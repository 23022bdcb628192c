"""k-means over all rows of the data, for methods that learn from clusters: one program on any number of devices.

Rows come as blocks [S, B, D], as `collect` lays them down: the rows of a block are cut over the devices, and blocks are
taken one after the other, so that no more than B * K distances exist at a time. Centroids lie on every device. Each
iteration exchanges one sum [K, D] and one count [K].
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jssl.sharding import ROWS
from jssl.transforms import gather, unit

STARTS = ("k-means++", "random")
APART = 1e-3  # how far the halves of a split cluster start from each other, in units of the rows' spread
exact = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


class Clusters(NamedTuple):
    """What k-means found."""

    centroids: jax.Array  # float32 [K, D]
    labels: jax.Array  # int32 [S, B], the nearest centroid of every row; -1 where its weight is 0
    sizes: jax.Array  # float32 [K], the summed weights of each cluster's rows
    inertia: jax.Array  # float32 [], the weighted sum of squared distances to the nearest centroid


@functools.partial(jax.jit, static_argnames=("k", "iterations", "start", "spherical"))
def kmeans(x, rng, k, *, weights=None, iterations=20, start="k-means++", centroids=None, spherical=False):
    """Lloyd's k-means of rows x [S, B, D] -> `Clusters`.

    weights: [S, B], 0 for padding. start: "k-means++" (Arthur & Vassilvitskii, 2007; K passes over the rows) or
    "random" (K distinct rows, one pass); `centroids` [K, D], where given, are the start instead. spherical: rows and
    centroids are of unit length, nearness is the cosine. A cluster without rows takes half of the largest, as in faiss.
    """
    if start not in STARTS:
        raise ValueError(f"start={start!r}, expected one of {', '.join(STARTS)}")
    x = _cut(unit(x) if spherical else x.astype(jnp.float32))
    w = _cut(jnp.ones(x.shape[:2]) if weights is None else weights.astype(jnp.float32))
    on_sphere = unit if spherical else lambda c: c
    rng_start, rng = jax.random.split(rng)
    if centroids is None:
        centroids = (_plus_plus if start == "k-means++" else _random)(x, w, rng_start, k)
    spread = jnp.sqrt(exact("sbd,sbd,sb->", x, x, w) / jnp.maximum(jnp.sum(w), 1))

    def iterate(i, c):
        sums, sizes, _, _ = _assign(x, w, c)
        means = jnp.where(sizes[:, None] > 0, sums / jnp.maximum(sizes, 1e-30)[:, None], c)
        return on_sphere(_fill(means, sizes, spread, jax.random.fold_in(rng, i)))

    c = lax.fori_loop(0, iterations, iterate, gather(on_sphere(centroids.astype(jnp.float32))))
    _, sizes, inertia, labels = _assign(x, w, c)
    return Clusters(c, labels, sizes, inertia)


@functools.partial(jax.jit, static_argnames="dim")
def whiten(x, dim, weights=None):
    """PCA to `dim` dimensions, each of variance 1, of rows [S, B, D] -> [S, B, min(dim, D)]; no padding counts.

    Directions with less than 1e-6 of the largest variance, which hold rounding, become 0.
    """
    x = _cut(x.astype(jnp.float32))
    w = _cut(jnp.ones(x.shape[:2]) if weights is None else weights.astype(jnp.float32))
    n = jnp.sum(w)
    x = (x - exact("sbd,sb->d", x, w) / n) * (w[..., None] > 0)
    variance, directions = jnp.linalg.eigh(exact("sbd,sbe,sb->de", x, x, w) / (n - 1))  # ascending
    variance, directions = variance[::-1][:dim], directions[:, ::-1][:, :dim]
    largest = jnp.take_along_axis(directions, jnp.abs(directions).argmax(0)[None], 0)  # made positive: no sign is free
    directions = directions * jnp.sign(largest)
    scale = jnp.where(variance > 1e-6 * variance[0], lax.rsqrt(jnp.maximum(variance, 1e-30)), 0)
    return _cut(exact("sbd,de->sbe", x, directions * scale))


def collect(embed, batches, rows):
    """All rows' embeddings as blocks, for `kmeans` -> (float32 [S, B, D], index int32 [S, B], -1 for padding).

    embed: batch -> [B, D], compiled; batches: as `Method.refresh` is given them; rows: of the data.
    """
    x = index = None
    for s, batch in enumerate(batches):
        block = embed(batch)
        if x is None:
            blocks = -(-rows // len(block))
            x, index = _blank(blocks, block), _blank(blocks, batch["index"])
        x, index = _write(x, block, s), _write(index, batch["index"], s)
    return x, index


def by_row(labels, index, rows):
    """Labels of blocks [S, B] in the order of the data, int32 [rows] on every device; -1 for rows that are absent."""
    labels, index = gather(labels), gather(index)
    return jnp.full(rows, -1, jnp.int32).at[jnp.where(index < 0, rows, index)].set(labels, mode="drop")


def _assign(x, w, c):
    """Every row to its nearest centroid -> sums [K, D], sizes [K], inertia [], labels [S, B]."""
    k, (_, b, d), devices = len(c), x.shape, _devices(x.shape[1])
    squares = jnp.sum(c * c, -1)

    def block(found, rows):
        sums, sizes, inertia = found  # of each device
        x, w = rows  # [B, D], [B]
        distances = squares - 2 * exact("bd,kd->bk", x, c)  # without the rows' own squares
        labels = jnp.argmin(distances, 1)
        hot = (jax.nn.one_hot(labels, k) * w[:, None]).reshape(devices, b // devices, k)
        apart = jnp.maximum(jnp.min(distances, 1) + jnp.sum(x * x, -1), 0) * w
        sums += exact("gbk,gbd->gkd", hot, x.reshape(devices, b // devices, d))
        sizes += hot.sum(1)
        inertia += apart.reshape(devices, -1).sum(1)
        return _rows((sums, sizes, inertia)), jnp.where(w > 0, labels, -1)

    nothing = jnp.zeros((devices, k, d)), jnp.zeros((devices, k)), jnp.zeros(devices)
    found, labels = lax.scan(block, _rows(nothing), (x, w))
    sums, sizes, inertia = (gather(total.sum(0)) for total in found)  # the iteration's only exchange
    return sums, sizes, inertia, _cut(labels)


def _fill(c, sizes, spread, rng):
    """Splits the largest cluster for each empty one: both halves start beside its centroid, on opposite sides."""

    def split(state):
        c, sizes, i = state
        largest, empty = jnp.argmax(sizes), jnp.argmin(sizes)
        aside = APART * spread * unit(jax.random.normal(jax.random.fold_in(rng, i), c[0].shape))
        half = sizes[largest] / 2
        c = c.at[empty].set(c[largest] + aside).at[largest].add(-aside)
        return c, sizes.at[jnp.stack([largest, empty])].set(half), i + 1

    some = jnp.any(sizes > 0)
    return lax.while_loop(lambda state: some & jnp.any(state[1] <= 0), split, (c, sizes, 0))[0]


def _plus_plus(x, w, rng, k):
    """Rows drawn one after the other, each in proportion to its squared distance from those drawn before."""

    def draw(rng, share):
        # The largest of log share + Gumbel noise: exact sampling by an argmax, without a sum over the devices' rows.
        score = jnp.where(w > 0, jnp.log(share + 1e-30) + jax.random.gumbel(rng, w.shape), -jnp.inf)
        best, block = gather((score.max(0), score.argmax(0)))  # of each place in the blocks, [B]
        b = jnp.argmax(best)
        hot = (jnp.arange(w.shape[0])[:, None] == block[b]) & (jnp.arange(w.shape[1]) == b)
        return gather(exact("sb,sbd->d", hot.astype(x.dtype), x))

    def add(i, state):
        c, distances = state
        distances = jnp.minimum(distances, jnp.sum((x - c[i - 1]) ** 2, -1))
        return c.at[i].set(draw(jax.random.fold_in(rng, i), distances * w)), _cut(distances)

    c = jnp.zeros((k, x.shape[-1])).at[0].set(draw(jax.random.fold_in(rng, 0), w))
    return lax.fori_loop(1, k, add, (c, _cut(jnp.full(w.shape, jnp.inf))))[0]


def _random(x, w, rng, k):
    """K distinct rows, all as likely."""
    score = jnp.where(w > 0, jax.random.uniform(rng, w.shape), -1.0)
    chosen = lax.top_k(gather(score).reshape(-1), k)[1]
    number = _cut(jnp.arange(w.size).reshape(w.shape))

    def block(c, rows):
        x, number = rows
        return c + exact("kb,bd->kd", (chosen[:, None] == number).astype(x.dtype), x), None

    return lax.scan(block, jnp.zeros((k, x.shape[-1])), (x, number))[0]


@functools.partial(jax.jit, static_argnums=0)
def _blank(blocks, block):
    return _cut(jnp.full((blocks, *block.shape), -1, block.dtype))


@functools.partial(jax.jit, donate_argnums=0)
def _write(store, block, s):
    return _cut(store.at[s].set(block))


def _devices(rows):
    """Of the mesh, if they divide the rows of a block, else 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size if not mesh.empty and rows % mesh.size == 0 else 1


def _rows(tree):
    """Every device its own of axis 0."""
    return jax.tree.map(lambda x: _constrain(x, 0), tree)


def _cut(x):
    """Blocks [S, B, ...]: every device its rows of each block."""
    return _constrain(x, 1)


def _constrain(x, axis):
    if _devices(x.shape[axis]) == 1:
        return x
    return lax.with_sharding_constraint(x, P(*[None] * axis, ROWS))
