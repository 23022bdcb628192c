import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import health, watch
from tests.oracles import load

KEY = jax.random.key(0)
measures = jax.jit(health.measures)


def warning(metrics, **limits):
    """What the watchdog says first of these measures, or None."""
    return next(iter(watch.findings([metrics], watch.LIMITS | limits).values()), None)


def numbers(**out):
    return {name: float(value) for name, value in measures(out).items()}


def test_even_embeddings_are_healthy():
    found = numbers(embedding=jax.random.normal(KEY, (256, 2, 32)))
    assert found["health/std"] == pytest.approx(1, abs=0.02)
    assert 30 < found["health/rankme"] < 32
    assert found["health/alignment"] == pytest.approx(2, abs=0.1)  # the views have nothing in common
    assert found["health/uniformity"] == pytest.approx(-4 + 16 / 64, abs=0.1)  # cos is about normal, variance 1 / 32
    assert warning(found) is None


@pytest.mark.parametrize("value", [0.0, 1.0, 1e30])
def test_total_collapse_is_finite_and_a_warning(value):
    found = numbers(embedding=jnp.full((64, 2, 32), value, jnp.bfloat16))
    assert found["health/std"] == pytest.approx(0, abs=1e-6)
    assert found["health/rankme"] == pytest.approx(1, abs=1e-3)
    assert found["health/alignment"] == pytest.approx(0, abs=1e-6)
    assert found["health/uniformity"] == pytest.approx(0, abs=1e-6)
    assert "almost the same for every input" in warning(found)


def test_padding_is_not_measured():
    """Rows that are not there change nothing, whatever they hold."""
    x = jax.random.normal(KEY, (48, 2, 8)) + 1
    there = jnp.arange(64) % 4 != 3
    padded = jnp.full((64, 2, 8), 100.0).at[jnp.flatnonzero(there)].set(x)
    some = {"embedding": there, "features": there}
    found, alone = numbers(embedding=padded, features=padded, there=some), numbers(embedding=x, features=x)
    assert found == pytest.approx(alone, rel=1e-4)


def test_a_line_is_a_dimensional_collapse():
    line = jax.random.normal(KEY, (64, 2, 1)) * jax.random.normal(jax.random.key(1), (32,))
    found = numbers(embedding=line)
    assert found["health/std"] > 0.5
    assert "1.0 of 32 dimensions" in warning(found, dim=32)


def test_without_embedding_the_features_are_judged():
    found = numbers(features=jnp.ones((64, 1, 32)))
    assert set(found) == {"health/features_std", "health/features_rankme"}
    assert "the features are almost the same" in warning(found)
    assert warning({"loss": 1.0}) is None


@pytest.mark.parametrize("rank", [1, 3, 20])
@pytest.mark.parametrize("shape", [(256, 64), (64, 256)])
def test_rankme_of_rank_r_is_about_r(rank, shape):
    u, v = (np.linalg.qr(np.random.default_rng(s).normal(size=(n, rank)))[0] for s, n in enumerate(shape))
    assert float(health.rankme(jnp.float32(u @ v.T))) == pytest.approx(rank, rel=2e-3)


def test_rankme_is_the_paper_s_formula():
    x = np.random.default_rng(0).normal(size=(100, 16)) * np.linspace(0.1, 3, 16) + 1
    p = np.linalg.svd(x, compute_uv=False)
    p = p / p.sum() + 1e-7
    assert float(health.rankme(jnp.float32(x))) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)


def test_alignment_and_uniformity_are_the_oracle_s():
    manifest, t = load("hypersphere")
    x = jnp.stack([t["in.z0"], t["in.z1"]], 1)
    loss = health.alignment(x) + health.uniformity(x)  # lightly's loss is their sum
    assert float(loss) == pytest.approx(manifest["scalars"]["loss"], rel=1e-5)


def test_uniformity_of_known_configurations():
    line = jnp.array([[1.0, 0], [-1, 0]])[:, None]  # one pair, opposite: |z - z'|^2 = 4
    assert float(health.uniformity(line)) == pytest.approx(-8)
    square = jnp.array([[1.0, 0], [0, 2], [-3, 0], [0, -4]])[:, None]  # 4 pairs at 2, 2 at 4
    assert float(health.uniformity(square)) == pytest.approx(np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6), rel=1e-5)


def test_alignment_is_the_mean_over_all_pairs_of_views():
    z = np.random.default_rng(0).normal(size=(10, 3, 5))
    u = z / np.linalg.norm(z, axis=-1, keepdims=True)
    pairs = [np.sum((u[:, a] - u[:, b]) ** 2, -1).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert float(health.alignment(jnp.float32(z))) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_spread_is_that_of_unit_embeddings():
    x = np.random.default_rng(0).normal(size=(40, 2, 6)) + 1
    z = (x / np.linalg.norm(x, axis=-1, keepdims=True)).reshape(80, 6)
    assert float(health.spread(jnp.float32(x))) == pytest.approx(z.std(0).mean() * np.sqrt(6), rel=1e-5)


def test_information_of_known_assignments():
    one_each = jnp.eye(8).reshape(4, 2, 8)
    assert float(health.information(one_each)) == pytest.approx(np.log(8), rel=1e-6)
    assert float(health.information(jnp.zeros((4, 2, 8)).at[..., 3].set(1))) == pytest.approx(0, abs=1e-6)
    assert float(health.information(jnp.full((4, 2, 8), 1 / 8))) == pytest.approx(0, abs=1e-6)
    halves = jnp.stack(
        [jnp.tile(jnp.array([0.5, 0.5, 0, 0]), (6, 1)), jnp.tile(jnp.array([0, 0, 0.5, 0.5]), (6, 1))], 1
    )
    assert float(health.information(halves)) == pytest.approx(np.log(2), rel=1e-6)


def test_information_is_the_mean_divergence_from_the_mean_assignment():
    p = np.random.default_rng(0).dirichlet(np.full(10, 0.3), (20, 2))
    divergences = np.sum(p * np.log(p / p.mean((0, 1))), -1)
    assert float(health.information(jnp.float32(p))) == pytest.approx(divergences.mean(), rel=1e-5)
    assert not np.any(jax.grad(health.information)(jnp.float32(p)))
    assert np.isfinite(health.information(jnp.bfloat16(p)))


def test_embeddings_that_shrink_to_a_point_are_a_collapse_though_their_directions_stay():
    x = jnp.asarray(np.random.RandomState(0).randn(64, 2, 8), jnp.float32)
    assert float(health.deviation(3 * x)) == pytest.approx(3 * np.asarray(x).reshape(-1, 8).std(0).mean(), rel=1e-5)
    assert not np.any(jax.grad(health.deviation)(x))
    for scale, collapsed in (1.0, False), (1e-3, True):
        found = numbers(embedding=scale * x) | {"health/deviation": float(health.deviation(scale * x))}
        assert found["health/std"] > 0.9
        assert ("shrunk to almost one point" in (warning(found) or "")) == collapsed


def test_assignments_without_information_are_a_collapse():
    healthy = {"health/std": 1.0, "health/rankme": 30.0}
    assert warning({**healthy, "health/information": 1.0}) is None
    assert warning(healthy) is None
    assert "every input gets almost the same assignment" in warning({**healthy, "health/information": 0.001})


def test_assignments_measure_their_entropy_and_the_prototypes_in_use():
    one_hot = health.assignments(jnp.eye(8).reshape(4, 2, 8))
    assert {name: float(x) for name, x in one_hot.items()} == pytest.approx(
        {"health/information": np.log(8), "health/entropy": 0, "health/used": 1}, abs=1e-5
    )
    even = health.assignments(jnp.full((4, 2, 8), 1 / 8))
    assert (float(even["health/entropy"]), float(even["health/used"])) == pytest.approx((1, 1 / 8), abs=1e-5)
    p = np.random.default_rng(0).dirichlet(np.full(10, 0.3), (20, 2))
    expected = -np.sum(p * np.log(p), -1).mean() / np.log(10)
    assert float(health.assignments(jnp.float32(p))["health/entropy"]) == pytest.approx(expected, rel=1e-5)
    assert not np.any(jax.grad(lambda p: sum(health.assignments(p).values()))(jnp.float32(p)))


def test_codes_in_use_are_counted_against_those_that_could_be():
    assert float(health.used(jnp.array([[3, 3], [0, 5]]), 10)) == pytest.approx(3 / 4)  # 4 rows can use 4 of 10 codes
    assert float(health.used(jnp.arange(100) % 5, 10)) == pytest.approx(1 / 2)
    assert float(health.used(jnp.array([-1, -1, 2, 12]), 10)) == pytest.approx(1 / 4)  # other numbers are no code
    found = health.tokens(jnp.array([1, 1, 5, 5]), 16)
    assert {name: float(x) for name, x in found.items()} == pytest.approx(
        {"health/perplexity": 2, "health/used": 0.5}, rel=1e-5
    )


def test_scale_and_precision_change_little():
    x = jax.random.normal(KEY, (64, 2, 32)) + 0.5
    expected = numbers(embedding=x)
    for other in (x.astype(jnp.bfloat16), x * 1e-15, x * 1e25):
        assert numbers(embedding=other) == pytest.approx(expected, rel=5e-3)


def test_one_view_has_no_pairs():
    assert set(numbers(embedding=jax.random.normal(KEY, (64, 1, 8)))) == {"health/std", "health/rankme"}
    assert numbers(embedding=jax.random.normal(KEY, (64, 8))).keys() == {"health/std", "health/rankme"}
    assert np.isfinite(list(numbers(embedding=jax.random.normal(KEY, (1, 2, 8))).values())).all()
    assert measures({"metrics": {}}) == {}


@pytest.mark.parametrize("n", [1, 7, 256, 257, 1000, 1021, 4096])
def test_a_subsample_has_at_most_512_rows_and_no_row_twice(n):
    some = health._some(jnp.arange(n, dtype=jnp.float32)[:, None, None] + jnp.zeros((1, 2, 1)))
    rows = some[:, 0, 0].tolist()
    assert len(rows) == len(set(rows)) <= 256
    assert len(rows) >= min(n, 256) // 2


def test_no_gradient_comes_out():
    x = jax.random.normal(KEY, (16, 2, 8))
    total = lambda x: sum(health.measures({"embedding": x, "features": x}).values())
    assert not np.any(jax.grad(total)(x))


def test_many_devices_measure_the_same_and_exchange_little():
    n, views, dim = 2048, 2, 16
    x = jax.random.normal(KEY, (n, views, dim))
    expected = numbers(embedding=x)
    mesh = jax.make_mesh((8, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        out = {"embedding": jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))}
        program = jax.jit(health.measures, out_shardings=NamedSharding(mesh, P())).lower(out).compile()
        assert {name: float(v) for name, v in program(out).items()} == pytest.approx(expected, rel=1e-4)
    text = program.as_text()
    assert not re.search(r"all-to-all|collective-permute", text)
    gathered = re.findall(r"f32\[([\d,]+)\]\S* all-gather", text)
    assert gathered
    assert max(np.prod([int(d) for d in shape.split(",")]) for shape in gathered) <= health.ROWS * dim
