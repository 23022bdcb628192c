"""Random views of images, on the device, inside the train step.

Sample i's views depend on (rng, i) alone, also when the batch is sharded: every random number is drawn in one array
over [N, V, ...], whose bits are a hash of the position in it (`jax_threefry_partitionable`, the default).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.augment import color, geometry

MEAN, STD = (0.5,), (0.25,)  # serve any number of channels


@dataclasses.dataclass(frozen=True)
class Crop:
    """A group of random resized crops: `views` of them, `size` × `size` pixels, under `name` in the views."""

    name: str = "image"
    views: int = 2
    size: int = 32
    area: tuple[float, float] = (0.08, 1.0)  # share of the image
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    interpolation: str = "bilinear"  # or "bicubic"

    def __post_init__(self):
        if self.views < 1 or self.size < 1:
            raise ValueError(f"crop {self.name!r}: views={self.views}, size={self.size}: both are at least 1")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"crop {self.name!r}: area={self.area} is no range within (0, 1], such as (0.08, 1.0)")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"crop {self.name!r}: ratio={self.ratio} is no range above 0, such as (3/4, 4/3)")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"crop {self.name!r}: interpolation={self.interpolation!r} is neither bilinear nor bicubic"
            )


@dataclasses.dataclass(frozen=True)
class Distort:
    """What happens to a view after its crop, in this order; everything is off unless given."""

    flip: float = 0.0  # probability of a horizontal flip
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    jitter_p: float = 0.8  # ... in random order
    gray: float = 0.0  # probability
    blur: float = 0.0  # probability; the kernel is a tenth of the view
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    solarise: float = 0.0  # probability


@dataclasses.dataclass(frozen=True)
class Augment:
    """augment(rng, batch) -> views: the random views of a batch, to be called under jit.

    batch: 'image' uint8 [N, H, W, C], or the crops that the host has already cut, uint8 [N, V, S, S, C] under each
    crop's name; 'index' int32 [N].
    views: per crop, float32 [N, V, S, S, C], normalised; 'index'. Nothing else passes, labels least of all.
    distort: for each crop one `Distort` per view.
    """

    crops: tuple[Crop, ...]
    distort: tuple[tuple[Distort, ...], ...]
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self):
        have, want = [len(views) for views in self.distort], [crop.views for crop in self.crops]
        if have != want:
            raise ValueError(f"distort is for {have} views per crop, the crops have {want}")

    def __call__(self, rng, batch):
        views = {"index": batch["index"]}
        for i, (crop, distort) in enumerate(zip(self.crops, self.distort)):
            rng_crop, rng_flip, rng_distort = jax.random.split(jax.random.fold_in(rng, i), 3)
            per_view = {f.name: np.array([getattr(d, f.name) for d in distort]) for f in dataclasses.fields(Distort)}
            flip = None
            if per_view["flip"].any():
                flip = jax.random.uniform(rng_flip, (len(batch["index"]), crop.views)) < per_view["flip"]
            x = _cut(rng_crop, crop, batch, flip)  # [N, V, S, C, S]
            x = _distort(rng_distort, per_view, x)
            views[crop.name] = color.normalise(x.swapaxes(-1, -2), self.mean, self.std)
        return views


def _cut(rng, crop, batch, flip):
    """The crop's views, float32 [N, V, S, C, S] in [0, 1]."""
    x = batch.get(crop.name, batch.get("image"))
    if x is not None and x.ndim == 5:
        if x.shape[1:4] != (crop.views, crop.size, crop.size):
            raise ValueError(f"{crop.name!r} has views {x.shape[1:4]}, expected {(crop.views, crop.size, crop.size)}")
        x = _unit(x)
        return x if flip is None else jnp.where(flip[..., None, None, None], x[..., ::-1], x)
    x = _unit(batch["image"])  # [N, H, C, W]
    shape, height, width = (len(x), crop.views), x.shape[1], x.shape[3]
    box = geometry.boxes(rng, shape, height, width, crop.area, crop.ratio)
    return geometry.resized_crop(x, box, crop.size, flip, crop.interpolation)


def _distort(rng, per_view, x):
    rng_jitter, rng_gray, rng_blur, rng_solarise = jax.random.split(rng, 4)
    shape, channels, size = x.shape[:2], x.shape[-2], x.shape[-1]
    chance = lambda key, p: jax.random.uniform(key, shape) < p

    strength = per_view["jitter"]  # [V, 4]
    ops = [op for op in range(4 if channels == 3 else 2) if strength[:, op].any()]
    if ops:
        rng_order, rng_amount, rng_apply = jax.random.split(rng_jitter, 3)
        order = jnp.argsort(jax.random.uniform(rng_order, (*shape, len(ops))))
        low = np.where(np.arange(4) == color.HUE, -strength, np.maximum(1 - strength, 0)).astype(np.float32)
        high = np.where(np.arange(4) == color.HUE, strength, 1 + strength).astype(np.float32)
        amount = low + (high - low) * jax.random.uniform(rng_amount, (*shape, 4))
        neutral = (np.arange(4) != color.HUE).astype(np.float32)
        amount = jnp.where(chance(rng_apply, per_view["jitter_p"])[..., None], amount, neutral)
        order = jnp.asarray(ops)[order]
        amount = jnp.take_along_axis(amount, order, -1)
        x = color.jitter(x, order, amount)
    if per_view["gray"].any():
        x = color.grayscale(x, chance(rng_gray, per_view["gray"]))
    if per_view["blur"].any():
        rng_sigma, rng_apply = jax.random.split(rng_blur)
        low, high = per_view["blur_sigma"].astype(np.float32).T
        sigma = low + (high - low) * jax.random.uniform(rng_sigma, shape)
        x = geometry.blur(
            x, jnp.where(chance(rng_apply, per_view["blur"]), sigma, 0), max(3, size // 10 + 1 - size // 10 % 2)
        )
    if per_view["solarise"].any():
        x = color.solarise(x, chance(rng_solarise, per_view["solarise"]))
    return x


def _unit(x):
    """uint8 [..., H, W, C] -> float32 [..., H, C, W] in [0, 1]."""
    return x.swapaxes(-1, -2).astype(jnp.float32) / 255


def simclr(
    size=32,
    views=2,
    strength=1.0,
    area=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter_p=0.8,
    gray=0.2,
    blur=0.5,
    mean=MEAN,
    std=STD,
):
    """SimCLR's views (Chen et al., 2020; arXiv:2002.05709, appendix A); for CIFAR strength=0.5, blur=0."""
    crop = Crop(views=views, size=size, area=tuple(area), ratio=tuple(ratio))
    s = strength
    distort = Distort(flip=flip, jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s), jitter_p=jitter_p, gray=gray, blur=blur)
    return Augment((crop,), ((distort,) * views,), tuple(mean), tuple(std))


def mae(
    size=224, views=1, area=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5, interpolation="bicubic", mean=MEAN, std=STD
):
    """MAE's view (He et al., 2021; arXiv:2111.06377, appendix A.1): crop and flip, no colour."""
    crop = Crop(views=views, size=size, area=tuple(area), ratio=tuple(ratio), interpolation=interpolation)
    return Augment((crop,), ((Distort(flip=flip),) * views,), tuple(mean), tuple(std))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """preprocess(batch) -> {'image': float32 [N, size, size, C]}: the centre square, resized and normalised.

    batch: 'image' uint8 [N, H, W, C]. The square's side is `crop` of the short side; images that have the size
    already are taken whole.
    """

    size: int
    crop: float = 0.875
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bilinear"

    def __call__(self, batch):
        x = _unit(batch["image"])  # [N, H, C, W]
        height, width = x.shape[1], x.shape[3]
        if (height, width) != (self.size, self.size):
            side = max(1, round(self.crop * min(height, width)))
            box = ((height - side) // 2, (width - side) // 2, side, side)
            box = [jnp.full((1, 1), value, jnp.float32) for value in box]
            x = geometry.resized_crop(x[None], box, self.size, interpolation=self.interpolation)[:, 0]
        return {"image": color.normalise(x.swapaxes(-1, -2), self.mean, self.std)}


def evaluation(size, crop=0.875, mean=MEAN, std=STD, interpolation="bilinear"):
    """The evaluation view of a config's plain values; see `Evaluation`."""
    return Evaluation(size, crop, tuple(mean), tuple(std), interpolation)
