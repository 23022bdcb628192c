"""`jssl eval` of one small encoder by many protocols, in as many processes as the environment says.

python -m tests.scored FOLDER
"""

import json
import pathlib
import sys

import numpy as np

from jssl import config as configs
from jssl import data, notes
from jssl.evals.run import embed, evaluate
from jssl.processes import first
from tests import tiny
from tests.test_dense import scenes

CONFIG = "simclr:tiny"
SHORT = {"epochs": 1.0, "least": 3}
OPTIONS = {
    "linear": {"penalties": (0.1,)},
    "finetune": {**SHORT, "batch_size": 10},  # five pairs, which neither two processes nor eight devices can share
    "peft": {**SHORT, "batch_size": 16, "kinds": "bias"},
    "rank": {"images": 21, "views": 2, "k": 3},
    "robustness": {"corruptions": "gaussian noise"},
}
PROTOCOLS = ("knn", "retrieval", *OPTIONS)


def prepare(folder):
    """Two run directories of one encoder of random weights, and images to judge it by."""
    for name, spec in (("train", "digits@[:130]"), ("test", "digits@test[:51]")):
        source = data.open_source(spec)
        np.savez(folder / f"{name}.npz", images=source.images, labels=source.labels, groups=np.arange(len(source)) % 2)
    images, masks = scenes(5, 1)
    np.savez(folder / "scenes.npz", images=images.mean(-1, keepdims=True).astype(np.uint8), masks=masks)
    config = {"config": configs.plain(configs.load(CONFIG))}
    for name in ("images", "scenes"):
        tiny.encoder(folder / name, CONFIG, channels=1)
        (folder / name / "config.json").write_text(json.dumps(config))


def main(folder):
    """-> the tables, of the first process alone, and what `embed` says."""
    folder = pathlib.Path(folder)
    images = {name: f"npz:{folder / f'{name}.npz'}" for name in ("train", "test")}
    how = {"draws": 1, "options": OPTIONS, "data": images["train"], "test": images["test"]}
    text = evaluate(folder / "images", ",".join(PROTOCOLS), **how)
    scenes = f"masks:{folder / 'scenes.npz'}"
    text += evaluate(folder / "scenes", "corloc", data=scenes, test=scenes)
    return text, embed(folder / "images", images["test"], folder / "features.npz")


if __name__ == "__main__":
    notes.listen()
    found = main(sys.argv[1])
    if first():
        sys.stdout.write("\n".join(found))
