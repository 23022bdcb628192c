"""Pure losses that two or more methods share."""

import jax
import jax.numpy as jnp
from jax import lax

from jssl.transforms import gather, rows, unit


def info_nce(q, k, temperature, queue=None):
    """InfoNCE (van den Oord et al., 2018; arXiv:1807.03748, eq. 4): cross-entropy of naming each query's own key.

    q, k: [N, D], normalised here; the positive of q[i] is k[i] alone. Its negatives are the rows of `queue` [K, D], of
    unit length, where it is given (MoCo, arXiv:1911.05722, eq. 1), else the other keys of the global batch. Gradients
    reach what is not under a `stop_gradient`. -> mean over the queries, [].
    """
    q, k = rows(unit(q)), rows(unit(k))
    negatives = gather(k) if queue is None else queue
    logits = jnp.einsum("nd,md->nm", q, negatives, precision=lax.Precision.HIGHEST) / temperature
    positive = jnp.einsum("nd,nd->n", q, k, precision=lax.Precision.HIGHEST) / temperature
    denominator = jax.nn.logsumexp(logits, 1)
    if queue is not None:  # else the positive is among the keys of the batch
        denominator = jnp.logaddexp(positive, denominator)
    return jnp.mean(denominator - positive)


def nt_xent(z, temperature, decoupled=False, there=None):
    """Normalised temperature-scaled cross-entropy (Chen et al., 2020; arXiv:2002.05709, eq. 1), mean over N * V rows.

    Each row's positives are the same image's other views; its negatives are all views of the other images of the global
    batch. With V > 2 the cross-entropy is averaged over the positives. decoupled: the positives leave the denominator,
    where they weaken the gradient of small batches (DCL; Yeh et al., 2021; arXiv:2110.06848). there: bool [N], False
    for padding, which is nobody's negative and has no loss.

    z: [N, V, D], normalised here -> []. Memory: N^2 V^2 logits, cut over the devices by rows.
    """
    n, v, _ = z.shape
    z = rows(unit(z))  # else the compiler may take the gathered z for both sides, and all logits lie on every device
    logits = jnp.einsum("nvd,mwd->nvmw", z, gather(z), precision=lax.Precision.HIGHEST) / temperature  # [N, V, N, V]
    out = jnp.eye(n, dtype=bool)[:, None, :, None]  # of the denominator: all views of the row's image, or itself alone
    out = out if decoupled else out & jnp.eye(v, dtype=bool)[None, :, None, :]
    out = out if there is None else out | ~gather(there)[None, None, :, None]
    denominator = jax.nn.logsumexp(jnp.where(out, -jnp.inf, logits), axis=(2, 3))  # [N, V]

    pairs = jnp.einsum("nvd,nwd->nvw", z, z, precision=lax.Precision.HIGHEST) / temperature  # [N, V, V]
    positive = jnp.sum(pairs * (1 - jnp.eye(v)), axis=2) / (v - 1)  # [N, V]
    return jnp.mean(denominator - positive, where=None if there is None else there[:, None])


def cross_crops(p, log_q):
    """Mean cross-entropy of the targets p [N, V, K] and the predictions log_q [N, V + L, K] of an image's other crops.

    The first V crops are the same in both; a crop does not predict itself (SwAV, DINO). -> []
    """
    n, v, _ = p.shape
    pairs = -jnp.einsum("nvk,nwk->vw", p, log_q, precision=lax.Precision.HIGHEST) / n  # [V, V + L]
    other = 1 - jnp.eye(v, log_q.shape[1])
    return jnp.sum(pairs * other) / jnp.sum(other)


def cross_patches(p, log_q, weights):
    """Cross-entropy of the targets p [..., K] and the predictions log_q of patches, times what each counts, [...]: of
    `shares` it is the mean over the patches of each image, then over all images (iBOT, DINOv2). -> []"""
    return jnp.sum(-jnp.sum(p * log_q, -1) * weights)


def shares(there):
    """What each patch counts in a mean over those of its image that are `there`, then over all images: an image without
    any counts 0. bool [N, L] -> [N, L]"""
    return there / (jnp.maximum(there.sum(1, keepdims=True), 1) * len(there))


def koleo(x, eps=1e-8):
    """Minus the mean log distance of each row to its nearest other row of the global batch, on the unit sphere
    (Sablayrolles et al., 2018; arXiv:1806.03198; DINOv2, arXiv:2304.07193): it spreads them evenly. [N, D] -> []

    The gradient reaches both ends of a distance.
    """
    x = rows(unit(x))
    every = gather(x)
    near = jnp.einsum("nd,md->nm", *lax.stop_gradient((x, every)), precision=lax.Precision.HIGHEST)
    nearest = jnp.argmax(jnp.where(jnp.eye(len(x), dtype=bool), -2.0, near), 1)
    distance = jnp.linalg.norm(x - jnp.take(every, nearest, 0) + eps, axis=1)
    return -jnp.mean(jnp.log(distance + eps))
