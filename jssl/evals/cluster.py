"""How far clusters of frozen embeddings agree with the classes: k-means with as many clusters as there are classes."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from threadpoolctl import threadpool_limits

from jssl.evals.labels import check
from jssl.evals.nodes import formed


def cluster(features, labels, *, form="raw", seeds=(0, 1, 2, 3, 4), starts=10):
    """NMI and ARI of k-means against the classes; labels give the number of clusters and the scores, nothing else.

    Args:
      features: [n, D], of nodes or of graphs; labels: int [n], -1 where unknown: such rows are clustered, not scored.
      form: of `jssl.evals.nodes.FORMS`; MVGRL (arXiv:2006.05582) and others cluster embeddings as they are.
      seeds: of k-means; starts: for each of them, of which the one with the least inertia counts.

    Returns:
      {"nmi": mean over seeds, "nmi_std", "nmis": [seeds], "ari", "ari_std", "aris": [seeds], "clusters": int32 [n] of
      the first seed, "settings": {...}}. NMI is divided by the arithmetic mean of the entropies; an ARI of 0 is chance.

    Raises:
      ValueError: for fewer than two classes, or fewer rows than classes.
    """
    x, labels = check(features, labels, "whole", unknown=True)
    known = labels >= 0
    classes = len(np.unique(labels[known]))
    if classes < 2:
        raise ValueError(f"the labels hold {classes} classes; expected at least two")
    if not len(seeds):
        raise ValueError("there are no seeds; expected at least one")
    x = np.asarray(formed(x, form))
    with threadpool_limits(1):  # threads of its short loops wait on each other: one is up to twenty times faster
        clusters = np.stack([KMeans(classes, n_init=starts, random_state=seed).fit_predict(x) for seed in seeds])
    scores = {
        "nmi": np.array([normalized_mutual_info_score(labels[known], found[known]) for found in clusters]),
        "ari": np.array([adjusted_rand_score(labels[known], found[known]) for found in clusters]),
    }
    spread = lambda values: float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        **{name: float(values.mean()) for name, values in scores.items()},
        **{f"{name}_std": spread(values) for name, values in scores.items()},
        **{f"{name}s": values for name, values in scores.items()},
        "clusters": clusters[0],
        "settings": {
            "clusters": f"k-means, K = {classes}, the best of {starts} starts",
            "features": f"{form}, of mean square 1",
            "seeds": list(seeds),
            "rows": int(known.sum()),
        },
    }
