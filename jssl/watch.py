"""The watchdog: what a run's rows say is going wrong, in words, and what people usually do about it.

A rule is a pure function (rows, limits) -> a sentence, or None where all is well. rows: those of metrics.jsonl, oldest
first, of which the newest is judged; limits: the fields of `config.watch`, and "dim", the dimensions of what the method
compares, where it is known. All rules are in `RULES`.
"""

import math

from jssl import config as configs

LIMITS = configs.base().watch.to_dict()
POLICIES = ("warn", "stop")
FINITE = ("loss", "grad_norm", "param_norm")


class Ended(ValueError):
    """The watchdog ends the run, at this step."""

    def __init__(self, text, step):
        super().__init__(text)
        self.step = step


class Diverged(Ended):
    """The loss, the gradient or a parameter is no longer finite."""


class Watch:
    """The rules over the rows of one run. rows: those that were logged before, so that a resumed run judges as a whole
    one does. All processes have the same rows, but for times, which no rule reads: they decide the same."""

    def __init__(self, limits, rows=()):
        self.limits, self.rows = dict(limits), [judged(row) for row in rows]
        self.found = findings(self.rows, self.limits)

    def look(self, step, row, dim=None):
        """Judges a new row -> the sentences that the row before did not give."""
        before, self.limits["dim"] = self.found, dim
        self.rows.append({"step": step, **judged(row)})
        self.found = findings(self.rows, self.limits)
        return [text for name, text in self.found.items() if name not in before]

    @property
    def holds(self):
        """Whether to save no checkpoint for now, since the run may end for what was found: the last good one stays."""
        return self.limits["policy"] == "stop" and bool(self.found)

    def verdict(self):
        """What ends the run, one line, or None: under "stop", a rule that spoke on each of the last `patience` rows."""
        patience = self.limits["patience"]
        if not self.holds or len(self.rows) < patience:
            return None
        past = [findings(self.rows[: len(self.rows) - back], self.limits) for back in range(patience)]
        lasting = [text for name, text in self.found.items() if all(name in found for found in past)]
        if not lasting:
            return None
        so_long = f"so it was on the last {patience} rows, and watch.policy=stop ends the run (warn: it would go on)"
        return f"step {self.rows[-1]['step']:,}: {lasting[0]}; {so_long}"


def check(limits):
    """Raises ValueError where the fields of `config.watch` cannot be."""
    if limits["policy"] not in POLICIES:
        raise ValueError(f"watch.policy={limits['policy']!r}{configs.nearest(limits['policy'], POLICIES)}")
    if limits["patience"] < 1:
        raise ValueError(f"watch.patience={limits['patience']}: expected 1 row or more")


def findings(rows, limits=LIMITS):
    """{name of the rule: its sentence} of what the newest row says, the most certain first."""
    if not rows:
        return {}
    said = {name: rule(rows, limits) for name, rule in RULES.items()}
    return {name: text for name, text in said.items() if text}


def judged(row):
    """What the rules read of a row."""
    return {name: x for name, x in row.items() if name in ("step", "knn", *FINITE) or name.startswith("health/")}


def not_finite(rows, limits):
    """-> what it looks like, also of the rows {name: number} of single steps."""
    row = rows[-1]
    if all(math.isfinite(row.get(name, 0)) for name in FINITE):
        return None
    shown = ", ".join(f"{name}={row[name]:.4g}" for name in FINITE if name in row)
    return (
        f"loss, gradient or parameters not finite ({shown}); try, in a new --workdir, a lower optim.lr, a longer "
        "optim.warmup, optim.clip=1.0 or dtype=float32"
    )


def collapse(rows, limits):
    """Of what the loss compares or, where a method has no embedding, of its features: all alike, few dimensions, or,
    where a loss asks for a scale, shrunk."""
    row = rows[-1]
    prefix, what = ("health/", "embeddings") if "health/std" in row else ("health/features_", "features")
    std, rank, deviation = row.get(prefix + "std"), row.get(prefix + "rankme"), row.get("health/deviation")
    of = f" of {limits['dim']}" if limits.get("dim") else ""
    if std is not None and std < limits["std"]:
        return (
            f"collapse: the {what} are almost the same for every input (their spread is {std:.2g}; 1 is even, 0 is one "
            "point); try a lower learning rate, a longer warm-up, and look at what this method has against collapse "
            "(negatives, predictor, stop-gradient, temperature, variance term)"
        )
    if rank is not None and rank < limits["rankme"]:
        return (
            f"dimensional collapse: the {what} use about {rank:.1f}{of} dimensions (RankMe); try stronger views, a "
            "lower learning rate or weight decay, a larger batch, or batch norm in the projector"
        )
    if deviation is not None and deviation < limits["std"]:
        return (
            f"collapse: the embeddings have shrunk to almost one point (their standard deviation is {deviation:.2g}; "
            "this loss asks for 1); try a lower learning rate or weight decay, and look at the variance term's weight"
        )
    return None


def teacher(rows, limits):
    """Of soft assignments, a teacher's or a clustering's: the entropy of ln K, or the same for every input."""
    information, entropy = rows[-1].get("health/information"), rows[-1].get("health/entropy")
    if entropy is not None and entropy > 1 - limits["entropy"]:
        return (
            f"collapse: the teacher's assignments are even for every input (their entropy is {entropy:.1%} of ln K); "
            "try a lower teacher temperature or epsilon, its warm-up for longer, or a lower learning rate: centring "
            "and balancing alone push towards even"
        )
    if information is not None and information < limits["information"]:
        how = f", and their entropy is {entropy:.1%} of ln K: one cluster takes all" if entropy is not None else ""
        return (
            "collapse: every input gets almost the same assignment, one cluster or all evenly (it tells "
            f"{information:.2g} nats about the input{how}); try a lower learning rate, a sharper temperature or "
            "epsilon, prototypes frozen for longer, and look at what balances the clusters (Sinkhorn, centring)"
        )
    return None


def codes(rows, limits):
    """Of prototypes, clusters or a tokenizer's codes: few in use."""
    perplexity, used = rows[-1].get("health/perplexity"), rows[-1].get("health/used")
    if perplexity is not None and perplexity < limits["codes"]:
        return (
            f"collapse: the tokenizer uses about {perplexity:.1f} of its codes (perplexity); try a lower learning "
            "rate, a temperature that falls later, a larger weight of the divergence from even use, or a codebook that "
            "starts at the k-means of the data"
        )
    if used is not None and used < limits["used"]:
        return (
            f"dead prototypes: of those that could be in use in a batch, {1 - used:.1%} name no input; try fewer "
            "prototypes or codes, a larger batch or a queue, more balancing (Sinkhorn, centring), prototypes frozen "
            "for longer, or a start at the k-means of the data"
        )
    return None


def knn_falling(rows, limits):
    """k-NN that has been below its best for the last `patience` evaluations."""
    seen = [(row["knn"], row["step"]) for row in rows if "knn" in row and row["step"]]
    (best, step), last = max(seen, key=lambda pair: (pair[0], -pair[1]), default=(0, 0)), seen[-limits["patience"] :]
    if len(seen) <= limits["patience"] or any(value >= best - limits["knn"] for value, _ in last):
        return None
    return (
        f"k-NN falls: {last[-1][0]:.1%}, after {best:.1%} at step {step:,}, and below that on the last {len(last)} "
        "evaluations; people take the best checkpoint (it is kept: jssl export --checkpoint best), train for fewer "
        "steps, lower the learning rate or its end, or weaken the views: the encoder may be learning what tells views "
        "apart, not images"
    )


def start_undone(rows, limits):
    """k-NN below that of the weights that a continued run started from, a row of step 0, on the last `patience`
    evaluations."""
    seen = [(row["step"], row["knn"]) for row in rows if "knn" in row]
    if not seen or seen[0][0]:
        return None
    (_, start), *history = seen
    return fallen(history, start, limits["start"], limits["patience"])


def fallen(history, start, drop, patience):
    """One sentence where each of the last `patience` values lies more than `drop` below `start`, else None.

    history: [(step, k-NN accuracy), ...] after the start, oldest first; start: that of the starting weights.
    """
    last = history[-patience:]
    if len(last) < patience or any(value >= start - drop for _, value in last):
        return None
    step, value = last[-1]
    return (
        f"k-NN is below that of the starting weights: {value:.1%} at step {step:,}, and {start:.1%} before the first; "
        f"so it was on the last {patience} evaluations: training undoes what the encoder knew; try a lower optim.lr, a "
        "longer optim.warmup or init.warmup, or data nearer to those that it knows"
    )


RULES = {
    "not finite": not_finite,
    "collapse": collapse,
    "teacher": teacher,
    "codes": codes,
    "start": start_undone,
    "knn": knn_falling,
}
