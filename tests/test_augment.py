"""Views: each operation against torchvision's figures, the random draws against its sampler, and any sharding."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from jssl.augment import color, geometry
from jssl.augment.image import Augment, Crop, Distort, byol, evaluation, mae, multicrop, simclr, strokes, views_sheet
from tests.oracles import load

MANIFEST, FIGURES = load("augment")
HYPER = MANIFEST["hyper"]
ORDERS = list(itertools.permutations(range(4)))


def planes(name):
    """A figure [C, H, W] in the layout of the operations, [H, C, W]."""
    return FIGURES[name].swapaxes(0, 1)


@pytest.fixture
def image():
    return jnp.asarray(planes("in.u8") / 255, jnp.float32)


def jitter(x, **factors):
    """Those given, in their order; the others change nothing."""
    names = ["brightness", "contrast", "saturation", "hue"]
    order = list(factors) + [name for name in names if name not in factors]
    amount = jnp.float32([factors.get(name, float(name != "hue")) for name in names])
    return color.jitter(x, amount, jnp.int32([order.index(name) for name in names]))


@functools.cache
def digits_like(n=16, height=20, width=20, channels=3, seed=0):
    smooth = np.random.default_rng(seed).integers(0, 256, (n, height // 4, width // 4, channels)).astype(np.uint8)
    image = smooth.repeat(4, 1).repeat(4, 2)
    return {"image": image, "index": np.arange(n, dtype=np.int32)}


def run(augment, batch, seed=0):
    return jax.device_get(jax.jit(augment)(jax.random.key(seed), batch))


# ---- operations against torchvision


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_is_torchvisions(image, name):
    np.testing.assert_allclose(jitter(image, **{name: HYPER[name]}), planes(f"out.{name}"), atol=2e-6)


def test_jitters_in_a_row_are_torchvisions(image):
    names = ["brightness", "contrast", "saturation", "hue"]
    y = jitter(image, **{name: HYPER[name] for name in names})
    np.testing.assert_allclose(y, planes("out.jitter_chain_b_c_s_h"), atol=2e-6)


def test_jitter_follows_the_order_it_is_given(image):
    amount = jnp.float32([1.3, 0.7, 1.4, 0.1])
    names = ["brightness", "contrast", "saturation", "hue"]
    for order in (3, 0, 2, 1), (1, 3, 0, 2):
        step_by_step = image
        for op in order:
            step_by_step = jitter(step_by_step, **{names[op]: amount[op]})
        at_once = color.jitter(image, amount, jnp.argsort(jnp.int32(order)))
        np.testing.assert_allclose(at_once, step_by_step, atol=3e-6)
    other = color.jitter(image, amount, jnp.arange(4))
    assert np.abs(other - at_once).max() > 0.01


def test_grayscale_solarise_blur_and_normalise_are_torchvisions(image):
    yes = jnp.array(True)
    np.testing.assert_allclose(color.grayscale(image, yes), planes("out.grayscale"), atol=1e-6)
    np.testing.assert_allclose(color.solarise(image, yes), planes("out.solarize"), atol=1e-6)
    np.testing.assert_allclose(geometry.blur(image, jnp.float32(0.9), 5), planes("out.blur"), atol=1e-6)
    y = color.normalise(image.swapaxes(-1, -2), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(y, FIGURES["out.normalize"].transpose(1, 2, 0), atol=3e-6)


def test_grayscale_solarise_and_blur_leave_the_others_alone(image):
    no = jnp.array(False)
    for y in color.grayscale(image, no), color.solarise(image, no), geometry.blur(image, jnp.float32(0), 5):
        np.testing.assert_array_equal(y, image)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_torchvisions(image, interpolation):
    box = [jnp.full((1, 1), value, jnp.float32) for value in HYPER["crop"]]
    y = geometry.resized_crop(image[None], box, 12, interpolation=interpolation)[0, 0]
    np.testing.assert_allclose(y, np.clip(planes(f"out.crop_{interpolation}_aa"), 0, 1), atol=1e-6)
    flipped = geometry.resized_crop(image[None], box, 12, jnp.array([[True]]), interpolation)[0, 0]
    np.testing.assert_allclose(flipped, y[..., ::-1], atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_is_torchvisions(image, interpolation):
    weights = [
        geometry.resize_weights(jnp.float32(0), jnp.float32(n), jnp.arange(n // 2), n // 2, n, interpolation)
        for n in (18, 22)
    ]
    y = jnp.einsum("ih,hcw,jw->icj", weights[0], image, weights[1])
    np.testing.assert_allclose(y, planes(f"out.resize_half_{interpolation}_aa"), atol=1e-6)


def test_flip_is_torchvisions(image):
    batch = {"image": FIGURES["in.u8"].transpose(1, 2, 0)[None, None, :, :18], "index": jnp.arange(1)}
    mirrored = Augment((Crop(views=1, size=18),), ((Distort(flip=1.0),),), (0.0,), (1.0,))
    expected = FIGURES["in.u8"].transpose(1, 2, 0)[:, :18][:, ::-1] / 255
    np.testing.assert_allclose(run(mirrored, batch)["image"][0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(planes("out.hflip"), image[..., ::-1], atol=1e-6)


def test_rotation_by_shears_is_near_torchvisions(image):
    """Three linear interpolations and not one: on this picture, most of it noise, 0.0075 apart inside, on average."""
    square = jnp.pad(image, [(2, 2), (0, 0), (0, 0)])
    angle, zero = jnp.float32(math.radians(HYPER["angle"])), jnp.float32(0)
    y = geometry.rotate_shear(square, angle, zero, zero, most=0.4)[2:-2]
    inside = np.s_[4:-4, :, 4:-4]
    expected = planes("out.rotate_bilinear")[inside]
    assert np.abs(y[inside] - expected).mean() < 0.01
    assert np.abs(image[inside] - expected).mean() > 0.05


def test_shears_shift_rows_and_columns():
    x = jnp.zeros((9, 1, 9)).at[:, 0, 4].set(1)  # a vertical stroke
    zero, slope = jnp.float32(0), jnp.float32(0.5)
    slanted = geometry.rotate_shear(x, zero, slope, zero, most=0.5)[:, 0]
    np.testing.assert_allclose(slanted @ np.arange(9), 4 - 0.5 * (np.arange(9) - 4), atol=1e-6)
    upright = geometry.rotate_shear(x, zero, zero, slope, most=0.5)[:, 0]
    np.testing.assert_allclose(upright[1:-1], x[1:-1, 0], atol=1e-6)
    np.testing.assert_array_equal(geometry.rotate_shear(x, zero, zero, zero, most=0.5), x)


# ---- random draws


def torchvision_box(rng, height, width, area, ratio):
    for _ in range(10):
        target, aspect = height * width * rng.uniform(*area), math.exp(rng.uniform(*np.log(ratio)))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("height, width, area", [(24, 32, (0.08, 1.0)), (60, 15, (0.5, 0.9))])
def test_boxes_are_distributed_as_torchvisions(height, width, area):
    ratio, n = (3 / 4, 4 / 3), 20_000
    u = np.random.default_rng(0).random((n, 2 * geometry.TRIES + 2), np.float32)
    ours = np.stack(geometry.boxes(u, height, width, area, ratio), -1)
    rng = np.random.default_rng(1)
    theirs = np.array([torchvision_box(rng, height, width, area, ratio) for _ in range(n)])

    top, left, h, w = ours.T
    assert (ours == np.round(ours)).all()
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()  # noqa: PT018
    assert (top + h <= height).all() and (left + w <= width).all()  # noqa: PT018
    for column in range(4):
        values = np.arange(max(height, width) + 1)
        ours_cdf, theirs_cdf = ((x[:, column, None] <= values).mean(0) for x in (ours, theirs))
        assert np.abs(ours_cdf - theirs_cdf).max() < 0.02  # Kolmogorov-Smirnov, 1.95 sqrt(2 / n) at p = 0.001
    np.testing.assert_allclose((h * w).mean(), (theirs[:, 2] * theirs[:, 3]).mean(), rtol=0.02)


def test_no_box_fits_so_the_largest_centred_one_is_taken():
    u = np.random.default_rng(0).random((5, 2 * geometry.TRIES + 2), np.float32)
    box = np.stack(geometry.boxes(u, 1, 5000, (0.5, 1.0), (3 / 4, 4 / 3)), -1)
    np.testing.assert_array_equal(box, [[0, 2499, 1, 1]] * 5)


def test_every_order_of_the_jitters_is_equally_likely():
    u = jax.random.uniform(jax.random.key(0), (24_000, 4))
    place = np.asarray(color.any_order(u))
    counts = np.array([(place == order).all(-1).sum() for order in ORDERS])
    assert counts.sum() == 24_000
    assert ((counts - 1000) ** 2 / 1000).sum() < 49.7  # chi-squared, 23 degrees of freedom, p = 0.001


def test_probabilities_are_per_view():
    """Solarising turns an image upside down in value, so that its frequency can be read off."""
    batch = {"image": np.full((2000, 2, 1, 1, 1), 204, np.uint8), "index": np.arange(2000)}
    distort = (Distort(solarise=0.2), Distort(solarise=0.9))
    x = run(Augment((Crop(size=1),), (distort,), (0.0,), (1.0,)), batch)["image"]
    np.testing.assert_allclose((x < 0.5).mean((0, 2, 3, 4)), [0.2, 0.9], atol=0.035)


def test_half_of_the_views_are_mirrored():
    ramp = np.broadcast_to(np.arange(0, 240, 30, dtype=np.uint8)[:, None], (1000, 8, 8, 1))
    x = run(mae(size=8, views=2, flip=0.5), {"image": ramp, "index": np.arange(1000)})["image"]
    mirrored = x[..., 0, 0, 0] > x[..., 0, -1, 0]
    np.testing.assert_allclose(mirrored.mean(), 0.5, atol=0.035)
    np.testing.assert_allclose((mirrored[:, 0] & mirrored[:, 1]).mean(), 0.25, atol=0.045)


def test_noise_and_gamma_have_the_strength_asked_for():
    batch = {"image": np.full((400, 1, 8, 8, 1), 128, np.uint8), "index": np.arange(400)}
    plain = lambda **kw: run(Augment((Crop(views=1, size=8),), ((Distort(**kw),),), (0.0,), (1.0,)), batch)["image"]
    np.testing.assert_allclose(plain(noise=0.1).std(), 0.1, rtol=0.05)
    exponent = np.log(plain(gamma=(0.5, 2.0))[:, 0, 0, 0, 0]) / np.log(128 / 255)
    assert exponent.min() >= 0.499
    assert exponent.max() <= 2.001
    np.testing.assert_allclose(np.log(exponent).mean(), 0, atol=0.08)
    np.testing.assert_allclose(np.log(exponent).std(), 2 * math.log(2) / math.sqrt(12), rtol=0.1)


# ---- views of a batch

WIDE = multicrop(size=12, local_size=8, local_views=3, blur=(1.0, 0.1, 0.5), solarise=(0.0, 0.2, 0.0), gray=0.5)


def test_views_are_a_function_of_the_key_and_the_row():
    batch = digits_like()
    views, again, other = run(WIDE, batch), run(WIDE, batch), run(WIDE, batch, seed=1)
    few = run(WIDE, jax.tree.map(lambda x: x[:5], batch))
    assert views["image"].shape == (16, 2, 12, 12, 3)
    assert views["local"].shape == (16, 3, 8, 8, 3)
    for name in "image", "local":
        assert views[name].dtype == np.float32
        np.testing.assert_array_equal(views[name], again[name])
        assert (np.abs(views[name] - other[name]).max((2, 3, 4)) > 0.01).all()
        np.testing.assert_allclose(views[name][:5], few[name], atol=1e-5)


def test_samples_and_views_of_one_image_differ():
    batch = digits_like()
    batch = {**batch, "image": np.broadcast_to(batch["image"][:1], batch["image"].shape)}
    x = run(simclr(size=12), batch)["image"].reshape(32, -1)
    apart = np.abs(x[:, None] - x[None]).max(-1)
    assert (apart + np.eye(32) > 1e-3).all()


def test_eight_devices_see_the_views_of_one_and_exchange_nothing():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    augment = lambda rng, batch: {
        **WIDE(rng, batch),
        "strokes": strokes(size=8, views=1)(rng, batch)["image"],
    }
    batch, key = digits_like(), jax.random.key(0)
    compiled = jax.jit(augment, out_shardings=rows).lower(key, jax.device_put(batch, rows)).compile()
    text = compiled.as_text()
    for collective in "all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter":
        assert collective not in text
    assert " gather(" not in text
    sharded, single = compiled(key, jax.device_put(batch, rows)), run(augment, batch)
    for name in "image", "local", "strokes", "index":
        np.testing.assert_allclose(sharded[name], single[name], atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_any_number_of_channels(channels):
    batch = digits_like(channels=channels)
    for augment in simclr(size=12, gray=1.0), strokes(size=12):
        x = run(augment, batch)["image"]
        assert x.shape == (16, 2, 12, 12, channels)
        assert np.isfinite(x).all()
        assert x.min() >= -2 - 1e-5
        assert x.max() <= 2 + 1e-5


def test_the_host_may_have_cropped():
    whole = digits_like()
    cropped = {
        "image": np.stack([whole["image"][:, :12, :12]] * 2, 1),
        "local": np.stack([whole["image"][:, 6:14, 6:14]] * 3, 1),
        "index": whole["index"],
        "label": whole["index"],
    }
    still = Augment(WIDE.crops, ((Distort(),) * 2, (Distort(),) * 3), (0.0,), (1.0,))
    views = run(still, cropped)
    assert set(views) == {"image", "local", "index"}
    for name in "image", "local":
        np.testing.assert_allclose(views[name], cropped[name] / 255, atol=1e-6)
    assert run(WIDE, cropped)["local"].shape == (16, 3, 8, 8, 3)


def test_byol_blurs_the_first_view_and_solarises_the_second():
    one, two = byol(size=32).distort[0]
    assert (one.blur, two.blur, one.solarise, two.solarise) == (1.0, 0.1, 0.0, 0.2)


def test_errors_are_one_line():
    cases = [
        (lambda: Crop(area=(0.0, 1.0)), "area"),
        (lambda: Crop(ratio=(2.0, 1.0)), "ratio"),
        (lambda: Crop(interpolation="nearest"), "bilinear, bicubic"),
        (lambda: Crop(views=0), "at least 1"),
        (lambda: Distort(jitter=(0.4, 0.4)), "four strengths"),
        (lambda: Distort(rotate=90.0), "45 degrees"),
        (lambda: Distort(gamma=(0.0, 1.0)), "gamma"),
        (lambda: Augment((Crop(views=2),), ((Distort(),),)), "expected"),
        (lambda: run(mae(size=8, mean=(0.5, 0.5)), digits_like()), "mean has 2 values, the images 3"),
        (lambda: run(mae(size=8), {**digits_like(), "image": np.zeros((16, 3, 8, 8, 3), np.uint8)}), "expected"),
        (lambda: run(mae(size=8), {**digits_like(), "image": np.zeros((16, 8, 8, 3), np.float32)}), "expected uint8"),
        (lambda: run(mae(size=8), {"index": np.arange(16)}), "'image'"),
    ]
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words) as error:
            wrong()
        assert "\n" not in str(error.value)


# ---- evaluation, the sheet


def test_evaluation_is_pillows_centre_crop_and_resize():
    image = Image.fromarray(digits_like(1, 36, 28)["image"][0])
    side = 0.875 * 28
    box = ((28 - side) / 2, (36 - side) / 2, (28 + side) / 2, (36 + side) / 2)
    expected = image.resize((10, 10), Image.Resampling.BILINEAR, box)
    batch = {"image": np.asarray(image)[None], "index": np.arange(1)}
    x = evaluation(size=10, mean=(0.0,), std=(1.0,))(batch)["image"]
    np.testing.assert_allclose(255 * x[0], np.asarray(expected), atol=1.01)


def test_evaluation_leaves_images_of_the_right_size():
    batch = digits_like()
    x = evaluation(size=20, mean=(0.5,), std=(0.25,))(batch)
    assert set(x) == {"image"}
    np.testing.assert_allclose(x["image"], (batch["image"] / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("channels, shown", [(3, 3), (1, 1), (5, 1)])
def test_the_sheet_shows_each_image_in_a_row(channels, shown):
    augment = multicrop(size=16, local_size=8, local_views=3, jitter=(0.0,) * 4, gray=0.0, blur=(0.0,) * 3)
    batch = digits_like(channels=channels)
    views = run(augment, batch)
    sheet = views_sheet(views, augment.mean, augment.std, rows=4)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (4 * (64 + 4), 2 * (64 + 4) + 3 * (32 + 4), shown)
    first = views["image"][0, 0, :, :, :shown] * 0.25 + 0.5
    np.testing.assert_allclose(sheet[2:66:4, 2:66:4], 255 * first, atol=0.51)
