"""What it saves that an encoder sees the visible patches alone: step time and FLOPs of MAE and I-JEPA, with as many
patches hidden as in their recipes and with none or nearly none.

    python -m benchmarks.visible                                                    ViT-L/16 at 224 pixels, batch 8
    python -m benchmarks.visible --configs mae:demo,ijepa:demo --batch 128          the digits' small ones

The encoder alone (forward and backward passes on the visible patches of two batches), and the whole train step. MAE's
decoder always has all patches; with one patch hidden it is as near to none as a method that predicts hidden patches
gets. I-JEPA's target encoder always has all patches, forwards; with none hidden they are the context of its encoder
and its predictor. MAE's paper says 3 to 4 times for ViT-L on accelerators (He et al., 2021, table 2). I-JEPA's ViT-L
has 3.0 times fewer FLOPs in its encoder with 66 % hidden and 2.1 times fewer in the whole step, as XLA counts them in
the programs before it compiles them (batch 2; 124 of 369 and 306 of 629 GFLOP per image).
"""

import argparse
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import results
from benchmarks.speed import Bench
from jssl import config as configs
from jssl import pages
from jssl.methods.ijepa import IJEPA
from jssl.nets.vit import grid


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.visible", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--configs", default="mae:imagenet,ijepa:imagenet_vit_large", help="comma-separated")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each timed run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default=results.FOLDER)
    arguments = parser.parse_args(argv)

    overrides = {"train.batch_size": arguments.batch, **dict(text.split("=", 1) for text in arguments.set)}
    timing = {"repeats": arguments.repeats, "seconds": arguments.seconds}
    rows, notes = [], []
    for spec in arguments.configs.split(","):
        runs = [measured(turned(configs.load(spec, overrides)), **timing) for turned in (whole, lambda config: config)]
        rows += compared(spec.partition(":")[0], *runs)
        notes.append(described(spec, runs[-1].config))
    notes += [
        f"Batch {arguments.batch}; median of {arguments.repeats} runs of about {arguments.seconds:g} s; forward and "
        "backward passes, and in the whole step the update.",
        "FLOPs are what XLA counts in the compiled program.",
    ]
    name = f"visible-{results.slug(results.device())}"
    results.write(arguments.out, name, "Encoding visible patches alone", rows, notes)


@dataclasses.dataclass(frozen=True)
class Whole(IJEPA):
    """I-JEPA whose context is all patches."""

    def mask(self, rng, x):
        blocks, length = super().mask(rng, x), math.prod(grid(x, self.encoder.patch))
        return blocks._replace(context=jnp.broadcast_to(jnp.arange(length), (len(x), length)))


def whole(config):
    """The config turned into one with as many patches visible as its method can do with."""
    if "mask_ratio" in config.method:
        config.method.mask_ratio = 1 / length(config)
    else:
        config.method.name = "benchmarks.visible:Whole"
    return config


class Measured(NamedTuple):
    config: configs.ConfigDict
    hidden: float  # share of the patches
    found: dict  # {part: (images per second, FLOPs per image)}


def measured(config, **timing):
    bench = Bench(config, "random" if config.data.source.startswith("tfds:") else None)
    see = lambda x: {"keep": visible(bench.run.experiment.method, x)}
    found = {"encoder": bench.encoder_passes(see, **timing), "whole step": (bench.step(**timing), bench.flops())}
    kept = jax.eval_shape(lambda: see(bench.inputs()[0]))["keep"].shape[1]
    jax.clear_caches()
    return Measured(bench.config, 1 - kept / length(config), found)


def visible(method, x):
    """The patches that the encoder sees, int [N, K]."""
    mask = method.mask(jax.random.key(0), x)
    return mask.context if isinstance(method, IJEPA) else mask.keep


def compared(method, *runs):
    """Rows of the table; the first of the runs is what the others are held to."""
    base = runs[0].found
    return [
        {
            "method": method,
            "part": part,
            "hidden": f"{100 * run.hidden:.3g} %",
            "ms/image": 1000 / run.found[part][0],
            "GFLOP/image": run.found[part][1] / 1e9,
            "times faster": run.found[part][0] / base[part][0],
            "times fewer FLOPs": base[part][1] / run.found[part][1],
        }
        for part in base
        for run in runs
    ]


def described(spec, config):
    """A line below the table."""
    part = "decoder" if "decoder_dim" in config.method else "predictor"
    blocks, dim = (config.method[f"{part}_{name}"] for name in ("depth", "dim"))
    return (
        f"{spec}: {config.encoder.name.partition(':')[2]}, {config.augment.size} pixels, {length(config)} patches, "
        f"{config.dtype}, a {part} of {blocks} blocks of {dim}."
    )


def length(config):
    """Patches of an image."""
    size = config.augment.size
    return math.prod(grid(jnp.zeros((1, size, size, 1)), configs.build(config.encoder).patch))


if __name__ == "__main__":
    pages.huge()
    main()
