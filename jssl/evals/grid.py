"""A grid of linear heads trained at once, as in DINOv2's linear evaluation (Oquab et al., 2023; arXiv:2304.07193)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl.evals import frozen, linear
from jssl.evals.labels import by_class, check, check_classes
from jssl.evals.linear import RATES

LAYERS = (1, 4)  # how many of the last blocks a head reads
POOLINGS = ("cls", "mean", "cls+mean")


@dataclasses.dataclass(frozen=True)
class Settings:
    rates: tuple[float, ...] = RATES  # per 256 images
    epochs: int = 100
    batch_size: int = 256


def grid(
    train,
    train_labels,
    test,
    test_labels,
    *,
    classes,
    rates=RATES,
    epochs=100,
    batch_size=256,
    validation=0.2,
    seed=0,
    rows=None,
):
    """A linear layer by SGD for every rate, number of blocks and pooling; the best on validation rows is the result.

    All heads see the same batches in one program. A stratified `validation` share of the training rows, on which none
    of them was trained, picks one by accuracy (of equal ones that of fewer blocks, then the lower rate), and that one
    alone meets the test rows, as it is. (DINOv2's authors report the best on ImageNet's validation set, which is also
    what they test on.) Training is that of `linear.sgd`: momentum 0.9, cosine decay, no weight decay, standardised
    features that are not augmented.

    Args:
      train, test: what `Encoder.pools` gives, {name: [N, D]} and {name: [M, D]}.
      train_labels, test_labels, classes, rows, rates, ...: as `linear.sgd` has them.

    Returns:
      {"accuracy", "accuracies": [draws], "predictions": int32 [draws, M], "settings": {..., "grid": [{"layers",
      "pooling", "rate_per_256", "validation_accuracy": [draws]}, ...], "picked": one of these for each draw}}.
    """
    rates = linear.sorted_rates(rates)
    heads = sets(train)
    x, tests = {}, {}
    for name in sorted({part for parts in heads.values() for part in parts}):
        found, y = check(train[name], train_labels, "training")
        move = linear.standardiser(found)
        other, test_y = check(test[name], test_labels, "test")
        x[name], tests[name] = move(found), move(other)
    check_classes(y, test_y, classes)
    rows = np.ones((1, len(y)), bool) if rows is None else np.asarray(rows, bool)
    held = linear.validation_rows(y, rows, validation, seed)
    how = {"epochs": epochs, "batch_size": batch_size, "classes": classes, "heads": tuple(heads.values())}
    scores, best, predictions = [], [], []
    for draw, (every, valid) in enumerate(zip(rows, held, strict=True)):
        key = jax.random.fold_in(jax.random.key(seed), draw)
        models = _train(x, y, np.flatnonzero(every & ~valid), key, jnp.asarray(rates), **how)
        seen = {name: part[valid] for name, part in x.items()}
        right = [
            (linear.predict(model, _joined(seen, parts)) == y[valid]).mean(1)  # [rates]
            for model, parts in zip(models, heads.values(), strict=True)
        ]
        head, rate = divmod(int(np.argmax(right)), len(rates))
        picked = _joined(tests, tuple(heads.values())[head])
        predictions.append(linear.predict(models[head][rate][None], picked)[0])
        scores.append(np.ravel(right))
        best.append(head * len(rates) + rate)
    table = [
        {"layers": layers, "pooling": pooling, "rate_per_256": rate, "validation_accuracy": accuracies.tolist()}
        for (layers, pooling, rate), accuracies in zip(
            [(*head, rate) for head in heads for rate in rates], np.stack(scores, 1), strict=True
        )
    ]
    settings = {
        "classifier": "linear layers, SGD, momentum 0.9, cosine decay, no weight decay, one for each cell of the grid",
        **linear.described(validation, seed, True, rows),
        "picked_by": "accuracy on a stratified validation split of the training rows; not fitted again",
        "epochs": epochs,
        "batch_size": min(batch_size, int((rows & ~held).sum(1).min())),
        "grid": table,
        "picked": [
            {**table[cell], "validation_accuracy": table[cell]["validation_accuracy"][draw]}
            for draw, cell in enumerate(best)
        ],
    }
    return linear.result(np.stack(predictions), test_y, settings)


def protocol(subject):
    """The scores of a subject's encoders; raw pixels have neither blocks nor pooling."""
    labels = subject.labels
    rows, drawn = frozen.drawn_rows(labels["train"], subject.draws or 1, subject.seed)
    how, scores = dataclasses.asdict(subject.settings("linear-grid", Settings())), []
    for name, encoder in subject.encoders.items():
        pools = {part: encoder.pools(source, workers=subject.workers) for part, source in subject.splits.items()}
        data = (pools["train"], labels["train"], pools["test"], labels["test"])
        found = grid(*data, classes=subject.classes, rows=rows, seed=subject.seed, **how)
        by = by_class(found["predictions"][0], labels["test"], subject.splits["train"].label_names)
        scores.append(frozen.score("linear-grid", name, found, labels["test"], {**drawn, **found["settings"]}, by))
    return scores


def sets(pools):
    """What each head reads, of the names that `Encoder.pools` gives: {(layers, pooling): names}.

    "cls": class tokens of the last blocks side by side; "mean": their patch tokens' means; "cls+mean": class tokens,
    and the mean of the last block alone, as in DINOv2. An encoder that has only features has one, (1, "features").
    """
    if "features" in pools:
        return {(1, "features"): ("features",)}
    last = max(int(name.split()[1]) for name in pools)
    found = {}
    for count in dict.fromkeys(min(count, last) for count in LAYERS):
        blocks = range(1, count + 1)
        cls, mean = (tuple(f"{kind} {i}" for i in blocks) for kind in ("cls", "mean"))
        for pooling, parts in zip(POOLINGS, (cls, mean, (*cls, "mean 1")), strict=True):
            if all(part in pools for part in parts):
                found[count, pooling] = parts
    return found


@functools.partial(jax.jit, static_argnames=("heads", "epochs", "batch_size", "classes"))
def _train(x, labels, rows, rng, rates, heads, epochs, batch_size, classes):
    """-> for each head, the names of what it reads, its models [rates, D + 1, classes]"""

    def loss(models, batch):
        some = {name: part[batch] for name, part in x.items()}
        of = lambda model, parts: optax.softmax_cross_entropy_with_integer_labels(
            linear.logits(model, _joined(some, parts)), labels[batch]
        )
        # No head's loss depends on another's weights: the gradient of their sum is that of each.
        return sum(of(model, parts).mean() for model, parts in zip(models, heads, strict=True))

    start = [jnp.zeros((sum(x[part].shape[1] for part in parts) + 1, classes)) for parts in heads]
    train = functools.partial(linear.descend, loss, start, rows, rng, epochs=epochs, batch_size=batch_size)
    return jax.vmap(train)(rates)


def _joined(x, parts):
    return jnp.concatenate([x[part] for part in parts], 1)
