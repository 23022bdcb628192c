"""The report's confusions, mistakes and costs, and the page on several runs."""

import html
import json
import re
import types

import numpy as np
import pytest

from jssl import cost, figures, mistakes
from jssl.evals import kept
from jssl.evals import scores as of_scores
from jssl.evals.comparison import compare_runs, other_protocols
from jssl.evals.shown import save_mistakes
from jssl.maps import reduced
from jssl.report import report
from jssl.several import distinct

NAMES = ["cat", "dog", "<b>owl"]
LABELS = np.arange(60, dtype=np.int32) % 3


def predictions(wrong, seed=0):
    """Labels, but for so many at random rows, which get the next class."""
    rows = np.random.default_rng(seed).permutation(60)[:wrong]
    found = LABELS.copy()
    found[rows] = (found[rows] + 1) % 3
    return found


def make(folder, wrong, method="simclr:SimCLR", lr=0.1, test="set@test"):
    folder.mkdir(parents=True)
    config = {"method": {"name": f"jssl.methods.{method}"}, "data": {"source": "set"}, "optim": {"lr": lr}}
    (folder / "config.json").write_text(json.dumps({"config": {**config, "train": {"steps": 100, "batch_size": 8}}}))
    rows = [
        {"step": s, "loss": wrong / s, "device_hours": s / 100, "flops": 2e9 * s, **({"own": 1.0} if lr == 0.1 else {})}
        for s in range(10, 101, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = []
    for encoder, more in ("trained", 0), ("untrained", 9):
        found = predictions(wrong + more)
        right = found == LABELS
        confidence = np.linspace(0, 1, 60) if encoder == "trained" else None
        settings = {"k": 7 if lr == 0.1 else 20, "test_rows": 60}
        by_row = {"right": right, "predictions": found, "confidence": confidence}
        scores.append(of_scores.entry("linear", encoder, [right.mean()], settings, **by_row))
    kept.write(folder, scores, {}, {}, test, LABELS)
    x = np.random.default_rng(0).normal(size=(60, 8)) + 3 * np.eye(3, 8)[LABELS]
    np.savez(folder / "map.npz", features=reduced(x), label=LABELS, label_names=NAMES)
    source = types.SimpleNamespace(image=lambda row: np.full((8, 8, 1), row, np.uint8), names=None)
    save_mistakes(folder, kept.read(folder), source, NAMES)
    return folder


def text_of(page):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page))).replace("\N{NO-BREAK SPACE}", " ")


def section(page, title):
    return page.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return make(folder / "good", 3), make(folder / "bad", 30, "byol:BYOL", lr=0.2)


@pytest.fixture(scope="module")
def both(runs):
    return report(*runs).read_text()


@pytest.fixture(scope="module")
def one(runs):
    return report(runs[0]).read_text()


def test_several_runs_are_one_page_in_the_first_of_them_or_where_it_is_asked_for(runs, tmp_path):
    assert report(*runs) == runs[0] / "comparison.html"
    assert report(*runs, out=tmp_path / "x.html") == tmp_path / "x.html"


def test_scores_stand_side_by_side_with_intervals_and_the_best_is_marked(both):
    words = text_of(section(both, "Scores"))
    assert "95.0 %" in words
    assert "50.0 %" in words
    assert len(re.findall(r"\d\d\.\d\u2013\d+\.\d", words)) == 2
    assert re.findall(r'class="best">([\d.]+)', both) == ["95.0"]


def test_paired_tests_say_who_is_better_and_what_was_measured_otherwise(both):
    words = text_of(section(both, "Scores"))
    assert "linear probe: good is better than bad by 45.0 points" in words
    assert "linear probe: k is 7 in good, 20 in bad." in words


def test_what_was_not_measured_alike_is_said_once_with_its_tasks_and_nothing_of_what_was_found():
    settings = {"seed": 0, "k": 7, "grid": [{"accuracy": 0.5}], "penalty": [1.0]}
    score = lambda task, **more: {"encoder": "trained", "task": task, "settings": {**settings, **more}}
    one = {"scores": [score("knn"), score("linear")]}
    other = {"scores": [score("knn", seed=1, k=20, grid=[]), score("linear", seed=1, penalty=[2.0])]}
    lines = ["k-NN, linear probe: seed is 0 in a, 1 in b.", "k-NN: k is 7 in a, 20 in b."]
    assert other_protocols({"a": one, "b": other}) == lines
    assert other_protocols({"a": one, "b": one, "c": {}}) == []


def test_equal_runs_are_not_distinguishable(tmp_path):
    page = report(make(tmp_path / "a", 9), make(tmp_path / "b", 9)).read_text()
    assert "a and b are not distinguishable" in text_of(page)
    assert "the same config" in text_of(section(page, "What differs between the configs"))


def test_runs_on_other_test_sets_are_not_compared(tmp_path):
    page = report(make(tmp_path / "a", 9), make(tmp_path / "b", 9, test="other")).read_text()
    assert "a and b cannot be compared: they were tested on set@test and other" in text_of(page)


def results(rows="x", n=60, **other):
    """What `kept.read` gives of one run whose probe is always right; other: {task: identity of its test set}."""
    right = {"linear": np.ones(n), **{task: np.ones(len(of)) for task, of in other.items()}}
    return {"test": "set", "rows": rows, "labels": LABELS, "right": {"trained": right}, "other": {"trained": other}}


def test_other_images_of_one_source_are_another_test_set():
    found, apart = compare_runs({"a": results(), "b": results(), "c": results("y")})
    assert [(one["first"], one["second"]) for one in found] == [("a", "b")]
    assert apart[1] == "b and c cannot be compared: they were tested on other images of set"


def test_sets_of_transfer_are_compared_where_they_are_the_same_and_named_where_not():
    one = results(**{"transfer-pets-knn": "dogs", "transfer-cars-knn": "cars"})
    other = results(**{"transfer-pets-knn": "all cats", "transfer-cars-knn": "cars"})
    found, (line,) = compare_runs({"a": one, "b": other})
    assert [one["task"] for one in found] == ["linear", "transfer-cars-knn"]
    assert line == "k-NN, pets: a and b cannot be compared: they were tested on other examples"


def test_curves_lie_over_each_other_in_two_colours_and_what_one_lacks_keeps_the_colour(both):
    curves = section(both, "Training curves")
    loss = curves.partition("<h3>Loss</h3>")[2].partition("</figure>")[0]
    assert re.findall(r'<polyline [^>]*style="stroke: (#\w+)"', loss) == figures.PALETTE[:2]
    assert "stroke-dasharray" in loss  # and for who sees no colours
    assert text_of(loss).split("Loss")[-1].count("good") >= 1
    own = curves.partition("<h3>own</h3>")[2].partition("</figure>")[0]
    assert re.findall(r'<polyline [^>]*style="stroke: (#\w+)"', own) == figures.PALETTE[:1]
    assert "device_hours" not in curves


def test_costs_maps_and_differences_of_the_configs_are_there(both):
    assert "good 1 device-hours, 800 images seen, 2e+11 FLOPs (XLA's count)" in text_of(section(both, "What they cost"))
    maps = section(both, "Maps of the embeddings")
    assert maps.count('<svg class="map"') == 2
    assert "method.name: jssl.methods.simclr:SimCLR -> jssl.methods.byol:BYOL; optim.lr: 0.1 -> 0.2" in text_of(
        section(both, "What differs between the configs")
    )


def test_classes_and_mistakes_of_each_run_are_folded_away(both):
    parts = re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>(?=<details><summary>|</section>)", both, re.S)
    assert len(parts) == 2
    for _, text in parts:
        assert re.findall(r"<h3 .*?>(.*?)</h3>", text) == ["Confusions", "Surest mistakes"]
    assert parts[0][1] != parts[1][1]


def test_the_page_of_several_loads_nothing_and_takes_names_as_text(both):
    assert re.findall(r"""(?:src|href)\s*=\s*(?!"data:)[^\s>]*""", both) == []
    assert "<b>owl" not in both


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    assert distinct([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    with pytest.raises(ValueError, match="is given twice"):
        distinct([tmp_path, tmp_path])


def test_the_head_of_a_report_says_what_the_run_cost(one):
    head = text_of(one.partition("<section>")[0])
    assert "1 device-hours, 800 images seen, 2e+11 FLOPs (XLA's count)" in head


def test_the_confusion_matrix_has_each_pair_of_classes(one):
    block = section(one, "Confusions")
    found = predictions(3)
    said = re.findall(r"<title>(\d+) of (\d+) ([^:]+): taken for ([^<]+)</title>", block)
    assert len(said) == 9
    for count, of, name, taken in said:
        a, b = (["cat", "dog", "&lt;b&gt;owl"].index(word) for word in (name, taken))
        assert int(count) == np.sum((a == LABELS) & (found == b))
        assert int(of) == 20
    assert "95.0 % are right" in text_of(block)


def test_of_many_classes_the_commonest_confusions_are_named():
    labels = np.repeat(np.arange(40), 5)
    predicted = labels.copy()
    predicted[labels == 7] = 9
    predicted[0] = 1
    words = text_of(mistakes.confusion({"predictions": {"trained": {"knn": predicted}}, "labels": labels}, None))
    assert "The commonest confusions of 40 classes" in words
    assert words.index("7 9 5 100.0 %") < words.index("0 1 1 20.0 %")


def test_the_surest_mistakes_are_pictures_with_both_classes_and_the_probability(one):
    block = section(one, "Surest mistakes")
    found = predictions(3)
    wrong = [row for row in range(59, -1, -1) if found[row] != LABELS[row]]  # confidence rises with the row
    captions = [text_of(caption).strip() for caption in re.findall(r"<figcaption>(.*?)</figcaption>", block)]
    assert captions == [f"{NAMES[found[row]]}, {100 * row / 59:.0f} %; is {NAMES[LABELS[row]]}" for row in wrong]
    assert block.count("<img") == 3


def test_without_mistakes_there_is_no_such_file(tmp_path):
    run = make(tmp_path / "run", 0)
    assert not (run / "mistakes.npz").exists()
    assert "Surest mistakes" not in report(run).read_text()


# What a run costs.


def test_hours_go_on_over_a_resume_and_flops_count_every_step(monkeypatch):
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(cost.time, "monotonic", lambda: now.seconds)
    first = cost.Meter(4)
    first.flops = 100.0
    now.seconds = 1800.0
    row = {"step": 5, **first.so_far(5)}
    assert row == {"step": 5, "device_hours": 2.0, "flops": 500.0}
    resumed = cost.Meter(4, [row, {"step": 6, "warning": "x"}])
    now.seconds += 900.0
    assert resumed.so_far(7) == {"device_hours": 3.0}
    assert cost.of([row], {"train": {"batch_size": 8}}) == {"device_hours": 2.0, "flops": 500.0, "examples": 40}


def test_a_matrix_product_costs_what_one_counts_by_hand():
    import jax
    import jax.numpy as jnp

    shapes = jax.ShapeDtypeStruct((64, 128), jnp.float32), jax.ShapeDtypeStruct((128, 32), jnp.float32)
    lowered = jax.jit(lambda a, b: a @ b).lower(*shapes)
    assert cost.flops_per_step(lowered, 1, 1) == pytest.approx(2 * 64 * 128 * 32, rel=0.01)
    assert cost.flops_per_step(lowered, 2, 1) == pytest.approx(64 * 128 * 32, rel=0.01)
    assert cost.flops_per_step(types.SimpleNamespace(cost_analysis=lambda: None), 1, 1) is None


def test_a_bill_in_words():
    assert cost.words({"device_hours": 0.123, "examples": 1234, "flops": 3.21e15}, "graph") == (
        "0.12 device-hours, 1,234 graphs seen, 3.2e+15 FLOPs (XLA's count)"
    )
    assert cost.words({}) == ""
