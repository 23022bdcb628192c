"""Noise: of each number on its own."""

import jax
import jax.numpy as jnp


def gaussian_noise(key, x, table, level):
    """Normal noise; the constant is its standard deviation."""
    (std,) = jnp.asarray(table)[level]
    return x + std * jax.random.normal(key, x.shape)


def shot_noise(key, x, table, level):
    """Poisson noise; the constant is how many photons a white pixel gets."""
    (photons,) = jnp.asarray(table)[level]
    return jax.random.poisson(key, photons * x) / photons


def impulse_noise(key, x, table, level):
    """Salt and pepper; the constant is the share of numbers that become 0 or 1, as many of each."""
    (share,) = jnp.asarray(table)[level]
    u = jax.random.uniform(key, x.shape)
    return jnp.where(u < share / 2, 0, jnp.where(u < share, 1, x))
