"""Images per second of the whole train step and of its parts, and the share of the device's peak that it reaches.

    python -m benchmarks.speed                                        the demos, on any machine
    python -m benchmarks.speed --variant cifar10_200 --data random    one image set of the recipe's size, made up
    python -m benchmarks.speed --variant cifar10_200 --data npz:.data/cifar10.npz --set train.batch_size=1024
    python -m benchmarks.speed --variant imagenet --data random --set train.batch_size=256 --profile trace
    python -m benchmarks.speed --all-methods                          every method's step, and what explains its time

An image is one source image: all its views, forward and backward passes, and the update, are within. Each figure is the
median of several runs, after one that compiles. `files` decodes and crops JPEG photographs of 500 x 375 on the host.
FLOPs are what XLA counts in the compiled step; the peak is the data sheet's, bfloat16, dense.

`--all-methods` prints a row per method. `encoder TFLOP/s` is what the device reaches in forward and backward passes of
the method's encoder alone, over two views of a batch; `% explained` is the time that the step's FLOPs would take at
that rate, as a share of the time that the step takes: 100 where a method costs what its FLOPs cost, less where time
goes elsewhere, more where heads are better matrix products than the encoder's. `% views` is the random views' share.

On a machine that has jax and little else, such as a borrowed GPU: put the wheels of requirements.txt that it lacks in
.whl/, the data in .data/ (both ignored by git), and set PYTHONPATH=$(ls -d $PWD/.whl/*.whl | tr '\\n' ':').
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import results
from jssl import config as configs
from jssl import data, pages
from jssl.experiment import fill, open_data
from jssl.feed import Feed
from jssl.nets.net import apply_net, init_net
from jssl.sharding import make_mesh, put, replicated, rows_here
from jssl.train import Run

# Dense bfloat16 TFLOP/s of one device, by a part of its name; the longest part that is found counts.
PEAKS = {
    "H100": 989.4,
    "H100 PCIe": 756.0,
    "H200": 989.4,
    "A100": 312.0,
    "L4": 121.0,
    "L40S": 362.0,
    "TPU v4": 275.0,
    "TPU v5": 459.0,  # v5p
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
}
RANDOM = 4096  # images of `--data random`
PHOTOS = 128  # files that are decoded
EXPLAINED = (
    "% explained: the time of the step's FLOPs at the rate of the encoder's own forward and backward passes, over two "
    "views of a batch, as a share of the step's time; FLOPs as XLA counts them, data and random views included."
)
VIEWS = "% views: the time of the random views alone, as a share of the step's time."


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", default="simclr,byol,mae")
    parser.add_argument("--all-methods", action="store_true", help="a row per method that there is: its step alone")
    parser.add_argument("--variant", default="demo")
    parser.add_argument("--data", help="a source, or `random`; the variant's own by default")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", metavar="DIR", help="write a profiler trace of the first method's step")
    parser.add_argument("--out", default=results.FOLDER)
    arguments = parser.parse_args(argv)

    overrides = dict(text.split("=", 1) for text in arguments.set)
    timing = {"repeats": arguments.repeats, "seconds": arguments.seconds}
    rows, rates = [], {}
    for method in configs.experiments() if arguments.all_methods else arguments.methods.split(","):
        config = configs.load(f"{method}:{arguments.variant}", overrides)
        bench = Bench(config, arguments.data)
        if arguments.profile and not rows:
            bench.trace(arguments.profile)
        figures = bench.explained(rates, **timing) if arguments.all_methods else bench.row(**timing)
        rows.append({"method": method, "variant": arguments.variant, **figures})
        jax.clear_caches()  # a process of hundreds of compiled programs runs out of memory maps
    notes = [f"Median of {arguments.repeats} runs of {arguments.seconds:g} s each; one image is one source image."]
    if arguments.all_methods:
        notes += [EXPLAINED, VIEWS]
    name = f"speed-{'methods-' * arguments.all_methods}{results.slug(results.device())}"
    results.write(arguments.out, name, "Speed, in images per second", rows, notes)


class Bench:
    """One method's train step, as `jssl.train` runs it, on its own."""

    def __init__(self, config, spec=None):
        config.data.source = spec or config.data.source
        source = made_up(config) if spec == "random" else open_data(config)
        self.config, _ = fill(config, source)
        self.mesh = make_mesh(self.config.mesh.data, self.config.mesh.fsdp)
        with jax.set_mesh(self.mesh):
            self.run = Run(self.config, source, self.mesh, None)
        self.batch_size = self.config.train.batch_size

    def row(self, **timing):
        """The figures of the table."""
        config, (step, flops) = self.config, (self.step(**timing), self.flops())
        peak = peak_of(jax.devices()[0].device_kind) if config.dtype == "bfloat16" else None
        share = flops * step / (peak * 1e12 * jax.device_count()) if flops and peak else None
        return {
            "encoder": config.encoder.name.partition(":")[2],
            "pixels": config.augment.size,
            "batch": self.batch_size,
            "precision": config.dtype,
            "step": step,
            "views": self.views(**timing),
            "data": self.data(**timing),
            "files": self.files(**timing),
            "GFLOP/image": flops and flops / 1e9,
            "% of peak": share and 100 * share,
        }

    def explained(self, rates, **timing):
        """The figures of `--all-methods`. rates: {encoder: FLOP/s}, added to."""
        config, (step, flops) = self.config, (self.step(**timing), self.flops())
        key = json.dumps([configs.plain(config.encoder), config.augment.get("size"), self.batch_size, config.dtype])
        if key not in rates:
            rates[key] = self.encoder_rate(**timing)
        known = flops and rates[key]
        return {
            "encoder": config.encoder.name.partition(":")[2],
            "pixels": config.augment.get("size"),
            "batch": self.batch_size,
            "precision": config.dtype,
            "step": step,
            "GFLOP/image": flops and flops / 1e9,
            "encoder TFLOP/s": known and rates[key] / 1e12,
            "% explained": known and 100 * flops * step / rates[key],
            "% views": 100 * step / self.views(**timing),
        }

    def encoder_rate(self, **timing):
        """FLOP/s of the encoder's forward and backward passes over two views of a batch, None where XLA counts none."""
        images, flops = self.encoder_passes(**timing)
        return flops and flops * images

    def encoder_passes(self, see=lambda x: {}, **timing):
        """(images per second, FLOPs per image or None) of these passes. see: what else than x the encoder is called
        with, {name: value}."""
        config = self.config
        network = configs.build(config.encoder, dtype=jnp.dtype(config.dtype))

        def loss(params, stats, x):
            y, _, stats = apply_net(network, params, stats, x, train=True, rng=jax.random.key(0), **see(x))
            return jnp.mean(jnp.square(y)), stats

        with jax.set_mesh(self.mesh):
            x, images = self.inputs()
            weights = init_net(network, jax.random.key(0), jax.tree.map(lambda x: x[:1], x))
            weights = jax.device_put(weights, replicated(self.mesh))
            compiled = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*weights, x).compile()
            passes = rate(lambda n: jax.block_until_ready([compiled(*weights, x) for _ in range(n)]), images, **timing)
        counted = (compiled.cost_analysis() or {}).get("flops")
        return passes, counted * self.mesh.size / images if counted and counted > 0 else None

    def inputs(self):
        """What the encoder takes, and how many examples that is: noise as two views, or a batch of graphs."""
        if self.config.modality == "graph":
            with self.run.feed.items(0, 1) as items:
                batch = self.run.feed.fetch(self.run.feed.held, jax.tree.map(lambda x: x[0], next(items)))
            return self.run.experiment.preprocess(batch), self.batch_size
        shape = (2 * self.batch_size, self.config.augment.size, self.config.augment.size, self.run.source.channels)
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        return put(self.mesh, noise[rows_here(self.mesh, len(noise))], len(noise)), len(noise)

    def step(self, **timing):
        """Whole steps, data included."""
        per_call = self.config.train.steps_per_call
        with self.stepping(per_call) as go:
            return rate(go, self.batch_size * per_call, **timing)

    def views(self, **timing):
        """The random views alone, of a batch that is already on the device."""
        run, rng = self.run, jax.random.key(0)
        with jax.set_mesh(self.mesh), run.feed.items(0, 1) as items:
            batch = jax.jit(run.feed.fetch)(run.feed.held, jax.tree.map(lambda x: x[0], next(items)))
            augment = jax.jit(run.experiment.augment)
            return rate(
                lambda n: jax.block_until_ready([augment(rng, batch) for _ in range(n)][-1]), self.batch_size, **timing
            )

    def data(self, **timing):
        """Batches on the device, from wherever the variant keeps its images."""
        feed = self.run.feed
        fetch = jax.jit(lambda images, items: feed.fetch(images, jax.tree.map(lambda x: x[0], items)))
        with jax.set_mesh(self.mesh), feed.items(0, 1) as items:
            return rate(
                lambda n: jax.block_until_ready([fetch(feed.held, next(items)) for _ in range(n)][-1]),
                self.batch_size,
                **timing,
            )

    def files(self, **timing):
        """Batches on the device from photographs on disk, by as many processes as a run would use."""
        with tempfile.TemporaryDirectory() as folder:
            photographs(folder)
            source = data.open_source(f"folder:{folder}", channels=self.run.source.channels, fits=0)
            size = max(self.mesh.size, PHOTOS // 2)
            feed = Feed(
                source,
                self.mesh,
                batch_size=size,
                seed=0,
                crops=self.run.experiment.augment.crops,
                resident=False,
                workers=data.default_workers(),
            )
            with jax.set_mesh(self.mesh), feed.items(0, 1) as items:
                return rate(lambda n: jax.block_until_ready([next(items) for _ in range(n)][-1]), size, **timing)

    def flops(self):
        """FLOPs per image, or None where XLA does not count them. One step per call: a loop's body is counted once."""
        if self.config.train.accumulate > 1:
            return None
        run = self.run
        with jax.set_mesh(self.mesh), run.feed.items(0, 1) as items:
            compiled = run.steps.lower(run.shapes, run.feed.held, next(items), run.rng).compile()
        counted = (compiled.cost_analysis() or {}).get("flops")
        return counted * self.mesh.size / self.batch_size if counted and counted > 0 else None

    def trace(self, folder):
        """A profiler trace of three calls, after one that compiles."""
        with self.stepping(self.config.train.steps_per_call) as go:
            go(1)
            with jax.profiler.trace(folder):
                go(3)

    @contextlib.contextmanager
    def stepping(self, per_call):
        """go(calls): so many calls of the train step, waited for."""
        run = self.run
        with jax.set_mesh(self.mesh), run.feed.items(0, per_call) as items:
            state = run.begin()

            def go(calls):
                nonlocal state
                for _ in range(calls):
                    state, _, _ = run.steps(state, run.feed.held, next(items), run.rng)
                jax.block_until_ready(state)

            yield go


def rate(go, images, repeats, seconds):
    """Images per second, the median of `repeats` runs of about `seconds`. go(calls): so many calls of `images` each."""
    go(1)
    calls = max(1, round(seconds / timed(go, 1)))
    return statistics.median(images * calls / timed(go, calls) for _ in range(repeats))


def timed(go, calls):
    began = time.perf_counter()
    go(calls)
    return time.perf_counter() - began


def peak_of(kind):
    """TFLOP/s of a device kind, or None where it is not in the table."""
    found = [name for name in PEAKS if name.lower() in kind.lower()]
    return PEAKS[max(found, key=len)] if found else None


def made_up(config):
    """A source of noise of the size that the variant trains on."""
    size = config.augment.size or 32
    images = np.random.default_rng(0).integers(256, size=(max(RANDOM, config.train.batch_size or 0), size, size, 3))
    return data.Source(spec="random", names=range(len(images)), channels=3, images=images.astype(np.uint8))


def photographs(folder):
    """Writes PHOTOS JPEGs of 500 x 375, smooth as photographs are."""
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        coarse = Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(pathlib.Path(folder, f"{i:03d}.jpg"), quality=90)


if __name__ == "__main__":
    pages.huge()
    main()
