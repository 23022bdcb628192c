"""Measures without labels, on features whose answer is known."""

import numpy as np
import pytest
from scipy import linalg

from jssl.evals.rank import alpha_req, consistency, lidar, rankme

RNG = np.random.default_rng(0)


def features(spectrum, n=400):
    """[n, D] whose covariance has exactly these eigenvalues, up to one factor."""
    x = RNG.normal(size=(n, len(spectrum)))
    left = np.linalg.qr(x - x.mean(0))[0]  # orthonormal, and of mean 0
    right = np.linalg.qr(RNG.normal(size=(len(spectrum), len(spectrum))))[0]
    return (left * np.sqrt(spectrum)) @ right.T + 3.0  # the mean says nothing


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_rankme_of_a_power_law_counts_its_small_singular_values(alpha):
    sigma = np.arange(1.0, 513) ** -alpha
    p = sigma / sigma.sum() + 1e-7
    turned = np.linalg.qr(RNG.normal(size=(512, 512)))[0]
    x = (turned * sigma) @ turned.T
    assert rankme(x.astype(np.float32)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("dim", [20, 150])
def test_alpha_req_is_the_exponent_of_a_power_law(alpha, dim):
    found = alpha_req(features(np.arange(1.0, dim + 1) ** -alpha).astype(np.float32))
    assert found == pytest.approx(alpha, abs=0.01)


def test_alpha_req_reads_neither_the_first_three_eigenvalues_nor_those_that_are_rounding():
    spectrum = np.arange(1.0, 61) ** -1.0
    spectrum[:3] *= 100
    spectrum[40:] = 0
    assert alpha_req(features(spectrum).astype(np.float32)) == pytest.approx(1.0, abs=0.01)


def test_alpha_req_weighs_a_rank_by_its_inverse():
    spectrum = np.where(np.arange(1, 101) < 50, np.arange(1.0, 101) ** -1.0, np.arange(1.0, 101) ** -3.0 * 50**2)
    rank = np.arange(4, 101)
    A = np.stack([np.log(rank), np.ones(97)], 1)
    W = np.diag(1 / rank)
    expected = -np.linalg.solve(A.T @ W @ A, A.T @ W @ np.log(spectrum[3:]))[0]
    assert alpha_req(features(spectrum)) == pytest.approx(expected, abs=1e-6)
    assert 1.1 < expected < 2.5


def test_without_a_spectrum_there_is_no_exponent():
    assert np.isnan(alpha_req(np.ones((50, 8), np.float32)))
    assert np.isnan(alpha_req(features(np.array([1.0, 1, 1, 1]))))


def images(n, q, dim, rank, noise):
    """Views [n, q, dim]: an image's place in `rank` of the dimensions, and noise in all of them."""
    place = np.zeros((n, 1, dim))
    place[..., :rank] = RNG.normal(size=(n, 1, rank))
    return place + noise * RNG.normal(size=(n, q, dim))


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_lidar_counts_the_dimensions_that_tell_images_apart(rank):
    assert lidar(images(400, 10, 12, rank, noise=0.05)) == pytest.approx(rank, rel=0.05)


def test_lidar_is_its_definition():
    x = images(30, 5, 6, 3, noise=0.5)
    means = x.mean(1)
    between = sum(np.outer(m, m) for m in means - means.mean(0)) / 29
    within = sum(np.outer(v, v) for v in (x - means[:, None]).reshape(-1, 6)) / (30 * 4) + 1e-4 * np.eye(6)
    root = linalg.inv(linalg.sqrtm(within))
    values = linalg.eigvalsh(root @ between @ root)
    p = values / values.sum() + 1e-7
    assert lidar(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_what_views_change_and_images_do_not_does_not_count_for_lidar():
    """Two dimensions of images of one spread, in one of which views lie far apart."""
    x = images(400, 10, 2, 2, noise=0.1)
    x[..., 1] += 3 * RNG.normal(size=x.shape[:2])
    assert lidar(x) == pytest.approx(1, abs=0.1)
    assert lidar(images(400, 10, 2, 2, noise=0.1)) == pytest.approx(2, abs=0.1)


def test_lidar_of_one_point_is_one():
    assert lidar(np.ones((20, 3, 5))) == pytest.approx(1, abs=1e-3)


def test_neighbours_are_kept_where_views_are_alike_and_by_chance_where_they_are_not():
    x = RNG.normal(size=(100, 1, 8)).astype(np.float32)
    shares, nearest = consistency(np.repeat(x, 2, 1), k=5)
    assert shares.mean() == 1
    assert nearest.mean() == 1
    shares, nearest = consistency(RNG.normal(size=(100, 6, 8)).astype(np.float32), k=5)
    assert shares.mean() == pytest.approx(5 / 99, abs=3 * (0.05 / 1500) ** 0.5)
    assert nearest.mean() < 0.05


def test_half_of_the_neighbours_kept_is_one_half():
    """Images on a line, in pairs: the neighbour within a pair is kept, the next one is not."""
    angle = lambda order: np.repeat(np.argsort(order), 2) * 0.3 + np.tile([0, 0.05], 10)
    point = lambda order: np.stack([np.cos(angle(order)), np.sin(angle(order))], 1)
    views = np.stack([point(np.arange(10)), point(np.array([0, 5, 1, 6, 2, 7, 3, 8, 4, 9]))], 1)
    shares, nearest = consistency(views.astype(np.float32), k=2)
    assert nearest.mean() == 1
    assert set(shares) <= {0.5, 1.0}
    assert 0.5 <= shares.mean() < 0.7
