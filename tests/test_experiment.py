"""What is chosen where a config leaves it open, on fake data and fake devices."""

import types

import numpy as np
import pytest
from PIL import Image

from jssl import config as configs
from jssl.data import BadImage, Source
from jssl.experiment import fill

GIB = 2**30


def device(platform, memory=None):
    stats = {"bytes_limit": memory} if memory else None
    return types.SimpleNamespace(
        platform=platform, device_kind=f"a {platform}", process_index=0, memory_stats=lambda: stats
    )


CPU, GPU = device("cpu"), device("gpu", 80 * GIB)


def held(n, side):
    """n images in memory; none of it is allocated."""
    return Source(spec="held", names=range(n), channels=3, images=np.broadcast_to(np.uint8(0), (n, side, side, 3)))


def files(n, sides):
    """n images on disk, the size of row i being sides[i % len(sides)]; None cannot be read."""

    def open_file(row):
        if sides[row % len(sides)] is None:
            raise BadImage("broken")
        return Image.new("RGB", sides[row % len(sides)])

    return Source(spec="files", names=range(n), channels=3, open=open_file)


def filled(source, devices, spec="simclr:folder", **overrides):
    config = configs.load(spec, {path.replace("__", "."): value for path, value in overrides.items()})
    return fill(config, source, [devices])[0]


@pytest.mark.parametrize(
    ("devices", "side", "size"),
    [(CPU, 16, 16), (CPU, 28, 32), (CPU, 128, 48), (GPU, 32, 32), (GPU, 128, 128), (GPU, 500, 224), (GPU, 8, 16)],
)
def test_size_follows_the_images_and_the_device(devices, side, size):
    config = filled(held(1000, side), devices)
    assert config.augment.size == config.preprocess.size == size


def test_size_is_that_of_most_files_whatever_the_odd_one_is():
    source = files(1000, [(5000, 1), (130, 90), (100, 200), (96, 300), None])
    assert filled(source, GPU).augment.size == 96


def test_size_that_is_given_stays():
    config = filled(held(1000, 300), CPU, augment__size="64")
    assert config.augment.size == config.preprocess.size == 64


@pytest.mark.parametrize(
    ("devices", "side", "name", "stem"),
    [(CPU, 64, "conv:convnet", None), (GPU, 64, "resnet:resnet18", "cifar"), (GPU, 96, "resnet:resnet50", "imagenet")],
)
def test_encoder_follows_the_device_and_the_size(devices, side, name, stem):
    encoder = filled(held(1000, side), devices).encoder
    assert encoder.name == f"jssl.nets.{name}"
    assert encoder.get("stem") == stem


def test_precision_follows_the_device():
    assert filled(held(1000, 32), CPU).dtype == "float32"
    assert filled(held(1000, 32), GPU).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("devices", "n", "side", "dim", "patches"),
    [(CPU, 1000, 16, 128, 64), (CPU, 1000, 32, 128, 64), (CPU, 1000, 128, 128, 36), (GPU, 1000, 32, 384, 64)]
    + [(GPU, 1000, 96, 384, 144), (GPU, 1000, 300, 384, 196), (GPU, 1_000_000, 300, 768, 196)],
)
def test_transformer_follows_the_device_and_the_data(devices, n, side, dim, patches):
    config = filled(files(n, [(side, side)]), devices, "mae:folder")
    assert config.encoder.dim == dim
    assert (config.augment.size // config.encoder.patch) ** 2 == patches
    assert config.augment.size % config.encoder.patch == 0
    assert None not in configs.flat(config.method).values()


def test_batch_leaves_four_in_an_epoch_and_room_on_the_device():
    assert filled(held(100, 32), CPU).train.batch_size == 16
    assert filled(held(10_000, 32), CPU).train.batch_size == 256
    assert filled(held(10_000, 32), GPU).train.batch_size == 512
    assert filled(files(10_000, [(300, 300)]), GPU).train.batch_size == 128


@pytest.mark.parametrize("n", [50, 5_096, 200_000, 5_000_000])
def test_run_on_a_cpu_ends_within_the_hour(n):
    train = filled(files(n, [(300, 300)]), CPU).train
    assert train.steps * train.batch_size <= 150_000 + train.batch_size
    assert 0 < train.epochs <= 800


def test_every_image_is_seen_ten_times_on_an_accelerator():
    assert filled(files(14_000_000, [(300, 300)]), GPU).train.epochs == 10
    assert filled(files(40_000, [(300, 300)]), GPU).train.epochs == 500


@pytest.mark.parametrize("steps", [1, 7, 20, 599, 100_000])
def test_a_run_of_any_length_is_logged_evaluated_and_saved_several_times(steps):
    config = filled(held(5000, 32), CPU, train__steps=steps)
    assert config.train.steps == steps
    for every, least in (config.log_every, 100), (config.eval.every, 10), (config.checkpoint.every, 5):
        assert min(least, steps) <= steps / every < 3 * least + 1


def test_warm_up_is_a_twentieth_in_steps_or_epochs():
    assert filled(held(5120, 32), CPU, train__steps=200).optim.warmup == 10  # steps, since no epochs are given
    config = filled(held(5120, 32), CPU, train__epochs=40.0)
    assert config.optim.warmup == 2
    config = filled(held(5120, 32), CPU, train__epochs=40.0, train__steps=200)
    assert config.optim.warmup * config.train.per_epoch == 10


def test_images_live_on_the_device_if_they_fit():
    assert filled(held(50_000, 32), GPU).data.resident
    assert not filled(held(50_000, 32), device("gpu", GIB // 2)).data.resident
    assert not filled(files(1000, [(32, 32)]), GPU).data.resident


def test_steps_per_dispatch_divide_every_cadence():
    config = filled(held(50_000, 32), GPU, log_every=20, eval__every=30, checkpoint__every=50)
    assert config.train.steps_per_call == 10
    assert config.train.steps % 10 == 0
    assert filled(held(50_000, 32), GPU, log_every=20, eval__every=35, checkpoint__every=50).train.steps_per_call == 5
    assert filled(held(50_000, 32), CPU).train.steps_per_call == 1
    assert filled(files(50_000, [(32, 32)]), GPU).train.steps_per_call == 1


@pytest.mark.parametrize(
    ("n", "batch", "calls", "every"),
    [(1297, 256, 1, 5), (50_000, 256, 1, 195), (50_000, 256, 10, 200), (1297, 256, 10, 10), (300, 256, 1, 1)],
)
def test_refresh_is_due_about_once_an_epoch(n, batch, calls, every):
    overrides = {"train__batch_size": batch, "train__steps_per_call": calls, "train__steps": 1000}
    cadences = {"log_every": 100, "eval__every": 100, "checkpoint__every": 100}
    config = filled(held(n, 32), CPU, train__refresh_every="None", **overrides, **cadences)
    assert config.train.refresh_every == every


def test_steps_per_dispatch_are_not_fewer_for_a_refresh_that_nobody_timed():
    config = filled(held(50_000, 32), GPU, train__refresh_every="None", log_every=20, eval__every=30)
    assert (config.train.steps_per_call, config.train.refresh_every) == (10, 100)


def test_a_method_is_told_the_rows_of_the_data_if_it_asks():
    config = configs.load("simclr:folder")
    assert "rows" not in fill(config, held(1000, 32), [CPU])[0].method
    config.method.rows = None
    assert fill(config, held(1000, 32), [CPU])[0].method.rows == 1000


def test_what_was_chosen_is_told_and_what_was_given_is_not():
    _, chosen = fill(configs.load("simclr:folder", {"train.batch_size": 64}), held(1000, 32), [CPU])
    named = [line.split(" = ")[0] for line in chosen]
    assert {"dtype", "augment.size", "encoder.name", "train.epochs", "log_every", "data.resident"} <= set(named)
    assert "train.batch_size" not in named
    assert len(named) == len(set(named))


def test_config_itself_is_left_alone():
    config = configs.load("simclr:folder")
    fill(config, held(1000, 32), [CPU])
    assert config.augment.size is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.batch_size": 2048}, "fewer than one batch: train.batch_size=2048"),
        ({"train.batch_size": 63, "train.accumulate": 4}, "the nearest that can is 64"),
        ({"train.steps_per_call": 4, "log_every": 10}, "steps_per_call=4 must divide log_every=10; .* is 8"),
        ({"train.steps_per_call": 4, "log_every": 8, "eval.every": 8, "train.steps": 30}, "train.steps=30"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides, message):
    with pytest.raises(ValueError, match=message):
        fill(configs.load("simclr:folder", {"checkpoint.every": 8, **overrides}), held(1000, 32), [CPU])


def test_resident_files_are_refused():
    with pytest.raises(ValueError, match=r"data\.resident=True needs examples in memory"):
        filled(files(1000, [(32, 32)]), CPU, data__resident=True)
