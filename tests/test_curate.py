"""Curation: what is left out and why, which copy stays, what is retrieved, and the manifest that `folder:` reads."""

import csv
import json
import os
import types

import numpy as np
import pytest
from absl import logging
from PIL import Image

from benchmarks import curate as bench
from jssl import cli, data
from jssl.curate import curate, page
from jssl.curate.balance import balanced, shares
from jssl.curate.near import groups, nearest, nearness
from jssl.data import descriptor
from jssl.encoder import Encoder
from jssl.evals.kept import identity
from jssl.evals.labels import per_class

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def picture(seed, width=120, height=90):
    """A smooth picture with edges, unlike those of other seeds."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def pool(tmp_path):
    """Twelve pictures, copies of two of them and what is not worth keeping; -> the folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(12):
        picture(seed).save(folder / f"{seed:02}.png")
    small = picture(0).resize((70, 50))
    small.save(folder / "0-resized.png")
    small.transpose(MIRROR).save(folder / "0-mirrored.jpg", quality=60)
    picture(1, 240, 180).save(folder / "z1-larger.png")
    picture(1).crop((3, 2, 117, 88)).save(folder / "1-cropped.png")
    picture(20, 40, 31).save(folder / "tiny.png")
    picture(21, 400, 40).save(folder / "long.png")
    Image.new("RGB", (90, 80), (9, 200, 30)).save(folder / "blank.png")
    (folder / "broken.jpg").write_text("not a picture")
    return folder


def table(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def kept(out):
    return [os.path.basename(row["path"]) for row in table(out / "manifest.csv")]


def removed(out):
    name = os.path.basename
    return {name(row["path"]): (row["reason"], name(row["duplicate_of"])) for row in table(out / "removed.csv")}


def test_the_largest_of_copies_stays_and_others_are_named_with_their_reason(pool, tmp_path):
    before = {name: (pool / name).read_bytes() for name in os.listdir(pool)}
    curate(f"folder:{pool}", tmp_path / "out")
    assert kept(tmp_path / "out") == [f"{i:02}.png" for i in range(12) if i != 1] + ["z1-larger.png"]
    assert removed(tmp_path / "out") == {
        "0-resized.png": ("duplicate", "00.png"),
        "0-mirrored.jpg": ("duplicate", "00.png"),
        "01.png": ("duplicate", "z1-larger.png"),
        "1-cropped.png": ("duplicate", "z1-larger.png"),
        "tiny.png": ("tiny", ""),
        "long.png": ("long", ""),
        "blank.png": ("blank", ""),
        "broken.jpg": ("broken", ""),
    }
    assert {name: (pool / name).read_bytes() for name in os.listdir(pool)} == before
    assert sorted(os.listdir(tmp_path / "out")) == ["manifest.csv", "removed.csv", "report.html"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "0-mirrored.jpg" in page
    assert "not an image" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_largest_group_of_copies_is_shown_first_and_the_page_ends_once(pool, tmp_path, monkeypatch):
    picture(1).save(pool / "1-again.bmp")
    monkeypatch.setattr(page, "GROUPS", 1)
    curate(f"folder:{pool}", tmp_path / "out", workers=0)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "2 groups, 1 of them shown, the largest first" in text
    assert "1 of 4" in text
    assert "1 of 3" not in text
    assert text.count("<footer>") == 1


def test_how_far_it_has_come_is_said(pool, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("jssl.curate.SAID", 1e-9)
    logging.get_absl_logger().propagate = True
    caplog.set_level("INFO", logger="absl")
    curate(f"folder:{pool}", tmp_path / "out", workers=0)
    assert "20 of 20 images looked at, 0:00 left" in caplog.text


def test_files_of_types_that_are_not_read_are_counted(tmp_path, caplog):
    logging.get_absl_logger().propagate = True
    folder = tmp_path / "photos"
    (folder / "phone").mkdir(parents=True)
    for name in "phone/a.HEIC", "phone/b.heic", "c.avif", "notes.txt", ".hidden.heic":
        (folder / name).touch()
    with pytest.raises(ValueError, match=r"found 3 files of other types \(.avif, .heic\)$"):
        data.open_source(f"folder:{folder}")
    picture(0).convert("P").save(folder / "moving.gif", save_all=True, append_images=[picture(1)])
    curate(f"folder:{folder}", tmp_path / "out", workers=0)
    assert kept(tmp_path / "out") == ["moving.gif"]
    said = "3 files of other types (.avif, .heic)"
    assert f"not looked at: {said}" in (tmp_path / "out" / "report.html").read_text()
    assert f"{said} are not read" in caplog.text


def test_cut_outs_on_a_transparent_ground_are_not_blank(tmp_path):
    """Black shapes with black behind what cannot be seen."""
    for i in range(3):
        shape = np.zeros((64, 64, 4), np.uint8)
        shape[10 : 30 + 8 * i, 8 + 10 * i : 40, 3] = 255
        Image.fromarray(shape).save(tmp_path / f"{i}.png")
    curate(f"folder:{tmp_path}", tmp_path / "out", workers=0)
    assert kept(tmp_path / "out") == ["0.png", "1.png", "2.png"]


def test_neither_the_order_of_files_nor_workers_change_a_bit(pool, tmp_path):
    names = sorted(os.listdir(pool), reverse=True)
    (pool / "list.csv").write_text("\n".join(["path", *names]))
    for out, spec, workers in ("a", f"folder:{pool}", 0), ("b", f"folder:{pool}/list.csv", 2):
        curate(spec, tmp_path / out, count=8, workers=workers)
    for file in "manifest.csv", "removed.csv":
        assert (tmp_path / "a" / file).read_text() == (tmp_path / "b" / file).read_text()


def test_what_is_like_a_curated_set_is_retrieved_and_nothing_else(tmp_path):
    for name in "pool", "good":
        (tmp_path / name).mkdir()
    for seed in range(20):
        picture(seed).save(tmp_path / "pool" / f"{seed:02}.png")
    for seed in 3, 11:
        picture(seed).resize((80, 70)).save(tmp_path / "good" / f"{seed:02}.png")
    curate(f"folder:{tmp_path}/pool", tmp_path / "out", like=f"folder:{tmp_path}/good", neighbours=1)
    assert kept(tmp_path / "out") == ["03.png", "11.png"]
    assert set(removed(tmp_path / "out").values()) == {("far", "")}


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_what_is_joined_in_steps_is_one_group_whatever_the_blocks():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 16))
    for step in range(4):  # each near the one before it, the last not near the first
        x[[7, 19, 33, 48][step]] = np.eye(16)[0] + 0.45 * step * np.eye(16)[1]
    x = unit(x)
    assert x[7] @ x[48] < 0.8
    for block in 1, 7, 64:
        first = groups(x, 0.9, block=block)
        assert first[[7, 19, 33, 48]].tolist() == [7] * 4
        assert (np.delete(first, [7, 19, 33, 48]) == np.delete(np.arange(50), [7, 19, 33, 48])).all()


def test_neighbours_are_those_of_a_full_matrix_whatever_the_blocks():
    rng = np.random.default_rng(0)
    bank, queries = unit(rng.normal(size=(30, 8))), unit(rng.normal(size=(11, 8)))
    expected = np.argsort(-queries @ bank.T, 1)[:, :30]
    for block in 3, 8, 100:
        similarity, index = nearest(bank, queries, 30, block=block)
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_allclose(similarity, np.take_along_axis(queries @ bank.T, expected, 1), atol=1e-6)


def test_a_pair_is_as_near_as_the_nearer_of_image_and_mirror_image():
    rng = np.random.default_rng(0)
    x, y = (unit(rng.normal(size=(n, descriptor.DIM))).astype(np.float32) for n in (24, 9))
    expected = np.maximum(y @ x.T, y[:, descriptor.MIRROR] @ x.T)
    similarity, index = nearest(x, y, 24, descriptor.split, block=7)
    np.testing.assert_allclose(similarity, -np.sort(-expected, 1), atol=1e-6)
    np.testing.assert_array_equal(index, np.argsort(-expected, 1))
    np.testing.assert_allclose(nearness(x[:9], y, descriptor.split), expected[range(9), range(9)], atol=1e-6)
    again = np.concatenate([x, x[3:5, descriptor.MIRROR]])
    assert groups(again, 0.9, descriptor.split, block=7).tolist() == [*range(24), 3, 4]
    assert groups(again, 0.9, block=7).tolist() == [*range(26)]


def test_a_mirror_image_has_the_permuted_descriptor():
    pixels = np.random.default_rng(0).random((descriptor.SIDE, descriptor.SIDE, 3), np.float32)
    here, there = (descriptor.describe(x) for x in (pixels, pixels[:, ::-1]))
    np.testing.assert_allclose(here[descriptor.MIRROR], there, atol=1e-5)


def test_a_balanced_sample_takes_the_same_of_every_cluster_that_has_it():
    rng = np.random.default_rng(0)
    cluster = np.repeat([0, 1, 2], [100, 40, 5])
    x = unit(np.eye(8)[cluster] + 0.05 * rng.normal(size=(145, 8)))
    rows, before, after = balanced(x, np.arange(145), 45, clusters=3)
    assert sorted(before) == [5, 40, 100]
    assert np.bincount(cluster[rows]).tolist() == [20, 20, 5]
    assert sorted(after) == [5, 20, 20]
    assert shares(np.array([3, 9, 9]), 100).tolist() == [3, 9, 9]
    assert shares(np.array([9, 9, 9]), 7).tolist() == [3, 2, 2]


def test_a_manifest_is_read_in_its_order_with_labels_and_slices(tmp_path):
    for name in "cat/b.png", "cat/a.png", "dog/c.png":
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(len(name)).save(tmp_path / name)
    curate(f"folder:{tmp_path}", tmp_path / "out", threshold=1.0)
    source = data.open_source(f"folder:{tmp_path}/out/manifest.csv")
    assert source.names == ["../cat/a.png", "../cat/b.png", "../dog/c.png"]
    assert [source.label_names[label] for label in source.labels] == ["cat", "cat", "dog"]
    text = f"label,path\nx,{tmp_path}/dog/c.png\ny,cat/a.png\nx,cat/b.png\n"
    (tmp_path / "own.csv").write_text(text)
    source = data.open_source(f"folder:{tmp_path}/own.csv@[:2]")
    assert source.names == [f"{tmp_path}/dog/c.png", "cat/a.png"]
    assert source.labels.tolist() == [0, 1]


def test_paths_in_a_manifest_are_right_where_folders_are_links(tmp_path):
    """Written through one, and again from that manifest read through it."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    for seed in range(2):
        picture(seed).save(tmp_path / "photos" / f"{seed}.png")
    curate(f"folder:{tmp_path}/photos", tmp_path / "link", workers=0)
    curate(f"folder:{tmp_path}/link/manifest.csv", tmp_path / "out", workers=0)
    for out, up in ("link", "../.."), ("out", ".."):
        names = data.open_source(f"folder:{tmp_path}/{out}/manifest.csv").names
        assert names == [f"{up}/photos/0.png", f"{up}/photos/1.png"]


def test_names_that_are_not_utf8_are_kept_as_they_are(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate((b"\xe9t\xe9.png", b"l\xe0.png", b"copy \xe9.png")):
        picture(min(seed, 1)).save(file := tmp_path / f"{seed}.png")
        os.rename(file, os.path.join(os.fsencode(tmp_path / "photos"), name))
    curate(f"folder:{tmp_path}/photos", tmp_path / "out", workers=0)
    assert b"../photos/\xe9t\xe9.png" in (tmp_path / "out" / "manifest.csv").read_bytes()
    source = data.open_source(f"folder:{tmp_path}/out/manifest.csv")
    assert len(source) == 2
    assert source.image(0).shape == (90, 120, 3)
    per_class(source.names, np.zeros(2, np.int32), 1, 1)
    identity(source.spec, source.names)


def test_a_manifest_of_a_spreadsheet_begins_with_a_mark(tmp_path):
    picture(0).save(tmp_path / "here.png")
    (tmp_path / "m.csv").write_text("path\nhere.png\n", encoding="utf-8-sig")
    assert data.open_source(f"folder:{tmp_path}/m.csv").names == ["here.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column `path`, it is empty"),
        ("paths,label\na.png,1\n", "no column `path`.*did you mean paths"),
        ("path\n", "lists no images"),
        ("path\nnowhere.png\n", "no file nowhere.png"),
        ("path,label\nhere.png,1\nhere.png,\n", "no label in line 3"),
        ("label,path\n1,\n", "no path in line 2"),
    ],
)
def test_a_manifest_that_is_wrong_is_one_line(tmp_path, text, message):
    picture(0).save(tmp_path / "here.png")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        data.open_source(f"folder:{tmp_path}/m.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "photos"], "folder:photos"),
        (["--data", "digits"], "folder:digits"),
        (["--threshold", "1.5"], "up to 1"),
        (["--count", "0"], "at least 1"),
        (["--like", "folder:nowhere"], "nowhere is not there"),
        (["--workdir", "nowhere"], "jssl train"),
        (["--min-side", "-5"], "--min-side -5: expected"),
        (["--max-aspect", "0.5"], "--max-aspect 0.5: expected"),
        (["--min-side", "500"], "none of the 20 images"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(pool, tmp_path, more, message):
    with pytest.raises(SystemExit) as exit:
        cli.main(["curate", "--data", f"folder:{pool}", "--out", str(tmp_path / "out"), *more])
    assert message in exit.value.code
    assert "\n" not in exit.value.code


def test_a_run_on_graphs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jssl.encoder.Encoder", lambda _: types.SimpleNamespace(channels=None))
    with pytest.raises(ValueError, match="--workdir RUN holds an encoder of graphs; expected one of images"):
        curate("folder:photos", tmp_path / "out", workdir="RUN")


def test_a_run_says_what_is_near_where_one_is_given(pool, tmp_path, trained):
    """Each is nearest to its own mirror image, and copies are still told by the descriptor."""
    (tmp_path / "good").mkdir()
    for seed in 4, 9:
        picture(seed).transpose(MIRROR).save(tmp_path / "good" / f"{seed:02}.png")
    curate(f"folder:{pool}", tmp_path / "out", trained, f"folder:{tmp_path}/good", neighbours=1)
    assert kept(tmp_path / "out") == ["04.png", "09.png"]
    assert removed(tmp_path / "out")["0-mirrored.jpg"] == ("duplicate", "00.png")
    assert sorted(os.listdir(tmp_path / "out")) == ["manifest.csv", "removed.csv", "report.html"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps on colour pictures."""
    from jssl.config import load
    from jssl.train import train

    folder = tmp_path_factory.mktemp("run")
    for seed in range(64):
        picture(seed, 32, 32).save(folder / f"{seed}.png")
    overrides = {"data.source": f"folder:{folder}", "train.steps": 4, "augment.size": 16}
    train(load("simclr:tiny", overrides), folder / "run")
    return folder / "run"


def test_a_folder_of_photographs_is_curated_and_trained_on_as_the_readme_says(pool, tmp_path):
    """DINOv2's demo, two steps of a small network, on what is left of pictures of different sizes."""
    cli.main(["curate", "--data", f"folder:{pool}", "--out", str(tmp_path / "curated")])
    small = {"encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2, "method.hidden": 16, "method.prototypes": 16}
    short = {"train.steps": 2, "train.batch_size": 8, "optim.warmup": 0, "log_every": 1, "eval.every": 0}
    own = {"data.source": f"folder:{tmp_path}/curated/manifest.csv", "data.eval_source": None}
    words = [f"--config.{name}={value}" for name, value in (small | short | own).items()]
    cli.main(["train", "--config", "dinov2:demo", "--workdir", str(tmp_path / "run"), *words])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert np.isfinite([row["loss"] for row in rows if "loss" in row]).all()
    source = data.open_source(own["data.source"])
    assert len({source.image(row).shape for row in range(len(source))}) > 1
    assert Encoder(tmp_path / "run").embed(source).shape == (12, 16)


def test_what_a_manifest_says_of_its_images_stays_with_them(tmp_path):
    names = ["c.png", "a.png", "b.png"]
    for seed, name in enumerate(names):
        picture(seed).save(tmp_path / name)
    rows = [f"{name},{name[0]}-label,{name[0]}-group" for name in names]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]))
    curate(f"folder:{tmp_path / 'list.csv'}", tmp_path / "out", workers=0)
    with open(tmp_path / "out" / "manifest.csv", newline="") as lines:
        kept = list(csv.DictReader(lines))
    assert [row["path"] for row in kept] == ["../a.png", "../b.png", "../c.png"]
    assert all(row["label"] == f"{row['path'][3]}-label" and row["group"] == f"{row['path'][3]}-group" for row in kept)


def test_the_benchmark_finds_what_it_has_planted_and_counts_what_it_has_not(tmp_path):
    """Eight pictures, two of which are copied five times; one is there twice before anything is planted."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(7):
        picture(seed).save(folder / f"{seed}.png")
    picture(6).save(folder / "again.png")
    bench.main(["--images", f"folder:{folder}", "--search", "3000", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "curate.json").read_text())
    [row] = written["rows"]
    assert (row["images"], row["files"]) == ("photos", 8 + 2 * 5)
    assert [row[f"{edit} %"] for edit in ("resized", "recompressed", "cropped", "mirrored", "all")] == [100] * 5
    assert row["precision %"] == pytest.approx(100 * 10 / 11)
    assert "3,000 descriptors" in written["notes"][1]
    assert "30 copies found of 30 planted" in written["notes"][1]
