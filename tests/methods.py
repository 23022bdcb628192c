"""A method, views and a config that compile in a second: for tests of what goes on around the step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jssl import config as configs
from jssl.method import Method
from jssl.nets.net import Net

ROWS = 1297  # of `digits`


@dataclasses.dataclass(frozen=True)
class Clusters(Method):
    """Pixels -> body -> head, which guesses each row's pseudo-label; `refresh` deals new ones and resets the head."""

    encoder: Net
    breaks: int = -1  # the step whose loss is NaN
    collapses: bool = False
    teacher: bool = False
    bare: bool = False  # without features beside the embedding

    def init(self, rng, views):
        pixels = views["image"][0, 0].size
        body = {"kernel": jax.random.normal(rng, (pixels, 8)) / pixels**0.5}
        labels = {"labels": jnp.zeros(ROWS, jnp.int32), "refreshed": jnp.zeros(ROWS, jnp.int32)}
        frozen = {"frozen": jax.tree.map(jnp.zeros_like, body)} if self.teacher else {}
        return {"body": body, "head": {"kernel": jnp.zeros((8, 4))}}, {**labels, "updates": jnp.int32(0), **frozen}

    def loss(self, params, carry, views, rng, time):
        n, v = views["image"].shape[:2]
        x = views["image"].reshape(n, v, -1)
        h = x @ params["body"]["kernel"]  # [N, V, 8]
        labels = jax.nn.one_hot(carry["labels"][views["index"]], 4)[:, None]
        loss = -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(h @ params["head"]["kernel"]), -1))
        if self.teacher:
            loss += jnp.mean((h - x @ carry["frozen"]["kernel"]) ** 2)
        loss = jnp.where(time.step == self.breaks, jnp.nan, loss)
        features = None if self.bare else x
        return loss, (carry, {"metrics": {}, "embedding": h * 0 + 1 if self.collapses else h, "features": features})

    def update(self, params, carry, time):
        return params, {**carry, "updates": carry["updates"] + 1}

    def refresh(self, params, carry, batches, rng):
        seen = np.zeros(ROWS, np.int32)
        for batch in batches:
            index = np.asarray(batch["index"])
            assert batch["image"].dtype == np.float32  # what `embed` takes
            assert (index >= 0).sum() == len(index) or (np.diff(np.flatnonzero(index < 0)) == 1).all()
            np.add.at(seen, index[index >= 0], 1)
        labels = jax.random.randint(rng, (ROWS,), 0, 4)
        head = {"kernel": jax.random.normal(rng, (8, 4)) * 0.1}
        return {**params, "head": head}, {**carry, "labels": labels, "refreshed": carry["refreshed"] + seen}

    def embed(self, params, carry, inputs):
        x = inputs["image"]
        return {"features": x.reshape(len(x), -1) @ params["body"]["kernel"]}


@dataclasses.dataclass(frozen=True)
class Noise:
    """Two noisy views of the image as it is."""

    mean: tuple = (0.5,)
    std: tuple = (0.5,)

    def __call__(self, rng, batch):
        x = (batch["image"] / 255.0 - 0.5) / 0.5
        views = jnp.stack([x, x], 1)
        return {"image": views + 0.1 * jax.random.normal(rng, views.shape), "index": batch["index"]}


def config(**overrides):
    """Eight steps on the digits; overrides with __ for dots."""
    made = configs.base()
    made.dtype = "float32"
    made.method = {"name": "tests.methods:Clusters"}
    made.encoder = {"name": "jssl.nets.conv:convnet"}
    made.augment = {"name": "tests.methods:Noise"}
    made.preprocess = {"name": "jssl.augment.image:evaluation", "size": 8, "crop": 1.0, "mean": (0.5,), "std": (0.5,)}
    made.train.update({"batch_size": 64, "steps": 8})
    made.optim.update({"name": "adamw", "lr": 0.01})
    made.update({"log_every": 2})
    made.checkpoint.every = 4
    configs.complete(made)
    for path, value in overrides.items():
        *sections, last = path.split("__")
        section = made
        for name in sections:
            section = section[name]
        section[last] = value
    return made
