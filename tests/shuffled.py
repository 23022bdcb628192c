"""Training on shuffled labels: what it predicts has to be chance, or it has seen the test images' labels."""

import dataclasses

import numpy as np

from jssl import data
from jssl.evals import finetune

LABELLED, OTHERS = data.open_source("digits@[:200]"), data.open_source("digits@test[:200]")
SETTINGS = finetune.Settings(epochs=1.0, least=40, batch_size=32, lr=1e-2)


def assert_chance(encoder, tuning=finetune.ALL):
    """Within three standard errors, over two shuffles; with the true labels far above it."""

    def accuracy(labels):
        source = dataclasses.replace(LABELLED, labels=labels)
        found = finetune.finetune(encoder, source, OTHERS, classes=10, settings=SETTINGS, tuning=tuning)
        return np.mean(found["predictions"] == OTHERS.labels)

    found = [accuracy(np.random.default_rng(seed).permutation(LABELLED.labels)) for seed in range(2)]
    assert abs(np.mean(found) - 0.1) < 3 * (0.1 * 0.9 / len(OTHERS)) ** 0.5
    assert accuracy(LABELLED.labels) > 0.2
