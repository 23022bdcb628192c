"""Overlapping patches of one random view of an image, each distorted by itself: on the device, inside the step."""

import dataclasses

import jax
import jax.numpy as jnp

from jssl.augment import color
from jssl.augment.image import MEAN, STD, Augment, Crop, Distort


def patch_sizes(size, patch=None, stride=None):
    """-> (patch, stride, patches along a side) in pixels of a square image: None is a quarter of the image, and half a
    patch, as in CPC (arXiv:1807.03748, section 3.2: 64 of 256 pixels, 7 x 7 patches)."""
    patch = size // 4 if patch is None else patch
    stride = patch // 2 if stride is None else stride
    if not (stride > 0 and 0 < patch <= size):
        raise ValueError(f"patches of {patch} pixels every {stride} do not fit an image of {size}")
    return patch, stride, (size - patch) // stride + 1


def cut_patches(x, patch=None, stride=None):
    """Square images [N, S, S, C] -> [N, L, patch, patch, C], row by row; see `patch_sizes`."""
    patch, stride, side = patch_sizes(x.shape[1], patch, stride)
    at = [stride * i for i in range(side)]
    return jnp.stack([x[:, top : top + patch, left : left + patch] for top in at for left in at], 1)


@dataclasses.dataclass(frozen=True)
class Patches:
    """augment(rng, batch) -> views: 'image' float32 [N, L, patch, patch, C], normalised; 'index'.

    whole: what gives the image's one view, un-normalised; distort: what happens to every patch by itself.
    """

    whole: Augment
    patch: int
    stride: int
    distort: Distort
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def crops(self):
        """Of the whole view: what the host cuts where images are on disk."""
        return self.whole.crops

    def __call__(self, rng, batch):
        rng_whole, rng_patches = jax.random.split(rng)
        x = self.whole(rng_whole, batch)["image"][:, 0]  # [N, S, S, C] in [0, 1]
        x = cut_patches(x, self.patch, self.stride)  # [N, L, patch, patch, C]
        if self.distort == Distort():
            return {"image": color.normalise(x, self.mean, self.std), "index": batch["index"]}
        # To the patches' own distortions they are views that the host has cut.
        crop = Crop("image", x.shape[1], self.patch)
        each = Augment((crop,), ((self.distort,) * x.shape[1],), self.mean, self.std)
        x = jnp.round(255 * jnp.clip(x, 0, 1)).astype(jnp.uint8)
        return each(rng_patches, {"image": x, "index": batch["index"]})


def cpc(
    size=260,
    patch=None,
    stride=None,
    area=(0.75, 0.75),
    ratio=(1.0, 1.0),
    flip=0.5,
    jitter=(0.125, 0.5, 0.5, 0.2),
    jitter_p=0.8,
    gray=0.25,
    shear=0.0,
    noise=0.0,
    interpolation="bilinear",
    mean=MEAN,
    std=STD,
):
    """CPC v2's patches (Hénaff et al., 2019; arXiv:1905.09272, appendix A.1): a crop of 260 of 300 pixels; each patch's
    colours change by themselves. The two AutoAugment operations and the elastic deformations per patch are not here.
    """
    crop = Crop("image", 1, size, tuple(area), tuple(ratio), interpolation)
    whole = Augment((crop,), ((Distort(flip=flip),),), (0.0,), (1.0,))
    distort = Distort(jitter=tuple(jitter), jitter_p=jitter_p, gray=gray, shear=shear, noise=noise)
    patch, stride, _ = patch_sizes(size, patch, stride)
    return Patches(whole, patch, stride, distort, tuple(mean), tuple(std))
