"""Encoders of random weights, exported without any training: for tests of what reads them."""

import jax
import jax.numpy as jnp

from jssl import config as configs
from jssl.data import Source
from jssl.encoder import Encoder, export
from jssl.sharding import make_mesh, replicated


def encoder(folder, spec, channels=3, seeds=(0, 1), **overrides):
    """Writes an encoder folder of the config `spec` with weights and untrained weights of two seeds -> {"trained",
    "untrained": Encoder}. overrides: fields, with __ for dots."""
    config = configs.load(spec, {name.replace("__", "."): value for name, value in overrides.items()})
    config.dtype = "float32"
    net = configs.build(config.encoder, dtype=jnp.float32)
    method, inputs = configs.build(config.method, encoder=net), configs.build(config.preprocess)
    source = Source(spec="blank", names=["0"], channels=channels, open=lambda row: None)
    views = {"image": jnp.zeros((2, 2, inputs.size, inputs.size, channels))}
    init = jax.jit(method.init, out_shardings=replicated(make_mesh()))
    for seed, weights in zip(seeds, ("weights", "untrained")):
        params, carry = init(jax.random.key(seed), views)
        export(folder, config, method, inputs, params, carry, source, weights)
    return {name: Encoder(folder, weights) for name, weights in (("trained", "weights"), ("untrained", "untrained"))}
