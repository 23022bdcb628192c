"""What an encoder makes of every part of an image: patch tokens, or the last map of a convolutional network."""

import collections
import concurrent.futures
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jssl.augment import color
from jssl.config import nearest
from jssl.evals.finetune import at
from jssl.nets.net import apply_net, init_net
from jssl.nets.vit import patchify
from jssl.sharding import put, replicated, rows_here
from jssl.start import places

CELLS = 4  # of a patch along a side, whose colours are what raw pixels say of it
LOOKED = 100  # images whose shapes say to which shape all of them are brought
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads images as grids of features: `for rows, found in reader(source)`.

    Images of any size are resized, whole, to `shape` pixels; found: {'tokens': float32 [b, h, w, D], ...} of the images
    with numbers `rows`, int [b].
    """

    name: str
    shape: tuple[int, int]  # pixels
    grid: tuple[int, int]  # h, w
    run: object  # {"image": uint8 [B, H, W, C]} on every device -> {name: [B, ...]}
    mesh: jax.sharding.Mesh

    def __call__(self, source, batch_size=BATCH):
        devices = self.mesh.size
        batch_size = -(-min(batch_size, len(source)) // devices) * devices
        here = rows_here(self.mesh, batch_size)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for start in range(0, len(source), batch_size):
                rows = np.arange(start, min(start + batch_size, len(source)))
                mine = np.minimum(start + here, len(source) - 1)  # the last batch is filled with the last image
                load = lambda row: resized(source.image(int(row)), self.shape)
                batch = {"image": np.stack(list(pool.map(load, mine)))}
                found = {name: np.asarray(x)[: len(rows)] for name, x in self._run(batch, batch_size).items()}
                if not np.isfinite(found["tokens"]).all():
                    raise ValueError(
                        f"the {self.name} encoder's patch features of {source.spec} hold NaN or infinity; expected "
                        "finite numbers: did training diverge?"
                    )
                yield rows, found

    def _run(self, batch, batch_size):
        with jax.set_mesh(self.mesh):
            return self.run(put(self.mesh, batch, batch_size))

    def described(self):
        """For settings."""
        return {"image_size": list(self.shape), "grid": list(self.grid)}


def readers(encoders, source, *, size=None, layer=None, want=("tokens",)):
    """One Reader for each of the encoders, and one for raw pixels on the same grid.

    source: whose most frequent shape (of the first 100 images) all images are brought to. size: pixels of the shorter
    side, rounded to whole patches; None is the images' own, at most twice what the encoder was trained for. layer:
    number of a transformer's block (-1 is the last, before the final norm), name of a convolutional network's map
    ('stage2'), or None, the final tokens or the last map. want: of 'tokens', and of transformers 'keys' [b, h, w, D] of
    the last block and, with a class token, its 'attention' [b, heads, h, w]; what there is not is left out.

    Raises ValueError for an encoder that has neither patch tokens nor a map, or not that layer.
    """
    shapes = [source.image(row).shape[:2] for row in range(min(LOOKED, len(source)))]
    shape = collections.Counter(shapes).most_common(1)[0][0]
    made = [of_encoder(name, encoder, shape, size, layer, want) for name, encoder in encoders.items()]
    return [*made, of_pixels(made[0])]


def of_encoder(name, encoder, shape, size, layer, want):
    """A Reader of one encoder, see `readers`; shape: (H, W) of the images."""
    network, inputs = encoder.method.encoder, encoder.preprocess
    if encoder.channels is None:
        raise ValueError("this encoder is of graphs; expected one of images, with patch tokens or a map")
    look = _tokens if hasattr(network, "stride") else _map
    look = functools.partial(look, encoder, layer, want)
    square = jax.ShapeDtypeStruct((1, inputs.size, inputs.size, encoder.channels), jnp.float32)
    small = jax.eval_shape(look, encoder.params, encoder.carry, square)["tokens"].shape
    side = getattr(network, "stride", max(1, round(inputs.size / small[1])))
    wanted = size or min(min(shape), 2 * inputs.size)
    height, width = (max(1, round(x * wanted / min(shape) / side)) * side for x in shape)

    def features(params, carry, batch):
        x = batch["image"].astype(jnp.float32) / 255
        return look(params, carry, color.normalise(x, inputs.mean, inputs.std))

    mesh = encoder.embedder.mesh
    compiled = jax.jit(features, out_shardings=replicated(mesh))
    full = jax.ShapeDtypeStruct((1, height, width, encoder.channels), jnp.uint8)
    grid = jax.eval_shape(features, encoder.params, encoder.carry, {"image": full})["tokens"].shape[1:3]
    return Reader(name, (height, width), grid, functools.partial(compiled, encoder.params, encoder.carry), mesh)


def of_pixels(like):
    """Raw pixels on the grid of another reader: the colours of 4 x 4 cells of each patch, in [0, 1]."""
    run = jax.jit(lambda batch: {"tokens": _cells(batch["image"])}, out_shardings=replicated(like.mesh))
    height, width = like.grid
    return Reader("raw pixels", (CELLS * height, CELLS * width), like.grid, run, like.mesh)


def resized(image, shape):
    """uint8 [H, W, C] -> uint8 [*shape, C], the whole image, bilinear over what each pixel covers."""
    if image.shape[:2] == tuple(shape):
        return image
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    found = np.asarray(pixels.resize(shape[::-1], Image.Resampling.BILINEAR))
    return found if found.ndim == 3 else found[..., None]


def taps(size, target):
    """Bilinear interpolation from `size` places to `target` (half-pixel centres, edges repeated): for each of these the
    two places that it lies between, and the share of the second -> int [target], int [target], float32 [target]."""
    at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    low = np.minimum(at.astype(int), max(size - 2, 0))
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)


def enlarged(x, shape):
    """Bilinear interpolation of a grid float [h, w, K] -> float32 [*shape, K]."""
    for axis, target in enumerate(shape):
        low, high, share = taps(x.shape[axis], target)
        share = np.expand_dims(share, tuple(i for i in range(3) if i != axis))
        x = (1 - share) * x.take(low, axis) + share * x.take(high, axis)
    return x


def at_pixels(x, ys, xs, shape):
    """The same at some pixels of an image of `shape`: grid [h, w, D], ys and xs int [P] -> float32 [P, D]."""
    (y0, y1, fy), (x0, x1, fx) = (
        [part[at] for part in taps(side, target)] for side, target, at in zip(x.shape, shape, (ys, xs))
    )
    fy, fx = fy[:, None], fx[:, None]
    return (1 - fy) * ((1 - fx) * x[y0, x0] + fx * x[y0, x1]) + fy * ((1 - fx) * x[y1, x0] + fx * x[y1, x1])


def _tokens(encoder, layer, want, params, carry, x):
    """Of transformers. x: float32 [B, H, W, C]"""
    height, width = (side // encoder.method.encoder.stride for side in x.shape[1:3])
    out = encoder.method.embed(params, carry, {"image": x})
    if "tokens" not in out:
        raise ValueError(f"{type(encoder.method).__name__} embeds no patch tokens; expected a method that does")
    length, tokens = height * width, out["tokens"]
    if layer is not None:
        layers = out["layers"]
        if not isinstance(layer, int) or not -len(layers) <= layer < len(layers):
            raise ValueError(f"layer is {layer!r}; expected the number of one of {len(layers)} blocks, or None")
        tokens = layers[layer].astype(jnp.float32)
    if tokens.ndim == 3:
        tokens = tokens[:, -length:].reshape(len(x), height, width, -1)
    found = {"tokens": tokens}
    if "keys" in want and "keys" in out:
        found["keys"] = out["keys"][:, -length:].reshape(len(x), height, width, -1).astype(jnp.float32)
    if "attention" in want and "cls" in out:
        shares = out["attention"][:, :, 0, -length:]  # of the class token to the patches
        found["attention"] = shares.reshape(len(x), -1, height, width)
    return found


def _map(encoder, layer, want, params, carry, x):
    """Of convolutional networks, which methods embed as one vector. x: float32 [B, H, W, C]"""
    network, rng = encoder.method.encoder, jax.random.key(0)
    like = jax.eval_shape(lambda: init_net(network, rng, jnp.zeros(x.shape)))
    tree, name = {"params": params, "carry": carry}, type(network).__name__
    found = [places(tree, part) if part else [()] for part in like]
    if not all(found):
        raise ValueError(f"{type(encoder.method).__name__} keeps no {name} of whole images: no map to look at")
    params, stats = (at(tree, keys[0]) if part else {} for keys, part in zip(found, like, strict=True))
    _, out, _ = apply_net(network, params, stats, x)
    maps = {key: value for key, value in out.items() if getattr(value, "ndim", 0) == 4}
    if not maps:
        raise ValueError(
            f"encoder {name} has neither patch tokens nor a map; expected a ViT or a convolutional network"
        )
    if (layer or "map") not in maps:
        raise ValueError(f"encoder {name} has no map {str(layer)!r}{nearest(str(layer), maps)}")
    return {"tokens": maps[layer or "map"].astype(jnp.float32)}


def _cells(x):
    """uint8 [B, 4 h, 4 w, C] -> float32 [B, h, w, 16 C]"""
    height, width = (side // CELLS for side in x.shape[1:3])
    return patchify(x.astype(jnp.float32) / 255, CELLS).reshape(len(x), height, width, -1)
