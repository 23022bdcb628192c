"""`jssl doctor RUN`: reads a run directory and says what is wrong, the most likely cause first.

A cause is a function of a `Record` -> (whether something is wrong, a sentence), or None where there is nothing to judge
by. Where nothing is wrong the sentence says, in a few words, what was looked at. All causes are in `CAUSES`.
"""

import functools
import math
import pathlib
from typing import NamedTuple

import numpy as np

from jssl import compare, watch
from jssl import config as configs
from jssl.augment.patches import patch_sizes
from jssl.checkpoint import checkpoint_steps

BOUND = 0.2  # median share of the time that the device waited for data
SUNK = 0.6  # of the highest rank since the middle of the run: what is left at its end
NEAR = 0.02  # of a chance level: how near a loss must be to count as there
GROWN = 100.0  # times the untrained encoder's norm, that of all parameters: no healthy run comes near


class Record(NamedTuple):
    """What lies in a run directory."""

    workdir: pathlib.Path
    config: dict  # plain
    rows: list  # of metrics.jsonl
    checkpoints: list  # steps, newest first

    def last(self, name):
        """The newest value of a metric, or None."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)

    def values(self, name, since=0.0):
        """A metric's values from that share of the run's rows on."""
        values = [row[name] for row in self.rows if name in row]
        return values[int(since * len(values)) :]


def doctor(workdir):
    """-> (text, whether nothing wrong was found). Raises FileNotFoundError where there is no run."""
    record = read(workdir)
    found = [judged for cause in CAUSES.values() if (judged := cause(record))]
    wrong, well = ([text for bad, text in found if bad == kind] for kind in (True, False))
    total, step = record.config["train"]["steps"], record.rows[-1]["step"] if record.rows else 0
    name = record.config["method"]["name"].partition(":")[2]
    lines = [f"{workdir}: {name} on {record.config['data']['source']}, step {step:,} of {total:,}"]
    lines += [f"{i}. {text}" for i, text in enumerate(wrong, 1)] or ["nothing wrong found"]
    if well:
        lines.append(f"looked at{', and well' if wrong else ''}: {'; '.join(well)}")
    return "\n".join(lines), not wrong


def read(workdir):
    """A `Record` of the run directory."""
    config, rows = compare.read_run(workdir)
    return Record(pathlib.Path(workdir), config, rows, checkpoint_steps(pathlib.Path(workdir) / "checkpoints"))


def diverged(record):
    """The loss or the weights left the numbers, or all bounds."""
    ended = record.last("ended")
    if ended and "not finite" in ended:
        return True, f"diverged: {ended}"
    if not record.rows:
        return None
    if said := watch.not_finite(record.rows[-1:], {}):
        return True, f"diverged: {said}"
    norm, start = record.last("param_norm"), untrained_norm(record.workdir)
    if norm is not None and start and norm > GROWN * start:
        return True, (
            f"diverged: the parameters' norm is {norm:.3g}, {norm / start:,.0f} times that of the untrained encoder; "
            f"try a lower optim.lr (it is {_of(record, 'optim.lr')}), a longer optim.warmup or optim.clip=1.0"
        )
    return False, f"loss and parameters finite{'' if norm is None else f' (norm {norm:.3g})'}"


def untrained_norm(workdir):
    """The norm of the encoder before step 0, or None where it was not kept."""
    path = workdir / "encoder" / "untrained.npz"
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return math.sqrt(sum(float(np.sum(np.square(arrays[name], dtype=np.float64))) for name in arrays))


def watched(name, record):
    """What a rule of the watchdog says of the last row that it can judge."""
    rows = [row for row in record.rows if READS[name] & row.keys()]
    if not rows:
        return None
    said = watch.RULES[name](rows, watch.LIMITS | record.config.get("watch", {}))
    shown = [f"{WORDS[key]} {rows[-1][key]:.3g}" for key in WORDS if key in READS[name] & rows[-1].keys()]
    return (True, said) if said else (False, ", ".join(shown))


WORDS = {
    "health/std": "spread",
    "health/rankme": "RankMe",
    "health/features_std": "spread of features",
    "health/features_rankme": "RankMe of features",
    "health/deviation": "deviation",
    "health/information": "information",
    "health/entropy": "entropy of assignments, of ln K,",
    "health/perplexity": "codes in use",
    "health/used": "share of prototypes in use",
    "knn": "k-NN",
}
READS = {
    "collapse": {name for name in WORDS if name.endswith(("std", "rankme", "deviation"))},
    "teacher": {"health/information", "health/entropy"},
    "codes": {"health/perplexity", "health/used"},
    "knn": {"knn"},
}


def at_chance(record):
    """The loss lies where guessing does."""
    expected = chance(record.config)
    values = expected and record.values(expected[2], since=0.75)
    if not values:
        return None
    level, name, metric = expected
    loss = float(np.median(values))
    if loss >= (1 - NEAR) * level:
        return True, (
            f"stuck at chance: the {metric} is {loss:.4g}, and {name} = {level:.4g} is what guessing gives; look at "
            "the views (are they of one image, and not all the same?), the learning rate, the temperature, and whether "
            "gradients reach the encoder (grad_norm)"
        )
    return False, f"{metric} {loss:.3g}, below {name} = {level:.3g} of guessing"


def chance(config):
    """(the loss of guessing, what it is in words, the metric that is this loss) by the method and its config, or None
    where it has no such level: GRACE has, but of one graph the config does not tell how many nodes it compares."""
    method, augment, train = config["method"], config["augment"], config["train"]
    n, v = train["batch_size"] // train.get("accumulate", 1), augment.get("views", 2)
    name = method["name"].partition(":")[2]
    of = lambda count, what, times=1, metric="loss": (
        times * math.log(count),
        f"{'' if times == 1 else f'{times:g} '}ln {count}, of {what}",
        metric,
    )
    if name in ("SimCLR", "SimCLRv2") and not method.get("memory"):
        return of(n * v - (v if method.get("decoupled") else 1), "the other views in a batch")
    if name in ("MoCo", "SimCLRv2"):
        return of(method.get("queue", method.get("memory")) + 1, "the queue and the key")
    if name == "NNCLR":
        return of(n, "a batch")
    if name == "MoCoV3":
        return of(n, "a batch", times=4 * method["temperature"])
    if name == "CPC":
        *_, side = patch_sizes(*(augment[field] for field in ("size", "patch", "stride")))
        return of(n * side**2, "the patches of a batch, by distance", times=method["steps"] - method["ignore"])
    if name == "GRACE" and config["data"].get("sample"):
        return of(2 * n - 1, "the other views in a batch")
    if name == "GraphCL":
        return of(n - 1, "the other graphs in a batch")
    if name in ("DGI", "InfoGraph"):
        return of(2, "true and false pairs", times=2 if name == "InfoGraph" else 1)
    if name in ("SwAV", "DINO"):
        return of(method["prototypes"], "the prototypes")
    if name == "IBOT":  # the loss of patches depends on how many are hidden, and KoLeo is not about guessing
        return of(method["prototypes"], "the prototypes", metric="cls_loss")
    if name in ("DeepCluster", "DeepCluster2"):
        return of(method["k"], "the clusters")
    if name == "BEiT":
        encoder = configs.build(config["encoder"], dtype=config["dtype"])
        return of(configs.build(method, encoder=encoder).teacher.vocabulary, "the codes")
    if name == "BEiTv2":
        return of(method["vocabulary"], "the codes", times=2 if method["depth"] else 1)
    return None


def start_undone(record):
    """A run that began with the encoder of another has lost what that knew."""
    rows = [row for row in record.rows if "knn" in row]
    if not rows or rows[0]["step"]:
        return None
    said = watch.start_undone(rows, watch.LIMITS | record.config.get("watch", {}))
    return (True, said) if said else (False, f"k-NN of the starting weights {rows[0]['knn']:.3g}")


def rank_falling(record):
    """The encoder's features use fewer and fewer dimensions."""
    name = next((name for name in ("health/features_rankme", "health/rankme") if record.last(name) is not None), None)
    values = record.values(name, since=0.5) if name else []
    if len(values) < 4:
        return None
    best, last = max(values), float(np.mean(values[-2:]))
    if last < SUNK * best:
        return True, (
            f"the rank falls: {WORDS[name]} is {last:.3g} at the end, after {best:.3g} since the middle of the run; "
            "try a lower learning rate or its end, less weight decay, stronger views, or take an earlier checkpoint "
            "(jssl export)"
        )
    return False, f"{WORDS[name]} steady ({best:.3g} at most since the middle, {last:.3g} at the end)"


def data_bound(record):
    """The device waits for data."""
    waits = record.values("data_wait")
    if not waits:
        return None
    share = float(np.median(waits))
    if share > BOUND:
        return True, (
            f"data-bound: the device waited for data {share:.0%} of the time; try more data.workers (it is "
            f"{_of(record, 'data.workers')}), smaller or packed files, or data.resident=True where the images fit "
            "on the device"
        )
    return False, f"data wait {share:.0%}"


def off_reference(record):
    """Far off the curves of good runs of the same method on the same data."""
    try:
        name, band = compare.find(None, record.config)
    except FileNotFoundError:
        return None
    if not compare.same_length(record.config, band):
        return None
    found = compare.against(record.rows, record.config, band)
    left = [row for row in found if row["left"]]
    if not left:
        return (False, f"in the band of reference {name}") if found else None
    changes = compare.differences(band, record.config)
    why = f"; its config differs in {'; '.join(changes)}" if changes else ""
    return True, f"off the reference {name}: {' and '.join(map(compare.sentence, left))}{why}"


def unfinished(record):
    """Training has not come to its end."""
    ended, total = record.last("ended"), record.config["train"]["steps"]
    step = record.rows[-1]["step"] if record.rows else 0
    if ended and "not finite" not in ended:
        return True, f"ended by the watchdog: {ended}"
    if not record.rows:
        return True, (
            f"no row was logged: training ended before step {record.config['log_every']} (log_every), or never began; "
            "run it again and look at what it says"
        )
    if step < total and not ended:
        newest = f"from its checkpoint of step {record.checkpoints[0]:,}" if record.checkpoints else "from the start"
        return True, f"not finished: step {step:,} of {total:,}; the same command goes on {newest}"
    return (False, "finished") if step >= total else None


def no_checkpoints(record):
    if record.checkpoints:
        return False, f"checkpoints of {', '.join(f'{step:,}' for step in record.checkpoints)}"
    every = _of(record, "checkpoint.every")
    return True, (
        f"no checkpoints: checkpoint.every is {every}, so that a run that ends before loses all; try a smaller one, "
        "and look whether the disk is full"
    )


CAUSES = {
    "diverged": diverged,
    "collapse": functools.partial(watched, "collapse"),
    "teacher": functools.partial(watched, "teacher"),
    "codes": functools.partial(watched, "codes"),
    "chance": at_chance,
    "start": start_undone,
    "knn": functools.partial(watched, "knn"),
    "rank": rank_falling,
    "reference": off_reference,
    "data": data_bound,
    "unfinished": unfinished,
    "checkpoints": no_checkpoints,
}


def _of(record, path):
    section, _, name = path.partition(".")
    return record.config[section][name]
