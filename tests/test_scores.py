"""Intervals and paired tests against scipy; several runs side by side; encoders without a run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from scipy import stats

from jssl import data
from jssl.encoder import Encoder
from jssl.evals import kept, run, scores
from jssl.evals.finetune import initial
from jssl.evals.subject import Subject, of_run

HOW = {"data": "digits@[:300]", "test": "digits@test[:200]"}


def results(n, accuracy, seed=0):
    return (np.random.default_rng(seed).random(n) < accuracy).astype(float)


@pytest.mark.parametrize("values", [results(500, 0.9), np.random.default_rng(1).integers(0, 6, 300) / 5])
def test_the_interval_is_scipy_s_percentile_bootstrap(values):
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    np.testing.assert_allclose(scores.bootstrap(values), expected, atol=0.003)


def test_values_that_all_differ_are_resampled_too():
    values = np.random.default_rng(0).normal(size=3000)
    expected = stats.norm.interval(0.95, values.mean(), values.std() / 3000**0.5)
    np.testing.assert_allclose(scores.bootstrap(values), expected, atol=0.003)


def test_the_interval_holds_the_truth_in_95_of_100_sets():
    held = [low <= 0.8 <= high for low, high in (scores.bootstrap(results(400, 0.8, seed)) for seed in range(200))]
    assert 0.90 < np.mean(held) < 0.99


@pytest.mark.parametrize("accuracy", [0, 1])
def test_where_all_are_right_or_none_the_interval_is_wilson_s(accuracy):
    right = np.full(18, accuracy, float)
    expected = stats.binomtest(18 * accuracy, 18).proportion_ci(method="wilson")
    by_row = scores.entry("knn", "trained", [accuracy], {}, right=right)
    for score in by_row, scores.entry("knn", "trained", [accuracy], {}, rows=18):
        np.testing.assert_allclose((score["low"], score["high"]), expected, atol=1e-12)
        assert "Wilson" in score["settings"]["interval"]
    assert "bootstrap" in scores.entry("knn", "trained", [0.5], {}, rows=18)["settings"]["interval"]


def test_right_and_wrong_are_compared_by_mcnemar_s_exact_test():
    a, b = results(300, 0.9), results(300, 0.85, seed=1)
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    found = scores.paired(a, b)
    assert found["p"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert found["difference"] == pytest.approx(a.mean() - b.mean())
    assert found["low"] < found["difference"] < found["high"]


def test_averages_over_draws_are_compared_by_scipy_s_permutation_test():
    rng = np.random.default_rng(0)
    a, b = rng.binomial(5, 0.7, 200) / 5, rng.binomial(5, 0.65, 200) / 5
    mean = lambda x, y, axis: np.mean(x - y, axis)
    how = {"permutation_type": "samples", "n_resamples": 20_000, "vectorized": True, "rng": 0}
    assert scores.paired(a, b)["p"] == pytest.approx(stats.permutation_test((a, b), mean, **how).pvalue, abs=0.01)


def test_alike_encoders_are_called_so_in_nineteen_of_twenty_comparisons():
    p = [scores.paired(results(300, 0.8, seed), results(300, 0.8, seed + 1000))["p"] for seed in range(200)]
    assert np.mean(np.array(p) < 0.05) < 0.09


def test_the_words_say_which_is_better_or_that_neither_is():
    names = ("runs/a", "runs/b")
    same = scores.compare({"knn": results(100, 0.5)}, {"knn": results(100, 0.5)}, names)
    assert "runs/a and runs/b are not distinguishable" in same[0]["words"]
    worse = scores.compare({"knn": results(900, 0.5)}, {"knn": results(900, 0.9, 1), "linear": None}, names)
    assert [one["task"] for one in worse] == ["knn"]
    assert worse[0]["words"].startswith("runs/b is better than runs/a by ")
    assert "p < 0.001" in worse[0]["words"]
    with pytest.raises(ValueError, match="results on 3 and on 4 examples; expected the same test set"):
        scores.paired(np.ones(3), np.ones(4))


def test_a_figure_that_is_no_accuracy_has_no_error_and_its_own_unit():
    score = scores.entry("rank", "trained", [31.25], {"unit": "dimensions"})
    assert (score["stderr"], score["low"], score["high"]) == (None, None, None)
    assert scores.table([score]).splitlines()[-1].split() == ["trained", "31.250"]


def put(folder, task, accuracy=0.5, commit="", **other):
    """Writes the score of one task -> {task: mean}, the tasks of predictions.npz, what scores.json holds."""
    how = {"seed": 0, "weights": "a", "rows": "r", "spec": "set"} | other
    right = results(20, accuracy)
    found = [scores.entry(task, name, [right.mean()], {}, right=right) for name in ("trained", "untrained")]
    protocol = {"protocols": task, "seed": how["seed"], "weights": how["weights"], "data": {"test": how["spec"]}}
    kept.write(folder, found, protocol, {"commit": commit}, how["spec"], np.zeros(20, int), how["rows"])
    there = kept.content(folder)
    means = {score["task"]: score["mean"] for score in there["scores"] if score["encoder"] == "trained"}
    return means, set(kept.read(folder)["right"]["trained"]), there


def test_scores_of_other_tasks_stay_and_what_made_them_is_said(tmp_path):
    put(tmp_path, "knn", commit="one")
    means, tasks, there = put(tmp_path, "linear", commit="two")
    assert tasks == set(means) == {"knn", "linear"}
    assert [one["task"] for one in there["comparisons"]] == ["knn", "linear"]
    assert (there["run"], there["earlier"]) == ({"commit": "two"}, {"knn": {"commit": "one"}})
    assert there["protocol"]["protocols"] == "knn,linear"
    means, tasks, there = put(tmp_path, "knn", 1.0, "three")
    assert means["knn"] == 1
    assert tasks == set(means) == {"knn", "linear"}
    assert (there["run"], there["earlier"]) == ({"commit": "three"}, {"linear": {"commit": "two"}})


@pytest.mark.parametrize("other", [{"seed": 1}, {"weights": "b"}, {"rows": "s"}, {"spec": "x"}])
def test_scores_of_another_encoder_or_test_set_begin_anew(tmp_path, caplog, other):
    put(tmp_path, "knn")
    with caplog.at_level("INFO"):
        means, tasks, there = put(tmp_path, "linear", **other)
    assert tasks == set(means) == {"linear"}
    assert "earlier" not in there
    assert "scores.json is begun anew" in caplog.text


@pytest.fixture(scope="module")
def workdir(simclr_copy):
    return simclr_copy


def test_runs_are_scored_side_by_side_and_compared(workdir):
    other = workdir.with_name("b")
    shutil.copytree(workdir, other)
    text = run.side_by_side([workdir, other], protocol="knn", **HOW)
    assert text.count("raw pixels") == 2
    assert f"k-NN: {workdir} and {other} are not distinguishable" in text
    run.evaluate(other, protocol="knn", data=HOW["data"], test="digits@test[:100]")
    line, *_ = run.compared([workdir, other])
    assert "cannot be compared: they were tested on digits@test[:200] and digits@test[:100]" in line


def test_runs_of_two_seeds_are_tested_on_the_same_held_out_images(workdir, tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(runs):
        shutil.copytree(workdir, folder)
        content = json.loads((folder / "config.json").read_text())
        content["config"] |= {"seed": seed}
        content["config"]["data"] |= {"source": "digits@[:100]", "eval_source": None}
        (folder / "config.json").write_text(json.dumps(content))
    text = run.side_by_side(runs, protocol="knn")
    assert f"k-NN: {runs[0]} and {runs[1]} are not distinguishable" in text
    assert text.endswith(f": seed is 0 in {runs[0]}, 1 in {runs[1]}.")
    assert kept.read(runs[0])["rows"] == kept.read(runs[1])["rows"] != ""


def test_an_encoder_without_a_run_is_scored_on_the_data_that_are_named(workdir, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(workdir / "encoder", folder)
    (folder / "untrained.npz").unlink()
    run.evaluate(folder, protocol="knn", **HOW)
    found = {s["encoder"]: s["mean"] for s in json.loads((folder / "scores.json").read_text())["scores"]}
    run.evaluate(workdir, protocol="knn", **HOW)
    scored = {s["encoder"]: s["mean"] for s in json.loads((workdir / "scores.json").read_text())["scores"]}
    assert 0 < found.pop("untrained") < 1  # of new weights
    assert found == {name: scored[name] for name in ("trained", "raw pixels")}
    with pytest.raises(ValueError, match="is an encoder without a run: expected --data"):
        run.evaluate(folder, protocol="knn")


def test_new_weights_are_where_the_trained_ones_were_and_of_a_network_that_saw_nothing(workdir):
    trained, untrained = Encoder(workdir), Encoder(workdir, "untrained")
    new, other = initial(trained), initial(trained, seed=1)
    shapes = lambda encoder: jax.tree.map(np.shape, (encoder.params, encoder.carry))
    assert shapes(new) == shapes(trained)
    jax.tree.map(np.testing.assert_array_equal, new.carry["stats"], untrained.carry["stats"])
    kernels = [encoder.params["encoder"]["conv1"]["kernel"] for encoder in (new, other, trained)]
    assert not any((kernels[i] == kernels[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_an_encoder_that_cannot_begin_anew_is_scored_without_its_control(workdir, tmp_path, monkeypatch):
    shutil.copytree(workdir / "encoder", tmp_path / "encoder")
    (tmp_path / "encoder" / "untrained.npz").unlink()

    def initial(encoder, seed):
        raise ValueError("not one network of whole images")

    monkeypatch.setattr("jssl.evals.subject.initial", initial)
    subject = of_run(tmp_path / "encoder", **HOW, missing=(missing := {}))
    assert list(subject.encoders) == ["trained"]
    assert missing == {"the untrained encoder": "not one network of whole images"}


def test_classes_of_the_test_set_are_known_by_their_names():
    source = data.open_source("digits@[:6]")
    named = lambda names, labels: dataclasses.replace(source, label_names=names, labels=np.array(labels, np.int32))
    animals, some = named(("cat", "cow", "dog"), [0, 1, 2, 0, 1, 2]), [0, 1, 0, 1, 0, 1]
    subject = Subject(None, {}, {}, {"train": animals, "test": named(("cow", "dog"), some)})
    assert subject.labels["test"].tolist() == [1, 2, 1, 2, 1, 2]
    assert subject.classes == 3
    unknown = Subject(None, {}, {}, {"train": animals, "test": named(("cow", "dgo"), some)})
    with pytest.raises(ValueError, match=r"has the class 'dgo', which is none of the 3 classes .*; did you mean dog"):
        unknown.classes  # noqa: B018


def test_other_data_are_tested_on_a_fifth_of_their_own_and_not_on_the_runs_test_set(workdir):
    specs = lambda **how: {part: source.spec for part, source in of_run(workdir, **how).splits.items()}
    assert specs() == specs(data="digits") == {"train": "digits", "test": "digits@test"}
    assert specs(data="digits@[:90]") == {"train": "digits@[:90]", "test": "digits@[:90]"}
    assert specs(data="digits@[:90]", test="digits@test") == {"train": "digits@[:90]", "test": "digits@test"}


def test_nothing_is_embedded_before_it_is_asked_for(workdir):
    subject = of_run(workdir, **HOW)
    assert "features" not in vars(subject)
    assert set(subject.features) == {"trained", "untrained", "raw pixels"}
    assert subject.features["trained"]["test"].shape[0] == 200
