"""Sources, their order, and the stream of batches: the same bits from any step, host and worker."""

import dataclasses
import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import logging
from PIL import Image

from jssl import data
from jssl.augment.image import Crop
from jssl.data.decode import decode

CROPS = (Crop("image", views=2, size=16), Crop("local", views=3, size=8, area=(0.05, 0.3), interpolation="bicubic"))
RED = (200, 20, 40)


def picture(seed, height=40, width=30):
    """Smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """60 readable JPEGs of different shapes in two classes."""
    for i in range(60):
        path = tmp_path / ("cat" if i % 3 else "dog") / f"{i:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture(i, 24 + i % 7, 20 + i % 5).save(path)
    return tmp_path


@pytest.fixture
def zoo(tmp_path):
    """Files as they are found in the wild; -> the folder. Four cannot be read."""
    tmp_path = tmp_path / "zoo"
    tmp_path.mkdir()
    (tmp_path / "empty1.jpg").touch()
    (tmp_path / "empty2.JPG").touch()
    (tmp_path / "text.png").write_text("not a picture at all")
    whole = io.BytesIO()
    picture(0, 200, 200).save(whole, "JPEG")
    (tmp_path / "truncated.jpeg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])

    deep = np.full((10, 12), 257 * 100, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.new("CMYK", (12, 10), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("RGB", (5000, 1), RED).save(tmp_path / "long.png")
    Image.new("RGB", (1, 5000), RED).save(tmp_path / "tall.bmp")
    Image.new("RGBA", (12, 10), (*RED, 30)).save(tmp_path / "alpha.webp", lossless=True, exact=True)
    Image.new("RGB", (12, 10), RED).quantize(8).save(tmp_path / "palette.png")
    Image.new("1", (12, 10), 1).save(tmp_path / "bits.tif")
    Image.new("L", (12, 10), 77).save(tmp_path / "grey.TIFF")
    picture(1).save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[picture(2)])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be turned by 90 degrees clockwise
    turned = np.zeros((10, 20, 3), np.uint8)
    turned[:, :10] = 255
    Image.fromarray(turned).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    (tmp_path / ".hidden.jpg").touch()
    (tmp_path / "notes.txt").write_text("no image, and not named like one")
    return tmp_path


def take(source, steps, start=0, batch_size=20, seed=3, rows=None, crops=CROPS, **kw):
    rows = np.arange(batch_size) if rows is None else rows
    with data.stream(source, batch_size=batch_size, seed=seed, start=start, rows=rows, crops=crops, **kw) as batches:
        return [next(batches) for _ in range(steps)]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- order


def test_each_epoch_is_a_permutation_of_its_own():
    rows_at = data.order(13, seed=5)
    run = np.concatenate([rows_at(step, 5) for step in range(13)])  # five epochs
    epochs = run.reshape(5, 13)
    assert (np.sort(epochs) == np.arange(13)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5
    assert run.dtype == np.int32


def test_a_step_of_the_order_needs_no_other():
    assert (data.order(100, 1)(7, 30) == np.concatenate([data.order(100, 1)(s, 10) for s in (21, 22, 23)])).all()
    assert (data.order(100, 1)(7, 30) != data.order(100, 2)(7, 30)).any()


def test_a_set_smaller_than_one_batch_is_an_error():
    with pytest.raises(ValueError, match=r"10 examples, fewer than one batch.*<= 10") as error:
        data.order(10, 0)(0, 11)
    one_line(error)
    with pytest.raises(ValueError, match="fewer than one batch"):
        data.stream(data.open_source("digits@[:10]"), batch_size=11, seed=0, start=0, rows=np.arange(11))


# ---- sources in memory


def test_digits_have_a_fixed_stratified_split():
    train, test, both = (data.open_source(f"digits@{split}") for split in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (1297, 500, 1797)
    assert train.shape == (8, 8, 1)
    assert train.images.dtype == np.uint8
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert (np.bincount(test.labels) == 50).all()
    assert not set(train.names) & set(test.names)
    assert test.names[:5] == ["1", "2", "4", "5", "6"]
    assert_equal({"x": data.open_source("digits").images}, {"x": train.images})
    assert data.open_source("digits@test[10:-10]").names == test.names[10:-10]


def test_channels_are_made_alike():
    grey, rgb = data.open_source("digits"), data.open_source("digits", channels=3)
    assert rgb.shape == (8, 8, 3)
    assert (rgb.images == grey.images).all()


def test_npz_images_with_and_without_channels_and_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 3), np.uint8)
    np.savez(tmp_path / "rgb.npz", image=images, label=np.arange(9), label_names=[f"class {i}" for i in range(9)])
    source = data.open_source(f"npz:{tmp_path}/rgb.npz@[2:]")
    assert_equal({"x": source.images}, {"x": images[2:]})
    assert source.labels.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert source.labels.dtype == np.int32
    assert source.label_names[8] == "class 8"
    assert source.names[0] == "2"
    grey = data.open_source(f"npz:{tmp_path}/rgb.npz", channels=1).images[0]
    assert_equal({"x": grey[..., 0]}, {"x": np.asarray(Image.fromarray(images[0]).convert("L"))})

    np.savez(tmp_path / "p@th.npz", x=images[..., 0])
    source = data.open_source(f"npz:{tmp_path}/p@th.npz")
    assert source.shape == (6, 5, 1)
    assert source.labels is None


@pytest.mark.parametrize(
    "spec, says",
    [
        ("digit", "unknown data source 'digit': expected digits"),
        ("fodler:photos", "expected folder:PATH"),
        ("folder", "expected folder:PATH"),
        ("hdf5:x", "expected digits"),
        ("digits@tets", r"cannot read @tets, expected @train, @test, @all or a slice .*did you mean @test\?"),
        ("digits@[1:2:3]", "expected .* a slice such as"),
        ("digits@[5:5]", "no images are left"),
        ("npz:{}/none.npz", "there is no file"),
        ("npz:{}/text.npz", "cannot be read as an .npz"),
        ("npz:{}/floats.npz@[:2]", r"`image` is float32 \[4, 3, 3, 1\], expected uint8 \[N, H, W, C\]"),
        ("npz:{}/flat.npz", r"`x` is uint8 \[4, 9\], expected uint8"),
        ("npz:{}/labels.npz", r"`y` is int64 \[3\], expected whole numbers \[4\]"),
        ("npz:{}/other.npz", "expected an array `image` .* found pixels"),
        ("npz:{}/flat.npz@test", r"cannot read @test, expected a slice such as @\[:1000\]"),
        ("{}", "says no kind: expected folder:/"),
        ("{}/flat.npz", "says no kind: expected npz:/"),
        ("{}/mutag", "says no kind: expected tu:/"),
        ("folder:{}/none", "is not there"),
        ("folder:{}/text.npz", "is a file, expected a folder or a manifest"),
        ("folder:{}", "no images below .* expected files named .jpg"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_line(tmp_path, spec, says):
    np.savez(tmp_path / "floats.npz", image=np.zeros((4, 3, 3, 1), np.float32))
    np.savez(tmp_path / "flat.npz", x=np.zeros((4, 9), np.uint8))
    np.savez(tmp_path / "labels.npz", x=np.zeros((4, 3, 3), np.uint8), y=np.arange(3))
    np.savez(tmp_path / "other.npz", pixels=np.zeros((4, 3, 3), np.uint8))
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "mutag").mkdir()
    (tmp_path / "mutag" / "MUTAG_graph_indicator.txt").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        data.open_source(spec.format(tmp_path))
    one_line(error)


# ---- folders


def test_whatever_a_folder_holds_is_read_or_named(zoo):
    source = data.open_source(f"folder:{zoo}", max_bad=0.5)
    assert dict(source.bad).keys() == {"empty1.jpg", "empty2.JPG", "text.png", "truncated.jpeg"}
    assert dict(source.bad)["empty1.jpg"] == "an empty file"
    assert dict(source.bad)["text.png"].startswith("not an image")
    assert "truncated" in dict(source.bad)["truncated.jpeg"]

    images = {name: source.image(i) for i, name in enumerate(source.names)}
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images.values())
    assert (images["deep.png"] == 100).all()
    assert (images["grey.TIFF"] == 77).all()
    assert (images["bits.tif"] == 255).all()
    assert images["long.png"].shape == (1, 5000, 3)
    assert (images["alpha.webp"] == (249, 227, 230)).all()  # on white
    for name in "palette.png", "tall.bmp":
        assert np.abs(images[name].astype(int) - RED).max() <= 1, name
    assert images["cmyk.jpg"][..., 0].min() > 200
    assert images["cmyk.jpg"][..., 1:].max() < 60
    assert images["turned.jpg"].shape == (20, 10, 3)
    assert images["turned.jpg"][:8].min() > 200  # left became top
    assert images["turned.jpg"][12:].max() < 50


def test_channels_1_reads_a_folder_as_grey(zoo):
    source = data.open_source(f"folder:{zoo}", channels=1, max_bad=0.5)
    assert source.image(source.names.index("deep.png")).shape == (10, 12, 1)
    assert take(source, 1, batch_size=4)[0]["image"].shape == (4, 2, 16, 16, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white_as_viewers_show_it(tmp_path, mode):
    """A dark picture with dark behind what cannot be seen, and what can be seen by half."""
    pixels = np.full((8, 8, 4), 40, np.uint8)
    pixels[..., 3] = np.repeat([0, 255, 128, 255], 2)
    image = Image.fromarray(pixels)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "x.png")
    opened = data.open_source(f"folder:{tmp_path}").open(0)
    assert opened.mode == mode
    assert np.asarray(decode(opened, 1))[3].tolist() == [255, 255, 40, 40, 147, 147, 40, 40]


def test_what_was_left_out_is_in_the_log(zoo, caplog):
    logging.get_absl_logger().propagate = True
    data.open_source(f"folder:{zoo}", max_bad=0.5)
    for name in "empty1.jpg", "empty2.JPG", "text.png", "truncated.jpeg":
        assert any(name in record.getMessage() for record in caplog.records)


def test_too_many_bad_files_stop_the_run(zoo):
    with pytest.raises(
        ValueError, match=r"4 of 14 images .*data.max_bad=0.01 .*empty1.jpg: an empty file;.*; \.\.\."
    ) as error:
        data.open_source(f"folder:{zoo}")
    one_line(error)
    data.open_source(f"folder:{zoo}", max_bad=4 / 14)


def test_files_beside_class_folders_are_said_to_leave_no_classes(tmp_path, caplog):
    logging.get_absl_logger().propagate = True
    caplog.set_level("INFO", logger="absl")
    for i in range(10):
        (tmp_path / str(i % 2)).mkdir(exist_ok=True)
        picture(i).save(tmp_path / str(i % 2) / f"{i}.png")
    picture(10).save(tmp_path / "stray.png")
    assert data.open_source(f"folder:{tmp_path}").labels is None
    assert "11 images, of no classes since not all lie in sub-folders, such as stray.png" in caplog.text


def test_labels_are_the_first_folders(photos):
    (photos / "dog" / "deeper").mkdir()
    picture(99).save(photos / "dog" / "deeper" / "x.jpg")
    source = data.open_source(f"folder:{photos}")
    assert source.label_names == ("cat", "dog")
    assert [source.label_names[label] for label in source.labels] == [name.split("/")[0] for name in source.names]
    assert "dog/deeper/x.jpg" in source.names
    assert list(source.names) == sorted(source.names)

    half = data.open_source(f"folder:{photos}@[45:]")
    assert half.names == source.names[45:]
    assert (half.labels == source.labels[45:]).all()

    picture(0).save(photos / "stray.jpg")
    assert data.open_source(f"folder:{photos}").labels is None


def test_links_are_followed_and_a_circle_of_them_ends(photos, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    picture(1).save(elsewhere / "far.jpg")
    (photos / "cow").symlink_to(elsewhere)
    (photos / "cat" / "near.jpg").symlink_to(elsewhere / "far.jpg")
    (elsewhere / "back").symlink_to(photos)
    source = data.open_source(f"folder:{photos}")
    assert len(source) == 62
    assert source.label_names == ("cat", "cow", "dog")


def test_images_of_one_size_are_held_in_memory(tmp_path):
    for i in range(5):
        picture(i).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:600])
    source = data.open_source(f"folder:{tmp_path}", max_bad=0.2)
    assert source.shape == (40, 30, 3)
    assert source.names == ["0.png", "1.png", "3.png", "4.png"]
    assert (source.images[2] == np.asarray(picture(3))).all()
    assert take(source, 1, batch_size=4)[0]["image"].shape == (4, 40, 30, 3)
    assert data.open_source(f"folder:{tmp_path}", max_bad=0.2, fits=1000).shape is None


def test_huge_images_are_bad(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "small.png")
    Image.new("L", (300, 300)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    bad = data.open_source(f"folder:{tmp_path}", max_bad=0.5).bad
    assert bad[0][0] == "huge.png"
    assert "decompression bomb" in bad[0][1]


# ---- the stream


def test_the_stream_follows_the_order():
    source = data.open_source("digits")
    batch = take(source, 2, start=4, rows=np.array([3, 0, 7]))[1]
    assert batch["index"].tolist() == data.order(1297, 3)(5, 20)[[3, 0, 7]].tolist()
    assert (batch["image"] == source.images[batch["index"]]).all()


def test_a_stream_is_the_same_from_any_step_and_host_and_worker(photos):
    source = data.open_source(f"folder:{photos}")
    whole = take(source, 5, batch_size=45)  # 45 rows: more than one part
    assert whole[0]["image"].shape == (45, 2, 16, 16, 3)
    assert whole[0]["local"].shape == (45, 3, 8, 8, 3)
    for step, batch in enumerate(whole):
        assert (batch["index"] == data.order(60, 3)(step, 45)).all()
    assert (whole[0]["image"][:, 0] != whole[0]["image"][:, 1]).any()

    for step, batch in enumerate(take(source, 2, start=3, batch_size=45)):
        assert_equal(batch, whole[3 + step])
    hosts = [take(source, 5, batch_size=45, rows=rows) for rows in (np.arange(10), np.arange(10, 45))]
    for step, (one, two) in enumerate(zip(*hosts)):
        assert_equal({name: np.concatenate([one[name], two[name]]) for name in one}, whole[step])
    for step, batch in enumerate(take(source, 3, start=2, batch_size=45, workers=2)):
        assert_equal(batch, whole[2 + step])
    other = take(source, 5, batch_size=45, seed=4)
    assert all((a["image"] != b["image"]).any() for a, b in zip(whole, other))


def break_later(source, name, root):
    """A file that was whole when the source was opened."""
    path = pathlib.Path(root, name)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_later_is_replaced_and_named_once(photos, caplog, workers):
    logging.get_absl_logger().propagate = True
    source = data.open_source(f"folder:{photos}", max_bad=0.05)
    before = take(source, 6)
    for row in 7, 8, 20:
        break_later(source, source.names[row], photos)
    after = take(source, 6, workers=workers)
    named = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert sorted(source.names.index(message.split(": ")[1].split(" ")[0]) for message in named) == [7, 8, 20]
    for a, b in zip(before, after):
        assert b["index"].tolist() == [{7: 9, 8: 9, 20: 21}.get(row, row) for row in a["index"].tolist()]
        good = a["index"] == b["index"]
        assert_equal({name: b[name][good] for name in b}, {name: a[name][good] for name in a})
    with pytest.raises(ValueError, match=r"3 of 60 images cannot be decoded") as error:
        take(dataclasses.replace(source, max_bad=0.04), 6, workers=workers)
    one_line(error)


def test_a_run_without_any_readable_file_ends(photos):
    source = data.open_source(f"folder:{photos}", max_bad=1.0)
    for name in source.names:
        break_later(source, name, photos)
    with pytest.raises(ValueError, match="60 of 60 images cannot be decoded"):
        take(source, 1)


def test_every_row_comes_once_in_order(photos):
    source = data.open_source(f"folder:{photos}", max_bad=0.05)
    break_later(source, source.names[7], photos)
    with data.every(source, batch_size=25, size=12) as batches:
        batches = list(batches)
    assert [batch["image"].shape for batch in batches] == [(25, 12, 12, 3)] * 3
    index = np.concatenate([batch["index"] for batch in batches])
    assert index.tolist() == [-1 if i == 7 or i >= 60 else i for i in range(75)]
    images = np.concatenate([batch["image"] for batch in batches])
    assert (images[index < 0] == 0).all()
    assert images[index >= 0].any((1, 2, 3)).all()

    parts = [list(data.every(source, batch_size=25, size=12, rows=rows)) for rows in (np.arange(10), np.arange(10, 25))]
    for whole, one, two in zip(batches, *parts, strict=True):
        assert_equal({name: np.concatenate([one[name], two[name]]) for name in one}, whole)


def test_the_central_square_is_evaluated(tmp_path):
    for name, size in {"wide.png": (40, 20), "high.png": (20, 40)}.items():
        image = Image.new("RGB", size)
        image.paste(RED, ((size[0] - 16) // 2, (size[1] - 16) // 2, (size[0] + 16) // 2, (size[1] + 16) // 2))
        image.save(tmp_path / name)
    source = data.open_source(f"folder:{tmp_path}")
    assert (next(data.every(source, batch_size=2, size=8, crop=0.8))["image"] == RED).all()
    assert (next(data.every(source, batch_size=2, size=8, crop=1.0))["image"][:, 0, :, 0] < 150).all()


def test_every_row_of_images_in_memory():
    source = data.open_source("digits@test")
    batches = list(data.every(source, batch_size=128, rows=np.arange(64, 128)))
    assert [batch["image"].shape for batch in batches] == [(64, 8, 8, 1)] * 4
    assert batches[0]["index"].tolist() == list(range(64, 128))
    assert (batches[3]["index"] >= 0).sum() == 500 - 384 - 64
    assert (batches[3]["image"][-1] == 0).all()


def test_images_on_disk_need_crops_or_a_size(photos):
    source = data.open_source(f"folder:{photos}")
    with pytest.raises(ValueError, match="needs crops or a size") as error:
        take(source, 1, crops=None)
    one_line(error)
    assert take(source, 1, crops=None, size=10)[0]["image"].shape == (20, 10, 10, 3)
    with pytest.raises(ValueError, match="needs a size"):
        data.every(source, batch_size=10)


# ---- crops


def test_boxes_have_the_areas_and_ratios_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([data.sample_box(rng, 300, 400, (0.2, 0.5), (0.75, 4 / 3)) for _ in range(2000)])
    top, left, h, w = boxes.T
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + h).max(), (left + w).max()) == (300, 400)
    area, ratio = h * w / 120_000, w / h
    assert 0.198 < area.min() < area.max() < 0.503
    assert abs(area.mean() - 0.35) < 0.01
    assert 0.74 < ratio.min() < ratio.max() < 1.35
    assert abs(np.log(ratio).mean()) < 0.02


def test_a_box_that_never_fits_is_central():
    rng = np.random.default_rng(0)
    assert data.sample_box(rng, 1, 5000, (0.08, 1), (0.75, 4 / 3)) == (0, 2499, 1, 1)
    assert data.sample_box(rng, 5000, 1, (0.08, 1), (0.75, 4 / 3)) == (2499, 0, 1, 1)
    assert data.sample_box(rng, 10, 100, (1, 1), (0.5, 2)) == (0, 40, 10, 20)


@pytest.mark.parametrize("height, width", [(1, 5000), (5000, 1), (1, 1), (2, 3)])
def test_odd_shapes_can_be_cropped(tmp_path, height, width):
    Image.new("RGB", (width, height), RED).save(tmp_path / "odd.png")
    picture(0).save(tmp_path / "usual.png")
    source = data.open_source(f"folder:{tmp_path}")
    for batch in take(source, 4, batch_size=1):
        if batch["index"] == 0:
            assert (batch["image"] == RED).all()
            assert (batch["local"] == RED).all()
    assert (next(data.every(source, batch_size=2, size=6))["image"][0] == RED).all()


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    picture(5, 1200, 1600).save(tmp_path / "large.jpg", quality=95)
    picture(5, 1200, 1600).save(tmp_path / "large.png")
    image = data.open_source(f"folder:{tmp_path}@[:1]").open(0)
    assert decode(image, 3, shrink=5).size == (400, 300)
    jpeg, png = (take(data.open_source(f"folder:{tmp_path}@[{i}:{i + 1}]", fits=0), 1, batch_size=1) for i in (0, 1))
    for name in "image", "local":
        assert np.abs(jpeg[0][name].astype(int) - png[0][name]).mean() < 2


def test_a_crop_names_its_interpolation(photos):
    source = data.open_source(f"folder:{photos}")
    bilinear, bicubic = (Crop("image", size=16, interpolation=name) for name in ("bilinear", "bicubic"))
    one, two = (take(source, 1, crops=(crop,))[0]["image"].astype(int) for crop in (bilinear, bicubic))
    assert (one != two).any()
    assert np.abs(one - two).mean() < 5


# ---- tensorflow_datasets, without TensorFlow


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyPictures(tfds.core.GeneratorBasedBuilder):
        __module__ = "tiny_pictures"  # tfds 4.9.10 looks for the files of a builder's package and fails
        pkg_dir_path = tmp_path
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["cat", "dog"])
            features = tfds.features.FeaturesDict({"photo": tfds.features.Image(), "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(20):
                encoded = io.BytesIO()
                picture(i, 20 + i % 2, 20).save(encoded, "PNG")
                encoded.seek(0)
                yield i, {"photo": encoded, "label": i % 2}

    # The set is to be found by its files alone.
    monkeypatch.delitem(tfds.core.registered._DATASET_REGISTRY, "tiny_pictures")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    TinyPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return tmp_path


def test_a_prepared_set_is_read_without_tensorflow(prepared):
    source = data.open_source("tfds:tiny_pictures@train[:90%]")
    assert len(source) == 18
    assert source.label_names == ("cat", "dog")
    assert source.shape is None
    for i in range(18):
        assert source.image(i).shape == (20 + source.labels[i], 20, 3)
    assert_equal(take(source, 2, batch_size=6)[1], take(source, 1, start=1, batch_size=6, workers=1)[0])
    assert len(data.open_source("tfds:tiny_pictures@[:5]")) == 5
    assert "tensorflow" not in sys.modules

    for spec, says in {
        "tfds:mnist": "mnist is not prepared .* this prepares it: tfds.builder",
        "tfds:tiny_pictures@tset": "Unknown split 'tset'",
        "tfds:tiny_picture": "tiny_picture not found",
    }.items():
        with pytest.raises(ValueError, match=says) as error:
            data.open_source(spec)
        one_line(error)


# ---- worker processes


SCRIPT = """
import multiprocessing, sys, time
import numpy as np
from jssl import data

if __name__ == "__main__":
    source = data.open_source("folder:" + sys.argv[1])
    batches = data.stream(source, batch_size=20, seed=0, start=0, rows=np.arange(20), size=8, workers=2)
    next(batches)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if sys.argv[2] == "forget":
        del batches
        assert not multiprocessing.active_children()
    if sys.argv[2] == "wait":
        time.sleep(60)
"""


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids, seconds=10):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def start(photos, what):
    path = photos.parent / f"{what}_script.py"
    path.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, path, photos, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    return process, pids


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")
def test_workers_end_with_a_parent_that_is_killed(photos):
    process, pids = start(photos, "wait")
    for pid in pids:
        os.kill(pid, signal.SIGTERM)  # a scheduler may send it to all processes: it is the parent's to answer
    assert not wait_for_end(pids, seconds=0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_for_end(pids)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")
@pytest.mark.parametrize("what", ["forget", "leave"])
def test_workers_end_quietly_with_their_stream_or_program(photos, what):
    process, pids = start(photos, what)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert wait_for_end(pids)
    assert "ignored" not in said
    assert "leaked" not in said


def test_default_workers_leave_a_core_to_the_training_loop(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(9), raising=False)
    assert data.default_workers() == 8
    for few in 1, 2:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, few=few: range(few))
        assert data.default_workers() == 0


def test_the_host_pipeline_does_not_name_jax():
    for path in pathlib.Path(data.__file__).parent.glob("*.py"):
        assert "import jax" not in path.read_text(), path
