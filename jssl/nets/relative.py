"""Relative position biases of attention, learned (Swin, arXiv:2103.14030, equation 4; BEiT, arXiv:2106.08254)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jssl.nets.resize import table


class RelativeBias(nn.Module):
    """Called with a grid (height, width) and the number of tokens before its patches -> [heads, T, T] float32, what is
    added to the logits of the query (first axis) and the key. The table keeps the grid that init saw, and is resized
    bicubically for others; three further entries are for token to patch, patch to token, token to token."""

    heads: int

    @nn.compact
    def __call__(self, height, width, tokens=0):
        learned = table(self, "table", nn.initializers.zeros, (2 * height - 1, 2 * width - 1, self.heads))
        rows, columns = np.divmod(np.arange(height * width), width)
        between = lambda x, size: x[:, None] - x + size - 1  # [L, L], from 0
        bias = jnp.moveaxis(learned[between(rows, height), between(columns, width)], -1, 0)
        if not tokens:
            return bias
        to_patch, to_token, both = self.param("tokens", nn.initializers.zeros, (3, self.heads))[..., None, None]
        length = height * width
        full = lambda x, *shape: jnp.broadcast_to(x, (self.heads, *shape))
        top = jnp.concatenate([full(both, tokens, tokens), full(to_patch, tokens, length)], 2)
        return jnp.concatenate([top, jnp.concatenate([full(to_token, length, tokens), bias], 2)], 1)
