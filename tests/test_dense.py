"""Sources of labelled pixels, and what frozen features say of every pixel: its class, its depth, whose object it is."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import confusion_matrix, jaccard_score

from jssl import data
from jssl.data.masks import VOID
from jssl.evals import boxes, dense, depth, patches
from jssl.evals.run import evaluate
from jssl.evals.subject import Subject
from tests import tiny

SIDE = 24
COLOURS = np.array([[40, 60, 90], [210, 60, 50], [60, 190, 80]])  # of classes


def scenes(n, seed):
    """Coloured squares and discs, one or two to an image -> images uint8 [N, S, S, 3], masks uint8 [N, S, S]."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for mask in masks:
        for c in rng.permutation([1, 2])[: rng.integers(1, 3)]:
            cy, cx = rng.integers(6, SIDE - 6, 2)
            inside = (abs(y - cy) < 5) & (abs(x - cx) < 5) if c == 1 else (y - cy) ** 2 + (x - cx) ** 2 < 30
            mask[inside] = c
    noise = rng.normal(0, 12, (n, SIDE, SIDE, 3))
    return np.clip(COLOURS[masks] + noise, 0, 255).astype(np.uint8), masks


def save(folder, images, masks, kind="masks"):
    for name in ("images", kind):
        (folder / name).mkdir(parents=True)
    for i, (image, mask) in enumerate(zip(images, masks)):
        Image.fromarray(image).save(folder / "images" / f"{i:02}.png")
        Image.fromarray(mask).save(folder / kind / f"{i:02}.png")
    return folder


def held(folder, name="scenes.npz", **arrays):
    np.savez(folder / name, **arrays)
    return data.open_source(f"masks:{folder / name}")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    images, masks = scenes(24, 1)
    masks[:, 0] = VOID
    return held(tmp_path_factory.mktemp("train"), images=images, masks=masks, class_names=["ground", "square", "disc"])


@pytest.fixture(scope="module")
def test(tmp_path_factory):
    images, masks = scenes(9, 2)
    return held(tmp_path_factory.mktemp("test"), images=images, masks=masks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a vision transformer of random weights."""
    return tmp_path_factory.mktemp("vit")


@pytest.fixture(scope="module")
def vit(folder):
    return tiny.encoder(folder, "mae:tiny")


@pytest.fixture(scope="module")
def convnet(tmp_path_factory):
    return tiny.encoder(tmp_path_factory.mktemp("conv"), "simclr:tiny")


@pytest.fixture(scope="module")
def pixels(vit, train):
    return patches.readers({"trained": vit["trained"]}, train)[-1]


# ---- sources
def test_a_folder_gives_each_image_its_mask(tmp_path):
    images, masks = scenes(6, 0)
    masks[0, :3] = VOID
    (save(tmp_path, images, masks) / "classes.txt").write_text("ground\nsquare\ndisc")
    source = data.open_source(f"masks:{tmp_path}")
    np.testing.assert_array_equal(source.masks(0), masks[0])
    np.testing.assert_array_equal(source.take([4, 2]).masks(1), masks[2])
    np.testing.assert_array_equal(source.take([4, 2]).image(1), images[2])
    assert source.class_names == ("ground", "square", "disc")
    assert len(data.open_source(f"masks:{tmp_path}@[2:5]")) == 3


def test_colours_of_a_palette_are_numbers(tmp_path):
    images, masks = scenes(2, 0)
    save(tmp_path, images, masks)
    painted = Image.fromarray(masks[1])
    painted.putpalette([200, 0, 0, 0, 200, 0])
    painted.save(tmp_path / "masks" / "01.png")
    np.testing.assert_array_equal(data.open_source(f"masks:{tmp_path}").masks(1), masks[1])


def test_depths_are_read_from_arrays_and_16_bit_files(tmp_path):
    images, _ = scenes(2, 0)
    far = np.full((2, SIDE, SIDE), 1000, np.uint16)
    save(tmp_path, images, far, "depth")
    np.save(tmp_path / "depth" / "01.npy", np.full((SIDE, SIDE), np.nan))
    (tmp_path / "depth" / "01.png").unlink()
    source = data.open_source(f"masks:{tmp_path}")
    assert source.depths(0)[0, 0] == 1000
    assert not source.depths(1).any()
    assert source.masks is None


def test_a_missing_mask_is_named(tmp_path):
    save(tmp_path, *scenes(3, 0))
    (tmp_path / "masks" / "01.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images have no mask: expected masks/01.png"):
        data.open_source(f"masks:{tmp_path}")


def test_a_mask_of_another_size_is_named(tmp_path):
    save(tmp_path, *scenes(3, 0))
    Image.new("L", (SIDE, SIDE + 1)).save(tmp_path / "masks" / "02.png")
    with pytest.raises(ValueError, match=r"02.png is 25 x 24, its image 24 x 24; expected one size"):
        data.open_source(f"masks:{tmp_path}")


def test_a_coloured_mask_is_refused(tmp_path):
    images, masks = scenes(2, 0)
    save(tmp_path, images, masks)
    Image.fromarray(images[0]).save(tmp_path / "masks" / "00.png")
    with pytest.raises(ValueError, match=r"00.png is RGB; expected one number per pixel"):
        data.open_source(f"masks:{tmp_path}")


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({}, "expected an array `masks`"),
        ({"masks": np.zeros((3, 5, 5), np.uint8)}, r"`masks` is \[3, 5, 5\], expected \[3, 24, 24\]"),
        ({"masks": np.full((3, SIDE, SIDE), 300)}, "has other numbers than 0 to 255"),
        ({"depth": np.full((3, SIDE, SIDE), -1.0)}, "has a depth of -1; expected positive numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(tmp_path, arrays, said):
    with pytest.raises(ValueError, match=said):
        held(tmp_path, images=scenes(3, 0)[0], **arrays)


def test_a_folder_without_masks_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected folders images/ and masks/ \(or depth/\).*found neither"):
        data.open_source(f"masks:{tmp_path}")


# ---- features of patches
def test_tokens_of_images_as_in_training_are_those_of_the_method(vit):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    source = data.Source(spec="x", names=list("abc"), channels=3, images=images)
    reader = patches.readers(vit, source, size=16)[0]
    ((rows, found),) = reader(source)
    expected = vit["trained"].patches(source)["tokens"]
    assert found["tokens"].shape == (3, 4, 4, 16)
    np.testing.assert_allclose(found["tokens"], expected, atol=1e-5)
    assert rows.tolist() == [0, 1, 2]


def test_images_of_any_shape_are_read_whole_at_the_size_asked_for(vit, tmp_path):
    images = np.zeros((2, 30, 60, 3), np.uint8)
    images[:, :, 30:] = 255
    source = held(tmp_path, images=images, masks=images[..., 0])
    trained, _, raw = patches.readers(vit, source, size=20, want=("tokens", "keys", "attention"))
    assert (trained.shape, trained.grid) == ((20, 40), (5, 10))
    _, found = next(iter(trained(source)))
    assert {name: x.shape[1:] for name, x in found.items()} == {
        "tokens": (5, 10, 16),
        "keys": (5, 10, 16),
        "attention": (2, 5, 10),
    }
    _, found = next(iter(raw(source)))
    assert found["tokens"].shape == (2, 5, 10, 48)
    assert np.round(found["tokens"][0, 0].mean(-1)).tolist() == [0] * 5 + [1] * 5


def test_convolutional_networks_give_their_maps(convnet, test):
    (trained, *_), (early, *_) = (patches.readers(convnet, test, layer=layer) for layer in (None, "stage1"))
    _, last = next(iter(trained(test)))
    assert last["tokens"].shape[1:] == (trained.shape[0] // 2, trained.shape[1] // 2, 16)
    assert next(iter(early(test)))[1]["tokens"].shape[-1] == 8
    means = trained.run({"image": np.stack([patches.resized(test.image(0), (16, 16))])})["tokens"].mean((1, 2))
    np.testing.assert_allclose(
        means[0], convnet["trained"](patches.resized(test.image(0), (16, 16))[None])[0], atol=1e-5
    )


def test_an_unknown_layer_is_one_line(vit, convnet, test):
    with pytest.raises(ValueError, match="layer is 2; expected the number of one of 2 blocks"):
        patches.readers(vit, test, layer=2)
    with pytest.raises(ValueError, match="has no map 'stage3'; did you mean"):
        patches.readers(convnet, test, layer="stage3")


def test_features_that_are_not_finite_are_one_line(vit, test):
    reader = patches.readers(vit, test)[0]
    broken = patches.dataclasses.replace(reader, run=lambda batch: {"tokens": np.full((8, 1, 1, 2), np.nan)})
    with pytest.raises(ValueError, match=r"the trained encoder's patch features of .* hold NaN"):
        next(iter(broken(test)))


def test_interpolation_is_that_of_jax():
    grid = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    found = patches.enlarged(grid, (10, 13))
    np.testing.assert_allclose(found, jax.image.resize(grid, (10, 13, 2), "bilinear"), atol=1e-5)
    ys, xs = np.array([0, 9, 4]), np.array([12, 0, 6])
    np.testing.assert_allclose(patches.at_pixels(grid, ys, xs, (10, 13)), found[ys, xs], atol=1e-6)


# ---- segmentation
def test_iou_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 30, 30))
    truth[:5] = VOID
    there = truth != VOID
    found = dense.confusion(truth, predicted, 6)
    np.testing.assert_array_equal(found[:4, :4], confusion_matrix(truth[there], predicted[there]))
    assert dense.mean_iou(found) == pytest.approx(jaccard_score(truth[there], predicted[there], average="macro"))
    each = [row["iou"] for row in dense.by_class(found)]
    assert each == pytest.approx(jaccard_score(truth[there], predicted[there], average=None))


def test_the_interval_holds_the_mean_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    one = lambda: dense.confusion(t := rng.integers(0, 3, (20, 20)), np.where(rng.random(t.shape) < 0.7, t, 0), 3)
    many = np.stack([one() for _ in range(64)])
    low, high, error = dense.interval(many)
    assert low < dense.mean_iou(many.sum(0)) < high
    assert error < dense.interval(many[:16])[2]


def test_a_patch_has_the_most_frequent_class_of_its_labelled_pixels():
    mask = np.array([[0, 0, 1, 1], [2, VOID, 1, 0], [VOID, VOID, 2, 2], [VOID, VOID, VOID, 2]], np.uint8)
    assert dense.majority(mask, (2, 2), 3).tolist() == [[0, 1], [VOID, 2]]


SETTINGS = dense.Settings(pixels=2000, bank=500, k=5, penalties=(1e-2, 1e-3))


@pytest.fixture(scope="module")
def segmented(pixels, train, test):
    return dense.segment(pixels, train, test, classes=3, settings=SETTINGS, shown=[2])


def test_colours_tell_coloured_things_apart(segmented, test):
    for task, least in (("dense-linear", 0.7), ("dense-knn", 0.6)):
        found = segmented[task]
        assert found["confusions"].sum() == 9 * SIDE * SIDE
        assert dense.mean_iou(found["confusions"].sum(0)) > least
        np.testing.assert_array_equal(found["confusions"][2], dense.confusion(test.masks(2), found["shown"][0], 3))
    assert segmented["dense-linear"]["settings"]["train_pixels"] > 1900


def test_shuffled_masks_teach_nothing(pixels, train, test):
    order = np.random.default_rng(0).permutation(len(train))
    shuffled = patches.dataclasses.replace(train, masks=lambda row: train.masks(order[row]))
    found = dense.segment(pixels, shuffled, test, classes=3, settings=SETTINGS)
    for task in dense.TASKS:
        assert dense.mean_iou(found[task]["confusions"].sum(0)) < 0.4


def test_pixels_without_a_class_teach_nothing(pixels, train, segmented):
    found = dense.gather(pixels, train, 3, SETTINGS, 0)
    assert set(found["y"]) == set(found["bank_y"]) == {0, 1, 2}


def test_one_class_is_one_line(pixels, train):
    bare = patches.dataclasses.replace(train, masks=lambda row: np.zeros((SIDE, SIDE), np.uint8))
    with pytest.raises(ValueError, match=r"hold only pixels of class 0; expected at least two"):
        dense.segment(pixels, bare, train, classes=3, settings=SETTINGS)
    void = patches.dataclasses.replace(train, masks=lambda row: np.full((SIDE, SIDE), VOID, np.uint8))
    with pytest.raises(ValueError, match="hold no labelled pixel"):
        dense.segment(pixels, void, train, classes=3, settings=SETTINGS)


# ---- depth
def test_ridge_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 7)) + 3, rng.normal(size=50)
    w, b = depth.ridge(x, y, 0.1)
    expected = Ridge(alpha=50 * 0.1).fit(x, y)
    np.testing.assert_allclose(w, expected.coef_)
    assert b == pytest.approx(expected.intercept_)


def test_errors_of_depth_are_their_definitions():
    truth, predicted = np.array([[1.0, 2.0], [4.0, 0.0]]), np.array([[1.2, 3.0], [4.0, 9.0]])
    error, within = depth.compare(truth, predicted)
    assert error == pytest.approx(np.sqrt((0.04 + 1) / 3))
    assert within == pytest.approx(2 / 3)


def foggy(n, seed):
    """Walls at known depths in fog: what is far is pale -> images, depths float32 in metres, 0 in a corner."""
    rng = np.random.default_rng(seed)
    far = np.repeat(np.repeat(np.exp(rng.uniform(0, 3, (n, 3, 3))), 8, 1), 8, 2).astype(np.float32)
    seen = np.exp(-far / 8)[..., None]
    images = seen * rng.uniform(20, 60, (n, 1, 1, 3)) + (1 - seen) * 220
    far[:, :4, :4] = 0
    return np.clip(images + rng.normal(0, 3, images.shape), 0, 255).astype(np.uint8), far


def test_depth_is_read_from_fog(pixels, tmp_path):
    train, test = (
        held(tmp_path, f"{seed}.npz", **dict(zip(("images", "depth"), foggy(n, seed)))) for n, seed in ((24, 1), (8, 2))
    )
    found = depth.estimate(pixels, train, test, settings=depth.Settings(pixels=4000), shown=[3])
    constant = np.array([depth.compare(t := test.depths(i), np.full(t.shape, 4.5)) for i in range(8)])
    error, within = found["errors"].mean(0)
    assert error < 0.5 * constant[:, 0].mean()
    assert within > 0.5 > constant[:, 1].mean() + 0.1
    assert found["errors"][3].tolist() == pytest.approx(depth.compare(test.depths(3), found["shown"][0]))


def test_no_depths_are_one_line(pixels, train):
    nowhere = patches.dataclasses.replace(train, depths=lambda row: np.zeros((SIDE, SIDE), np.float32))
    with pytest.raises(ValueError, match=r"no pixel of .* has a depth"):
        depth.estimate(pixels, nowhere, nowhere, settings=depth.Settings())


# ---- boxes
def test_lost_finds_the_small_region_that_differs():
    """Of two kinds of patches, whose features point apart, it is the rarer one; of two such regions, the seed's."""
    kind = np.zeros((8, 8), int)
    kind[2:5, 1:4] = 1
    kind[7, 7] = 1
    features = np.array([[1.0, 0.1], [-1.0, 0.1]])[kind]
    region = boxes.lost(features)
    assert region.sum() == 9
    assert boxes.box_of(region, (80, 160)) == (20, 20, 50, 80)


def test_attention_keeps_its_largest_region():
    shares = np.full((2, 6, 6), 0.01)
    shares[:, 1:3, 1:4] = 0.1
    shares[:, 5, 5] = 0.3
    region = boxes.attended(shares, mass=0.7)
    assert region.sum() == 6
    assert region[1:3, 1:4].all()


def test_true_boxes_are_the_regions_of_things():
    mask = np.zeros((10, 10), np.uint8)
    mask[1:4, 2:5] = mask[6:9, 6:8] = 1
    mask[0, 9], mask[5] = 2, VOID
    assert boxes.boxes_of(mask).tolist() == [[1, 2, 4, 5], [6, 6, 9, 8], [0, 9, 1, 10]]
    assert boxes.boxes_of(mask, things=(2,)).tolist() == [[0, 9, 1, 10]]
    assert boxes.overlap((1, 2, 4, 5), np.array([[1, 2, 4, 5], [1, 2, 4, 8], [5, 5, 6, 6.0]])).tolist() == [1, 0.5, 0]


def test_a_thing_of_another_colour_is_located(pixels, test):
    found, said = boxes.locate(pixels, test, boxes.Settings())
    truth = [boxes.boxes_of(test.masks(row)) for row in range(len(test))]
    assert boxes.right(found["corloc"], truth).mean() > 0.7
    assert list(said) == ["corloc"]


def test_transformers_are_asked_for_keys_and_attention(vit, test):
    reader = functools.partial(patches.readers, vit, test, want=("tokens", "keys", "attention"))()[0]
    found, said = boxes.locate(reader, test, boxes.Settings())
    assert {task: x.shape for task, x in found.items()} == {"corloc": (9, 4), "corloc-attention": (9, 4)}
    assert said["corloc"]["boxes_by"] == "LOST on keys of the last block"


# ---- as protocols
def test_one_command_scores_classes_and_boxes(folder, vit, train, test):
    """From the folder of an encoder: scores with their protocols and pictures."""
    options = {"dense": {"pixels": "600", "bank": "300", "penalties": "(0.01,)"}, "corloc": {"things": "(1,)"}}
    text = evaluate(folder, protocol="dense,corloc", data=train.spec, test=test.spec, options=options)
    assert "segmentation, linear, mIoU" in text
    content = json.loads((folder / "scores.json").read_text())
    found = {(s["encoder"], s["task"]): s for s in content["scores"]}
    assert len(found) == 3 * 3 + 2
    assert found["raw pixels", "dense-linear"]["mean"] > found["untrained", "dense-linear"]["mean"]
    for score in found.values():
        assert score["low"] <= score["mean"] <= score["high"]
        assert score["settings"]["grid"]
    named = [row["name"] for row in found["trained", "dense-linear"]["classes"]]
    assert named == ["ground", "square", "disc"]
    assert 0 < found["trained", "corloc"]["settings"]["without_objects"] < 9
    assert {one["task"] for one in content["comparisons"]} == {
        "dense-linear",
        "dense-knn",
        "corloc",
        "corloc-attention",
    }
    assert (folder / "dense.png").exists()
    assert (folder / "boxes.png").exists()


def test_other_sources_are_one_clear_line(vit, train):
    plain = data.Source(spec="folder:x", names=["a"], channels=3, images=np.zeros((1, 8, 8, 3), np.uint8))
    splits = lambda *pair: {"train": pair[0], "test": pair[1]}
    with pytest.raises(ValueError, match=r"set folder:x has no masks of its pixels; expected --data masks:PATH"):
        dense.pair(splits(train, plain), "masks")
    with pytest.raises(ValueError, match=r"the train set .* has no depths of its pixels"):
        dense.pair(splits(train, train), "depths")
    with pytest.raises(ValueError, match=r"would be both training and test set; expected --test"):
        dense.pair(splits(train, train), "masks")
    empty = patches.dataclasses.replace(train, masks=lambda row: np.zeros((SIDE, SIDE), np.uint8))
    with pytest.raises(ValueError, match="have no object, a region of classes above 0"):
        boxes.protocol(Subject(None, {}, vit, splits(train, empty)))


def test_depth_is_a_share_and_a_figure_with_its_unit(vit, tmp_path):
    parts = {}
    for name, n, seed in (("train", 12, 1), ("test", 5, 2)):
        parts[name] = held(tmp_path, f"{name}.npz", **dict(zip(("images", "depth"), foggy(n, seed))))
    encoders = {"trained": vit["trained"]}
    scores = depth.protocol(Subject(tmp_path, {}, encoders, parts, options={"depth": {"pixels": "800"}}))
    share, figure = scores[:2]
    assert (share["task"], figure["task"]) == ("depth", "depth-rmse")
    assert figure["settings"]["unit"]
    assert "rows" not in figure
    assert share["rows"]["right"].mean() == pytest.approx(share["mean"])
    assert (tmp_path / "depth.png").exists()
