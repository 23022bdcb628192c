"""What people see of masked methods: reconstructions, patches as colours, attention."""

import jax
import numpy as np
import pytest
from PIL import Image

from jssl import config as configs
from jssl import data
from jssl.encoder import Encoder
from jssl.evals.run import evaluate
from jssl.evals.shown import save_patches
from jssl.methods import mae
from jssl.methods.mae import MAE
from jssl.methods.simmim import SimMIM
from jssl.nets.decoder import Decoder
from jssl.nets.net import apply_net
from jssl.nets.vit import ViT, patchify
from jssl.pictures import of_pixels
from jssl.report import report
from jssl.train import train
from tests import tiny

NET = ViT(16, 2, 2, patch=4, pool="mean")
IMAGES = np.random.RandomState(0).randn(3, 16, 16, 1).astype(np.float32)


@pytest.mark.parametrize("method", [MAE(NET, 16, 1, 2), SimMIM(NET, mask_size=4)], ids=["MAE", "SimMIM"])
def test_reconstructions_are_of_hidden_patches_alone(method):
    params, carry = jax.jit(method.init)(jax.random.key(0), {"image": IMAGES[:, None]})
    shown = np.asarray(jax.jit(method.reconstruct)(params, carry, IMAGES, jax.random.key(1)))
    assert shown.shape == (3, 3, 16, 16, 1)
    np.testing.assert_array_equal(shown[:, 0], IMAGES)
    before, seen, after = (patchify(shown[:, i], 4) for i in range(3))
    hidden = np.asarray((seen == 0).all(-1))
    assert 0.4 < hidden.mean() < 0.8
    np.testing.assert_array_equal(seen[~hidden], before[~hidden])
    np.testing.assert_array_equal(after[~hidden], before[~hidden])
    assert np.abs(after[hidden] - before[hidden]).max(-1).min() > 1e-3


def test_normalised_patches_come_back_with_the_images_own_mean_and_contrast(monkeypatch):
    """A decoder that is right about what it predicts gives the image."""
    method = MAE(NET, 16, 1, 2, norm_pix=True)
    params, carry = jax.jit(method.init)(jax.random.key(0), {"image": IMAGES[:, None]})
    target, run = method.target(IMAGES), mae.apply_net
    right = lambda net, *args, **kw: (target, {}, {}) if isinstance(net, Decoder) else run(net, *args, **kw)
    monkeypatch.setattr(mae, "apply_net", right)
    shown = method.reconstruct(params, carry, IMAGES, jax.random.key(1))
    np.testing.assert_allclose(shown[:, 2], IMAGES, atol=1e-4)


@pytest.fixture(scope="module", params=["mae:tiny", "simclr:tiny"])
def workdir(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.partition(":")[0])
    few = {"data.source": "digits@train[:200]", "data.eval_source": "digits@test[:100]"}
    short = {"train.steps": 2, "checkpoint.every": 2, "eval.every": 2, "log_every": 2}
    train(configs.load(request.param, few | short), folder)
    return folder


def test_the_report_shows_what_the_method_and_the_encoder_make_of_images(workdir):
    evaluate(workdir, protocol="knn")
    page = report(workdir).read_text()
    masked = workdir.name.startswith("mae")
    assert (workdir / "reconstructions.png").is_file() == masked
    assert (workdir / "patches.npz").is_file() == masked
    for section in "Patches", "Reconstructions":
        assert (f"<h2>{section}</h2>" in page) == masked
    assert "Not made yet" not in page
    if masked:
        assert np.asarray(Image.open(workdir / "reconstructions.png")).std() > 10
        found = np.load(workdir / "patches.npz")
        assert found["colours"].shape == (8, 4, 4, 3)
        assert found["attention"].shape == (8, 2, 4, 4)
        assert 0 < found["attention"].sum((2, 3)).min() <= found["attention"].sum((2, 3)).max() < 1  # the rest: itself
        assert page.count("head 2") == 8


def test_patches_are_those_that_embed_gives(workdir):
    encoder = Encoder(workdir)
    source = data.open_source("digits@test[:5]")
    found = encoder.patches(source)
    if not workdir.name.startswith("mae"):
        assert found is None
        return
    np.testing.assert_allclose(found["tokens"].mean((1, 2)), encoder.embed(source), atol=1e-5)  # the mean of tokens


TRANSFORMER = {"name": "jssl.nets.vit:ViT", "dim": 16, "depth": 1, "heads": 2, "patch": 4}
TRANSFORMER = {f"encoder__{name}": value for name, value in TRANSFORMER.items()}


@pytest.mark.parametrize("name", ["autoencoder", "simclr", "mae"])
def test_every_methods_transformer_shows_what_its_class_token_attends_to(name, tmp_path):
    """Registers lie between the class token and the patches: none of them is a patch."""
    encoder = tiny.encoder(tmp_path, f"{name}:tiny", 1, **TRANSFORMER, encoder__registers=4)["trained"]
    source = data.open_source("digits@test[:2]")
    found = encoder.patches(source)
    _, out, _ = apply_net(encoder.method.encoder, encoder.params["encoder"], {}, encoder.preprocess(found)["image"])
    assert out["attention"].shape == (2, 2, 1 + 4 + 16, 1 + 4 + 16)
    np.testing.assert_allclose(found["attention"].reshape(2, 2, 16), out["attention"][:, :, 0, 5:], atol=1e-6)
    np.testing.assert_allclose(found["tokens"].reshape(2, 16, 16), out["tokens"], atol=1e-5)
    save_patches(tmp_path, encoder, source)
    assert np.load(tmp_path / "patches.npz")["attention"].shape == (2, 2, 4, 4)
    assert not [path for path in np.load(encoder.folder / "weights.npz") if not path.startswith("params/encoder/")]


def test_features_that_are_no_tokens_have_no_pictures(tmp_path):
    """SimCLR v2's are of a layer of its projection head."""
    encoder = tiny.encoder(tmp_path, "simclr2:tiny", 1, **TRANSFORMER)["trained"]
    assert encoder.patches(data.open_source("digits@test[:2]")) is None


def test_pictures_of_pixels_are_shown_where_they_were_asked_for(tmp_path):
    assert of_pixels(tmp_path) == ""
    for name in "anomaly.png", "dense.png":
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / name)
    found = of_pixels(tmp_path)
    assert found.count("<img") == 2
    assert found.index("the class of every pixel") < found.index("where their defects are")
