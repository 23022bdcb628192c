"""What it saves that an encoder sees the visible patches alone: step time and FLOPs of MAE, masked and nearly not.

    python -m benchmarks.visible                                              ViT-L/16 at 224 pixels, batch 8
    python -m benchmarks.visible --variant demo --batch 256                   the digits' small one

The encoder alone (forward and backward passes on the kept patches of two batches), and the whole train step with MAE's
decoder, which always has all patches: at the mask ratio of the recipe and with one patch hidden, which is as near to
none as a method that predicts hidden patches gets. The paper says 3 to 4 times for ViT-L on accelerators (He et al.,
2021, table 2).
"""

import argparse
import math

import jax
import jax.numpy as jnp

from benchmarks import results
from benchmarks.speed import Bench
from jssl import config as configs
from jssl import pages
from jssl.nets.vit import grid


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.visible", description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="imagenet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each timed run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default=results.FOLDER)
    arguments = parser.parse_args(argv)

    overrides = {"train.batch_size": arguments.batch, **dict(text.split("=", 1) for text in arguments.set)}
    timing = {"repeats": arguments.repeats, "seconds": arguments.seconds}
    config = configs.load(f"mae:{arguments.variant}", overrides)
    length, ratio = math.prod(patches(config)), config.method.mask_ratio
    found = {}
    for masked in ratio, 1 / length:
        config = configs.load(f"mae:{arguments.variant}", {**overrides, "method.mask_ratio": masked})
        bench = Bench(config, "random" if arguments.variant == "imagenet" else None)
        mask = bench.run.experiment.method.mask
        visible = bench.encoder_passes(lambda x, mask=mask: {"keep": mask(jax.random.key(0), x).keep}, **timing)
        found[masked] = {"encoder": visible, "whole step": (bench.step(**timing), bench.flops())}
        jax.clear_caches()

    rows = []
    for part in "encoder", "whole step":
        (slow, more), (fast, fewer) = found[1 / length][part], found[ratio][part]
        for masked, images, flops in (1 / length, slow, more), (ratio, fast, fewer):
            of = {
                "part": part,
                "hidden": f"{100 * masked:.3g} %",
                "ms/image": 1000 / images,
                "GFLOP/image": flops / 1e9,
            }
            rows.append({**of, "times faster": images / slow, "times fewer FLOPs": more / flops})
    name = f"visible-{results.slug(results.device())}"
    network, method = config.encoder.name.partition(":")[2], config.method
    notes = [
        f"{network}, {config.augment.size} pixels, {length} patches, batch {arguments.batch}, {bench.config.dtype}; "
        f"median of {arguments.repeats} runs of about {arguments.seconds:g} s; forward and backward passes, and in the "
        f"whole step the update, with a decoder of {method.decoder_depth} blocks of {method.decoder_dim}.",
        "FLOPs are what XLA counts in the compiled program.",
    ]
    results.write(arguments.out, name, "Encoding visible patches alone", rows, notes)


def patches(config):
    """(rows, columns) of an image."""
    return grid(jnp.zeros((1, config.augment.size, config.augment.size, 1)), configs.build(config.encoder).patch)


if __name__ == "__main__":
    pages.huge()
    main()
