"""What was trained of an encoder, and its classifier, in a small file of their own; and one encoder of both again."""

import io
import json
import pathlib
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from jssl import data
from jssl.checkpoint import tree_hash
from jssl.config import plain
from jssl.encoder import Encoder, embed, embedder
from jssl.evals.finetune import Supervised, own
from jssl.files import whole
from jssl.peft import MERGED, Tuning, count
from jssl.sharding import flatten, nested

PARTS = ("encoder", "classifier", "features")


class Adapted:
    """An encoder with what was trained of it: `adapted(images)` maps uint8 [N, H, W, C] to class scores float32 [N, K].

    encoder: the `jssl.encoder.Encoder` that it was trained on; file: what `save` wrote, such as RUN/peft/lora.npz.
    Raises FileNotFoundError or ValueError, one line, for another encoder's file, or one that is none.
    """

    def __init__(self, encoder, file):
        self.header, parts = read(file)
        self.encoder, self.tuning = encoder, Tuning(**self.header["tuning"])
        _, params, stats = own(encoder)
        if self.header["encoder"] != (name := tree_hash({"params": params, "stats": stats})):
            raise ValueError(
                f"{file} was trained on the encoder {self.header['encoder'][:12]}, but this one is {name[:12]}; "
                f"expected that of {self.header['run']}"
            )
        self.trained = jax.tree.map(jnp.asarray, parts)
        self.frozen = self.tuning.rest(params, self.trained["encoder"])
        classes, label_names = len(parts["classifier"]["bias"]), self.header["label_names"]
        self.label_names = label_names or [str(c) for c in range(classes)]
        method = Supervised(encoder.method.encoder, classes, rows=1, tuning=self.tuning)
        self._embedder = embedder(method, encoder.preprocess, encoder.embedder.mesh)
        kept = {"params": {part: self.trained[part] for part in PARTS[:2]}, "stats": stats}
        self._carry = {"average": kept, "frozen": self.frozen, "features": self.trained["features"]}

    def __call__(self, images):
        """uint8 [N, H, W, C] -> float32 [N, K], before the softmax."""
        images, channels = np.asarray(images), self.encoder.channels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 [N, H, W, {channels}]")
        return self.scores(data.Source(spec="images", names=range(len(images)), channels=channels, images=images))

    def scores(self, source, batch_size=256, workers=0):
        """The scores of every image of a source, float32 [N, K]."""
        return embed(self._embedder, {}, self._carry, source, self.encoder.preprocess, batch_size, workers)

    def predict(self, source, workers=0):
        """The class of every image of a source, int32 [N]."""
        return np.argmax(self.scores(source, workers=workers), -1).astype(np.int32)


def save(file, encoder, tuning, trained, *, run="", label_names=None, settings=None):
    """Writes what `finetune` gave as 'trained' to one .npz: float32 arrays under flat paths, and 'header', JSON text.

    run: where the encoder is from, for people; settings: how it was trained. -> the file's size in bytes.
    """
    file = pathlib.Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    _, params, stats = own(encoder)
    header = {
        "tuning": tuning.fields,
        "encoder": tree_hash({"params": params, "stats": stats}),
        "run": str(run),
        "label_names": None if label_names is None else [str(name) for name in label_names],
        "parameters": counts(trained, params),
        "settings": plain(settings or {}),
    }
    content = io.BytesIO()
    np.savez(content, header=json.dumps(header), **flatten({name: trained[name] for name in PARTS}))
    with whole(file, "wb") as out:
        out.write(content.getvalue())
    return content.tell()


def read(file):
    """-> (the header of a file of `save`, {'encoder', 'classifier', 'features': trees of arrays})."""
    file = pathlib.Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; expected RUN/peft/KIND.npz, as `--protocol peft` writes it")
    try:
        arrays = dict(np.load(file))
        header = json.loads(str(arrays.pop("header")))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{file} does not hold what was trained of an encoder; expected RUN/peft/KIND.npz") from None
    return header, {"encoder": {}, **nested(arrays)}


def counts(trained, params):
    """How many numbers were trained, and how many the encoder has."""
    return {"trained": count(trained["encoder"]), "classifier": count(trained["classifier"]), "encoder": count(params)}


def merge(workdir, file, out):
    """Adds what was trained to the encoder's own weights -> a line of text.

    workdir: the run, or the encoder folder, that `file` was trained on; out: a new folder, an ordinary encoder of
    `jssl.encoder.Encoder`, with the classifier beside it in head.npz, for `Adapted`. Raises ValueError, one line, for
    adapters and prompts, which the network has no weights for.
    """
    encoder, out = Encoder(workdir), pathlib.Path(out)
    adapted = Adapted(encoder, file)
    if adapted.tuning.kind not in MERGED:
        raise ValueError(
            f"{file} holds kind {adapted.tuning.kind}, which stays beside the encoder; expected {', '.join(MERGED)}"
        )
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty; expected a new folder")
    folder = encoder.folder
    keys, _, _ = own(encoder)
    weights, _ = adapted.tuning.join(adapted.trained["encoder"], adapted.frozen)
    merged = {"/".join((*keys, path)): np.asarray(x) for path, x in flatten(weights).items()}
    shutil.copytree(folder, out, dirs_exist_ok=True)
    np.savez(out / "weights.npz", **(dict(np.load(folder / "weights.npz")) | merged))
    trained = {**adapted.trained, "encoder": {}}
    how = {name: adapted.header[name] for name in ("label_names", "settings")}
    save(out / "head.npz", Encoder(out), Tuning("head"), trained, run=out, **how)
    return f"{file} is in the weights of {out}, its classifier in {out / 'head.npz'}"
