"""THE train step. Every method is trained by it; nobody forks it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jssl.method import Tree
from jssl.transforms import gather, rows


class TrainState(NamedTuple):
    """All that training hands from step to step, and all that a checkpoint holds."""

    step: jax.Array  # int32 [], steps done
    params: Tree
    carry: Tree
    opt: optax.OptState


def init_state(method, tx, rng, views):
    """The state before step 0. views: arrays or shapes, as `augment` returns them."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), views)
    params, carry = method.init(rng, zeros)
    return TrainState(jnp.int32(0), params, carry, tx.init(params))


def train_step(method, augment, tx, time, accumulate, state, batch, rng):
    """One step: views, loss, gradients, optimizer, carry.

    batch: {'image': uint8 [N, H, W, C], 'index': int32 [N], ...}; rng: the run's key, folded with the step here, so
    that step s is a function of (config, s). accumulate: micro-batches per step, of rows i::accumulate; negatives and
    batch norm see the micro-batch.

    Returns the new state and out: {'metrics': {name: scalar}, 'embedding': [N, V, E], 'features': [N, V, D]}.
    """
    time = time._replace(step=state.step)
    rng_views, rng_loss = jax.random.split(jax.random.fold_in(rng, state.step))
    views = rows(augment(rng_views, batch))

    def loss_fn(params, carry, views, rng):
        return method.loss(gather(params), carry, views, rng, time)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def micro_step(acc, micro):
        carry, grads = acc
        rng, views = micro
        (loss, (carry, out)), g = grad_fn(state.params, carry, rows(views), rng)
        out = {**out, "metrics": {"loss": loss, **out["metrics"]}}
        return (carry, jax.tree.map(jnp.add, grads, g)), out

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    micros = (jax.random.split(rng_loss, accumulate), jax.tree.map(functools.partial(cut, accumulate), views))
    (carry, grads), out = scan(micro_step, (state.carry, zeros), micros)
    grads = jax.tree.map(lambda g: g / accumulate, grads)

    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    params, carry = method.update(params, carry, time)

    metrics = {name: value.mean(0) for name, value in out.pop("metrics").items()}
    metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    out = {"metrics": metrics, **jax.tree.map(uncut, out)}
    return TrainState(state.step + 1, params, carry, opt), out


def train_steps(step, fetch, state, items, rng):
    """Several steps in one dispatch: `step` over the leading axis [K, ...] of `items`, each made a batch by `fetch`.

    Returns the state, the metrics of every step {name: [K]}, and the last step's embeddings.
    """

    def body(carried, item):
        state, out = step(carried[0], fetch(item), rng)
        metrics = out.pop("metrics")
        return (state, out), metrics

    blank = None
    if loops():  # where what comes back must look like what went in
        _, shapes = jax.eval_shape(body, (state, None), jax.tree.map(lambda x: x[0], items))[0]
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (state, out), metrics = scan(body, (state, blank), items)
    return state, metrics, out


def loops():
    """Whether the program loops over steps and micro-batches. On a CPU they are written out, since XLA computes a
    convolution's gradient 70 times slower in a while loop there (jax 0.10.2)."""
    return jax.default_backend() != "cpu"


def scan(body, init, xs):
    """`lax.scan`, or where nothing loops a plain loop."""
    if loops():
        return lax.scan(body, init, xs)
    carried, outs = init, []
    for i in range(len(jax.tree.leaves(xs)[0])):
        carried, out = body(carried, jax.tree.map(lambda x, i=i: x[i], xs))
        outs.append(out)
    return carried, jax.tree.map(lambda *x: jnp.stack(x), *outs)


def cut(accumulate, x):
    """[N, ...] -> [A, N / A, ...]. Micro-batch i holds rows i::A, so that every device keeps its own."""
    return x.reshape(len(x) // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)


def uncut(x):
    """The inverse of `cut`: [A, N / A, ...] -> [N, ...]."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
