"""Fine-tuning: an encoder, or a part of it, is trained on labels, from its weights and, as the control, from scratch.

The recipe is MAE's (He et al., 2021; arXiv:2111.06377, appendix A.2, table 9), the control's too: the same budget, but
without layer-wise decay of the rate, which presumes that low layers are good already (their table 11 has none).
"""

import copy
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl.augment import image, mix
from jssl.config import base
from jssl.encoder import embed, embedder
from jssl.evals.labels import check, check_classes
from jssl.feed import Feed
from jssl.method import LABELS, Method, Time
from jssl.nets.net import Net, apply_net, init_net
from jssl.optim import layer_decay, optimizer, schedule
from jssl.peft import ALL, Tuning
from jssl.sharding import everywhere, make_mesh, replicated
from jssl.start import places
from jssl.step import init_state, train_step, train_steps
from jssl.transforms import ema


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an encoder is fine-tuned. What is None follows from the number of labelled images, and is said in the scores.

    Nothing is chosen by accuracy: the length is fixed, and the last weights are scored.
    """

    epochs: float = 25.0
    least: int = 200  # steps, where so many epochs are fewer
    batch_size: int | None = None  # None: a power of two near a sixtieth of the images, 16 to 1,024
    lr: float = 2e-3  # whatever the batch; the paper's for 1,024 images
    warmup: float = 0.1  # of the steps
    weight_decay: float = 0.05
    layer_decay: float = 0.75  # of a vision transformer's rates; other networks have one rate
    smoothing: float = 0.1  # of the labels
    mixup: float | None = None  # alpha; None: the paper's 0.8 from `MIXED` images on, else 0
    cutmix: float | None = None  # alpha; None: the paper's 1.0 from `MIXED` images on, else 0
    erasing: float | None = None  # probability; None: the paper's 0.25 from `MIXED` images on, else 0
    drop_path: float = 0.1  # of networks that have it
    average: float = 0.99  # momentum of the average of the weights, which is what is scored; 0: none
    area: tuple[float, float] | None = None  # of the random crops; None: from 0.5 from `MIXED` images on, else from 0.8
    flip: float | None = None  # probability; None: that of the run's views


# Labelled images from which on mixup, CutMix, random erasing and small crops are used: they are for networks that fit
# all labels soon. On others of the training set the first two cost 2 to 3 points in 25 epochs of 1,000 digits, and of
# 2,000 images of Fashion-MNIST; erasing cost 1 on 2,000 of the latter and 3 on 200, crops from 0.5 on 4 on 1,000.
MIXED = 10_000


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """An encoder and a linear classifier on its features, trained on soft targets.

    Of the encoder params['encoder'] is what `tuning` moves, and carry['frozen'] the rest. Where there is one, batch
    norm keeps its statistics, or the encoder would change with them. The classifier sees features centred and scaled by
    what they are at first, carry['features'], or where they hardly differ it would hardly learn.
    """

    encoder: Net
    classes: int
    rows: int  # of the data
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    average: float = 0.0
    tuning: Tuning = ALL

    def init(self, rng, views):
        x = views["image"][:, 0]
        params, stats = init_net(self.encoder, rng, x)
        h, _, _ = jax.eval_shape(lambda: apply_net(self.encoder, params, stats, x))
        classifier = {"kernel": jnp.zeros((h.shape[-1], self.classes)), "bias": jnp.zeros(self.classes)}
        features = {"mean": jnp.zeros(h.shape[-1]), "std": jnp.ones(h.shape[-1])}
        return self.start(rng, params, stats, classifier, features, jnp.full(self.rows, -1, jnp.int32))

    def start(self, rng, encoder, stats, classifier, features, labels):
        """The state from given weights; rng: of what `tuning` adds to them."""
        moved, frozen = self.tuning.split(self.encoder, encoder, rng)
        params = {"encoder": moved, "classifier": classifier}
        mean = jax.tree.map(jnp.copy, {"params": params, "stats": stats})
        return params, {"stats": stats, "average": mean, "frozen": frozen, "features": features, LABELS: labels}

    def loss(self, params, carry, views, rng, time):
        x, labels = views["image"][:, 0], carry[LABELS][views["index"]]  # [N, H, W, C], [N]
        rng_erase, rng_mix, rng_drop = jax.random.split(rng, 3)
        y = optax.smooth_labels(jax.nn.one_hot(labels, self.classes), self.smoothing)  # [N, K]
        x = mix.erase(rng_erase, x, self.erasing)
        x, y = mix.either(rng_mix, x, y, self.mixup, self.cutmix)

        train = self.tuning.kind == "all" or not carry["stats"]
        h, stats = self.features(params, carry, carry["stats"], x, train=train, rng=rng_drop)
        logits = self.logits(params, carry, h)
        loss = optax.softmax_cross_entropy(logits, y).mean()
        metrics = {"accuracy": jnp.mean(logits.argmax(-1) == y.argmax(-1))}
        return loss, ({**carry, "stats": stats}, {"metrics": metrics, "features": h[:, None]})

    def update(self, params, carry, time):
        """The average's momentum grows from 0.1, so that a short training forgets its first weights."""
        momentum = jnp.minimum(self.average, (1 + time.step) / (10 + time.step))
        new = {"params": params, "stats": carry["stats"]}
        return params, {**carry, "average": ema(carry["average"], new, momentum)}

    def embed(self, params, carry, inputs):
        """The classes' scores by the averaged weights are what is asked for: 'features' [N, K]."""
        kept = carry["average"]
        h, _ = self.features(kept["params"], carry, kept["stats"], inputs["image"])
        return {"features": self.logits(kept["params"], carry, h)}

    def features(self, params, carry, stats, x, **how):
        weights, added = self.tuning.join(params["encoder"], carry["frozen"])
        h, _, stats = apply_net(self.encoder, weights, stats, x, **how, **added)
        return h, stats

    def logits(self, params, carry, h):
        h = (h.astype(jnp.float32) - carry["features"]["mean"]) / carry["features"]["std"]
        return h @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def finetune(encoder, train, test, *, classes, settings=None, tuning=ALL, pretrained=True, flip=0.0, seed=0, workers=0):
    """Trains a copy of an encoder on labelled images and predicts the classes of others.

    Args:
      encoder: a `jssl.encoder.Encoder`, of images; it is not changed.
      train: a source with labels; test: a source, whose labels are not looked at.
      classes: their number; settings: `Settings`; tuning: what of the encoder is trained.
      pretrained: False for the control, an untrained encoder.
      flip: probability of a mirrored view, where `settings` leave it open.

    Returns:
      {"predictions": int32 [M], "settings": {...}, "trained": what is scored, a tree of arrays: what `tuning` moved of
      the 'encoder', the 'classifier' and the 'features' that it was scaled by}.

    Raises:
      ValueError: for missing or negative labels, fewer than two classes, an encoder that is no network of whole images.
    """
    if encoder.channels is None:
        raise ValueError("finetune: expected an encoder of images, not of graphs")
    features, labels = check(encoder.embed(train, workers=workers), train.labels, "training")
    check_classes(labels, labels, classes)
    settings = chosen(settings or Settings(), len(train), flip)
    method, augment = build(encoder, settings, classes, len(train), tuning)
    steps = max(settings.least, round(settings.epochs * len(train) / settings.batch_size))
    if steps < 1:
        asked = f"epochs={settings.epochs:g} and least={settings.least}"
        raise ValueError(f"finetune: {asked} are {steps} steps; expected at least one")
    by_block = pretrained and tuning.kind == "all" and hasattr(method.encoder, "depth")
    decay = settings.layer_decay if by_block else 1.0
    program = compiled(method, augment, encoder.preprocess, settings, steps, decay)
    how = {"batch_size": settings.batch_size, "seed": seed, "crops": augment.crops, "workers": workers}
    feed = Feed(train, program.mesh, **how, resident=train.arrays is not None)

    rng = jax.random.key(seed)
    with jax.set_mesh(program.mesh):
        state = program.begin(rng, {name: jnp.zeros(s.shape, s.dtype) for name, s in feed.shapes().items()})
        state = given(state, method, encoder, np.asarray(features), labels, rng)
        state = everywhere(program.mesh, state)
        with feed.items(0, 1) as items:
            before = None
            for _ in range(steps):
                state, metrics, _ = program.steps(state, feed.held, next(items), rng)
                jax.block_until_ready(before)  # one step ahead at most: many, on many simulated devices, can deadlock
                before = metrics
    carry = everywhere(program.embedder.mesh, state.carry)
    scores = embed(program.embedder, {}, carry, test, encoder.preprocess, 256, workers)
    fields = {**dataclasses.asdict(settings), "layer_decay": decay, "steps": steps, "train_rows": len(train)}
    kept = {**state.carry["average"]["params"], "features": state.carry["features"]}
    return {
        "predictions": np.argmax(scores, -1).astype(np.int32),
        "settings": fields,
        "trained": jax.tree.map(np.asarray, kept),
    }


def chosen(settings, n, flip):
    """The settings with what n images decide."""
    size = settings.batch_size or int(np.clip(2 ** round(math.log2(max(n / 60, 1))), 16, 1024))
    size = min(size, n) // 2 * 2  # of pairs, which are mixed
    if size < 2:
        raise ValueError(f"finetune: {n} labelled images and batches of {settings.batch_size}; expected two or more")
    mixed = n >= MIXED
    return dataclasses.replace(
        settings,
        batch_size=size,
        mixup=0.8 * mixed if settings.mixup is None else settings.mixup,
        cutmix=1.0 * mixed if settings.cutmix is None else settings.cutmix,
        erasing=0.25 * mixed if settings.erasing is None else settings.erasing,
        flip=flip if settings.flip is None else settings.flip,
        area=(0.5 if mixed else 0.8, 1.0) if settings.area is None else settings.area,
    )


def build(encoder, settings, classes, rows, tuning=ALL):
    """-> the method and the views for one encoder."""
    network, inputs = encoder.method.encoder, encoder.preprocess
    if settings.drop_path and hasattr(network, "drop_path"):
        network = network.clone(drop_path=settings.drop_path)
    fields = {name: getattr(settings, name) for name in ("smoothing", "mixup", "cutmix", "erasing", "average")}
    how = {"area": settings.area, "flip": settings.flip, "interpolation": inputs.interpolation}
    augment = image.mae(inputs.size, **how, mean=inputs.mean, std=inputs.std)
    return Supervised(network, classes, rows, **fields, tuning=tuning), augment


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once for all draws of a size."""

    mesh: jax.sharding.Mesh  # of the training; all devices embed
    begin: object  # (rng, batch) -> state
    steps: object  # `train_steps`
    embedder: object


@functools.lru_cache(maxsize=4)
def compiled(method, augment, preprocess, settings, steps, decay):
    """AdamW at the rate of `settings`, warmed up, then half a cosine to 0, block by block by `decay`."""
    mesh = make_mesh(devices=devices(settings.batch_size // 2))
    optim = base().optim
    optim.update({"name": "adamw", "lr": settings.lr, "scale": "none", "weight_decay": settings.weight_decay})
    optim.update({"warmup": settings.warmup * steps, "groups": layer_decay(getattr(method.encoder, "depth", 0), decay)})
    tx = optimizer(optim, schedule(optim, steps, settings.batch_size), steps=steps)
    time = Time(0, steps, method.rows / settings.batch_size)
    step = functools.partial(train_step, method, augment, tx, time, 1)

    def begin(rng, batch):
        return init_state(method, tx, rng, augment(rng, batch))

    def run(state, held, items, rng):
        return train_steps(step, functools.partial(Feed.fetch, held), state, items, rng)

    whole = replicated(mesh)
    steps = jax.jit(run, donate_argnums=0, out_shardings=(whole, whole, None))
    return Program(mesh, jax.jit(begin), steps, embedder(method, preprocess, make_mesh()))


def devices(pairs):
    """Those that share a batch of so many pairs of images: all, or where that cannot be, each process trains alone, on
    as many of its own as can share them."""
    if pairs % jax.device_count() == 0:
        return jax.devices()
    own = jax.local_devices()
    return own[: max(n for n in range(1, len(own) + 1) if pairs % n == 0)]


def given(state, method, encoder, features, labels, rng):
    """The first state with a copy of the encoder's weights; features [N, D] and labels [N] of the training set."""
    _, network, stats = own(encoder)
    network, stats = jax.tree.map(lambda x: jnp.array(np.asarray(x)), (network, stats))
    std = features.std(0)
    features = {"mean": jnp.asarray(features.mean(0)), "std": jnp.asarray(np.where(std > 1e-6, std, np.inf))}
    labels = jnp.asarray(labels, jnp.int32)
    params, carry = method.start(rng, network, stats, state.params["classifier"], features, labels)
    return state._replace(params=params, carry=carry)


def own(encoder):
    """The weights of the one network that an `Encoder` is -> (the keys to them in its params and carry, parameters,
    batch statistics), wherever its method keeps them; ValueError where it is not one network of whole images."""
    network, side = encoder.method.encoder, encoder.preprocess.size
    x = jax.ShapeDtypeStruct((1, side, side, encoder.channels), jnp.float32)
    params, stats = jax.eval_shape(functools.partial(init_net, network), jax.random.key(0), x)
    tree = {"params": encoder.params, "carry": encoder.carry}
    keys, there = places(tree, params), places(tree, stats) if stats else [()]
    if not keys or not there:
        name = type(encoder.method).__name__
        raise ValueError(f"finetune: {name}'s encoder is not one network of whole images, which can be trained on")
    return keys[0], at(tree, keys[0]), at(tree, there[0]) if stats else {}


def initial(encoder, seed=0):
    """A copy of an `Encoder` with the weights that its network begins with; ValueError as of `own`."""
    network, side = encoder.method.encoder, encoder.preprocess.size
    keys, _, stats = own(encoder)
    begin = jax.jit(functools.partial(init_net, network), out_shardings=replicated(encoder.embedder.mesh))
    params, new_stats = begin(jax.random.key(seed), jnp.zeros((1, side, side, encoder.channels)))
    tree = put_at({"params": encoder.params, "carry": encoder.carry}, keys, params)
    tree = put_at(tree, places(tree, stats)[0], new_stats) if stats else tree
    new = copy.copy(encoder)
    new.params, new.carry = tree["params"], tree["carry"]
    return new


def put_at(tree, keys, value):
    """The tree with another subtree there."""
    return {**tree, keys[0]: put_at(tree[keys[0]], keys[1:], value)} if keys else value


def at(tree, keys):
    """The subtree there."""
    return functools.reduce(dict.get, keys, tree)
