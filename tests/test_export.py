"""The encoder of a checkpoint, of runs that came to their end and of one that did not."""

import json

import jax
import numpy as np
import pytest

from jssl import cli
from jssl import train as loop
from jssl.checkpoint import read_arrays
from jssl.encoder import Encoder
from jssl.export import export, step_of
from jssl.sharding import make_mesh
from jssl.train import Stop, train
from tests.methods import config
from tests.test_checkpoint import truncate


def test_that_of_the_last_step_is_the_run_s_own_encoder(simclr_copy, tmp_path):
    out = tmp_path / "out"
    assert export(simclr_copy, "last", out) == f"the encoder of step 2 is in {out}: jssl eval --workdir {out}"
    files = [path.relative_to(simclr_copy) for path in (simclr_copy / "encoder").iterdir()]
    assert len(files) == 3
    for file in files:
        if file.suffix == ".npz":
            one, two = (dict(np.load(folder / file)) for folder in (simclr_copy, out))
            jax.tree.map(np.testing.assert_array_equal, one, two)
        else:
            assert (out / file).read_text() == (simclr_copy / file).read_text()
    with pytest.raises(ValueError, match="is not empty; expected a new folder"):
        export(simclr_copy, "last", out)


def test_a_run_that_was_stopped_has_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
    monkeypatch.setattr(Stop, "asked", lambda self, call: call == 3)
    run, out = tmp_path / "run", tmp_path / "out"
    train(config(method__teacher=True), run)
    with pytest.raises(FileNotFoundError, match="`jssl export` makes an encoder of a checkpoint of an unfinished one"):
        Encoder(run)
    cli.main(["export", "--workdir", str(run), "--checkpoint", "3", "--out", str(out)])
    assert "the encoder of step 3 is in" in capsys.readouterr().out
    kernel = read_arrays(run / "checkpoints" / "3" / "state")["params/body/kernel"]
    np.testing.assert_array_equal(Encoder(out).params["body"]["kernel"], kernel)
    assert (Encoder(out, "untrained").params["body"]["kernel"] != kernel).any()
    assert json.loads((out / "config.json").read_text())["config"]["data"]["source"] == "digits"


def reseal(folder):
    """The seal says other weights."""
    seal = json.loads((folder / "seal" / "metadata").read_text())
    leaves = {path: value + 1 for path, value in seal["leaves"].items()}
    (folder / "seal" / "metadata").write_text(json.dumps({**seal, "leaves": leaves}))


@pytest.mark.parametrize(("damage", "said"), [(reseal, "has changed on disk"), (truncate, "cannot be read")])
def test_a_damaged_checkpoint_is_one_line(simclr_copy, tmp_path, damage, said):
    damage(simclr_copy / "checkpoints" / "2")
    with pytest.raises(ValueError, match=f"{said}.*; expected another checkpoint$") as error:
        export(simclr_copy, "last", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def sealed(folder, **scores):
    """Checkpoints of these steps and scores."""
    for step, score in scores.items():
        (folder / step[1:] / "seal").mkdir(parents=True)
        (folder / step[1:] / "_CHECKPOINT_METADATA").write_text("{}")
        (folder / step[1:] / "seal" / "metadata").write_text(json.dumps({"score": score}))
    return folder


def test_the_best_has_the_highest_score(tmp_path):
    folder = sealed(tmp_path, _10=0.5, _20=0.9, _30=0.7, _40=None)
    assert [step_of(folder, name) for name in ("best", "last", "10")] == [20, 40, 10]
    with pytest.raises(ValueError, match=r"is named '15'; expected one of 40, 30, 20, 10, last, best$"):
        step_of(folder, "15")


def test_without_scores_or_checkpoints_there_is_no_best(tmp_path):
    with pytest.raises(ValueError, match=r"has a score: k-NN needs eval.every and labels; expected one of 10, last$"):
        step_of(sealed(tmp_path / "a", _10=None), "best")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        step_of(tmp_path / "b", "best")
