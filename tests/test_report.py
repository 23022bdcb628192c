import json
import re
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from jssl import figures
from jssl.curves import curves
from jssl.maps import plane, reduced
from jssl.report import panel, report

DIGITS = load_digits()
EVIL = '<img src=x onerror="alert(1)">&'


@pytest.fixture(scope="module")
def features():
    return DIGITS.data[:200].astype(np.float32)


def images(count=200):
    return (DIGITS.images[:count, :, :, None] * 15).astype(np.uint8)


def score(encoder, task, mean, stderr=0.006):
    return {"encoder": encoder, "task": task, "mean": mean, "stderr": stderr, "draws": 20, "settings": {"k": 7}}


@pytest.fixture
def run(tmp_path, features):
    """A run directory with everything in it."""
    names = [f"digit {name}" for name in range(10)]
    config = {"method": {"name": "jssl.methods.simclr:SimCLR", "tau": 0.25}, "train": {"steps": 600}}
    provenance = {"commit": "0123abc", "command": "jssl train --config x", "versions": {"jax": "0.10.2"}}
    (tmp_path / "config.json").write_text(json.dumps({"config": config, **provenance}))
    rows = [
        {"step": s, "loss": 600 / s, "lr": 0.1, "health/std": 0.5, "own_metric": s / 600} for s in range(50, 601, 50)
    ]
    rows[-1] |= {"knn": 0.875, "examples_per_s": 1234.0, "data_wait": 0.04}
    rows[3]["warning"], rows[4]["warning"] = "collapse: spread 0.05", "collapse: spread 0.04"
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = [score("trained", "knn", 0.931), score("pixels", "knn", 0.642), score("trained", "fewshot-1", 0.5)]
    (tmp_path / "scores.json").write_text(json.dumps({"protocol": {"test": "digits@test"}, "scores": scores}))
    arrays = panel(features, images(), DIGITS.target[:200], [f"{i}.png" for i in range(200)], [0, 1, 2], 4, names)
    np.savez(tmp_path / "neighbours.npz", **arrays)
    np.savez(
        tmp_path / "map.npz", features=reduced(features), label=DIGITS.target[:200], label_names=names, thumbs=images()
    )
    Image.fromarray(images(1)[0, ..., 0]).save(tmp_path / "views.png")
    return tmp_path


def page(run):
    return report(run).read_text(encoding="utf-8")


def test_of_a_method_without_pairs_of_views_that_is_said():
    rows = [{"step": step, "health/features_std": 0.5} for step in (1, 2)]
    said = "compares no two views of an example"
    assert said in curves({"run": rows})
    assert said not in curves({"run": [row | {"health/alignment": 0.5} for row in rows]})


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_report_lies_in_the_run_directory(run):
    assert report(str(run)) == run / "report.html"


def test_the_head_says_what_ran_and_how_good_it_is(run):
    head = text_of(page(run).partition("<section>")[0])
    for part in "SimCLR", "step 600 of 600", "93.1 %", "1,234":
        assert part in head


def test_a_warning_that_comes_back_is_shown_once_above_everything(run):
    head = text_of(page(run).partition("<body>")[2].partition("<section>")[0])
    assert head.count("collapse") == 1
    assert "2 times, steps 200 to 250" in head


def test_scores_have_their_error_the_best_of_each_column_is_marked_and_the_protocol_is_written_out(run):
    html = page(run)
    assert re.findall(r'class="best">([\d.]+)', html) == ["93.1"]  # the other column has one row: nothing to beat
    words = text_of(html)
    for part in "64.2 % ± 0.6", "1 label per class", "test digits@test", "draws 20", "k 7", "raw pixels":
        assert part in words


def test_a_setting_that_differs_between_encoders_is_given_for_each(run):
    scores = [score("trained", "linear", 0.9), score("pixels", "linear", 0.8)]
    scores[0]["settings"], scores[1]["settings"] = {"penalty": [0.1, 0.1, 0.01]}, {"penalty": [0.5]}
    (run / "scores.json").write_text(json.dumps({"scores": scores}))
    assert "trained: 0.1 (2 times), 0.01; pixels: 0.5" in page(run)


def test_neighbours_show_every_picture_its_similarity_and_whether_the_class_agrees(run):
    arrays = np.load(run / "neighbours.npz")
    html = page(run)
    block = html[html.index("Nearest neighbours") : html.index("Map of the embeddings")]
    agree = int((arrays["neighbour_label"] == arrays["query_label"][:, None]).sum())
    assert block.count("<img") == 3 * 5
    assert block.count('class="same"') == agree
    assert block.count('class="other"') == 12 - agree
    assert f"{arrays['similarity'][0, 0]:.2f}" in block
    assert 'title="0.png"' in block


def test_the_map_has_a_point_per_image_a_legend_and_pictures(run):
    html = page(run)
    block = html[html.index("Map of the embeddings") : html.index("Training curves")]
    assert block.count("<circle") == 200
    assert block.count("<i style=") == 10
    assert block.count("data:image/webp") == 1


def test_every_metric_is_a_curve_with_a_caption(run):
    html = page(run)
    assert html.count('<svg class="chart"') == 7
    for title in "Loss", "Learning rate", "Spread of embeddings", "k-NN accuracy", "Waiting for data", "own_metric":
        assert re.search(rf"<h3>{title}</h3><svg.*?</svg><figcaption>.+?</figcaption>", html)


def test_the_run_can_be_made_again_from_what_the_report_says(run):
    words = text_of(page(run))
    for part in "jssl train --config x", "0123abc", "versions.jax 0.10.2", "method.tau 0.25":
        assert part in words


def test_the_page_loads_nothing_and_is_small(run):
    html = page(run)
    assert re.findall(r"""(?:src|href)\s*=\s*(?!"data:)[^\s>]*""", html) == []
    assert re.findall(r"url\(|@import|https?://|<script|<link", html) == []
    assert len(html) < 3e6


@pytest.mark.parametrize(
    "file, title, command",
    [
        ("scores.json", "Scores", "jssl eval"),
        ("neighbours.npz", "Nearest neighbours", "jssl eval"),
        ("map.npz", "Map of the embeddings", "jssl eval"),
        ("metrics.jsonl", "Training curves", "jssl train"),
        ("views.png", "Views", "jssl train"),
    ],
)
def test_what_is_missing_is_left_out_with_the_command_that_makes_it(run, file, title, command):
    (run / file).unlink()
    html = page(run)
    assert f"<h2>{title}</h2>" not in html
    assert f"<li>{title}: <code>{command} --workdir {run}</code></li>" in html
    assert html.count("<li>") == 1


def test_a_report_with_nothing_missing_does_not_say_so(run):
    assert "Not made yet" not in page(run)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run directory: it has no config"):
        report(tmp_path)


@pytest.mark.parametrize("file", ["scores.json", "neighbours.npz"])
def test_a_file_that_cannot_be_read_is_named(run, file):
    (run / file).write_bytes((run / file).read_bytes()[:40])
    with pytest.raises(ValueError, match=file):
        report(run)


def test_names_from_outside_stand_in_the_page_as_text(tmp_path, features):
    run = tmp_path / "<b>run&"
    run.mkdir()
    labels = DIGITS.target[:200]
    np.savez(run / "neighbours.npz", **panel(features, images(), labels, [EVIL] * 200, [0, 1], 5, [EVIL] * 10))
    np.savez(run / "map.npz", features=reduced(features), label=labels, label_names=[EVIL] * 10)
    rows = [{"step": 1, "warning": EVIL, EVIL: 1.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = [score(EVIL, EVIL, 0.5) | {"settings": {EVIL: EVIL}}]
    (run / "scores.json").write_text(json.dumps({"protocol": {EVIL: EVIL}, "scores": scores}))
    (run / "config.json").write_text(json.dumps({"config": {EVIL: EVIL}, "command": EVIL, "preflight": [EVIL]}))
    html = page(run)
    assert "<img src=x" not in html
    assert 'onerror="' not in html
    assert "<b>run" not in html
    assert html.count("&lt;img src=x") > 20


def test_numbers_that_are_not_finite_break_a_curve_and_nothing_else(tmp_path):
    rows = [{"step": s, "loss": "nan" if s == 3 else 1.0 * s, "gone": "nan"} for s in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = page(tmp_path)
    assert html.count("<polyline") == 2
    assert "nan" not in re.findall(r'points="[^"]*"', html)


def test_a_long_curve_is_thinned_and_keeps_its_spikes():
    values = np.ones(20_000)
    values[12_345] = 9.0
    svg = figures.chart([("loss", np.arange(20_000), values)])
    heights = [float(point.split(",")[1]) for point in re.search(r'points="([^"]*)"', svg).group(1).split()]
    assert len(heights) < 1000
    assert min(heights) < max(heights) - 50


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (0.123456, "0.123"), (1234.5, "1,234"), (15234, "15.2k"), (3.1e-5, "3.1e-5"), (2e6, "2M")]
)
def test_numbers_on_an_axis_have_three_figures(value, text):
    assert figures.short(value) == text


@pytest.mark.parametrize(
    "values, percent, ticks, last",
    [
        ([18.88, 19.08], False, ["18.85", "18.90", "18.95", "19.00", "19.05", "19.10"], "19.080"),
        ([0.0, 0.001], True, ["0.00 %", "0.05 %", "0.10 %"], "0.10 %"),
        ([0.86, 0.92], True, ["86 %", "88 %", "90 %", "92 %"], "92.0 %"),
        ([1.0, 3.0], False, ["1", "1.5", "2", "2.5", "3"], "3"),
    ],
)
def test_no_two_ticks_of_an_axis_have_the_same_number(values, percent, ticks, last):
    svg = figures.chart([("x", np.arange(2), np.array(values))], percent=percent)
    found = re.findall(r'text-anchor="end">([^<]*)</text>', svg)
    assert found[: len(ticks)] == ticks
    assert f">{last}<" in svg


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_thumbnails_are_small_squares_of_any_number_of_channels(channels):
    image = np.zeros((300, 200, channels), np.uint8)
    image[100:200] = 200
    small = figures.thumbnail(image, 50)
    assert small.shape == (50, 50, 3 if channels >= 3 else 1)
    assert small[25].min() == 200


def test_a_panel_holds_the_cosine_neighbours_without_the_query(features):
    found = panel(features, images(), DIGITS.target[:200], None, [3, 5], 6)
    _, rows = NearestNeighbors(n_neighbors=7, metric="cosine").fit(features).kneighbors(features[[3, 5]])
    np.testing.assert_array_equal(found["neighbour"], images()[rows[:, 1:]])
    np.testing.assert_array_equal(found["neighbour_label"], DIGITS.target[rows[:, 1:]])
    np.testing.assert_array_equal(found["query"], images()[[3, 5]])
    assert "query_name" not in found


def test_a_panel_asks_only_for_the_pictures_that_it_shows_and_makes_them_one_size(features):
    asked = []

    def picture(row):
        asked.append(row)
        return np.full((20 + row, 300, 3 if row % 2 else 1), row, np.uint8)

    found = panel(features, picture, None, None, [3, 5], 6)
    assert len(asked) == len(set(asked)) <= 14
    assert found["neighbour"].shape == (2, 6, 96, 96, 3)
    assert "query_label" not in found


def test_the_map_puts_a_class_together_and_is_always_the_same(features):
    xy = plane(reduced(features), "tsne")
    assert xy.shape == (200, 2)
    _, rows = NearestNeighbors(n_neighbors=6).fit(xy).kneighbors(xy)
    labels = DIGITS.target[:200]
    assert np.mean(labels[rows[:, 1:]] == labels[:, None]) > 0.8
    np.testing.assert_array_equal(xy, plane(reduced(features), "tsne"))


def test_the_plain_map_is_the_first_two_principal_components(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = PCA(2, random_state=0, svd_solver="full").fit_transform(unit)
    found = plane(reduced(features))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)


def test_umap_puts_a_class_together_too(features):
    pytest.importorskip("umap")
    xy = plane(reduced(features), "umap")
    _, rows = NearestNeighbors(n_neighbors=6).fit(xy).kneighbors(xy)
    labels = DIGITS.target[:200]
    assert np.mean(labels[rows[:, 1:]] == labels[:, None]) > 0.8
    np.testing.assert_array_equal(xy, plane(reduced(features), "umap"))
    assert np.isfinite(plane(reduced(features[:6]), "umap")).all()


def test_umap_that_is_not_installed_is_named(features, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ValueError, match="umap-learn is not installed; pip install umap-learn, or --map tsne"):
        plane(reduced(features), "umap")


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (4, 1), (6, 1), (7, 3), (1500, 4)])
@pytest.mark.parametrize("how", ["pca", "tsne"])
def test_a_map_of_any_size_is_finite(shape, how):
    if (shape[0], how) == (1500, "tsne"):
        shape = (40, 4)
    xy = plane(reduced(np.random.default_rng(0).normal(size=shape)), how)
    assert xy.shape == (shape[0], 2)
    assert np.isfinite(xy).all()


def test_a_map_that_there_is_not_is_refused_in_words(features):
    with pytest.raises(ValueError, match=r"there is no map 'tsn'; did you mean tsne\?"):
        plane(reduced(features), "tsn")
    long = "t-SNE of 1,501 points takes too long: expected 1,500 at most, or pca or umap"
    with pytest.raises(ValueError, match=long):
        plane(np.zeros((1501, 2)), "tsne")


def test_the_map_of_a_collapsed_encoder_is_one_point():
    assert not plane(reduced(np.ones((50, 8))), "tsne").any()


def test_a_map_of_features_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match="features are not finite"):
        reduced(np.full((20, 4), np.nan))


def test_a_thousand_points_take_seconds():
    began = time.process_time()
    plane(reduced(DIGITS.data[:1000]), "tsne")
    assert time.process_time() - began < 8


def test_corrupted_images_have_a_cell_for_each_severity_that_says_what_is_kept(tmp_path):
    settings = lambda share: {
        "clean": 0.75,
        "by corruption": {"fog": [share / n for n in range(1, 6)], "snow": [share] * 5},
        "by shift": {"central 0.5": share},
    }
    scores = [
        {**score(encoder, task, 0.3), "settings": settings(share)}
        for task in ("robustness", "robustness-knn")
        for encoder, share in (("trained", 0.6), ("untrained", 0.123))
    ]
    (tmp_path / "scores.json").write_text(json.dumps({"scores": scores}))
    page = report(tmp_path).read_text()
    part = page.split("<h2>Corrupted images</h2>")[1].split("</section>")[0]
    first, second = part.split("<details")[1:]
    assert "linear probe, on clean images 75.0" in first
    assert "k-NN, on clean images 75.0" in second
    rows = re.findall("<tr>(.*?)</tr>", first)
    assert [len(re.findall("<t[hd]", row)) for row in rows] == [7, 7, 7, 2]
    assert '<td style="--kept: 80%">60.0</td><td style="--kept: 40%">30.0</td>' in rows[1]  # 0.6 and 0.3 of 0.75
    assert rows[2].endswith('<td style="--kept: 80%">60.0 <small>12.3</small></td>')
    assert rows[3].startswith('<td colspan="6">central 0.5</td><td style="--kept: 80%">60.0 ')


def test_a_run_that_was_not_scored_on_corrupted_images_has_no_such_section(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"scores": [score("trained", "linear", 0.9)]}))
    assert "Corrupted images" not in report(tmp_path).read_text()
