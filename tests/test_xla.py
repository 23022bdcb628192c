"""What XLA is told reaches the programs that take the time, and is left out where it means nothing."""

import re
import types

import jax
import numpy as np
import pytest

from jssl import xla
from jssl.sharding import make_mesh
from tests.contract import trained


def handed_over(text):
    """What a compiled program has done by YNNPACK."""
    computations = dict(re.findall(r"^%([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    called = re.findall(r"calls=%([\w.\-]+).*?__ynn_fusion", text)
    return {kind for name in called for kind in re.findall(r" (dot|reduce|convolution)\(", computations[name])}


def mesh_of(platform):
    return types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))


def test_a_train_step_sums_and_convolves_without_ynnpack():
    assert xla.compiler_options(make_mesh(devices=jax.devices()[:1])) == xla.CPU
    by_itself = jax.jit(lambda x: (x * x).sum(0)).lower(np.ones((512, 512), np.float32)).compile().as_text()
    assert handed_over(by_itself) == {"reduce"}
    assert handed_over(trained("simclr").text) <= {"dot"}


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_are_told_nothing(platform):
    assert xla.compiler_options(mesh_of(platform)) is None


def test_another_version_of_xla_is_told_nothing(monkeypatch):
    monkeypatch.setattr(xla, "CPU", {"xla_cpu_no_such_option": "1"})
    xla.known.cache_clear()
    assert xla.compiler_options(mesh_of("cpu")) is None
    xla.known.cache_clear()
