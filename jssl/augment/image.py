"""Random views of images, on the device, inside the train step.

Sample i's views depend on (rng, i) alone, however many devices share the batch: all random numbers are drawn as
[N, V, ...] arrays, in which jax hashes each element's position (`jax_threefry_partitionable`, the default).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jssl.augment import color, geometry
from jssl.augment.geometry import between

MEAN, STD = (0.5,), (0.25,)  # serve any number of channels

# The uniform numbers that a view needs: one draw, since each call of jax.random takes 0.1 s and more to compile.
DRAWS = {"box": 2 * geometry.TRIES + 2, "flip": 1, "affine": 3, "order": 4, "amount": 4, "jitter": 1, "gray": 1}
DRAWS |= {"gamma": 1, "blur": 1, "sigma": 1, "solarise": 1}


@dataclasses.dataclass(frozen=True)
class Crop:
    """A group of random resized crops: `views` of them, `size` by `size` pixels, under `name` in the views."""

    name: str = "image"
    views: int = 2
    size: int = 32
    area: tuple[float, float] = (0.08, 1.0)  # share of the image
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    interpolation: str = "bilinear"  # or "bicubic"

    def __post_init__(self):
        where = f"crop {self.name!r}"
        if self.views < 1 or self.size < 1:
            raise ValueError(f"{where}: views={self.views}, size={self.size}: both must be at least 1")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"{where}: area={self.area} must be a range within (0, 1], such as (0.08, 1.0)")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"{where}: ratio={self.ratio} must be a range above 0, such as (0.75, 1.33)")
        if self.interpolation not in geometry.FILTERS:
            raise ValueError(
                f"{where}: interpolation={self.interpolation!r} must be one of {', '.join(geometry.FILTERS)}"
            )


@dataclasses.dataclass(frozen=True)
class Distort:
    """What happens to a view beside its crop, in this order; everything is off unless given."""

    flip: float = 0.0  # probability of a horizontal flip
    rotate: float = 0.0  # up to so many degrees, either way
    shear: float = 0.0  # up to so many degrees, either way, along rows and along columns
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    jitter_p: float = 0.8  # probability of all four, in random order
    blur: float = 0.0  # probability; the kernel is a tenth of the view wide
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    gray: float = 0.0  # probability
    gamma: tuple[float, float] = (1.0, 1.0)  # range of the exponent, log-uniform
    solarise: float = 0.0  # probability
    noise: float = 0.0  # standard deviation; images are in [0, 1]

    def __post_init__(self):
        if len(self.jitter) != 4:
            raise ValueError(f"jitter={self.jitter} must be four strengths: brightness, contrast, saturation, hue")
        if not (0 <= self.rotate <= 45 and 0 <= self.shear <= 45):
            raise ValueError(f"rotate={self.rotate}, shear={self.shear}: both must be within 0 and 45 degrees")
        for name in "gamma", "blur_sigma":
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}={(low, high)} must be a range above 0")


@dataclasses.dataclass(frozen=True)
class Augment:
    """augment(rng, batch) -> views: the random views of a batch; to be called under jit.

    batch: 'image' uint8 [N, H, W, C], or each crop's views as the host has cut them, uint8 [N, V, S, S, C] under the
    crop's name; 'index' int32 [N].
    views: for each crop float32 [N, V, S, S, C], normalised; 'index'. Nothing else passes, labels least of all.
    distort: for each crop, one `Distort` per view.
    Raises ValueError, when traced, on other shapes or dtypes and on a mean or std that does not fit the channels.
    """

    crops: tuple[Crop, ...]
    distort: tuple[tuple[Distort, ...], ...]
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self):
        want, have = [crop.views for crop in self.crops], [len(views) for views in self.distort]
        if have != want:
            raise ValueError(f"distort has {have} views per crop, expected {want}")

    def __call__(self, rng, batch):
        views = {}
        for i, (crop, distort) in enumerate(zip(self.crops, self.distort)):
            rng_uniform, rng_noise = jax.random.split(jax.random.fold_in(rng, i))
            n, v, k = len(batch["index"]), crop.views, sum(DRAWS.values())
            draws = jax.random.uniform(rng_uniform, (n, v * k)).reshape(n, v, k)
            draws = dict(zip(DRAWS, jnp.split(draws, np.cumsum(list(DRAWS.values()))[:-1], -1)))
            draws = {name: u[..., 0] if DRAWS[name] == 1 else u for name, u in draws.items()}  # [N, V] or [N, V, K]
            d = _PerView(distort)
            x = _cut(crop, batch, draws["box"], draws["flip"] < d.flip if d.flip.any() else None)  # [N, V, S, C, S]
            x = _distort(d, x, draws, rng_noise)
            views[crop.name] = color.normalise(x.swapaxes(-1, -2), self.mean, self.std)
        return {**views, "index": batch["index"]}


class _PerView:
    """The fields of several `Distort` as arrays: [V], ranges and strengths [K, V]."""

    def __init__(self, distort):
        for field in dataclasses.fields(Distort):
            setattr(self, field.name, np.array([getattr(d, field.name) for d in distort], np.float32).T)


def _cut(crop, batch, u, flip):
    """The crop's views, float32 [N, V, S, C, S] in [0, 1]."""
    x = batch.get(crop.name)
    if x is not None and x.ndim == 5:
        if x.shape[1:4] != (crop.views, crop.size, crop.size):
            raise ValueError(f"{crop.name!r} has views {x.shape[1:4]}, expected {(crop.views, crop.size, crop.size)}")
        x = _unit(x)
        return x if flip is None else jnp.where(flip[..., None, None, None], x[..., ::-1], x)
    if "image" not in batch or batch["image"].ndim != 4:
        raise ValueError(f"the batch has neither whole images, 'image' [N, H, W, C], nor the views {crop.name!r}")
    x = _unit(batch["image"])  # [N, H, C, W]
    box = geometry.boxes(u, x.shape[1], x.shape[3], crop.area, crop.ratio)
    return geometry.resized_crop(x, box, crop.size, flip, crop.interpolation)


def _distort(d, x, draws, rng_noise):
    if d.rotate.any() or d.shear.any():
        most = np.radians(np.stack([d.rotate, d.shear, d.shear]))  # [3, V]
        angle, *slopes = jnp.moveaxis(between(draws["affine"], -most.T, most.T), -1, 0)
        steepest = np.sin(most[0].max()) + np.tan(most[1].max())
        x = geometry.rotate_shear(x, angle, *map(jnp.tan, slopes), steepest)
    if d.jitter.any():
        ops = 4 if x.shape[-2] == 3 else 2
        place = color.any_order(draws["order"][..., :ops])
        neutral = np.array([1, 1, 1, 0], np.float32)[:ops]
        strength = d.jitter.T[:, :ops]
        weakest = np.where(neutral, np.maximum(1 - strength, 0), -strength)
        amount = between(draws["amount"][..., :ops], weakest, neutral + strength)
        x = color.jitter(x, jnp.where(draws["jitter"][..., None] < d.jitter_p[:, None], amount, neutral), place)
    if d.blur.any():
        sigma = jnp.where(draws["blur"] < d.blur, between(draws["sigma"], *d.blur_sigma), 0)
        x = geometry.blur(x, sigma, kernel=max(3, x.shape[-1] // 20 * 2 + 1))
    if d.gray.any():  # after the blur or before it is the same, both are linear; after it is faster
        x = color.grayscale(x, draws["gray"] < d.gray)
    if (d.gamma != 1).any():
        x = color.gamma(x, jnp.exp(between(draws["gamma"], *np.log(d.gamma))))
    if d.solarise.any():
        x = color.solarise(x, draws["solarise"] < d.solarise)
    if d.noise.any():
        x = jnp.clip(x + d.noise[:, None, None, None] * _normal(rng_noise, x.shape), 0, 1)
    return x


def _normal(rng, shape):
    # Drawn as a matrix: of rank 5, the same numbers took ten times as long to compile (CPU, jax 0.10).
    return jax.random.normal(rng, (shape[0], math.prod(shape[1:]))).reshape(shape)


def _unit(x):
    """uint8 [..., H, W, C] -> float32 [..., H, C, W] in [0, 1]."""
    if x.dtype != jnp.uint8:
        raise ValueError(f"images are {x.dtype}, expected uint8")
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
    interpolation="bilinear",
    mean=MEAN,
    std=STD,
):
    """SimCLR's views (Chen et al., 2020; arXiv:2002.05709, appendix A; for CIFAR-10 strength=0.5, blur=0, B.9)."""
    crop = Crop("image", views, size, tuple(area), tuple(ratio), interpolation)
    jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    distort = Distort(flip=flip, jitter=jitter, jitter_p=jitter_p, gray=gray, blur=blur)
    return Augment((crop,), ((distort,) * views,), tuple(mean), tuple(std))


def byol(
    size=32,
    area=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_p=0.8,
    gray=0.2,
    blur=(1.0, 0.1),
    solarise=(0.0, 0.2),
    interpolation="bicubic",
    mean=MEAN,
    std=STD,
):
    """BYOL's asymmetric pair (Grill et al., 2020; arXiv:2006.07733, appendix B, table 6).

    blur, solarise: one probability per view.
    """
    shared = Distort(flip=flip, jitter=tuple(jitter), jitter_p=jitter_p, gray=gray)
    distort = tuple(dataclasses.replace(shared, blur=b, solarise=s) for b, s in zip(blur, solarise, strict=True))
    crop = Crop("image", len(distort), size, tuple(area), tuple(ratio), interpolation)
    return Augment((crop,), (distort,), tuple(mean), tuple(std))


def multicrop(
    size=224,
    views=2,
    area=(0.14, 1.0),
    local_size=96,
    local_views=6,
    local_area=(0.05, 0.14),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=(0.8, 0.8, 0.8, 0.2),
    jitter_p=0.8,
    gray=0.2,
    blur=(0.5, 0.5, 0.5),
    solarise=(0.0, 0.0, 0.0),
    interpolation="bilinear",
    mean=MEAN,
    std=STD,
):
    """Multi-crop (Caron et al., 2020; arXiv:2006.09882): large views 'image' and small ones 'local', as SwAV has them.

    blur, solarise: of the first large view, of the other large ones, of the small ones.
    """
    crops = [Crop("image", views, size, tuple(area), tuple(ratio), interpolation)]
    shared = Distort(flip=flip, jitter=tuple(jitter), jitter_p=jitter_p, gray=gray)
    first, other, local = (dataclasses.replace(shared, blur=b, solarise=s) for b, s in zip(blur, solarise, strict=True))
    distort = [(first,) + (other,) * (views - 1)]
    if local_views:
        crops.append(Crop("local", local_views, local_size, tuple(local_area), tuple(ratio), interpolation))
        distort.append((local,) * local_views)
    return Augment(tuple(crops), tuple(distort), tuple(mean), tuple(std))


def dino(
    size=224,
    area=(0.4, 1.0),
    local_size=96,
    local_views=8,
    local_area=(0.05, 0.4),
    flip=0.5,
    jitter=(0.4, 0.4, 0.2, 0.1),
    gray=0.2,
    blur=(1.0, 0.1, 0.5),
    solarise=(0.0, 0.2, 0.0),
    interpolation="bicubic",
    mean=MEAN,
    std=STD,
):
    """DINO's multi-crop (Caron et al., 2021; arXiv:2104.14294, section 3.2 and appendix): BYOL's distortions."""
    crops = {"area": area, "local_size": local_size, "local_views": local_views, "local_area": local_area}
    distort = {"flip": flip, "jitter": jitter, "gray": gray, "blur": blur, "solarise": solarise}
    return multicrop(size, **crops, **distort, interpolation=interpolation, mean=mean, std=std)


def mae(
    size=224,
    views=1,
    area=(0.2, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    interpolation="bicubic",
    mean=MEAN,
    std=STD,
):
    """MAE's view (He et al., 2021; arXiv:2111.06377, appendix A.1): crop and flip, no colour."""
    crop = Crop("image", views, size, tuple(area), tuple(ratio), interpolation)
    return Augment((crop,), ((Distort(flip=flip),) * views,), tuple(mean), tuple(std))


def beit(
    size=224,
    area=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.0),
    interpolation="bicubic",
    mean=MEAN,
    std=STD,
):
    """BEiT's and data2vec's view (Bao et al., 2021; arXiv:2106.08254, section 3.1): crop, flip and colours, always."""
    crop = Crop("image", 1, size, tuple(area), tuple(ratio), interpolation)
    distort = Distort(flip=flip, jitter=tuple(jitter), jitter_p=1.0)
    return Augment((crop,), ((distort,),), tuple(mean), tuple(std))


def strokes(
    size=16,
    views=2,
    area=(0.4, 1.0),
    local_size=8,
    local_views=0,
    local_area=(0.1, 0.4),
    ratio=(3 / 4, 4 / 3),
    rotate=10.0,
    shear=15.0,
    gamma=(0.6, 1.7),
    blur=0.0,
    noise=0.05,
    interpolation="bilinear",
    mean=MEAN,
    std=STD,
):
    """Views of handwriting, drawings and other grey shapes, where a mirrored image may mean something else.

    local_views: how many small crops 'local' there are beside the large ones, see `multicrop`.
    """
    crops = [Crop("image", views, size, tuple(area), tuple(ratio), interpolation)]
    if local_views:
        crops.append(Crop("local", local_views, local_size, tuple(local_area), tuple(ratio), interpolation))
    distort = Distort(rotate=rotate, shear=shear, gamma=tuple(gamma), blur=blur, noise=noise)
    return Augment(tuple(crops), tuple((distort,) * crop.views for crop in crops), tuple(mean), tuple(std))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """preprocess(batch) -> {'image': float32 [N, size, size, C]}: the centre square, resized and normalised.

    batch: 'image' uint8 [N, H, W, C]. The square's side is `crop` of the short side; images of the right size
    already are taken whole.
    """

    size: int
    crop: float = 0.875
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bilinear"

    @property
    def reads(self):
        """What a source's `every` is told: how the host is to cut images on disk."""
        return {"size": self.size, "crop": self.crop}

    def __call__(self, batch):
        x = _unit(batch["image"])  # [N, H, C, W]
        height, width = x.shape[1], x.shape[3]
        if (height, width) != (self.size, self.size):
            side = max(1, self.crop * min(height, width))
            box = [(height - side) / 2, (width - side) / 2, side, side]
            box = [jnp.full((len(x), 1), value, jnp.float32) for value in box]
            x = geometry.resized_crop(x, box, self.size, interpolation=self.interpolation)[:, 0]
        return {"image": color.normalise(x.swapaxes(-1, -2), self.mean, self.std)}


def evaluation(size, crop=0.875, mean=MEAN, std=STD, interpolation="bilinear"):
    """The evaluation view from a config's plain values; see `Evaluation`."""
    return Evaluation(size, crop, tuple(mean), tuple(std), interpolation)


def views_sheet(views, mean, std, rows=8):
    """A picture of what the method sees: one image per row, its views side by side, un-normalised.

    views: as `augment` returns them, numpy or jax arrays; images with channels other than 1 or 3 show their first.
    -> uint8 [H, W, 3 or 1]; small views are enlarged by a whole factor.
    """
    groups = [np.asarray(x[:rows], np.float32) for name, x in views.items() if x.ndim == 5]
    largest = max(x.shape[2] for x in groups)
    factor, gap = max(1, 64 // largest), 2
    pictures = []
    for x in groups:
        x = np.clip(x * np.float32(std) + np.float32(mean), 0, 1)
        x = x if x.shape[-1] in (1, 3) else x[..., :1]
        x = np.round(255 * x).astype(np.uint8).repeat(factor, 2).repeat(factor, 3)
        edge = largest * factor - x.shape[2]
        x = np.pad(x, [(0, 0), (0, 0), (gap, gap + edge), (gap, gap), (0, 0)], constant_values=255)
        n, v, height, width, channels = x.shape
        pictures.append(x.transpose(0, 2, 1, 3, 4).reshape(n * height, v * width, channels))
    return np.concatenate(pictures, 1)
