"""The loop: config -> data -> state -> step -> log, evaluate, checkpoint."""

import functools
import json
import math
import os
import pathlib
import signal
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils
from PIL import Image

from jssl import config as configs
from jssl import cost, encoder, health, modalities
from jssl.checkpoint import Checkpoints, checkpoint_steps, fill
from jssl.evals.knn import knn
from jssl.experiment import CADENCES, open_data, preflight, prepare, provenance
from jssl.experiment import fill as fill_config
from jssl.feed import Feed
from jssl.files import whole
from jssl.log import Log
from jssl.method import LABELS
from jssl.optim import restart
from jssl.sharding import distribute, everywhere, make_mesh, put, replicated, rows_here, state_shardings
from jssl.start import arrays
from jssl.start import start as start_from
from jssl.step import init_state, train_step, train_steps
from jssl.transforms import rows
from jssl.watch import LIMITS, Ended, Watch
from jssl.writers import Writer, read_metrics

# What may differ when a run goes on: how long it is, how often it does what, and what changes nothing but speed.
LENGTH = {"train.steps", "train.epochs", "train.per_epoch", "optim.warmup"}
SPEED = {"train.steps_per_call", "data.workers", "data.resident", "data.rows", "mesh.data", "mesh.fsdp"}
MAY_CHANGE = {*CADENCES, *LENGTH, *SPEED, "checkpoint.keep", "eval.protocols", *(f"watch.{name}" for name in LIMITS)}


def train(config, workdir):
    """Trains `config` (from `jssl.config.load`) in `workdir`; the same call on the same directory resumes.

    Returns the final TrainState, or None where SIGTERM or Ctrl-C ended the run early (it is saved, and resumes).
    """
    distribute()
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    source = open_data(config)
    config, chosen = fill_config(config, source)
    refuse_another(workdir, config)
    with jax.set_mesh(mesh):
        return Run(config, source, mesh, pathlib.Path(workdir)).go(chosen)


class Run:
    """One training run on its mesh."""

    def __init__(self, config, source, mesh, workdir):
        self.config, self.source, self.mesh, self.workdir = config, source, mesh, workdir
        self.modality, self.experiment = modalities.find(config.modality), prepare(config, source)
        self.rng_init, self.rng, self.rng_refresh = jax.random.split(jax.random.key(config.seed), 3)
        self.feed = Feed(
            source,
            mesh,
            batch_size=config.train.batch_size,
            seed=config.seed,
            crops=getattr(self.experiment.augment, "crops", None),
            resident=config.data.resident,
            workers=config.data.workers,
            rows=config.data.rows,
        )
        self.embedder = encoder.embedder(self.experiment.method, self.experiment.preprocess, mesh)
        self.probe = probe_rows(source, config.eval.rows, config.seed) if config.eval.every else None
        self.compile()

    def compile(self):
        """`eval_shape`, then sharding rules, then the jitted functions with pinned output shardings."""
        method, augment, preprocess, tx, _, clock = self.experiment
        views = jax.eval_shape(augment, self.rng, self.feed.shapes())
        init = functools.partial(init_state, method, tx, views=views)
        shapes = jax.eval_shape(init, self.rng_init)
        self.shardings = state_shardings(self.mesh, shapes)
        self.shapes = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings
        )
        self.init = jax.jit(init, out_shardings=self.shardings)

        step = functools.partial(train_step, method, augment, tx, clock, self.config.train.accumulate)

        def steps(state, held, items, rng):
            return train_steps(step, functools.partial(self.feed.fetch, held), state, items, rng)

        everywhere = replicated(self.mesh)
        self.steps = jax.jit(steps, donate_argnums=0, out_shardings=(self.shardings, everywhere, None))
        self.measures = jax.jit(health.measures, out_shardings=everywhere)
        self.inputs = jax.jit(lambda batch: rows({**preprocess(batch), "index": batch["index"]}))

    def begin(self):
        """The state before step 0. A method that learns from labels finds them in its carry."""
        state = self.init(self.rng_init)
        if LABELS not in state.carry:
            return state
        if self.source.labels is None:
            raise ValueError(f"{self.config.method.name} learns from labels, but {self.source.spec} has none")
        labels = everywhere(self.mesh, np.array(self.source.train_labels, np.int32))
        return state._replace(carry={**state.carry, LABELS: labels})

    def go(self, chosen):
        """From the newest checkpoint, if there is one, to the last step. chosen: lines of text, for the log."""
        config, steps = self.config, self.config.train.steps
        with Stop() as stop, Checkpoints(self.workdir, config.checkpoint.keep, config.checkpoint.best) as checkpoints:
            state = checkpoints.restore(self.shapes)
            fresh = state is None
            if fresh:
                origin = config.init.encoder
                there = arrays(origin) if origin else {}  # before the first compile: a path may be mistyped
                state = fill(self.begin(), config.init_from)
                state, said = start_from(state, origin, there) if origin else (state, [])
                chosen = chosen + said + self.unguarded()
            start = int(state.step)
            self.check_start(start)
            lines = chosen + preflight(config, self.source, state)
            record(self.workdir, config, lines)

            before = [row for row in read_metrics(self.workdir) if row["step"] <= start] if start else []
            spent, watching = cost.Meter(self.mesh.size, before), Watch(config.watch, before)
            writer = Writer(self.workdir, steps, start, config.log_every, active=jax.process_index() == 0)
            with writer:
                for line in lines:
                    writer.note(line)
                if fresh:
                    self.export(state, "untrained")
                    self.draw_views(writer)
                    if config.init.encoder and self.probe:
                        first = {"knn": self.knn(state)}
                        watching.look(0, first)
                        writer.write(0, first)
                else:
                    writer.note(f"resumed at step {start:,}")
                try:
                    state, done = self.loop(state, start, stop, checkpoints, writer, watching, spent)
                except Ended as error:
                    writer.end(error.step, str(error))
                    checkpoints.wait()
                    raise type(error)(f"{error}; {kept(self.workdir)}", error.step) from None

            checkpoints.wait()
            if done < steps:
                writer.note(f"stopped at step {done:,} and saved; the same command goes on from there")
                return None
            self.export(state, "weights")
            self.draw_reconstructions(state)
            seen = {"examples": done * config.train.batch_size, **spent.so_far(done)}
            bill = cost.words(seen, self.source.modality)
            writer.note(f"trained for {done:,} steps ({bill}); encoder in {self.workdir / encoder.FOLDER}")
            return state

    def unguarded(self):
        """A line where a continued run has no k-NN to hold to that of its start."""
        if not self.config.init.encoder or self.probe:
            return []
        why = f"{self.source.spec} has no labels of two classes" if self.config.eval.every else "eval.every is 0"
        return [f"nothing watches whether training undoes what the encoder knew: {why}; give eval.every, and labels"]

    def check_start(self, start):
        train = self.config.train
        if start > train.steps:
            raise ValueError(f"{self.workdir} is at step {start:,} already: expected train.steps={start} or more")
        if start % train.steps_per_call:
            raise ValueError(
                f"{self.workdir} is at step {start:,}, which train.steps_per_call={train.steps_per_call} does not "
                f"divide; the nearest that does is {math.gcd(start, train.steps_per_call)}"
            )

    def loop(self, state, start, stop, checkpoints, writer, watching, spent):
        """Steps, rows and checkpoints up to the last step, or that at which the run was asked to stop -> state, step.

        Raises `watch.Ended` where the watchdog ends the run.
        """
        config, train, per_call = self.config, self.config.train, self.config.train.steps_per_call
        log, done = Log(self.experiment.rate, train.batch_size, spent), start
        with self.feed.items(start, per_call) as items:
            for step in range(start, train.steps, per_call):
                if due(step, train.refresh_every):
                    state = self.refresh(state, step)
                    log.restart()
                with log.waiting():
                    item = next(items)
                if step == start:
                    program = self.steps.lower(state, self.feed.held, item, self.rng)
                    spent.flops = cost.flops_per_step(program, per_call, train.accumulate)
                state, metrics, out = self.steps(state, self.feed.held, item, self.rng)
                log.add(metrics)
                done = step + per_call
                if step == start:
                    jax.block_until_ready(state)
                    log.restart()
                    writer.started(done)

                last = done == train.steps
                stopping = stop.asked(done // per_call)
                evaluating = self.probe is not None and (last or due(done, config.eval.every))
                logging = last or evaluating or due(done, config.log_every)
                saving = last or stopping or due(done, config.checkpoint.every)
                if logging or saving:
                    row = log.flush(done)  # raises where a loss is not finite, before anything is saved
                    if logging:
                        row |= {name: float(x) for name, x in self.measures(out).items()}
                        if evaluating:
                            row["knn"] = self.knn(state)
                        for warning in watching.look(done, row, width(out)):
                            writer.warn(warning)
                        writer.write(done, row)
                        if verdict := watching.verdict():
                            raise Ended(verdict, done)
                    if saving and (last or stopping or not watching.holds):
                        # After the row: a run that resumes here has it.
                        checkpoints.save(done, state, row)
                    log.restart()
                if stopping:
                    break
        return state, done

    def refresh(self, state, step):
        """The method's own pass over every row. Parameters that it replaces start with fresh optimizer state."""
        method, tx = self.experiment.method, self.experiment.tx
        rng = jax.random.fold_in(self.rng_refresh, step)
        params, carry = method.refresh(state.params, state.carry, self.every_batch(), rng)
        replaced = jax.tree.map(lambda new, old: new is not old, params, state.params)
        params, carry = jax.device_put((params, carry), (self.shardings.params, self.shardings.carry))
        fresh = jax.jit(tx.init, out_shardings=self.shardings.opt)(params)
        return state._replace(params=params, carry=carry, opt=restart(tx, state.opt, fresh, replaced))

    def every_batch(self):
        """Each row of the data once, as evaluation sees it: global batches of what `embed` takes, and 'index'.

        The last batch is padded with index -1.
        """
        size, devices = min(self.config.eval.batch_size, len(self.source)), self.mesh.size
        size = -(-size // devices) * devices
        leading = self.source.leading(size, devices)
        how = {"leading": leading, "rows": rows_here(self.mesh, leading), **self.experiment.preprocess.reads}
        for batch in self.source.every(batch_size=size, **how):
            yield self.inputs(put(self.mesh, batch, leading))

    def knn(self, state):
        """Accuracy of weighted k-NN within a fixed, labelled part of the training data; test labels play no role."""
        config, (source, of, bank) = self.config.eval, self.probe
        features = encoder.embed(
            self.embedder, state.params, state.carry, source, self.experiment.preprocess, config.batch_size
        )
        features, labels, classes = features[of], source.labels[of], int(source.labels.max()) + 1
        found = knn(
            features[:bank],
            labels[:bank],
            features[bank:],
            labels[bank:],
            classes=classes,
            k=config.k,
            temperature=config.temperature,
        )
        return float(found["accuracy"])

    def draw_views(self, writer):
        """views.png: the first batch as the method sees it, of a modality that can be drawn."""
        if self.modality.sheet and not jax.process_index():
            writer.image("views", self.draw("views", self.first_views()), 0)

    def draw_reconstructions(self, state):
        """reconstructions.png: the same images, what the encoder sees of them, and what the method makes of that; by
        methods that do, in a single process."""
        if jax.process_count() > 1 or not self.modality.sheet:
            return
        x, reconstruct = self.first_views()["image"][:, 0], jax.jit(self.experiment.method.reconstruct)
        with jax.set_mesh(self.mesh):
            shown = reconstruct(state.params, state.carry, x, jax.random.fold_in(self.rng, 1))
        if shown is not None:
            self.draw("reconstructions", {"image": shown})

    def first_views(self):
        """Of eight images, on this process alone, as `train_step` makes them of the first batch."""
        rng, _ = jax.random.split(jax.random.fold_in(self.rng, 0))
        return jax.device_get(jax.jit(self.experiment.augment)(rng, self.feed.first(8)))

    def draw(self, name, views):
        """NAME.png; -> the picture."""
        sheet = self.modality.sheet(self.experiment.augment, views)
        Image.fromarray(sheet.squeeze()).save(self.workdir / f"{name}.png")
        return sheet

    def export(self, state, weights):
        method, preprocess = self.experiment.method, self.experiment.preprocess
        encoder.export(self.workdir, self.config, method, preprocess, state.params, state.carry, self.source, weights)


class Stop:
    """Whether someone asked the run to end: SIGTERM, or Ctrl-C.

    Several processes agree through jax's preemption service, which listens to SIGTERM itself; a handler of ours would
    take the signal from it. A single process uses handlers; a second Ctrl-C ends it at once.
    """

    def __enter__(self):
        self.signalled = False
        self.before = {}
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number, frame):
        self.signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nstopping after this step; Ctrl-C ends it at once\n")  # a handler must not use sys.stderr

    def asked(self, call):
        """call: the number of the dispatch. The processes agree on one to come, so that each number must be asked."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(call)
        return self.signalled


def due(step, every):
    """Whether a cadence (in steps; 0: never) falls on this step."""
    return bool(every) and step % every == 0


def probe_rows(source, rows, seed):
    """(a labelled part of the training data, which of its examples count, how many of these are the bank: 4 in 5);
    None without labels. Of graphs, the nodes or graphs that a split trains on, or all labelled ones."""
    if source.labels is None or len(np.unique(source.labels)) < 2:
        return None
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(source.train_labels >= 0))[:rows]
    part = source.take(chosen)
    return part, chosen if part is source else slice(None), len(chosen) * 4 // 5  # of one graph all is taken


def width(out):
    """Dimensions of what the watchdog judges."""
    shown = out.get("embedding", out.get("features"))
    return None if shown is None else shown.shape[-1]


def kept(workdir):
    """What is left of a run that the watchdog ended."""
    steps = checkpoint_steps(pathlib.Path(workdir) / "checkpoints")
    if not steps:
        return "no checkpoint was saved before"
    return f"the last good checkpoint is kept, that of step {steps[0]:,}: `jssl export` makes an encoder of it"


def refuse_another(workdir, config):
    """Raises ValueError, with the difference, where the directory holds a run with another config."""
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        return
    old = {"init": configs.plain(configs.base().init), **json.loads(path.read_text())["config"]}
    changes = configs.difference(old, configs.plain(config))
    changes = [line for line in changes if line.partition(":")[0] not in MAY_CHANGE]
    if changes:
        raise ValueError(f"{workdir} holds a run with another config ({'; '.join(changes)}); expected a new --workdir")


def record(workdir, config, lines):
    """Writes config.json, whole or not at all."""
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"config": configs.plain(config), "preflight": lines, **provenance()}, indent=2)
        with whole(workdir / "config.json") as file:
            file.write(text + "\n")
