"""Is the encoder collapsing? Measures of what every `loss` returns: no second forward pass, no labels.

What they should be, and what to say where they are not, is in `jssl.watch`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jssl.transforms import gather, unit

ROWS = 512  # that RankMe and uniformity look at: they cost ROWS^2 numbers, whatever the batch


def measures(out):
    """-> {"health/NAME": float32 scalar} of what `Method.loss` returned, finite also under total collapse. Inside jit.

    out: {"embedding": [N, V, E], "features": [N, V, D]}, each measured where it is there; any float type. "there":
    {"embedding": bool [N], "features": bool [N]}, False for padding; without it every row counts.

    health/std         spread per dimension of the unit embeddings over all rows, times sqrt(E): 1 where they
                       are isotropic, 0 where all are one (Chen & He, 2021; arXiv:2011.10566, figure 2).
    health/rankme      see `rankme`: from 1 to min(E, ROWS, N * V).
    health/alignment   mean squared distance between two views of one example, in [0, 4]; where V >= 2.
    health/uniformity  see `uniformity`: 0 where all are one, near -4 where they are even; where V >= 2.
    health/features_std, health/features_rankme: the same of the features.
    """
    found = {}
    for name, prefix in (("embedding", ""), ("features", "features_")):
        if out.get(name) is None:
            continue
        there = out.get("there", {}).get(name)
        there = jnp.ones(len(out[name]), bool) if there is None else there
        x = _views(out[name], there)
        some = _some(x)
        found |= {prefix + "std": spread(x, there), prefix + "rankme": rankme(some.reshape(-1, x.shape[-1]))}
        if x.shape[1] > 1 and name == "embedding":
            some_there = _some(jnp.broadcast_to(there[:, None, None], (*x.shape[:2], 1)))[:, 0, 0]
            found |= {"alignment": alignment(x, there), "uniformity": uniformity(some, there=some_there)}
    return {f"health/{name}": value for name, value in found.items()}


def spread(x, there=None):
    """sqrt(E) * the mean over dimensions of the standard deviation of unit embeddings. x: [N, ..., E] -> [].

    there: bool [N], the rows that count.
    """
    axes = tuple(range(x.ndim - 1))
    counts = True if there is None else there.reshape(-1, *[1] * (x.ndim - 1))
    # Two passes: E[z^2] - E[z]^2 leaves rounding where everything collapsed.
    return jnp.mean(jnp.std(unit(x), axes, where=counts)) * x.shape[-1] ** 0.5


def rankme(x, eps=1e-7):
    """RankMe (Garrido et al., 2023; arXiv:2210.02885, eq. 1-2): exp of the entropy of the normalised singular values.

    Of the matrix as it is, neither centred nor normalised, as in the paper. x: [N, E] -> [], about 1 to min(N, E).
    Singular values below a thousandth of the largest are rounding here and are left out: where many are small it says
    less than the paper's, 170 for 282 of 2,048 that fall as 1 / j. `jssl.evals.rank.rankme` has them all.
    """
    gram = jnp.einsum("ne,nf->ef" if x.shape[1] <= x.shape[0] else "ne,me->nm", x, x, precision=lax.Precision.HIGHEST)
    values = jnp.linalg.eigvalsh(gram)  # much cheaper than singular values, ascending
    # Below this an eigenvalue is rounding, and its root would count.
    values = jnp.where(values > 10 * jnp.finfo(values.dtype).eps * values[-1], values, 0)
    sigma = jnp.sqrt(values)
    p = sigma / jnp.maximum(jnp.sum(sigma), 1e-30) + eps
    return jnp.exp(-jnp.sum(p * jnp.log(p)))


def alignment(x, there=None):
    """Mean |z - z'|^2 over the pairs of views of an example (Wang & Isola, 2020; arXiv:2005.10242). [N, V, E] -> []."""
    z = unit(x)
    # The sum over pairs is V * sum |z_v - mean|^2; with differences first, nothing cancels.
    apart = jnp.sum((z - z.mean(1, keepdims=True)) ** 2, (1, 2))  # [N]
    return 2 * jnp.mean(apart, where=there) / (x.shape[1] - 1)


def uniformity(x, t=2.0, there=None):
    """log mean exp(-t |z_i - z_j|^2) over the pairs i < j of one view, mean over views (Wang & Isola, 2020).

    x: [N, V, E]; there: bool [N], the rows that count -> []; 0 for one row, which has no pairs.
    """
    n = x.shape[0]
    if n < 2:
        return jnp.float32(0)
    z = unit(x)
    length = jnp.sum(z * z, -1).T  # [V, N]: 1, or 0 where the embedding is 0
    cos = jnp.einsum("nve,mve->vnm", z, z, precision=lax.Precision.HIGHEST)
    # Clipped at 0: rounding must not make a distance negative.
    distance = jnp.maximum(length[:, :, None] + length[:, None] - 2 * cos, 0)
    there = jnp.ones(n, bool) if there is None else there
    pairs = there & there[:, None] & ~jnp.eye(n, dtype=bool)
    energy = jnp.where(pairs, -t * distance, -jnp.inf)  # [V, N, N]
    count = jnp.sum(pairs)
    found = jnp.mean(jax.nn.logsumexp(energy, (1, 2)) - jnp.log(jnp.maximum(count, 1)))
    return jnp.where(count > 0, found, 0)


def deviation(x):
    """Mean over dimensions of the standard deviation over all rows, of embeddings as they are; no gradient passes.

    For methods whose loss asks for a scale, such as VICReg: without that they can shrink to a point and keep their
    directions, which is all that the other measures see. x: [..., E] -> [].
    """
    x = lax.stop_gradient(x).astype(jnp.float32)
    return jnp.mean(jnp.std(x.reshape(-1, x.shape[-1]), 0))


def information(p):
    """Mutual information of an input and its soft assignment, H(mean p) - mean H(p), in nats; no gradient passes.

    p: [..., K], rows that sum to 1 -> [], from 0 (every input has the same assignment, be it one cluster or all evenly,
    which entropies alone do not tell apart from health) to log K (each has one cluster, and the clusters equal shares).
    """
    p = lax.stop_gradient(p).astype(jnp.float32)
    return _entropy(p.mean(range(p.ndim - 1))) - jnp.mean(_entropy(p))


def assignments(p):
    """What a method of soft assignments logs of them, its teacher's or its codes: {"health/NAME": scalar}.

    p: [..., K], rows that sum to 1. No gradient passes.
    health/information  see `information`.
    health/entropy      mean entropy of a row as a share of ln K: 0 where each names one prototype, 1 where all are even
                        (DINO, arXiv:2104.14294, figure 7, shows what either means without the other's balance).
    health/used         see `used`, of each row's largest entry.
    """
    p, k = lax.stop_gradient(p).astype(jnp.float32), p.shape[-1]
    shares = {"entropy": jnp.mean(_entropy(p)) / jnp.log(k), "used": used(p.argmax(-1), k)}
    return {"health/information": information(p)} | {f"health/{name}": value for name, value in shares.items()}


def tokens(codes, size):
    """What a tokenizer logs of its codes, int [...] of `size`: their `perplexity` and the share that is `used`."""
    return {"health/perplexity": perplexity(codes, size), "health/used": used(codes, size)}


def used(codes, size):
    """The share of the codes 0 .. size - 1 that occur, of those that could: no more than there are rows. Another number
    is no code. int [...] -> [], from 0 to 1"""
    counts = jnp.zeros(size).at[jnp.where(codes < 0, size, codes).reshape(-1)].add(1.0, mode="drop")
    return jnp.sum(counts > 0) / min(size, codes.size)


def perplexity(codes, size):
    """How many codes of `size` are in use: exp of the entropy of their shares, from 1 to `size`. int [...] -> []"""
    shares = jnp.mean(codes.reshape(-1)[:, None] == jnp.arange(size), 0, dtype=jnp.float32)
    return jnp.exp(_entropy(shares))


def _entropy(p):
    """[..., K] -> [...], in nats."""
    return -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), -1)


def _views(x, there):
    """[N, D] or [N, V, D], any float type -> [N, V, D] float32, at most 1, no gradient; 0 where `there` is not."""
    x = lax.stop_gradient(x).astype(jnp.float32)
    x = jnp.where(there.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
    # No measure depends on the scale, and so no square can overflow or vanish.
    x = x / jnp.maximum(jnp.max(jnp.abs(x)), 1e-30)
    return x[:, None] if x.ndim == 2 else x


def _some(x):
    """At most ROWS rows of [N, V, D], all their views, on every device.

    Every s-th row, by a reshape: each device takes its own from its own rows, and only those travel.
    """
    n, views, _ = x.shape
    most = max(ROWS // views, 1)
    least = -(-n // most)
    stride = next(s for s in range(least, n + 1) if n % s == 0)
    if n // stride < min(n, most) // 2:  # N has no fitting divisor
        return gather(x[:most])
    return gather(x.reshape(n // stride, stride, views, -1)[:, 0])
