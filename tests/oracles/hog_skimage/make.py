"""Makes tensors.npz here, with scikit-image 0.26.0: python make.py"""

import pathlib

import numpy as np
from skimage.data import camera
from skimage.feature import hog

image = camera()[100:228:2, 180:308:2].astype(np.float32) / 255
found = hog(
    image, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(1, 1), block_norm="L2", feature_vector=False
)
tensors = {"in.image": image, "out.hog": found[:, :, 0, 0]}
np.savez(pathlib.Path(__file__).parent / "tensors.npz", **tensors)
