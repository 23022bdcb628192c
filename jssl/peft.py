"""Parameter-efficient fine-tuning: which part of a network is trained, and what is added to it.

A `Tuning` cuts a network's parameters into two trees, what moves and what does not, and joins them again inside the
loss, so that the gradient is of what moves alone. Low-rank updates, biases and last blocks are sums and selections of
weights; adapters and prompts are arrays that a vision transformer takes in its call.
"""

import dataclasses
import functools
import inspect
import math
import re

import jax
import jax.numpy as jnp

from jssl.config import nearest
from jssl.sharding import flatten, nested

# What can be trained of an encoder, and the fields of `Tuning` that it reads.
KINDS = {
    "lora": ("rank", "alpha"),
    "adapter": ("width", "scale"),
    "prompt": ("tokens", "deep"),
    "bias": (),
    "last": ("blocks",),
}
ADDED = ("lora", "adapter", "prompt")  # those that leave all weights as they are
MERGED = ("lora", "bias", "last")  # those that plain weights can hold
ATTENTION = r"(^|/)(qkv|proj)/kernel$"
ORDERED = r"(block|stage|conv)\d"  # children of a network that follow each other


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What of an encoder is trained, beside a classifier.

    all:     everything; head: nothing.
    lora:    W + alpha / rank * A B for every matrix W [in, out] of attention, the one of queries, keys and values and
             the one behind them. A [in, rank] is Gaussian, B [rank, out] zero at first (Hu et al., 2021;
             arXiv:2106.09685, section 4.1, whose A and B are B and A transposed).
    adapter: scale * up(relu(down(y))) beside every block's MLP, on the same normalised y, zero at first (AdaptFormer,
             Chen et al., 2022; arXiv:2205.13535, section 3.2; after Houlsby et al., 2019; arXiv:1902.00751).
    prompt:  learned tokens before the patches, others for every block if `deep`, else into the first block alone (VPT,
             Jia et al., 2022; arXiv:2203.12119, section 3.2).
    bias:    all biases, those of norms too (BitFit, Ben Zaken et al., 2021; arXiv:2106.10199).
    last:    the last `blocks` blocks, of a residual network stages, and the norm behind them.
    """

    kind: str = "all"
    rank: int = 4
    alpha: float = 8.0
    width: int = 16  # of an adapter's hidden layer
    scale: float = 0.1
    tokens: int = 10
    deep: bool = True
    blocks: int = 2

    def __post_init__(self):
        kinds = ("all", "head", *KINDS)
        if self.kind not in kinds:
            raise ValueError(f"peft: there is no kind {self.kind!r}{nearest(self.kind, kinds)}")
        for name in ("rank", "width", "tokens", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"peft: {name} is {getattr(self, name)}; expected 1 or more")

    @property
    def name(self):
        """'lora', 'adapter', ..., 'last-2'."""
        return f"last-{self.blocks}" if self.kind == "last" else self.kind

    @property
    def fields(self):
        """{name: value} of what the kind reads."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in KINDS.get(self.kind, ())}}

    def split(self, net, params, rng):
        """-> (moved, frozen): what the optimizer is given, and what nobody writes. rng: of what is added.

        Raises ValueError, one line, for a network that has no such part.
        """
        parts = {"all": lambda net, params, rng: params, "head": lambda net, params, rng: {}, "bias": _biases}
        parts |= {"last": self._last, "lora": self._low_rank, "adapter": self._adapters, "prompt": self._prompts}
        moved = parts[self.kind](net, params, rng)
        return moved, self.rest(params, moved)

    def rest(self, params, moved):
        """What `split` leaves of the parameters."""
        if self.kind in ADDED:
            return params
        moved = flatten(moved)
        return nested({path: x for path, x in flatten(params).items() if path not in moved})

    def join(self, moved, frozen):
        """-> (the network's parameters, further arguments of its call): the inverse of `split`."""
        if self.kind == "lora":
            flat, added = flatten(frozen), flatten(moved)
            product = functools.partial(jnp.matmul, precision="highest")
            for path in {path.rpartition("/")[0] for path in added}:
                flat[path] = flat[path] + self.alpha / self.rank * product(added[f"{path}/a"], added[f"{path}/b"])
            return nested(flat), {}
        if self.kind == "adapter":
            scaled = lambda block: {**block, "up": jax.tree.map(lambda x: self.scale * x, block["up"])}
            return frozen, {"adapters": [scaled(moved[f"block{i}"]) for i in range(len(moved))]}
        if self.kind == "prompt":
            return frozen, moved
        return nested(flatten(frozen) | flatten(moved)), {}

    def _low_rank(self, net, params, rng):
        shapes = {path: x.shape for path, x in flatten(params).items() if re.search(ATTENTION, path)}
        if not shapes:
            raise ValueError(f"peft: {_name(net)} has no attention for lora to change{_instead('bias', 'last')}")
        added = {}
        for i, (path, (rows, columns)) in enumerate(sorted(shapes.items())):
            added[f"{path}/a"] = jax.random.normal(jax.random.fold_in(rng, i), (rows, self.rank)) / math.sqrt(rows)
            added[f"{path}/b"] = jnp.zeros((self.rank, columns))
        return nested(added)

    def _adapters(self, net, params, rng):
        _takes(net, "adapters", self.kind)
        init, blocks = jax.nn.initializers.he_normal(), {}
        for i in range(net.depth):
            down = {"kernel": init(jax.random.fold_in(rng, i), (net.dim, self.width)), "bias": jnp.zeros(self.width)}
            up = {"kernel": jnp.zeros((self.width, net.dim)), "bias": jnp.zeros(net.dim)}
            blocks[f"block{i}"] = {"down": down, "up": up}
        return blocks

    def _prompts(self, net, params, rng):
        _takes(net, "prompts", self.kind)
        bound = math.sqrt(6 / (len(params["patch"]["kernel"]) + net.dim))  # the paper's, Xavier's of the patches
        shape = (net.depth if self.deep else 1, self.tokens, net.dim)
        return {"prompts": jax.random.uniform(rng, shape, minval=-bound, maxval=bound)}

    def _last(self, net, params, rng):
        place = {name: tuple(map(int, re.findall(r"\d+", name))) for name in params}
        places = sorted({place[name] for name in params if re.match(ORDERED, name)})
        if self.blocks > len(places):
            raise ValueError(f"peft: {_name(net)} has {len(places)} blocks or stages; expected peft.blocks up to that")
        first = places[-self.blocks]
        names = {name for name in params if name == "norm" or (place[name] and place[name] >= first)}
        return {name: params[name] for name in names}


ALL = Tuning()


def count(tree):
    """The number of parameters in a tree."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _biases(net, params, rng):
    found = {path: x for path, x in flatten(params).items() if path.rpartition("/")[2] == "bias"}
    if not found:
        raise ValueError(f"peft: {_name(net)} has no biases to train{_instead('last')}")
    return nested(found)


def _takes(net, argument, kind):
    if argument not in inspect.signature(type(net).__call__).parameters:
        raise ValueError(f"peft: {_name(net)} takes no {argument}, as kind {kind} needs{_instead('bias', 'last')}")


def _name(net):
    return f"encoder {type(net).__name__}"


def _instead(*kinds):
    return f"; expected a vision transformer, or kind {' or '.join(kinds)}"
