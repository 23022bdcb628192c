"""Training trajectories of lightly's examples, driven through our train step.

Their backbone, Linear(no bias)-BN-ReLU-Linear, is our `MLP(10, 10)`; inputs are vectors [steps, views, N, 6].
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl.method import Time
from jssl.nets.mlp import MLP
from jssl.step import TrainState, train_step
from tests.torch_weights import convert

BACKBONE = MLP(10, 10)
NAMES = {
    r"^backbone": "encoder",
    r"^proj\.layers": "projector",
    r"^pred\.layers": "predictor",
    r"\.0\.": ".dense0.",
    r"\.1\.": ".norm0.",
    r"\.3\.": ".dense1.",
    r"\.4\.": ".norm1.",
    r"\.6\.": ".dense2.",
    r"\.7\.": ".norm2.",
}


def weights(tensors, prefix):
    """-> (params, stats) of the tensors `prefix`NAME."""
    chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return convert({key: value for key, value in chosen.items() if "num_batches" not in key}, NAMES)


def sgd(hyper, scale=1.0):
    """torch's SGD, decay on every parameter, for a loss that is `scale` times theirs."""
    decay = optax.add_decayed_weights(scale * hyper["weight_decay"])
    return optax.chain(decay, optax.sgd(hyper["lr"] / scale, momentum=hyper["momentum"]))


def train(method, tx, params, carry, x):
    """The losses of one step on each x[s] [V, N, 6], and the state after the last."""
    time = Time(0, 10**9, 1.0)  # so long that schedules stay at their start
    views = lambda rng, batch: {"image": batch["image"]}
    step = jax.jit(functools.partial(train_step, method, views, tx, time, 1))
    state, losses = TrainState(jnp.int32(0), params, carry, tx.init(params)), []
    for s in range(len(x)):
        batch = {"image": jnp.asarray(x[s].swapaxes(0, 1)), "index": jnp.arange(x.shape[2])}
        state, out = step(state, batch, jax.random.key(0))
        losses.append(out["metrics"]["loss"])
    return np.array(losses), state


def assert_statistics(ours, theirs, start, passes, n):
    """Running statistics after `passes` batches of n; torch keeps the unbiased variance, flax the biased one."""
    for net, norms in theirs.items():
        for norm, expected in norms.items():
            kept = 0.9**passes * start[net][norm]["var"]
            close(ours[net][norm]["mean"], expected["mean"])
            close(kept + (ours[net][norm]["var"] - kept) * n / (n - 1), expected["var"])


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
