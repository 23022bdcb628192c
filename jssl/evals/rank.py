"""Measures of an encoder that need no labels: for choosing a checkpoint, or hyper-parameters, without any."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from jssl import config as configs
from jssl import health
from jssl.evals.neighbours import neighbours
from jssl.evals.scores import attempt, entry, spread_of_mean, title
from jssl.sharding import put, replicated, rows_here

FEATURES = 10_000  # examples whose features RankMe and alpha-ReQ look at
BATCH = 64
OF_VIEWS = ("lidar", "alignment", "uniformity", "neighbours")
RANKS = (4, 100)  # of the eigenvalues that alpha-ReQ fits


@dataclasses.dataclass(frozen=True)
class Settings:
    images: int = 200  # of which views are made
    views: int = 10  # of each
    k: int = 10  # neighbours whose lists are compared


def rankme(x):
    """RankMe (Garrido et al., 2023; arXiv:2210.02885, eq. 1-2): the effective rank, by singular values.

    Of the matrix as it is, neither centred nor normalised, as in the paper. x: features [N, D] -> 1 to min(N, D).
    """
    return effective_rank(np.linalg.svd(np.asarray(x, np.float64), compute_uv=False))


def effective_rank(values, eps=1e-7):
    """exp of the entropy of the normalised values [K]."""
    p = values / max(values.sum(), 1e-30) + eps
    return float(np.exp(-np.sum(p * np.log(p))))


def alpha_req(x):
    """alpha-ReQ (Agrawal et al., 2022; arXiv:2202.05808): how fast the eigenvalues of the covariance fall, j^-alpha.

    Near 1 is what the paper finds good: well above it few directions carry all, well below it noise does. x: features
    [N, D] -> alpha, the slope of log lambda_j over log j by least squares with weights 1 / j, j from 4 to 100 or to the
    last eigenvalue that is no rounding: the paper names no range; this is its authors' code's. Features that all are
    one point, or with fewer than two such eigenvalues, have none: NaN.
    """
    x = np.asarray(x, np.float64)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    there = int(np.sum(values > max(values[0], 1e-30) * max(x.shape) * np.finfo(np.float32).eps ** 2))
    first, last = RANKS[0], min(RANKS[1], there)
    if last - first < 1:
        return float("nan")
    rank = np.arange(first, last + 1)
    return float(-np.polyfit(np.log(rank), np.log(values[first - 1 : last]), 1, w=rank**-0.5)[0])


def lidar(views, delta=1e-4):
    """LiDAR (Thilak et al., 2023; arXiv:2312.04000): the effective rank of what tells images apart, relative to what
    tells views of one image apart.

    With the covariance B of the images' means and W of the views around them, plus `delta` on its diagonal: exp of the
    entropy of the normalised eigenvalues of W^-1/2 B W^-1/2. views: features [n, q, D] -> 1 to min(n - 1, D); 1 where
    all features are one point. It depends on the scale of the features by `delta` alone.
    """
    x = np.asarray(views, np.float64)
    n, q, dim = x.shape
    means = x.mean(1)
    between = np.cov(means.T).reshape(dim, dim)
    apart = (x - means[:, None]).reshape(-1, dim)
    within = apart.T @ apart / (n * (q - 1)) + delta * np.eye(dim)
    return effective_rank(np.maximum(linalg.eigh(between, within, eigvals_only=True), 0))


def consistency(views, k=10):
    """Neighbour consistency: what share of an image's k nearest other images, in one view of all, it has in another.

    Views 0 and 1 of each image are compared, 2 and 3, ...: the neighbours of its view 0 among all others' views 0 with
    those of its view 1 among all others' views 1, by cosine. views: features [n, V, D], V >= 2 -> shares [n], the mean
    over the pairs, of chance k / (n - 1); and how often the nearest one alone is the same, [n].
    """
    lists = np.stack([neighbours(views[:, v], None, k)[1] for v in range(views.shape[1] // 2 * 2)])  # [V, n, k]
    a, b = lists[::2], lists[1::2]
    shared = (a[..., :, None] == b[..., None, :]).any(-1).mean(-1)  # [V / 2, n]
    return shared.mean(0), (a[..., 0] == b[..., 0]).mean(0)


def protocol(subject):
    """Scores of every encoder: RankMe and alpha-ReQ of the training images' features, the others of their views."""
    how = subject.settings("rank", Settings())
    if how.images < 2 or how.views < 2 or not 0 < how.k < how.images:
        raise ValueError(
            f"rank.images={how.images}, rank.views={how.views}, rank.k={how.k}: expected at least 2 images and 2 "
            "views, and k from 1 to images - 1"
        )
    scores = []
    for name, encoder in subject.encoders.items():
        scores += of_features(name, subject.embedded(name, "train"), "training images", subject.seed)
        of_views = functools.partial(_of_views, subject, name, encoder, how)
        scores += attempt(of_pairs(), of_views, subject.missing)
    return scores


def of_features(name, features, what, seed):
    """The scores of an encoder that its features [N, D] alone give; what: they are of, in words."""
    rows = np.random.default_rng(seed).permutation(len(features))[:FEATURES]
    some = _finite(features[rows], name)
    of = {"features": "as they are", "rows": len(rows), "of": f"{what}, no labels", "seed": seed}
    unit = {"unit": "dimensions", "of_dimensions": some.shape[1]}
    fit = f"slope of log eigenvalues over log rank, weights 1 / rank, ranks {RANKS[0]} to {RANKS[1]}"
    return [
        entry("rankme", name, [rankme(some)], {**of, **unit}),
        entry("alpha-req", name, [alpha_req(some)], {**of, "unit": "exponent", "fit": fit}),
    ]


def of_pairs():
    """The scores that need views, in words."""
    return f"what is measured of views ({', '.join(map(title, OF_VIEWS))})"


def _of_views(subject, name, encoder, how):
    source = subject.splits["train"]
    rows = np.random.default_rng(subject.seed).permutation(len(source))[: how.images]
    if len(rows) <= how.k:
        raise ValueError(f"{source.spec} holds {len(source)} images; expected more than rank.k={how.k}")
    x = _finite(views(encoder, subject, rows, how.views), name)
    said = {
        "views": f"{how.views} of each of {len(rows)} training images, by the run's augmentations",
        "augment": subject.config["augment"],
        "features": "as they are",
        "seed": subject.seed,
    }
    unit = {**said, "features": "of unit length"}
    shares, nearest = consistency(x, how.k)
    chance = how.k / (len(rows) - 1)
    lists = {**said, "k": how.k, "chance": chance, "nearest_agrees": float(nearest.mean()), "test_rows": len(rows)}
    found = jnp.asarray(x)
    lists |= {"stderr": "of the mean over the images", "interval": "95 %, bootstrap over test examples"}
    consistent = entry("neighbours", name, [shares.mean()], lists, right=shares, spread=spread_of_mean(shares))
    return [
        entry("lidar", name, [lidar(x)], {**said, "unit": "dimensions", "delta": 1e-4}),
        entry("alignment", name, [float(health.alignment(found))], {**unit, "unit": "squared distance"}),
        entry("uniformity", name, [float(health.uniformity(found))], {**unit, "unit": "log of the mean energy, t = 2"}),
        consistent,
    ]


def views(encoder, subject, rows, count):
    """Features of `count` random views of images, float32 [len(rows), count, D], a function of the subject's seed.

    Views are the run's large crops. Images on disk come as central squares of twice a crop's side.
    """
    if not subject.config["augment"]["name"]:
        raise ValueError("this encoder comes without the augmentations of its run; expected a run directory")
    augment, mesh = configs.build(subject.config["augment"]), encoder.embedder.mesh
    source, size = subject.splits["train"].take(rows), min(BATCH, len(rows))
    filled = -(-size // mesh.size) * mesh.size
    here = np.minimum(rows_here(mesh, filled), size - 1)  # what the devices have too many is the last image

    def embedded(params, carry, batch, rng):
        x = augment(rng, batch)["image"]  # [N, V, S, S, C]
        found = encoder.method.embed(params, carry, {"image": x.reshape(-1, *x.shape[2:])})["features"]
        return found.reshape(*x.shape[:2], -1)

    run = jax.jit(embedded, out_shardings=replicated(mesh))
    found, key = [], jax.random.key(subject.seed)
    how = {"size": 2 * encoder.preprocess.size, "crop": 1.0, "workers": subject.workers}
    for i, batch in enumerate(source.every(batch_size=size, rows=here, **how)):
        batch, made = {name: batch[name] for name in ("image", "index")}, []
        with jax.set_mesh(mesh):
            batch = put(mesh, batch, filled)
            while sum(part.shape[1] for part in made) < count:
                rng = jax.random.fold_in(jax.random.fold_in(key, i), len(made))
                made.append(np.asarray(run(encoder.params, encoder.carry, batch, rng))[:size])
        found.append(np.concatenate(made, 1)[:, :count])
    return np.concatenate(found)[: len(rows)].astype(np.float32)


def _finite(x, name):
    if not np.isfinite(x).all():
        raise ValueError(f"the {name} encoder's features hold NaN or infinity; expected finite numbers")
    return x
