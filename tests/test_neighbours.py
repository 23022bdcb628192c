"""Nearest rows of a bank that is cut over devices and never whole on them, and what they vote."""

import time

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from benchmarks import knn as benchmark
from jssl.evals.knn import knn
from jssl.evals.neighbours import neighbours
from jssl.sharding import make_mesh

RNG = np.random.default_rng(0)
BANK, QUERIES = RNG.normal(size=(300, 12)).astype(np.float32), RNG.normal(size=(40, 12)).astype(np.float32)
LABELS = (BANK[:, 0] + RNG.normal(size=300) > 0).astype(np.int32) + (BANK[:, 1] > 1)
TEST_LABELS = (QUERIES[:, 0] > 0).astype(np.int32) + (QUERIES[:, 1] > 1)


@pytest.fixture(scope="module")
def expected():
    return neighbours(BANK, QUERIES, 10, mesh=make_mesh(devices=jax.devices()[:1]))


def same(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)


@pytest.mark.parametrize("block", [64, 300])
def test_eight_devices_find_what_one_finds(expected, block):
    assert jax.device_count() == 8
    same(neighbours(BANK, QUERIES, 10, block=block), expected)


def test_a_bank_may_lie_on_disk(expected, tmp_path):
    np.save(tmp_path / "bank.npy", BANK)
    same(neighbours(np.load(tmp_path / "bank.npy", mmap_mode="r"), QUERIES, 10, block=64), expected)


def test_a_bank_may_come_in_blocks_of_any_length(expected):
    buffer = np.empty((90, 12), np.float32)  # used again for each block, as a reader does

    def blocks():
        for some in np.split(BANK, [0, 1, 70, 71, 160, 250]):
            buffer[: len(some)] = some
            yield buffer[: len(some)]

    same(neighbours(blocks(), QUERIES, 10, block=64), expected)


def test_a_bank_is_read_in_slices_of_one_block():
    class Read:
        shape = BANK.shape

        def __len__(self):
            return len(BANK)

        def __getitem__(self, part):
            rows.append(len(BANK[part]))
            return BANK[part]

    rows = []
    neighbours(Read(), QUERIES, 3, block=64)
    assert rows == [64] * 4 + [44]


def test_a_row_is_not_its_own_neighbour_and_its_doubles_are():
    bank = np.concatenate([BANK[:50], BANK[:5]])
    similarity, index = neighbours(bank, None, 6, block=16)
    expected = NearestNeighbors(n_neighbors=6, metric="cosine").fit(bank).kneighbors()  # of no query: itself left out
    np.testing.assert_allclose(similarity, 1 - expected[0], atol=1e-6)
    np.testing.assert_array_equal(index % 50, expected[1] % 50)
    assert index[:5, 0].tolist() == [50, 51, 52, 53, 54]
    for row in index[5:50].tolist():  # where scikit-learn has doubles in any order
        assert all(row.index(i) < row.index(i + 50) for i in range(5) if i + 50 in row)
    assert neighbours(bank, None, 99)[1].shape == (55, 54)


def test_rows_that_wait_for_another_pass_are_found_as_well(monkeypatch):
    expected = neighbours(BANK, None, 4)
    monkeypatch.setattr("jssl.evals.neighbours.WAITING", 128)
    same(neighbours(BANK, None, 4), expected)


def test_one_pass_gives_every_k_and_temperature(monkeypatch):
    monkeypatch.setattr("jssl.evals.knn.AT_ONCE", 3 * 16)  # votes of 16 rows are counted at a time
    data, ks, temperatures = (BANK, LABELS, QUERIES, TEST_LABELS), (5, 20, 10, 1000), (0.07, 0.1, None)
    found = knn(*data, classes=3, k=20, ks=ks, temperatures=temperatures)
    assert [(row["temperature"], row["k"]) for row in found["grid"]] == [
        (T, k) for T in temperatures for k in (5, 10, 20, 300)
    ]
    for row in found["grid"]:
        alone = knn(*data, classes=3, k=row["k"], temperature=row["temperature"])
        assert row["accuracy"] == alone["accuracy"]
    plain = KNeighborsClassifier(10, metric="cosine").fit(BANK, LABELS).score(QUERIES, TEST_LABELS)
    assert found["grid"][9]["accuracy"] == pytest.approx(plain)
    assert found["accuracy"] == found["grid"][2]["accuracy"]
    assert len({row["accuracy"] for row in found["grid"]}) > 2


def test_without_a_test_set_each_row_is_classified_by_the_others():
    found = knn(BANK, LABELS, classes=3, k=5, temperature=None)
    index = NearestNeighbors(n_neighbors=5, metric="cosine").fit(BANK).kneighbors(return_distance=False)
    votes = (LABELS[index][..., None] == np.arange(3)).sum(1)
    np.testing.assert_array_equal(found["predictions"], votes.argmax(1))
    assert found["accuracy"] == np.mean(votes.argmax(1) == LABELS)
    assert knn(BANK, LABELS, classes=3, k=1000)["k"] == 299


def test_what_is_wrong_is_one_line():
    with pytest.raises(ValueError, match="training features hold NaN"):
        knn(np.where(np.arange(300)[:, None] == 299, np.nan, BANK), LABELS, QUERIES, TEST_LABELS, classes=3)
    with pytest.raises(ValueError, match="300 features and 299 labels"):
        knn(iter([BANK]), LABELS[:299], QUERIES, TEST_LABELS, classes=3)
    with pytest.raises(ValueError, match="read once; expected queries"):
        knn(iter([BANK]), LABELS, classes=3)
    with pytest.raises(ValueError, match="k is 0"):
        knn(BANK, LABELS, QUERIES, TEST_LABELS, classes=3, ks=(5, 0))
    with pytest.raises(ValueError, match="temperature is -1"):
        knn(BANK, LABELS, QUERIES, TEST_LABELS, classes=3, temperatures=(0.1, -1))
    with pytest.raises(ValueError, match="has 1 rows; expected at least 2"):
        neighbours(BANK[:1], None, 1)
    with pytest.raises(ValueError, match="has 0 rows; expected at least 1"):
        neighbours(BANK[:0], QUERIES, 1)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_the_benchmark_checks_what_it_times(where):
    row = benchmark.measured(300, 12, 30, where)
    assert (row["bank"], row["held in"]) == (300, where)
    similarity, index = neighbours(BANK, QUERIES, 20)
    benchmark.check(BANK, QUERIES, similarity, index)
    with pytest.raises(AssertionError):
        benchmark.check(BANK, QUERIES, similarity, np.roll(index, 1, 1))


def test_the_benchmark_sees_memory_that_a_search_takes():
    with benchmark.Resident() as resident:
        held = np.ones(2**23)  # 64 MiB
        time.sleep(0.1)
    assert 60 <= resident.most - resident.before <= 80
    del held
