"""Trained encoders: exported, loaded alone, and run over a source of images."""

import json
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from jssl import config as configs
from jssl import data, modalities
from jssl.sharding import everywhere, make_mesh, nested, path_of, put, replicated, rows_here
from jssl.transforms import normalised

FOLDER = "encoder"
HELD = 2**31  # bytes of features in memory


class Encoder:
    """An exported encoder: `encoder(images)` maps uint8 [N, H, W, C] to features float32 [N, D]."""

    def __init__(self, folder, weights="weights"):
        """folder: a run directory or its `encoder` folder; weights: "weights", or "untrained", those before step 0."""
        folder = pathlib.Path(folder)
        folder = folder if (folder / f"{weights}.npz").is_file() else folder / FOLDER
        if not (folder / f"{weights}.npz").is_file():
            cut = (folder.parent / "checkpoints").is_dir()
            instead = "; `jssl export` makes an encoder of a checkpoint of an unfinished one" if cut else ""
            raise FileNotFoundError(
                f"{folder} has no {weights}.npz: expected the directory of a finished `jssl train`{instead}"
            )
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        network = configs.build(self.config["encoder"], dtype=jnp.dtype(self.config["dtype"]))
        self.method = configs.build(self.config["method"], encoder=network)
        self.preprocess = configs.build(self.config["preprocess"])
        self.channels = self.config.get("channels")  # of images
        # Encoders of before it was written down were of images or of graphs.
        self.modality = self.config.get("modality", "graph" if self.channels is None else "image")
        mesh = make_mesh()
        self.embedder = embedder(self.method, self.preprocess, mesh)
        arrays = dict(np.load(folder / f"{weights}.npz"))
        state = everywhere(mesh, nested(arrays | {path: {} for path in self.config.get("empty", ())}))
        self.params, self.carry = state.get("params", {}), state.get("carry", {})

    def __call__(self, images):
        """uint8 [N, H, W, C] -> float32 [N, D]."""
        if self.channels is None:
            raise ValueError("this encoder is not of images: expected encoder.embed(jssl.data.open_source(...))")
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != self.channels:
            raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 [N, H, W, {self.channels}]")
        return self.embed(data.Source(spec="images", names=range(len(images)), channels=self.channels, images=images))

    def embed(self, source, batch_size=256, workers=0):
        """The features of every row of a source, float32 [N, D]; of one graph, sampled where it was so in training.

        Raises ValueError for a source of another modality, or examples with other channels or features.
        """
        source = self._ready(source)
        return embed(self.embedder, self.params, self.carry, source, self.preprocess, batch_size, workers)

    def pools(self, source, last=4, batch_size=256, workers=0):
        """What the last blocks make of every image: {'cls 1': float32 [N, D], 'mean 1', ..., 'mean 4'}, the class
        token, where there is one, and the mean of the patch tokens after each, the last block being 1. Of an encoder
        without blocks {'features': [N, D]}.

        Tokens are normalised over their dimensions, as by a final layer norm without scale and offset.
        """
        source = self._ready(source)
        run = embedder(self.method, self.preprocess, self.embedder.mesh, lambda out: pools(out, last))
        return embed(run, self.params, self.carry, source, self.preprocess, batch_size, workers)

    def patches(self, source):
        """What the encoder makes of the patches of a few images -> None where it has none, else {'image': uint8 [M, H,
        W, C], as it sees them, 'tokens': float32 [M, h, w, D], and of a class token 'attention', [M, heads, h, w]}."""
        inputs, m, mesh = self.preprocess, len(source), self.embedder.mesh
        (batch,) = source.every(batch_size=m, rows=np.arange(m), **inputs.reads)
        read = lambda params, carry, batch: self.method.embed(params, carry, inputs(batch))
        embed = jax.jit(read, out_shardings=replicated(mesh))
        args = self.params, self.carry, everywhere(mesh, {"image": batch["image"]})
        if "tokens" not in jax.eval_shape(embed, *args):
            return None
        with jax.set_mesh(mesh):
            out = embed(*args)
        tokens = np.asarray(out["tokens"])  # [M, h * w, D]
        side = math.isqrt(tokens.shape[1])
        found = {"image": batch["image"], "tokens": tokens.reshape(m, side, side, -1)}
        if "cls" in out:
            shares = np.asarray(out["attention"])[:, :, 0, -(side**2) :]
            found["attention"] = shares.reshape(*shares.shape[:2], side, side)
        return found

    def _ready(self, source):
        """A source as the encoder takes it. ValueError for one of another modality."""
        modalities.expect(source, self.modality, "the encoder")
        return modalities.find(self.modality).ready(source, self.config)


def embedder(method, preprocess, mesh, read=lambda out: out["features"]):
    """A compiled (params, carry, batch, leading) -> the examples' numbers int [...], -1 for padding, and their features
    [..., D], or what else is to be read of `embed`, on every device."""

    def features(params, carry, batch):
        return batch["index"], read(method.embed(params, carry, preprocess(batch)))

    compiled = jax.jit(features, out_shardings=replicated(mesh))

    def run(params, carry, batch, leading):
        with jax.set_mesh(mesh):
            return compiled(params, carry, put(mesh, batch, leading))

    run.mesh = mesh
    return run


def embed(run, params, carry, source, preprocess, batch_size, workers=0):
    """The features of every row of `source`, or of every node of one graph, float32 [N, D], on every process, see
    `gathered`. run: from `embedder`; of several things read, a tree of them."""
    devices = run.mesh.size
    batch_size = -(-min(batch_size, len(source)) // devices) * devices
    leading = source.leading(batch_size, devices)
    how = {"leading": leading, "rows": rows_here(run.mesh, leading), "workers": workers, **preprocess.reads}
    batches = source.every(batch_size=batch_size, **how)
    return gathered((run(params, carry, batch, leading) for batch in batches), source.examples)


def gathered(batches, rows):
    """Batches of (numbers int [...], -1 for padding, tree of arrays [..., *]) as a tree of arrays [rows, *], each row
    at its number: in memory or, those of more than `HELD` bytes, in files that go with them."""
    found = None
    for index, batch in batches:
        index, batch = np.asarray(index), jax.tree.map(np.asarray, batch)
        there = index >= 0
        batch = jax.tree.map(lambda x, there=there: x[there], batch)
        if found is None:
            found = jax.tree.map(lambda x: _room((rows, *x.shape[1:]), x.dtype), batch)
        for place, x in zip(jax.tree.leaves(found), jax.tree.leaves(batch), strict=True):
            place[index[there]] = x
    return found


def _room(shape, dtype):
    """An array to fill."""
    if np.prod(shape) * np.dtype(dtype).itemsize <= HELD:
        return np.empty(shape, dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype, "w+", shape=shape)


def pools(out, last):
    """What `Method.embed` returned, pooled, see `Encoder.pools`. Inside jit."""
    if "layers" not in out or "tokens" not in out:
        return {"features": out["features"].astype(jnp.float32)}
    patches, found = out["tokens"].shape[1], {}
    for i, layer in enumerate(reversed(out["layers"][-last:]), start=1):
        layer = normalised(layer.reshape(len(layer), -1, layer.shape[-1]))  # [N, T, D], of a class token first
        if "cls" in out:
            found[f"cls {i}"] = layer[:, 0]
        found[f"mean {i}"] = layer[:, -patches:].mean(1)
    return found


def export(workdir, config, method, preprocess, params, carry, source, weights="weights"):
    """Writes to WORKDIR/encoder what `method.embed` reads, and the config that rebuilds it."""
    folder = pathlib.Path(workdir) / FOLDER
    example = source.blank(getattr(preprocess, "size", None))
    kept = _read_by_embed(method, preprocess, {"params": params, "carry": carry}, example)
    arrays = {path: np.asarray(leaf) for path, leaf in kept.items()}
    if jax.process_index():
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = {section: configs.plain(config[section]) for section in ("method", "encoder", "preprocess")}
    empty = _empty({"params": params, "carry": carry})
    example = modalities.find(source.modality).example(source, configs.plain(config.data))
    content = {"modality": source.modality, **example, **parts, "dtype": config.dtype, "empty": empty}
    text = json.dumps(content, indent=2)
    (folder / "config.json").write_text(text + "\n")
    np.savez(folder / f"{weights}.npz", **arrays)


def _read_by_embed(method, preprocess, state, example):
    """{path: leaf} of the leaves that the encoder uses: those that appear in its jaxpr."""

    def features(state):
        inputs = preprocess(jax.tree.map(jnp.asarray, example))
        return method.embed(state["params"], state["carry"], inputs)["features"]

    jaxpr = jax.make_jaxpr(features)(state).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars} | {id(v) for v in jaxpr.outvars}
    leaves = jax.tree_util.tree_leaves_with_path(state)
    used = [leaf for (_, leaf), v in zip(leaves, jaxpr.invars) if id(v) in read]
    paths = [path_of(path) for (path, _), v in zip(leaves, jaxpr.invars) if id(v) in read]
    whole = jax.jit(lambda x: x, out_shardings=jax.tree.map(lambda x: replicated(x.sharding.mesh), used))
    return dict(zip(paths, whole(used)))


def _empty(tree, path=""):
    """The paths of dicts without a leaf, such as the statistics of a network without batch norm: no array tells of
    them, and `embed` may ask for them."""
    if not isinstance(tree, dict):
        return []
    return [p for key, value in tree.items() for p in _empty(value, f"{path}/{key}".strip("/"))] if tree else [path]
