"""The 15 corruptions, each against its definition or the library that defined it."""

import colorsys
import hashlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image

from jssl.augment import corrupt as corrupted
from jssl.augment.corrupt import CONSTANTS, CORRUPTIONS, SEVERITIES, blur, corrupt, digital, published, weather

KEY, SIDE = jax.random.key(0), 32
PHOTO = Image.fromarray(load_sample_image("china.jpg")).crop((100, 60, 420, 380)).resize((SIDE, SIDE))
PHOTOS = np.stack([np.asarray(PHOTO), np.asarray(PHOTO)[:, ::-1]])  # uint8 [2, 32, 32, 3]
GREY = np.full((2, SIDE, SIDE, 3), 128, np.uint8)


def of(name, severity, images=PHOTOS, key=KEY):
    return np.asarray(corrupt(images, name, severity, key))


def constants(name):
    return np.asarray(CONSTANTS[name][0], np.float32).reshape(5, -1)


def distance(a, b):
    return float(np.sqrt(np.mean((np.float32(a) - np.float32(b)) ** 2)))


# SHA-256 of the numbers in make_cifar_c.py and make_imagenet_c.py of hendrycks/robustness, read from there; those of
# "elastic transform" as shares of 32 and of 224 pixels.
PUBLISHED = {
    "gaussian noise": "b536f35e",
    "shot noise": "3e028885",
    "impulse noise": "1f831db9",
    "defocus blur": "b7984c78",
    "glass blur": "f760b7bf",
    "motion blur": "8557da26",
    "zoom blur": "dd317ce7",
    "snow": "169286a6",
    "frost": "c769f956",
    "fog": "377112ff",
    "brightness": "f1aa99bb",
    "contrast": "65b5fb30",
    "elastic transform": "5de983de",
    "pixelate": "c3b6ef46",
    "jpeg": "40d1ebf4",
}


# ---- all of them
def test_constants_are_the_published_ones():
    numbers = {name: [f"{x:.6g}" for of in CONSTANTS[name] for x in np.ravel(of)] for name in CONSTANTS}
    found = {name: hashlib.sha256(" ".join(x).encode()).hexdigest()[:8] for name, x in numbers.items()}
    assert found == PUBLISHED


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_comes_out_is_images_and_severity_5_is_farther_than_1(name):
    found = [of(name, severity) for severity in SEVERITIES]
    assert all(x.dtype == np.uint8 and x.shape == PHOTOS.shape for x in found)
    far = [distance(x, PHOTOS) for x in found]
    assert min(far) > 0
    if name != "elastic transform":  # whose published constants trade the affine map for the displacement
        assert far[4] > far[0]
    if name not in ("elastic transform", "glass blur", "motion blur", "snow", "frost", "pixelate"):  # these need not
        assert far == sorted(far)
        assert len(set(far)) == 5


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (20, 28, 1), (128, 100, 3)])
def test_any_size_grey_or_not_is_kept(name, shape):
    images = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    found = jax.eval_shape(lambda images: corrupt(images, name, 3, KEY), images)
    assert (found.shape, found.dtype) == (images.shape, images.dtype)


@pytest.mark.parametrize("name", ["shot noise", "glass blur", "snow", "fog"])
def test_an_image_is_corrupted_by_its_number_and_the_key_alone(name):
    whole = of(name, 3)
    turned = np.asarray(corrupt(PHOTOS[::-1], name, 3, KEY, index=np.array([1, 0])))
    np.testing.assert_array_equal(turned[::-1], whole)
    assert (of(name, 3, PHOTOS[[0, 0]])[0] != of(name, 3, PHOTOS[[0, 0]])[1]).any()
    assert (of(name, 3, key=jax.random.key(1)) != whole).any()


def test_severities_of_one_corruption_share_a_program():
    before = corrupted.program._cache_size()
    for severity in SEVERITIES:
        of("contrast", severity, GREY[:, :8, :8])
    assert corrupted.program._cache_size() == before + 1


def test_what_cannot_be_is_said_in_one_line():
    with pytest.raises(ValueError, match="unknown corruption 'motion'; did you mean motion blur"):
        corrupt(PHOTOS, "motion", 1, KEY)
    with pytest.raises(ValueError, match="severity is 6; expected 1 to 5"):
        corrupt(PHOTOS, "fog", 6, KEY)
    with pytest.raises(ValueError, match=r"images are float32 \[2, 32, 32, 3\]; expected uint8"):
        corrupt(PHOTOS.astype(np.float32), "fog", 1, KEY)


def test_small_images_have_the_constants_of_cifar():
    assert [published(side) for side in (8, 32, 96, 97, 224)] == ["CIFAR-10-C"] * 3 + ["ImageNet-C"] * 2
    assert all(np.asarray(pair[0]).shape == np.asarray(pair[1]).shape for pair in CONSTANTS.values())


# ---- noise
def test_noise_is_as_strong_as_its_severity_says():
    for severity in SEVERITIES:
        noisy = of("gaussian noise", severity, GREY) / 255
        assert noisy.mean() == pytest.approx(128 / 255, abs=0.005)
        assert noisy.std() == pytest.approx(constants("gaussian noise")[severity - 1, 0], rel=0.05)
        noisy = of("shot noise", severity, GREY) / 255
        assert noisy.mean() == pytest.approx(128 / 255, abs=0.01)
        assert noisy.var() == pytest.approx(128 / 255 / constants("shot noise")[severity - 1, 0], rel=0.1)
        noisy = of("impulse noise", severity, GREY)
        share = constants("impulse noise")[severity - 1, 0]
        assert np.mean(noisy == 0) == pytest.approx(share / 2, abs=0.006)
        assert np.mean(noisy == 255) == pytest.approx(share / 2, abs=0.006)
        assert np.isin(noisy, (0, 128, 255)).all()


# ---- blur
def test_kernels_sum_to_one():
    for which in (0, 1):
        tables = {name: np.asarray(CONSTANTS[name][which], np.float32).reshape(5, -1) for name in CONSTANTS}
        np.testing.assert_allclose(blur.disks(tables["defocus blur"]).sum((1, 2)), 1, atol=1e-6)
        np.testing.assert_allclose(blur.streak_weights(tables["motion blur"]).sum(1), 1, atol=1e-6)
        rows = blur.smoothers(tables["glass blur"][:, 0], SIDE, "nearest", 4.0)
        np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-6)


def test_defocus_is_a_disk():
    kernel = blur.disks(np.float32([[3, 0.1], [10, 0.5], [1, 0.2], [0.3, 0.4], [1.5, 0.1]]))
    assert np.isclose(kernel[0] * 29, 1, atol=1e-3).sum() == 29  # the pixels within three of the middle
    expected = ndimage.correlate(PHOTOS[0] / 255, blur.disks(constants("defocus blur"))[4][..., None], mode="mirror")
    assert abs(of("defocus blur", 5)[0] - 255 * expected).max() < 0.51


def test_glass_shows_pixels_of_the_neighbourhood():
    """At severity 1 the blur is nothing and a pixel goes one step at most: up, left, or both."""
    places = np.arange(SIDE * SIDE, dtype=np.int64).reshape(SIDE, SIDE)
    images = np.stack([places // SIDE * 4, places % SIDE * 4, 0 * places], -1).astype(np.uint8)[None]
    moved = (of("glass blur", 1, images).astype(int) - images)[0, ..., :2] // 4
    assert set(np.unique(moved)) == {-1, 0}
    assert np.mean(moved[2:-1, 2:-1] == 0) == pytest.approx(0.5, abs=0.05)
    assert not moved[:2].any()
    assert not moved[:, :2].any()


def test_motion_runs_along_a_line_to_the_edges_pixels():
    table = np.float32([[2, 1]] * 5)
    x = np.zeros((9, 9, 1), np.float32)
    x[4, 4] = 1
    weights = np.exp(-0.5 * np.arange(5) ** 2)
    weights /= weights.sum()
    right, down = (np.asarray(blur.streak(x, table, 0, angle))[..., 0] for angle in (0.0, 90.0))
    np.testing.assert_allclose(right[4, 4::-1], weights, atol=1e-6)
    np.testing.assert_allclose(down[4::-1, 4], weights, atol=1e-6)
    slanted = np.asarray(blur.streak(x, table, 0, 45.0))[..., 0]
    rows, columns = np.nonzero(slanted)
    np.testing.assert_array_equal(rows, columns)
    np.testing.assert_allclose(blur.streak(np.ones((9, 9, 1)), table, 0, 30.0), 1, atol=1e-6)


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("factor", [1.0, 1.07, 1.25, 2.25])
def test_zooming_is_scipys(size, factor):
    x = np.random.default_rng(0).random((size, size, 2))
    kept = int(np.ceil(size / factor))
    first = (size - kept) // 2
    middle = x[first : first + kept, first : first + kept]
    whole = ndimage.zoom(middle, (factor, factor, 1), order=1)
    cut = (len(whole) - size) // 2
    places = blur.zoom_places(np.float64(factor), size)
    found = blur.enlarge(jnp.float32(x), places, places)
    np.testing.assert_allclose(found, whole[cut : cut + size, cut : cut + size], atol=1e-5)


# ---- weather
def test_snow_makes_paler_and_falls():
    light, heavy = of("snow", 1).astype(float), of("snow", 5).astype(float)
    assert PHOTOS.mean() < light.mean() < heavy.mean()
    night = [of("snow", 4, np.zeros_like(GREY), jax.random.key(i)).astype(int)[..., 0] for i in range(8)]
    across, down = (abs(np.diff(night, axis=axis)).mean() for axis in (3, 2))
    assert across > 1.2 * down  # streaks are upright


def test_ice_is_as_bright_and_as_blue_as_the_photographs_it_stands_for():
    draw = jax.jit(weather.ice, static_argnums=(1, 2))
    pictures = np.stack([draw(jax.random.key(i), SIDE, SIDE) for i in range(8)])
    assert 0.5 < pictures.mean((1, 2)).min() < pictures.mean((1, 2)).max() < 0.8
    np.testing.assert_allclose(pictures.std((1, 2)), 0.11, atol=1e-3)
    frozen = of("frost", 5, np.zeros_like(GREY)).mean((0, 1, 2))
    assert frozen[0] < frozen[1] < frozen[2]
    assert frozen.mean() / 255 == pytest.approx(0.45 * 0.65, abs=0.07)


def test_fog_is_a_cloud_and_leaves_the_maximum():
    draw = jax.jit(weather.plasma, static_argnums=1)
    cloud = np.asarray(draw(KEY, 24, 1.75))
    assert cloud.shape == (32, 32)
    assert (cloud.min(), cloud.max()) == (0, pytest.approx(1))
    rough = np.asarray(draw(KEY, 24, 1.1))
    assert abs(np.diff(rough, axis=0)).mean() > 2 * abs(np.diff(cloud, axis=0)).mean()
    night = np.zeros_like(GREY)
    night[:, 3, 3] = 255
    foggy = of("fog", 5, night)[0] / 255
    foggy[3, 3] = 0
    assert foggy.max() == pytest.approx(1.5 / (1 + 1.5), abs=0.01)


def test_brightness_raises_the_value_of_hsv():
    found = of("brightness", 4)[0, ::7, ::7].reshape(-1, 3)
    for before, after in zip(PHOTOS[0, ::7, ::7].reshape(-1, 3) / 255, found):
        h, s, v = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, 255 * np.array(colorsys.hsv_to_rgb(h, s, min(v + 0.2, 1))), atol=0.51)
    assert (of("brightness", 4, np.zeros_like(GREY)) == 51).all()


# ---- digital
def test_contrast_is_its_formula():
    mean = PHOTOS.mean((1, 2), keepdims=True)
    for severity, (share,) in zip(SEVERITIES, constants("contrast")):
        assert abs(of("contrast", severity) - (share * (PHOTOS - mean) + mean)).max() < 0.51


def warped(x, row):
    """x by `elastic_transform` with a row of constants."""
    draw = jax.jit(lambda x: digital.elastic_transform(KEY, x, np.float32([row] * 5), 0))
    return np.asarray(draw(jnp.float32(x)))


def test_elastic_begins_with_an_affine_map_of_three_points():
    """Of an image of coordinates, without displacement: what is seen where is affine, and near."""
    place = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1)
    seen = warped(place, (0, 0, 0.08))
    inner = np.s_[8:-8, 8:-8]
    known = np.concatenate([place[inner].reshape(-1, 2), np.ones((16 * 16, 1))], 1)
    back, residual, *_ = np.linalg.lstsq(known, seen[inner].reshape(-1, 2), rcond=None)
    assert residual.max() < 1e-4
    points = 16 + 10 * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = np.linalg.solve(back[:2].T, (points - back[2]).T).T
    assert 0.1 < abs(moved - points).max() <= 0.08 * SIDE + 1e-3


def test_elastic_displaces_smoothly():
    place = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1)
    moves = {}
    for sigma in (0.04, 0.2):
        moves[sigma] = (warped(place, (0.5, sigma, 0)) - place)[8:-8, 8:-8]
    steps = {sigma: abs(np.diff(move, axis=0)).mean() / move.std() for sigma, move in moves.items()}
    assert moves[0.04].std() > 0.1
    assert steps[0.2] < steps[0.04] / 2


def test_pixelate_is_pillows_box():
    for severity, (share,) in zip(SEVERITIES, constants("pixelate")):
        small = int(SIDE * round(float(share), 6))
        expected = PHOTO.resize((small, small), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BOX)
        assert abs(of("pixelate", severity)[0].astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("shape", [(32, 32, 3), (21, 35, 3), (8, 8, 1), (20, 28, 1)])
def test_jpeg_is_pillows(shape):
    image = np.asarray(PHOTO.resize(shape[1::-1]))
    image = image if shape[2] == 3 else image[..., :1]
    for severity, (quality,) in zip(SEVERITIES, constants("jpeg")):
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=int(quality))
        expected = np.asarray(Image.open(file)).astype(int).reshape(shape)
        off = abs(of("jpeg", severity, image[None])[0] - expected)
        assert off.mean() < 0.3, severity  # where a coefficient lies between two steps, now and then the other is taken
        assert np.mean(off <= 1) > 0.92, severity
