"""The contract that every method keeps."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any  # nested dicts of arrays

# What learns from labels has carry[LABELS], int32 [rows], -1 at first; before step 0 the engine writes the source's
# labels there, and `loss` looks them up by views['index'].
LABELS = "given_labels"


class Time(NamedTuple):
    """Where training is. Thresholds compare integer steps; `progress` is for smooth schedules."""

    step: jax.Array  # int32 [], the step being taken, from 0
    steps: int  # of the whole training
    per_epoch: float  # steps in an epoch

    @property
    def progress(self):
        """float32 [], from 0 at the first step to 1 at the end."""
        return jnp.minimum(self.step / self.steps, 1.0)

    @property
    def epoch(self):
        """float32 [], epochs done."""
        return self.step / self.per_epoch

    def line(self, start, end, epochs):
        """float32 [], from `start` at the first step to `end` after so many epochs, along a line; then constant."""
        done = jnp.minimum(self.epoch / epochs, 1.0) if epochs else 1.0
        return start + (end - start) * jnp.float32(done)

    def cosine(self, start, end=1.0):
        """float32 [], from `start` at the first step to `end` along half a cosine."""
        return end - (end - start) * (jnp.cos(jnp.pi * self.progress) + 1) / 2


class Method(abc.ABC):
    """What a paper adds to the train step. A subclass is final: a frozen dataclass of hyper-parameters.

    `self` is static: every array lives in one of two nested dicts,

        params  what the optimizer moves;
        carry   everything else that one step hands to the next: batch statistics, EMA target, queue, centre, labels,
                and `carry['frozen']`, weights that nobody writes (a tokenizer, a frozen teacher).

    Code is written for the whole batch, whatever the number of devices: N below is the global batch (with accumulation,
    the global micro-batch). Views of one sample lie on axis 1 and are never concatenated on the batch axis.
    """

    @abc.abstractmethod
    def init(self, rng, views) -> tuple[Tree, Tree]:
        """The parameters and the carry before the first step; only the shapes of `views` matter."""

    @abc.abstractmethod
    def loss(self, params, carry, views, rng, time: Time) -> tuple[jax.Array, tuple[Tree, dict]]:
        """-> loss [], (the new carry, out).

        out['metrics'] is a dict of scalars to log. out['embedding'] [N, V, E], what the loss compares, and
        out['features'] [N, V, D], what the encoder gives, are there where the method has them: health and probes read
        them. out['there'] says which of their rows are no padding: {'embedding': bool [N], 'features': bool [N]}.
        """

    def update(self, params, carry, time: Time) -> tuple[Tree, Tree]:
        """After each gradient step (once, also with accumulation): EMA targets, re-normalised prototypes."""
        return params, carry

    def refresh(self, params, carry, batches, rng) -> tuple[Tree, Tree]:
        """Every `train.refresh_every` steps, outside the compiled step: clustering and the like.

        `batches` iterates once over every row of the data, as `embed` takes it: preprocessed, {'image': float32 [B, H,
        W, C], ..., 'index': int32 [B]}, rows cut over the devices; the last batch is padded with index -1, and so is
        what cannot be decoded. Parameters that come back as other arrays start with fresh optimizer state.
        """
        return params, carry

    @abc.abstractmethod
    def embed(self, params, carry, inputs) -> dict:
        """Preprocessed inputs, no randomness -> {'features': [N, D]}; where they exist also 'tokens' [N, L, D]."""

    def reconstruct(self, params, carry, x, rng):
        """For people to look at, where a method makes images again: [N, H, W, C] -> [N, 3, H, W, C], the images, what
        the encoder sees of them, and what the method makes of that; else None."""
        return None
