"""The watchdog: each rule on rows that trigger it and rows that do not, and what the loop makes of them."""

import math

import jax
import pytest

from jssl import train as loop
from jssl import watch
from jssl.checkpoint import checkpoint_steps
from jssl.sharding import make_mesh
from jssl.train import Stop, train
from jssl.watch import LIMITS, Ended, Watch, findings
from jssl.writers import read_metrics
from tests.methods import config

FINE = {"loss": 1.0, "grad_norm": 1.0, "param_norm": 9.0, "health/std": 0.8, "health/rankme": 20.0}
SOFT = {"health/information": 1.5, "health/entropy": 0.4, "health/used": 0.6}


def knn(*values):
    return [{"step": 10 * (i + 1), "knn": value} for i, value in enumerate(values)]


# rule -> (what its sentence says, rows that trigger it), and rows that are near but well.
ILL = [
    ("not finite", "loss=nan", [{**FINE, "loss": math.nan}]),
    ("not finite", "grad_norm=inf", [{**FINE, "grad_norm": math.inf}]),
    ("collapse", "almost the same for every input (their spread is 0.05;", [{**FINE, "health/std": 0.05}]),
    ("collapse", "the features are almost the same", [{"health/features_std": 0.01}]),
    ("collapse", "use about 1.5 dimensions (RankMe)", [{**FINE, "health/rankme": 1.5}]),
    ("collapse", "shrunk to almost one point", [{**FINE, "health/deviation": 0.01}]),
    ("teacher", "even for every input (their entropy is 99.8% of ln K)", [{**SOFT, "health/entropy": 0.998}]),
    (
        "teacher",
        "their entropy is 0.1% of ln K: one cluster takes all",
        [SOFT | {"health/information": 0.001, "health/entropy": 0.001}],
    ),
    ("teacher", "0.01 nats about the input)", [{"health/information": 0.01}]),
    ("codes", "uses about 1.2 of its codes", [{"health/perplexity": 1.2, "health/used": 0.5}]),
    ("codes", "99.5% name no input", [{**SOFT, "health/used": 0.005}]),
    ("knn", "k-NN falls: 70.0%, after 90.0% at step 20", knn(0.8, 0.9, 0.8, 0.8, 0.7)),
    ("start", "79.0% at step 40, and 84.0% before the first", [{"step": 0, "knn": 0.84}, *knn(0.84, 0.80, 0.80, 0.79)]),
]
WELL = [
    [],
    [FINE],
    [FINE | SOFT],
    [{**FINE, "health/deviation": 0.5}],
    [{**FINE, "health/std": math.nextafter(LIMITS["std"], 1)}],
    [{**SOFT, "health/entropy": 0.001}],  # sharp, but of many prototypes
    [{"health/perplexity": 30.0, "health/used": 0.2}],
    [{**FINE, "health/std": 0.01}, FINE],  # over
    knn(0.8, 0.9, 0.8, 0.8),  # not for long yet
    knn(0.8, 0.9, 0.8, 0.86, 0.8),  # not all the time
    knn(0.8, 0.9, 0.86, 0.87, 0.86),  # not by much
    knn(0.9, 0.8, 0.8),
]  # fmt: skip


@pytest.mark.parametrize("name, words, rows", ILL)
def test_a_rule_says_what_it_saw_and_what_to_do(name, words, rows):
    said = findings(rows)
    assert list(said) == [name]
    assert words in said[name]
    assert any(advice in said[name] for advice in ("; try", "people take"))
    assert "\n" not in said[name]


@pytest.mark.parametrize("rows", WELL)
def test_what_is_well_is_not_spoken_of(rows):
    assert findings(rows) == {}


def test_every_rule_is_tested():
    assert {name for name, _, _ in ILL} == set(watch.RULES)


WORDS = {
    "std": "spread",
    "rankme": "RankMe",
    "information": "nats",
    "entropy": "even for",
    "codes": "perplexity",
    "used": "name no input",
    "knn": "k-NN falls",
}


@pytest.mark.parametrize("name", WORDS)
def test_every_threshold_is_a_field(name):
    """No rule speaks where its threshold asks for nothing."""
    off = LIMITS | {name: 1.0 if name == "knn" else 0.0}
    word = WORDS[name]
    said = [text for _, _, rows in ILL for text in findings(rows, off).values()]
    assert not [text for text in said if word in text]
    assert [text for _, _, rows in ILL for text in findings(rows).values() if word in text]


def test_the_entropy_of_a_row_that_is_not_measured_is_not_judged():
    assert findings([{"step": 1, "loss": 1.0}]) == {}


def watched(rows, **fields):
    """-> the steps at which the watchdog would end a run with these rows, and what it said at each."""
    one = Watch(LIMITS | fields)
    said = [one.look(row.get("step", i), row) for i, row in enumerate(rows, 1)]
    return one, said


def test_a_sentence_is_said_when_it_begins_and_again_when_it_comes_back():
    bad = {**FINE, "health/std": 0.01}
    _, said = watched([FINE, bad, bad, FINE, bad])
    assert [len(lines) for lines in said] == [0, 1, 0, 0, 1]


def test_stop_takes_patience_and_warn_never_ends_a_run():
    bad = {**FINE, "health/std": 0.01}
    assert watched([bad] * 9)[0].verdict() is None
    assert watched([bad, bad], policy="stop")[0].verdict() is None
    assert watched([bad, bad, FINE, bad, bad], policy="stop")[0].verdict() is None
    verdict = watched([FINE, bad, bad, bad], policy="stop")[0].verdict()
    assert verdict.startswith("step 4: collapse: the embeddings are almost the same")
    assert "on the last 3 rows, and watch.policy=stop ends the run" in verdict


def test_no_checkpoint_is_written_over_the_last_good_one_once_something_is_wrong():
    bad = {**FINE, "health/std": 0.01}
    assert [watched([FINE, bad], policy=policy)[0].holds for policy in ("warn", "stop")] == [False, True]
    assert not watched([bad, FINE], policy="stop")[0].holds


def test_a_resumed_watch_judges_as_a_whole_one():
    bad, rows = {**FINE, "health/std": 0.01}, []
    whole = Watch(LIMITS | {"policy": "stop"})
    for step, row in enumerate([FINE, bad, bad, FINE, bad, bad, bad], 1):
        rows.append({"step": step, **row})
        resumed = Watch(LIMITS | {"policy": "stop"}, rows[:-1])
        assert whole.look(step, row) == resumed.look(step, row)
        assert whole.verdict() == resumed.verdict()
    assert whole.verdict()


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))


def stopping(**fields):
    return config(method__collapses=True, watch__policy="stop", watch__patience=2, checkpoint__every=1, **fields)


def test_a_collapsed_run_ends_in_one_line_and_keeps_what_was_good(tmp_path, one_device):
    with pytest.raises(Ended) as error:
        train(stopping(), tmp_path)
    said = str(error.value)
    assert said.startswith("step 4: collapse")
    assert "; the last good checkpoint is kept, that of step 1: `jssl export`" in said  # rows at 2 and 4 were bad
    assert "\n" not in said
    assert checkpoint_steps(tmp_path / "checkpoints") == [1]
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 4, 4]
    assert read_metrics(tmp_path)[-1]["ended"] == said.partition("; the last good")[0]


def test_it_ends_at_the_same_row_after_a_resume_and_with_several_steps_per_call(tmp_path, one_device, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self, call: call == 3)
        train(stopping(), tmp_path / "cut")
    ends = []
    for workdir, fields in ("cut", {}), ("calls", {"train__steps_per_call": 2, "checkpoint__every": 2}):
        with pytest.raises(Ended) as error:
            train(config(**{"method__collapses": True, "watch__policy": "stop", "watch__patience": 2,
                            "checkpoint__every": 1} | fields), tmp_path / workdir)  # fmt: skip
        ends.append(str(error.value).partition(":")[0])
    assert ends == ["step 4"] * 2


def test_a_watch_that_cannot_be_is_one_line(tmp_path, one_device):
    with pytest.raises(ValueError, match=r"watch.policy='stopp'; did you mean stop\?"):
        train(config(watch__policy="stopp"), tmp_path)
    with pytest.raises(ValueError, match=r"watch.patience=0: expected 1 row or more"):
        train(config(watch__patience=0), tmp_path)
