"""BGRL: Large-Scale Representation Learning on Graphs via Bootstrapping.

Shantanu Thakoor, Corentin Tallec, Mohammad Gheshlaghi Azar, Mehdi Azabou, Eva L. Dyer, Rémi Munos, Petar Veličković,
Michal Valko, 2021; arXiv:2102.06514.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jssl.augment.graph import choose
from jssl.method import Method
from jssl.nets.graph import apply_graph_views, compared, of_examples, of_nodes
from jssl.nets.mlp import MLP
from jssl.nets.net import Net, apply_nets, init_nets, width
from jssl.transforms import cosine, ema, mean_over


@dataclasses.dataclass(frozen=True)
class BGRL(Method):
    """Each node of one view predicts the target network's embedding of the same node in the other; no negatives.

    BYOL for nodes, without a projector (section 3). The target is a slow average of the online encoder; predictor and
    stop-gradient keep the pair from collapsing.
    """

    encoder: Net  # E, of nodes
    hidden: int = 512
    tau_base: float = 0.99

    @property
    def target(self):
        return {"encoder": of_nodes(self.encoder)}

    def online(self, dim):
        predictor = MLP(self.hidden, dim, norm=False, activation="prelu", dtype=self.encoder.dtype)
        return {**self.target, "predictor": predictor}  # p

    def init(self, rng, views):
        graph = choose(views, 0)
        params, stats = init_nets(self.online(width(of_nodes(self.encoder), graph)), rng, graph)
        target, target_stats = (jax.tree.map(jnp.copy, self.of_target(tree)) for tree in (params, stats))
        return params, {"stats": stats, "target": target, "target_stats": target_stats}

    def loss(self, params, carry, views, rng, time):
        rng_online, rng_target = jax.random.split(rng)
        nets = self.online(params["predictor"]["dense1"]["kernel"].shape[-1])
        online, stats = apply_graph_views(nets, params, carry["stats"], views, rng_online)
        target = lax.stop_gradient(carry["target"])
        target, target_stats = apply_graph_views(self.target, target, carry["target_stats"], views, rng_target)
        graph = choose(views, 0)
        q, there = compared(self.encoder, graph, online["predictor"])  # [N, 2, D]
        z, _ = compared(self.encoder, graph, target["encoder"])

        loss = (distance(q[:, 0], z[:, 1], there) + distance(q[:, 1], z[:, 0], there)) / 2  # eq. 1, symmetrised
        features, examples = of_examples(self.encoder, graph, online["encoder"])
        there = {"embedding": there, "features": examples}
        out = {"metrics": {"tau": self.tau(time)}, "embedding": q, "features": features, "there": there}
        return loss, ({**carry, "stats": stats, "target_stats": target_stats}, out)

    def update(self, params, carry, time):
        return params, {**carry, "target": ema(carry["target"], self.of_target(params), self.tau(time))}

    def embed(self, params, carry, inputs):
        out, _ = apply_nets({"encoder": self.encoder}, params, carry["stats"], inputs, train=False)
        return {"features": out["encoder"]}

    def tau(self, time):
        """From tau_base to 1 along half a cosine."""
        return time.cosine(self.tau_base)

    def of_target(self, tree):
        return {name: tree[name] for name in self.target}


def distance(q, z, there):
    """Eq. 1: 2 - 2 cos, mean over the nodes that are there. q, z: [N, D] -> []."""
    return mean_over(2 - 2 * cosine(q, z), there)
