"""What the engine knows of a modality is one module: a third one, of tests/modality, needs nothing edited."""

import jax
import numpy as np
import pytest

from jssl import config as configs
from jssl import modalities
from jssl import train as loop
from jssl.encoder import Encoder
from jssl.evals.kept import content
from jssl.evals.run import embed, evaluate
from jssl.experiment import fill, open_data
from jssl.report import report
from jssl.sharding import make_mesh
from jssl.train import train
from jssl.writers import read_metrics
from tests import modality
from tests.contract import assert_close


@pytest.fixture(scope="module", autouse=True)
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modalities, "__path__", [*modalities.__path__, *modality.__path__])
        yield


def config(source="waves:256", steps=8):
    made = configs.base()
    made.update({"modality": "wave", "seed": 1, "log_every": 4})
    made.data.source = source
    made.method = {"name": "jssl.methods.simclr:SimCLR", "hidden": 16, "dim": 8}
    made.encoder = {"name": "jssl.nets.mlp:MLP", "hidden": 32, "dim": 16, "norm": False}
    made.augment.name, made.preprocess.name = "tests.modality.wave:Noise", "tests.modality.wave:Inputs"
    made.train.update({"steps": steps, "batch_size": None})
    made.checkpoint.every = made.eval.every = 4
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("waves")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
        return workdir, jax.device_get(train(config(), workdir))


def test_trains_embeds_and_is_scored_and_shown(trained):
    workdir, _ = trained
    source = open_data(config())
    assert read_metrics(workdir)[-1]["knn"] > 0.5
    features = Encoder(workdir).embed(source, batch_size=48)  # which the source passes backwards, and padded
    row = Encoder(workdir).embed(source.take(np.array([3])))
    np.testing.assert_allclose(features[3], row[0], rtol=1e-5, atol=1e-5)
    assert len(features) == 256
    assert embed(workdir, "waves:40", workdir / "waves.npz").startswith("40 x 16 features")
    assert "k-NN" in evaluate(workdir)
    assert {score["encoder"] for score in content(workdir)["scores"]} == {"trained", "untrained"}
    page = report(workdir).read_text()
    assert "256 waves seen" in page
    assert "Nearest neighbours" not in page
    assert not list(workdir.glob("*.png"))


def test_number_of_devices_changes_nothing(trained, tmp_path):
    _, state = trained
    assert_close(jax.device_get(train(config(), tmp_path)), state, tolerance=1e-5)


def test_what_cannot_be_is_one_line(trained):
    workdir, _ = trained
    images = modalities.find("image").open_data(configs.base().data, 0)
    with pytest.raises(ValueError, match=r"modality='waves' is unknown; did you mean wave\?"):
        modalities.find("waves")
    with pytest.raises(ValueError, match=r"digits holds 1,297 images, but .*SimCLR is trained on"):
        fill(config(), images)
    with pytest.raises(ValueError, match=r"another kind: expected a source of modality 'wave'"):
        Encoder(workdir).embed(images)
