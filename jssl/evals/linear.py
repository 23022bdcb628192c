"""Linear probes on frozen features: logistic regression to its optimum, and the SGD protocol of the papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jssl.evals.labels import check, check_classes, share

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
AT_ONCE = 2**28  # numbers that the draws of one call may hold together (1 GiB of logits)


def probe(
    train,
    train_labels,
    test,
    test_labels,
    *,
    classes,
    penalties=PENALTIES,
    validation=0.2,
    seed=0,
    standardise=True,
    rows=None,
    held=None,
    tol=1e-4,
    max_steps=500,
):
    """Multinomial logistic regression by L-BFGS, its L2 penalty picked on a part of the training set.

    Minimises mean(CE) + penalty / 2 * |W|^2 (scikit-learn's C is 1 / (penalty * N)), the intercept free. A stratified
    `validation` share of the training rows picks the penalty by accuracy, from strong to weak, each fit starting at
    the one before; a tie goes to the stronger. Then it is fitted again on all training rows. The test rows choose
    nothing.

    Args:
      train, test: features [N, D], [M, D]; train_labels, test_labels: int [N], [M] in 0 ... classes - 1.
      standardise: zero mean and unit variance per dimension, by the statistics of `train`.
      rows: bool [draws, N]: the training rows that each draw may use; None is one draw of all.
      held: bool [draws, N]: given validation rows instead of a drawn share; the last fit is then not on them either, as
        where a data set comes with its validation set.
      tol: length of the gradient at which the last fit stops (the fits before it: ten times this).

    Returns:
      {"accuracy": mean over draws, "accuracies": [draws], "predictions": int32 [draws, M], "settings": {...},
      "confidence": [M], the probability that the first draw's model gives its prediction}.
    """
    x, y, test, test_labels, rows = _prepare(train, train_labels, test, test_labels, classes, standardise, rows)
    penalties = sorted((float(p) for p in penalties), reverse=True)
    if not penalties or penalties[-1] <= 0:
        raise ValueError(f"penalties are {penalties}; expected one or more positive numbers")
    given, held = held is not None, validation_rows(y, rows, validation, seed) if held is None else held
    found = [
        _pick(x, y, rows[some], held[some], classes, np.asarray(penalties), tol, max_steps, refit=not given)
        for some in _chunks(len(rows), len(x) * classes)
    ]
    models, picked, scores = zip(*found, strict=True)
    predictions = np.concatenate([predict(model, test) for model in models])
    confidence = _confidence(models[0][0], test)
    settings = {
        "classifier": "logistic regression, L-BFGS, mean cross-entropy + penalty / 2 * |W|^2, intercept free",
        "penalties": penalties,
        "penalty": np.concatenate(picked).tolist(),
        "validation_accuracy": np.concatenate(scores).tolist(),
        **described(validation, seed, standardise, rows),
        **({"picked_by": "accuracy on the given validation rows", "validation": "given"} if given else {}),
        "tol": tol,
        "max_steps": max_steps,
    }
    return {**result(predictions, test_labels, settings), "confidence": confidence}


def _pick(x, labels, rows, held, classes, penalties, tol, max_steps, refit=True):
    """The path from strong to weak for some draws, then the last fit -> models [draws, D + 1, classes], the penalties
    and their accuracies on the held rows.

    refit: whether the last fit is on the held rows as well.
    """
    draws = np.arange(len(rows))

    def fit(rows, penalty, start, tol):
        return _logistic(x, labels, jnp.float32(rows), jnp.asarray(penalty, jnp.float32), start, tol, max_steps)

    path, scores = [], []
    model = jnp.zeros((len(rows), x.shape[1] + 1, classes))
    for penalty in penalties:
        model = fit(rows & ~held, np.full(len(rows), penalty), model, 10 * tol)
        path.append(model)
        scores.append(accuracy(predict(model, x), labels, held))  # [draws]
    best = np.argmax(scores, 0)  # the first of equal ones: the strongest penalty
    last = fit(rows if refit else rows & ~held, penalties[best], jnp.stack(path)[best, draws], tol)
    return last, penalties[best], np.max(scores, 0)


def sgd(
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
    standardise=True,
    rows=None,
):
    """The papers' linear protocol: SGD with momentum 0.9, cosine decay to 0, no weight decay, on frozen features.

    The learning rate (per 256 examples) is picked by accuracy on a stratified `validation` share of the training rows,
    all `rates` in one program; then the layer is trained again on all training rows. Arguments and result as `probe`.
    Features are not augmented; standardising stands for the batch norm without scale of MAE's protocol.
    """
    x, y, test, test_labels, rows = _prepare(train, train_labels, test, test_labels, classes, standardise, rows)
    rates = sorted_rates(rates)
    held = validation_rows(y, rows, validation, seed)
    fit = functools.partial(_sgd, epochs=epochs, batch_size=batch_size, classes=classes)
    predictions, chosen = [], []
    for draw, (every, valid) in enumerate(zip(rows, held, strict=True)):
        key = jax.random.fold_in(jax.random.key(seed), draw)
        models = fit(x, y, np.flatnonzero(every & ~valid), key, jnp.asarray(rates))
        best = int(np.argmax(accuracy(predict(models, x), y, np.broadcast_to(valid, (len(rates), len(valid))))))
        model = fit(x, y, np.flatnonzero(every), key, jnp.asarray(rates[best : best + 1]))
        predictions.append(predict(model, test))
        chosen.append(rates[best])
    settings = {
        "classifier": "linear layer, SGD, momentum 0.9, cosine decay, no weight decay",
        "rates_per_256": rates,
        "rate_per_256": chosen,
        "epochs": epochs,
        "batch_size": min(batch_size, int((rows & ~held).sum(1).min())),
        **described(validation, seed, standardise, rows),
    }
    return result(np.concatenate(predictions), test_labels, settings)


def sorted_rates(rates):
    """Learning rates as floats, the lowest first; ValueError where there is none, or one that is not positive."""
    rates = sorted(float(r) for r in rates)
    if not rates or rates[0] <= 0:
        raise ValueError(f"learning rates are {rates}; expected one or more positive numbers")
    return rates


def logistic(x, labels, *, classes, penalty, tol=1e-6, max_steps=1000):
    """The minimum of mean(CE) + penalty / 2 * |W|^2 over W [D, classes] and the free intercept b [classes] -> (W, b).

    x: [N, D], labels: int [N]. scikit-learn's C is 1 / (penalty * N). Stops when the gradient is shorter than `tol`,
    or has not become shorter for 20 steps, which is as far as float32 goes.
    """
    x, labels = check(x, labels, "training")
    start = jnp.zeros((1, x.shape[1] + 1, classes))
    (model,) = _logistic(x, labels, jnp.ones((1, len(x))), jnp.full(1, penalty), start, tol, max_steps)
    return model[:-1], model[-1]


def fitted(train, train_labels, *, classes, penalties=PENALTIES, validation=0.2, seed=0, tol=1e-4, max_steps=500):
    """The classifier of `probe`, for many test sets: -> function from features [M, D] to logits float32 [M, classes],
    settings."""
    train, labels = check(train, train_labels, "training")
    check_classes(labels, labels, classes)
    move, rows = standardiser(train), np.ones((1, len(train)), bool)
    held = validation_rows(labels, rows, validation, seed)
    penalties = sorted(map(float, penalties), reverse=True)
    models, picked, scores = _pick(
        move(train), labels, rows, held, classes, np.asarray(penalties), tol, max_steps, refit=True
    )
    settings = {
        "classifier": "logistic regression, L-BFGS, mean cross-entropy + penalty / 2 * |W|^2, intercept free",
        "penalties": penalties,
        "penalty": float(picked[0]),
        "validation_accuracy": float(scores[0]),
        **described(validation, seed, True, rows),
    }
    return lambda features: np.asarray(logits(models[0], move(jnp.asarray(features, jnp.float32)))), settings


def standardiser(train):
    """-> function that standardises features [N, D] by the mean and variance of `train`; constant dimensions to 0."""
    mean, std = train.mean(0), train.std(0)
    return lambda x: (x - mean) / jnp.where(std > 1e-6 * (1 + jnp.abs(mean)), std, jnp.inf)


def solve(x, labels, weights, penalty, start, tol, max_steps):
    """L-BFGS for one weighted problem: x [N, D], weights [N] (normalised here), start [D + 1, classes]. In jit."""
    weights = weights / jnp.sum(weights)
    tx = optax.chain(optax.scale_by_lbfgs(), optax.scale(-1))

    def objective(model):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(model, x), labels)
        return jnp.sum(weights * losses) + penalty / 2 * jnp.sum(model[:-1] ** 2)

    def step(carry):
        (_, model, value, grad), opt, n, least, stalled = carry
        direction, opt = tx.update(grad, opt, model)
        slope = jnp.vdot(direction, grad)

        def shorter(trial):
            t = trial[0] / 2
            moved = model + t * direction
            return t, moved, *jax.value_and_grad(objective)(moved)

        def too_far(trial):
            t, _, there, grad = trial
            # Still downhill: lower, as the objective is convex; in float32 its values stop falling before its slope.
            lower = (jnp.vdot(direction, grad) <= 0) | (there <= value + 1e-4 * t * slope)
            return (t > 1) | (~lower & (t > 1e-3))  # the first length to try is 1

        trial = lax.while_loop(too_far, shorter, (jnp.float32(2), model, value, grad))
        length = jnp.linalg.norm(trial[3])
        return trial, opt, n + 1, jnp.minimum(length, least), jnp.where(length < least, 0, stalled + 1)

    def unfinished(carry):
        (_, _, _, grad), _, n, _, stalled = carry
        return (n < max_steps) & (jnp.linalg.norm(grad) > tol) & (stalled < 20)

    first = jnp.float32(2), start, *jax.value_and_grad(objective)(start)
    return lax.while_loop(unfinished, step, (first, tx.init(start), 0, jnp.float32(jnp.inf), 0))[0][1]


# One x for all draws: the draws differ in weights only, so that their logits are one matmul.
_logistic = jax.jit(jax.vmap(solve, (None, None, 0, 0, 0, None, None)))


@functools.partial(jax.jit, static_argnames=("epochs", "batch_size", "classes"))
def _sgd(x, labels, rows, rng, rates, epochs, batch_size, classes):
    train = functools.partial(_train, x, labels, rows, rng, epochs=epochs, batch_size=batch_size, classes=classes)
    return jax.vmap(train)(rates)


def _train(x, labels, rows, rng, rate, *, epochs, batch_size, classes):
    def loss(model, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits(model, x[batch]), labels[batch]).mean()

    model = jnp.zeros((x.shape[1] + 1, classes))
    return descend(loss, model, rows, rng, rate, epochs=epochs, batch_size=batch_size)


def descend(loss, model, rows, rng, rate, *, epochs, batch_size):
    """The model, a tree, after SGD on `loss`, (model, rows of a batch) -> [], by the papers' linear protocol. In jit.

    rows: int [n], those to train on; rate: per 256 examples.
    """
    size = min(batch_size, len(rows))
    per_epoch = len(rows) // size
    tx = optax.sgd(optax.cosine_decay_schedule(rate * size / 256, epochs * per_epoch), momentum=0.9)

    def step(carry, batch):
        model, opt = carry
        updates, opt = tx.update(jax.grad(loss)(model, batch), opt)
        return (optax.apply_updates(model, updates), opt), None

    def epoch(carry, rng):
        batches = jax.random.permutation(rng, rows)[: per_epoch * size].reshape(per_epoch, size)
        return lax.scan(step, carry, batches)[0], None

    return lax.scan(epoch, (model, tx.init(model)), jax.random.split(rng, epochs))[0][0]


def logits(model, x):
    """model: [D + 1, classes], the intercept last; x: [N, D] -> [N, classes]."""
    return jnp.matmul(x, model[:-1], precision=lax.Precision.HIGHEST) + model[-1]


@jax.jit
def _argmax(models, x):
    return lax.map(lambda model: jnp.argmax(logits(model, x), -1).astype(jnp.int32), models)


def predict(models, x):
    """The class by each of the models [draws, D + 1, classes] -> int32 [draws, N]."""
    return np.asarray(_argmax(models, x))


@jax.jit
def _confidence(model, x):
    """The probability that a model [D + 1, classes] gives its own prediction, [N]."""
    return jnp.max(jax.nn.softmax(logits(model, x)), -1)


def accuracy(predictions, labels, mask):
    return ((predictions == labels) & mask).sum(-1) / mask.sum(-1)


def _chunks(draws, cost):
    """Slices of the draws that fit in memory together; `cost` is what one of them holds."""
    size = max(1, AT_ONCE // cost)
    return [slice(i, i + size) for i in range(0, draws, size)]


def _prepare(train, train_labels, test, test_labels, classes, standardise, rows):
    train, train_labels = check(train, train_labels, "training")
    test, test_labels = check(test, test_labels, "test")
    check_classes(train_labels, test_labels, classes)
    rows = np.ones((1, len(train)), bool) if rows is None else np.asarray(rows, bool)
    move = standardiser(train) if standardise else lambda x: x
    return move(train), train_labels, move(test), test_labels, rows


def validation_rows(labels, rows, part, seed):
    """The rows of each draw that are held out to pick the penalty: bool [draws, N], stratified, seeded."""
    held = np.zeros_like(rows)
    for draw, every in enumerate(rows):
        held[draw, every] = share(labels[every], part, np.random.default_rng((seed, draw)))
    if not held.any(1).all() or held[0].sum() == rows[0].sum():
        raise ValueError(
            f"a share of {part} of each class leaves no rows for validation or for the fit ({rows[0].sum()} training "
            "rows); expected more labels, or the fewshot protocol"
        )
    return held


def described(validation, seed, standardise, rows):
    return {
        "picked_by": "accuracy on a stratified validation split of the training rows, then fitted on all of them",
        "validation": validation,
        "seed": seed,
        "features": "standardised by the training set" if standardise else "as they are",
        "train_rows": int(rows[0].sum()),
    }


def result(predictions, labels, settings):
    accuracies = np.mean(predictions == labels, 1)
    return {
        "accuracy": float(accuracies.mean()),
        "accuracies": accuracies,
        "predictions": predictions,
        "settings": settings,
    }
