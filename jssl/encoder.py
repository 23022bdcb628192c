"""Trained encoders: exported, loaded alone, and run over a source of images."""

import json
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from jssl import config as configs
from jssl import data
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
        self.channels = self.config["channels"]
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

        Raises ValueError for a source of another modality, or graphs with other features.
        """
        self._check(source)
        sample = self.config.get("sample")
        if sample and source.modality == "graph" and source.single:
            source = data.sample(source, **sample)
        return embed(self.embedder, self.params, self.carry, source, self.preprocess, batch_size, workers)

    def pools(self, source, last=4, batch_size=256, workers=0):
        """What the last blocks make of every image: {'cls 1': float32 [N, D], 'mean 1', ..., 'mean 4'}, the class
        token, where there is one, and the mean of the patch tokens after each, the last block being 1. Of an encoder
        without blocks {'features': [N, D]}.

        Tokens are normalised over their dimensions, as by a final layer norm without scale and offset.
        """
        self._check(source)
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

    def _check(self, source):
        modality = "graph" if self.channels is None else "image"
        if source.modality != modality:
            raise ValueError(
                f"{source.spec} holds {source.contents}, but the encoder was trained on data of another kind: expected "
                f"a source of modality {modality!r}"
            )
        features = self.config.get("features")
        if features and source.x.shape[1] != features:
            raise ValueError(
                f"{source.spec} has nodes of {source.x.shape[1]} features; expected {features}, as the encoder was "
                "trained on"
            )


def embedder(method, preprocess, mesh, read=lambda out: out["features"]):
    """A compiled (params, carry, batch) -> features [N, D] on every device, or what else is to be read of `embed`."""

    def features(params, carry, batch):
        return read(method.embed(params, carry, preprocess(batch)))

    compiled = jax.jit(features, out_shardings=replicated(mesh))

    def run(params, carry, batch, batch_size):
        with jax.set_mesh(mesh):
            return compiled(params, carry, put(mesh, batch, batch_size))

    run.mesh = mesh
    return run


def embed(run, params, carry, source, preprocess, batch_size, workers=0):
    """The features of every row of `source`, float32 [N, D], on every process, see `gathered`. run: from `embedder`; of
    several things read, a tree of them."""
    if source.modality == "graph":
        return _of_graphs(run, params, carry, source, batch_size, workers)
    devices = run.mesh.size
    batch_size = -(-min(batch_size, len(source)) // devices) * devices
    batches = source.every(
        batch_size=batch_size,
        rows=rows_here(run.mesh, batch_size),
        workers=workers,
        **preprocess.reads,
    )
    return gathered((run(params, carry, {"image": batch["image"]}, batch_size) for batch in batches), len(source))


def gathered(batches, rows):
    """Trees of arrays [b, ...], one after the other, as a tree of arrays [rows, ...] without what is beyond them: in
    memory or, those of more than `HELD` bytes, in files that go with them."""
    found, at = None, 0
    for batch in batches:
        batch = jax.tree.map(np.asarray, batch)
        if found is None:
            found = jax.tree.map(lambda x: _room((rows, *x.shape[1:]), x.dtype), batch)
        for place, x in zip(jax.tree.leaves(found), jax.tree.leaves(batch), strict=True):
            place[at : at + len(x)] = x[: rows - at]
        at += len(x)
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


def _of_graphs(run, params, carry, graphs, batch_size, workers):
    """The features of the nodes of one graph, or of every one of several graphs."""
    if graphs.single:
        found = np.asarray(run(params, carry, graphs.arrays, 1))  # [1, n, D]
        if found.shape[:2] != (1, graphs.examples):
            raise ValueError(
                f"{graphs.spec} holds one graph, whose nodes are the examples, but the encoder embeds graphs; expected "
                "encoder.pool=None"
            )
        return found[0]
    rows, features = run.mesh.size, None
    here = rows_here(run.mesh, rows)
    for batch in graphs.every(batch_size=batch_size, leading=rows, rows=np.arange(rows), workers=workers):
        index = batch["index"]
        found = np.asarray(run(params, carry, {name: x[here] for name, x in batch.items()}, rows))
        if found.shape[:2] != index.shape:
            pool = "first" if isinstance(graphs, data.Sampled) else "mean"
            raise ValueError(
                f"{graphs.spec} holds graphs, but the encoder embeds nodes; expected encoder.pool={pool!r}"
            )
        if features is None:
            features = np.empty((len(graphs), found.shape[-1]), found.dtype)
        features[index[index >= 0]] = found[index >= 0]
    return features


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
    sample = {"kind": config.data.sample, **{key: configs.plain(config.data[key]) for key in ("fanouts", "walks")}}
    features = source.x.shape[1] if source.modality == "graph" else None
    more = {"dtype": config.dtype, "channels": source.channels, "features": features}
    more["sample"] = sample if sample["kind"] else None
    text = json.dumps({**parts, **more, "empty": empty}, indent=2)
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
