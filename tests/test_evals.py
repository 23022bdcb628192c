import dataclasses
import json
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_fscore_support
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from jssl import data
from jssl.evals import frozen, kept, linear, scores, table
from jssl.evals import labels as labels_of
from jssl.evals.fewshot import fewshot
from jssl.evals.grid import grid
from jssl.evals.knn import knn
from jssl.evals.labels import by_class, per_class, share
from jssl.evals.neighbours import neighbours
from jssl.evals.subject import Subject
from tests.oracles import load

CLASSES = 3


def blobs(n, seed, spread=1.5, dim=8):
    """Three overlapping clouds: features float32 [n, dim], labels int32 [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(CLASSES, dim))
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels


TRAIN, TEST = blobs(150, 1), blobs(200, 2)
DATA = {"classes": CLASSES}


# ---- k-NN
def test_neighbours_are_those_of_scikit_learn():
    similarity, index = neighbours(TRAIN[0], TEST[0], 11, block=64)
    distance, expected = NearestNeighbors(n_neighbors=11, metric="cosine").fit(TRAIN[0]).kneighbors(TEST[0])
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 150, 4096])
def test_blocks_change_nothing(block):
    whole = neighbours(TRAIN[0], TEST[0][:9], 149)  # also those that point away, behind any padding
    cut = neighbours(TRAIN[0], TEST[0][:9], 149, block=block)
    np.testing.assert_array_equal(cut[1], whole[1])
    np.testing.assert_allclose(cut[0], whole[0], atol=1e-6)


def test_equal_neighbours_come_in_the_order_of_the_bank():
    bank = np.tile(np.eye(4, dtype=np.float32)[:2], (10, 1))  # rows 0, 2, 4, ... are one vector, the others another
    _, index = neighbours(bank, np.eye(4)[:1], 13, block=3)
    assert index[0].tolist() == [*range(0, 20, 2), 1, 3, 5]


def test_equal_weights_vote_as_in_scikit_learn():
    for k in (1, 4, 6):  # even numbers make ties
        found = knn(*TRAIN, *TEST, **DATA, k=k, temperature=None)
        expected = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(*TRAIN)
        np.testing.assert_array_equal(found["predictions"], expected.predict(TEST[0]))
        assert found["accuracy"] == pytest.approx(expected.score(*TEST))


def test_votes_are_the_oracle_s():
    manifest, t = load("knn_linear")
    hyper = manifest["hyper"]
    arrays = t["in.x"], t["in.y"], t["in.xq"], t["in.yq"]
    found = knn(*arrays, classes=hyper["classes"], k=hyper["k"], temperature=hyper["T"])
    np.testing.assert_array_equal(found["predictions"], t["out.knn_weighted_order"][:, 0])
    assert found["accuracy"] == pytest.approx(manifest["scalars"]["knn_weighted_acc"])
    votes = np.zeros((20, hyper["classes"]))
    np.add.at(
        votes, (np.arange(20)[:, None], t["in.y"][found["neighbours"]]), np.exp(found["similarities"] / hyper["T"])
    )
    np.testing.assert_allclose(votes / votes.sum(1, keepdims=True), t["out.knn_weighted_proba"], atol=1e-5)
    found = knn(*arrays, classes=hyper["classes"], k=hyper["k"], temperature=None)
    assert found["accuracy"] == pytest.approx(manifest["scalars"]["knn_uniform_acc"])


def test_a_small_temperature_does_not_overflow():
    nearest = knn(*TRAIN, *TEST, **DATA, k=1)["predictions"]
    np.testing.assert_array_equal(knn(*TRAIN, *TEST, **DATA, k=20, temperature=1e-5)["predictions"], nearest)


def test_k_is_at_most_the_bank():
    found = knn(*TRAIN, *TEST, **DATA, k=1000)
    assert found["k"] == 150
    assert np.all(np.sort(found["neighbours"], 1) == np.arange(150))


def test_features_may_be_bfloat16():
    low = jnp.asarray(TRAIN[0], jnp.bfloat16), jnp.asarray(TEST[0], jnp.bfloat16)
    found = knn(low[0], TRAIN[1], low[1], TEST[1], **DATA)
    assert found["accuracy"] == pytest.approx(knn(*TRAIN, *TEST, **DATA)["accuracy"], abs=0.03)


# ---- linear
def test_logistic_regression_is_the_oracle_s():
    manifest, t = load("knn_linear")
    penalty = 1 / (manifest["hyper"]["C"] * len(t["in.x"]))
    w, b = linear.logistic(t["in.x"], t["in.y"], classes=manifest["hyper"]["classes"], penalty=penalty)
    np.testing.assert_allclose(w.T, t["out.logreg_coef"], atol=1e-4)
    np.testing.assert_allclose(b, t["out.logreg_intercept"], atol=1e-4)
    probabilities = jax.nn.softmax(t["in.xq"] @ w + b)
    np.testing.assert_allclose(probabilities, t["out.logreg_proba"], atol=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_logistic_regression_is_scikit_learn_s(penalty):
    w, b = linear.logistic(*TRAIN, classes=CLASSES, penalty=penalty)
    expected = LogisticRegression(C=1 / (penalty * 150), tol=1e-10, max_iter=10000).fit(
        TRAIN[0].astype(float), TRAIN[1]
    )
    np.testing.assert_allclose(w.T, expected.coef_, atol=1e-4)
    np.testing.assert_allclose(b, expected.intercept_, atol=1e-3)


def test_probe_predicts_as_scikit_learn_with_its_penalty():
    found = linear.probe(*TRAIN, *TEST, **DATA)
    move = lambda x: (x - TRAIN[0].mean(0)) / TRAIN[0].std(0)
    (penalty,) = found["settings"]["penalty"]
    expected = LogisticRegression(C=1 / (penalty * 150)).fit(move(TRAIN[0]), TRAIN[1])
    assert found["accuracy"] == pytest.approx(expected.score(move(TEST[0]), TEST[1]), abs=0.011)


def test_probe_picks_the_penalty_that_serves_the_held_out_rows():
    noise = np.random.default_rng(3).normal(size=(150, 20)).astype(np.float32)  # a weak penalty overfits
    x, labels = np.concatenate([TRAIN[0], noise], 1), TRAIN[1]
    (picked,) = linear.probe(x, labels, x, labels, **DATA)["settings"]["penalty"]
    held = share(labels, 0.2, np.random.default_rng((0, 0)))
    z = (x - x.mean(0)) / x.std(0)
    scores = {}
    for penalty in linear.PENALTIES:
        model = LogisticRegression(C=1 / (penalty * (~held).sum()), max_iter=5000).fit(z[~held], labels[~held])
        scores[penalty] = model.score(z[held], labels[held])
    assert picked == max(scores, key=scores.get)  # the first of the best: the strongest
    assert len(set(scores.values())) > 1


@pytest.mark.parametrize("method", [linear.probe, linear.sgd])
def test_test_labels_choose_nothing(method):
    found = method(*TRAIN, *TEST, **DATA)
    other = method(*TRAIN, TEST[0], np.random.default_rng(0).permutation(TEST[1]), **DATA)
    assert other["settings"] == found["settings"]
    np.testing.assert_array_equal(other["predictions"], found["predictions"])
    assert other["accuracy"] < found["accuracy"] - 0.1


def test_draws_are_fitted_as_if_alone():
    rows = np.stack([share(TRAIN[1], 0.8, np.random.default_rng(d)) for d in range(3)])
    together = linear.probe(*TRAIN, *TEST, **DATA, rows=rows)
    alone = linear.probe(*TRAIN, *TEST, **DATA, rows=rows[:1])
    assert together["predictions"].shape == (3, 200)
    assert (together["predictions"][0] != alone["predictions"][0]).sum() <= 1
    assert not np.array_equal(together["predictions"][0], together["predictions"][1])


def test_draws_in_several_calls_are_the_same(monkeypatch):
    rows = np.stack([share(TRAIN[1], 0.8, np.random.default_rng(d)) for d in range(3)])
    together = linear.probe(*TRAIN, *TEST, **DATA, rows=rows)
    monkeypatch.setattr(linear, "AT_ONCE", 150 * CLASSES)
    one_by_one = linear.probe(*TRAIN, *TEST, **DATA, rows=rows)
    np.testing.assert_allclose(one_by_one["accuracies"], together["accuracies"], atol=0.006)


def test_rows_outside_a_draw_are_not_seen():
    rows = share(TRAIN[1], 0.8, np.random.default_rng(0))[None]
    wrong = np.where(rows[0], TRAIN[1], (TRAIN[1] + 1) % CLASSES)
    for method in (linear.probe, linear.sgd):
        found = method(*TRAIN, *TEST, **DATA, rows=rows)
        np.testing.assert_array_equal(
            method(TRAIN[0], wrong, *TEST, **DATA, rows=rows)["predictions"], found["predictions"]
        )


def test_sgd_comes_near_the_optimum_without_penalty():
    found = linear.sgd(*TRAIN, *TEST, **DATA, epochs=100, batch_size=32)
    optimum = linear.probe(*TRAIN, *TEST, **DATA, penalties=[1e-5])
    assert np.mean(found["predictions"] == optimum["predictions"]) > 0.9
    assert found["settings"]["batch_size"] == 32


def test_sgd_leaves_rates_that_diverge():
    found = linear.sgd(*TRAIN, *TEST, **DATA, rates=[1e30, 0.1], epochs=5)
    assert found["settings"]["rate_per_256"] == [0.1]
    assert found["accuracy"] > 0.6


def test_constant_dimensions_do_no_harm():
    x = np.pad(TRAIN[0], ((0, 0), (0, 2)), constant_values=0.1)
    test = np.pad(TEST[0], ((0, 0), (0, 2)), constant_values=50)
    found = linear.probe(x, TRAIN[1], test, TEST[1], **DATA)["accuracy"]
    assert found == pytest.approx(linear.probe(*TRAIN, *TEST, **DATA)["accuracy"], abs=0.006)


# ---- few labels
def test_fewshot_is_scikit_learn_s_with_c_of_one():
    found = fewshot(*TRAIN, *TEST, **DATA, shots=4, draws=3)
    unit = lambda x: (x - TRAIN[0].mean(0)) / np.linalg.norm(x - TRAIN[0].mean(0), axis=1, keepdims=True)
    for rows, accuracy in zip(per_class(range(150), TRAIN[1], 4, 3), found["accuracies"], strict=True):
        assert np.bincount(TRAIN[1][rows]).tolist() == [4, 4, 4]
        expected = LogisticRegression(C=1.0).fit(unit(TRAIN[0][rows]), TRAIN[1][rows])
        assert accuracy == pytest.approx(expected.score(unit(TEST[0]), TEST[1]), abs=0.006)


def test_the_few_are_drawn_by_name_whatever_the_order_and_evenly():
    names, labels = [f"{i}.png" for i in range(60)], np.arange(60) % 3
    chosen = lambda rows, names: [{names[row] for row in draw} for draw in rows]
    rows = per_class(names, labels, 2, 500)
    order = np.random.default_rng(0).permutation(60)
    turned = [names[i] for i in order]
    assert chosen(rows, names) == chosen(per_class(turned, labels[order], 2, 500), turned)
    assert all(one <= four for one, four in zip(chosen(rows, names), chosen(per_class(names, labels, 4, 500), names)))
    assert (np.bincount(labels[rows].ravel()) == 1000).all()
    counts = np.bincount(rows.ravel(), minlength=60)  # 50 of each name, if even
    assert 0.5 < np.var(counts) / 45 < 1.5
    together = np.mean([(draw == rows[0]).all() for draw in rows[1:]])
    assert together < 0.01


def test_the_names_of_the_first_draws_are_listed(tmp_path):
    source = data.open_source("digits@[:100]")
    features = {"train": source.images.reshape(100, -1) / 255.0, "test": source.images[:20].reshape(20, -1) / 255.0}
    splits = {"train": source, "test": source.take(range(20))}
    subject = Subject(tmp_path, {"eval": {"k": 1, "temperature": 1.0}}, {}, splits, options={"fewshot": {"shots": "2"}})
    vars(subject)["features"] = {"trained": features}
    (score,) = frozen.fewshot_of(subject)
    (task, listed), *more = json.loads((tmp_path / kept.SPLITS).read_text()).items()
    assert (task, listed["of"], more) == (score["task"], "digits@[:100]", [])
    assert [len(draw) for draw in listed["draws"]] == [20] * kept.DRAWS
    rows = per_class(source.names, source.labels, 2, 1)[0]
    assert listed["draws"][0] == [source.names[row] for row in rows]


def test_the_few_are_drawn_once_for_all_encoders_and_numbers_of_shots(tmp_path, monkeypatch):
    hashed, once = [], labels_of.each_count
    monkeypatch.setattr(frozen, "each_count", lambda *of: hashed.append(of[2]) or once(*of))
    monkeypatch.setattr(labels_of, "each_count", None)  # which `per_class` would ask
    found = {"train": TRAIN[0], "test": TEST[0]}
    train, test = (data.Source(spec="x", names=range(len(y)), channels=1, labels=y) for _, y in (TRAIN, TEST))
    options = {"fewshot": {"shots": (1, 2)}}
    config = {"eval": {"k": 1, "temperature": 1.0}}
    subject = Subject(tmp_path, config, {}, {"train": train, "test": test}, options=options)
    vars(subject)["features"] = {"trained": found, "untrained": found}
    assert len(frozen.fewshot_of(subject)) == 4
    assert hashed == [(1, 2)]


def test_several_counts_at_once_are_the_same_few():
    names, labels = [f"{i}.png" for i in range(40)], np.arange(40) % 4
    assert per_class(names, labels, 2, 2).tolist() == [
        [5, 6, 7, 9, 15, 24, 36, 38],
        [1, 21, 22, 23, 24, 26, 28, 39],
    ]
    found = labels_of.each_count(names, labels, (0, 1, 2, 10, 11), 3)
    assert list(found) == [1, 2, 10]
    for count, rows in found.items():
        np.testing.assert_array_equal(rows, per_class(names, labels, count, 3))


def test_more_labels_help():
    one, many = (fewshot(*TRAIN, *TEST, **DATA, shots=n, draws=30)["accuracy"] for n in (1, 20))
    assert many > one + 0.1


# ---- chance
@pytest.mark.parametrize("kind", ["knn", "linear", "sgd", "grid", "fewshot"])
def test_probes_that_learn_shuffled_labels_end_at_chance(kind):
    """Within three standard errors over ten shuffles; with the true labels they are far above it."""
    few = lambda *data, **how: fewshot(*data, **how, shots=10, draws=20)
    sgd = lambda *data, **how: linear.sgd(*data, **how, epochs=5)
    pools = lambda x: {"features": x}
    grids = lambda x, y, test, test_y, **how: grid(pools(x), y, pools(test), test_y, **how, epochs=5)
    measure = {"knn": knn, "linear": linear.probe, "sgd": sgd, "grid": grids, "fewshot": few}[kind]
    train, test = blobs(150, 3, spread=0.5), blobs(200, 4, spread=0.5)
    shuffled = [np.random.default_rng(seed).permutation(train[1]) for seed in range(10)]
    found = [measure(train[0], labels, *test, **DATA)["accuracy"] for labels in shuffled]
    assert abs(np.mean(found) - 1 / CLASSES) < 3 * np.std(found, ddof=1) / 10**0.5
    assert measure(*train, *test, **DATA)["accuracy"] > 0.8


# ---- protocol
def scores_of(encoder="trained", **kw):
    features, labels = {"train": TRAIN[0], "test": TEST[0]}, {"train": TRAIN[1], "test": TEST[1]}
    return frozen.evaluate(features, labels, encoder=encoder, **kw)


def test_draws_give_the_standard_error_of_their_mean():
    (score,) = scores_of(protocols=["knn"], draws=4)
    rows = [share(TRAIN[1], 0.8, np.random.default_rng((0, d))) for d in range(4)]
    each = [knn(TRAIN[0][r], TRAIN[1][r], *TEST, **DATA)["accuracy"] for r in rows]
    assert score["draws"] == 4
    assert score["mean"] == pytest.approx(np.mean(each))
    assert score["stderr"] == pytest.approx(np.std(each, ddof=1) / 2)
    assert score["stderr"] > 0


def test_one_draw_has_the_binomial_error_of_the_test_set():
    (score,) = scores_of(protocols=["knn"])
    p = knn(*TRAIN, *TEST, **DATA)["accuracy"]
    assert score["mean"] == pytest.approx(p)
    assert score["stderr"] == pytest.approx(np.sqrt(p * (1 - p) / 200))
    assert "binomial" in score["settings"]["stderr"]


def test_scores_are_written_with_their_protocol(tmp_path):
    found = scores_of(protocols=frozen.PROTOCOLS, fewshot_draws=3, epochs=2)
    kept.write(tmp_path, found, {"seed": 0}, {"commit": "abc"}, "the test set", TEST[1])
    read = json.loads((tmp_path / "scores.json").read_text())
    assert [s["task"] for s in read["scores"]] == [
        "knn",
        "linear",
        "linear-sgd",
        "fewshot-1",
        "fewshot-5",
        "fewshot-10",
    ]
    assert read["protocol"] == {"seed": 0, "test rows": ""}
    assert read["run"] == {"commit": "abc"}
    for score in read["scores"]:
        assert set(score) - {"classes"} == {"encoder", "task", "mean", "stderr", "low", "high", "draws", "settings"}
        assert score["low"] <= score["mean"] <= score["high"]
        assert ("classes" in score) == (not score["task"].startswith("fewshot"))
        assert {"classifier", "draw", "stderr", "test_rows"} <= set(score["settings"])
        assert ("seed" in score["settings"]) == (not score["task"].startswith("fewshot"))
    there = kept.read(tmp_path)
    assert there["test"] == "the test set"
    for score in found:
        right, predictions = (there[name]["trained"][score["task"]] for name in ("right", "predictions"))
        assert right.mean() == pytest.approx(score["mean"])
        if score["draws"] == 1:
            np.testing.assert_array_equal(predictions == there["labels"], right)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.npz", "scores.json"]


def settings_of(name, **given):
    config = {"eval": {"k": 7, "temperature": 0.1}}
    return frozen.asked(Subject(None, config, {}, {}, options={name: given}), name)


def test_settings_are_the_run_s_or_given():
    assert settings_of("knn") == {"k": 7, "temperature": 0.1}
    assert settings_of("knn", k="3", temperature="None") == {"k": 3, "temperature": None}
    assert settings_of("fewshot", shots="2") == {"shots": (2,)}
    assert settings_of("fewshot", shots="(2, 4)") == {"shots": (2, 4)}
    assert settings_of("linear", penalties="1,0.1") == {"penalties": (1, 0.1)}
    assert settings_of("linear-sgd", epochs="3") == {"rates": linear.RATES, "epochs": 3}
    with pytest.raises(ValueError, match=r"shots=\(0.5,\): expected tuple\[int, ...\]"):
        settings_of("fewshot", shots="0.5")


def test_every_protocol_takes_its_own_settings_alone():
    for name, path in table.SETTINGS.items():
        fields = dataclasses.asdict(pkgutil.resolve_name(path)())
        table.check({name: fields}, [name])
        with pytest.raises(ValueError, match=f"{name} is not asked for"):
            table.check({name: fields}, ["fairness"])
    table.check({"finetune": {"epochs": 1.0}}, ["semi"])


# ---- classes
def test_scores_of_classes_are_scikit_learn_s():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    rows = by_class(predictions, labels)
    expected = precision_recall_fscore_support(labels, predictions)
    found = [[row[key] for row in rows] for key in ("precision", "recall", "f1", "count")]
    np.testing.assert_allclose(found, expected)
    assert [row["class"] for row in rows] == [0, 1, 2, 3, 4]


def test_a_share_of_nothing_is_none_and_a_class_that_is_not_there_is_left_out():
    rows = by_class(np.array([0, 0, 4]), np.array([0, 2, 0]), names=("zero", "one", "two"))
    assert [row["class"] for row in rows] == [0, 2, 4]
    assert [row.get("name") for row in rows] == ["zero", "two", None]
    assert [row["recall"] for row in rows] == [0.5, 0, None]
    assert [row["precision"] for row in rows] == [0.5, None, 0]
    assert [row["f1"] for row in rows] == [0.5, 0, 0]


@pytest.mark.parametrize("task", ["knn", "linear", "linear-sgd"])
def test_recalls_weighted_by_their_counts_are_the_accuracy_of_the_first_draw(task):
    of = lambda score: sum(row["count"] * row["recall"] for row in score["classes"]) / 200
    (whole,) = scores_of(protocols=[task], epochs=2, label_names="abc")
    assert of(whole) == pytest.approx(whole["mean"])
    assert [(row["class"], row["name"]) for row in whole["classes"]] == [(0, "a"), (1, "b"), (2, "c")]
    (drawn,) = scores_of(protocols=[task], epochs=2, draws=2)
    first = share(TRAIN[1], 0.8, np.random.default_rng((0, 0)))
    call = {"knn": knn, "linear": linear.probe, "linear-sgd": linear.sgd}[task]
    more = {"knn": {}, "linear": {"rows": first[None]}, "linear-sgd": {"rows": first[None], "epochs": 2}}[task]
    train = (TRAIN[0][first], TRAIN[1][first]) if task == "knn" else TRAIN
    assert of(drawn) == pytest.approx(call(*train, *TEST, **DATA, **more)["accuracy"], abs=0.006)


def test_the_same_seed_gives_the_same_scores():
    plain = lambda: [{**score, "rows": None} for score in scores_of(draws=2, fewshot_draws=2, shots=[1])]
    assert plain() == plain()
    a, b = (scores_of(protocols=["knn"], draws=2, seed=seed)[0]["mean"] for seed in (0, 1))
    assert a != b


def test_table_has_encoders_down_and_tasks_across():
    score = lambda encoder, task, mean: {"encoder": encoder, "task": task, "mean": mean, "stderr": 0.0021}
    text = scores.table([score("trained", "knn", 0.931), score("pixels", "knn", 1), score("pixels", "fewshot-1", 0.5)])
    assert text.splitlines() == [
        "% ± stderr         k-NN  1 label per class",
        "----------  -----------  -----------------",
        "trained      93.1 ± 0.2                   ",
        "pixels      100.0 ± 0.2         50.0 ± 0.2",
    ]


def test_what_the_data_do_not_allow_is_left_out_and_said():
    """A class of three examples, of which five were to be drawn."""
    rare = np.where(np.arange(len(TRAIN[1])) < 3, TRAIN[1].max() + 1, TRAIN[1])
    data = {"features": {"train": TRAIN[0], "test": TEST[0]}, "labels": {"train": rare, "test": TEST[1]}}
    how = {"protocols": ["knn", "fewshot"], "shots": [1, 5], "fewshot_draws": 2}
    with pytest.raises(ValueError, match="has 3 training examples; expected at least 5 per class"):
        frozen.evaluate(**data, **how)
    found = frozen.evaluate(**data, **how, missing=(missing := {}))
    assert [score["task"] for score in found] == ["knn", "fewshot-1"]
    assert list(missing) == ["5 labels per class"]
    assert scores.table(found, missing).splitlines()[-1].startswith("5 labels per class is left out: class ")


def refused(message, features=None, labels=None, **kw):
    features = {"train": TRAIN[0], "test": TEST[0]} | (features or {})
    labels = {"train": TRAIN[1], "test": TEST[1]} | (labels or {})
    with pytest.raises(ValueError, match=message) as error:
        frozen.evaluate(features, labels, **kw)
    assert "\n" not in str(error.value)


def test_what_is_wrong_is_one_line():
    refused("did you mean linear or linear-sgd?", protocols=["knn", "linaer"])
    refused("the training set has no labels", labels={"train": None})
    refused("the test set has no labels", labels={"test": None})
    refused("all 150 training labels are class 0; expected at least two", labels={"train": np.zeros(150, int)})
    rare = np.where(np.arange(150) < 4, 2, TRAIN[1] % 2)
    refused("class 2 has 4 training examples; expected at least 5", labels={"train": rare}, protocols=["fewshot"])
    refused("class 3 has 0 training examples", labels={"test": TEST[1] + 1}, protocols=["fewshot"])
    for names, called in ((np.array(["a", "b", "c"]), "'c'"), (("a", "b"), "2")):  # those of the first classes
        rare_class = {"labels": {"train": rare}, "protocols": ["fewshot"], "label_names": names}
        refused(f"^class {called} has 4 training examples", **rare_class)
    refused("go down to -1", labels={"test": TEST[1] - 1})
    refused("expected class numbers", labels={"test": TEST[1] + 0.5})
    refused(r"features \[150, 8\] and labels \[149\]", labels={"train": TRAIN[1][1:]})
    refused("NaN", features={"train": np.full_like(TRAIN[0], np.nan)})
    refused("draws is 0", draws=0)
    refused("k is 0", k=0)
    refused("temperature is 0", temperature=0)
    refused("penalties", penalties=[0])
    refused("learning rates", rates=[], protocols=["linear-sgd"])
    few = [0, 1, 2]
    refused("no rows for validation", {"train": TRAIN[0][:3]}, {"train": few}, protocols=["linear"])
