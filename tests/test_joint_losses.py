"""The losses of the joint-embedding methods and their gradients are lightly's, at several shapes and from bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from jssl.losses import cross_crops, info_nce, nt_xent
from jssl.methods import barlow_twins, tico, vicreg
from jssl.transforms import sinkhorn, unit
from tests import oracles
from tests.oracles.make_joint import CASES, inputs

ALL = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]


def loss_of(name, i, views, second=None):
    """Our loss of the views [N, V, D] of a case, in lightly's units."""
    more = CASES[name][i][2:]
    a, b = views[:, 0], views[:, 1]
    if name == "barlow_twins":
        on, off = barlow_twins.distance_from_identity(barlow_twins.cross_correlation(a, b))
        return on + 5e-3 * off
    if name == "vicreg":
        terms = vicreg.distance(a, b), vicreg.spread_lacking(a) + vicreg.spread_lacking(b)
        return 25 * terms[0] + 12.5 * terms[1] + vicreg.shared(a) + vicreg.shared(b)
    if name == "tico":
        return tico.tico(unit(a), unit(stop_gradient(b)), jnp.zeros((a.shape[1],) * 2), rho=8.0, beta=0.9)[0]
    if name == "dcl":
        return nt_xent(views, more[0], decoupled=True)
    if name == "moco":
        return info_nce(a, stop_gradient(b), more[0], second)
    if name == "swav":
        codes = [sinkhorn([views[:, v]], epsilon=more[2])[0] for v in (0, 1)]
        views = views.astype(jnp.float32)
        return cross_crops(jnp.stack(codes, 1), jax.nn.log_softmax(views / more[1]))
    p_t = jax.nn.softmax(second.astype(jnp.float32) / more[2])  # the centre is 0 at first
    return cross_crops(p_t, jax.nn.log_softmax(views.astype(jnp.float32) / more[1]))


@functools.cache
def figures():
    return oracles.load("torch_joint")


@pytest.mark.parametrize("name, i", ALL)
def test_loss_and_gradient_are_lightlys(name, i):
    manifest, tensors = figures()
    x, *second = inputs(name, i)
    loss, grad = jax.jit(jax.value_and_grad(functools.partial(loss_of, name, i)))(x, *second)
    expected = tensors[f"{name}.{i}"]
    np.testing.assert_allclose(loss, manifest["losses"][f"{name}.{i}"], rtol=1e-5)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name, i", ALL)
def test_bfloat16_costs_its_own_rounding_and_no_more(name, i):
    manifest, tensors = figures()
    x, *second = (jnp.asarray(value, jnp.bfloat16) for value in inputs(name, i))
    loss, grad = jax.jit(jax.value_and_grad(functools.partial(loss_of, name, i)))(x, *second)
    expected = tensors[f"{name}.{i}.bfloat16"]
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, manifest["losses"][f"{name}.{i}.bfloat16"], rtol=1e-4)
    np.testing.assert_allclose(grad.astype(np.float32), expected, rtol=2**-6, atol=2e-3 * np.abs(expected).max())
