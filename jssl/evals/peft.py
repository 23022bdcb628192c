"""The protocol `peft`: small parts of an encoder, or small additions to it, are trained on all labels."""

import dataclasses
import functools

import jax

from jssl.evals import tuned
from jssl.evals.adapted import counts, save
from jssl.evals.finetune import Settings, own
from jssl.evals.scores import title
from jssl.notes import say
from jssl.peft import KINDS, Tuning

RULES = "AdamW, the part of the encoder that `kind` names, cross-entropy; the last weights' average"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, as of `jssl.peft.Tuning`, and how, as of `jssl.evals.finetune.Settings`: all kinds alike."""

    kinds: str = ""  # comma-separated, of `jssl.peft.KINDS`; "": all that the network has
    control: bool = False  # whether they are trained of the untrained encoder too
    rank: int = Tuning.rank
    alpha: float = Tuning.alpha
    width: int = Tuning.width
    scale: float = Tuning.scale
    tokens: int = Tuning.tokens
    deep: bool = Tuning.deep
    blocks: int = Tuning.blocks
    epochs: float = Settings.epochs
    least: int = Settings.least
    batch_size: int | None = None
    lr: float = 5e-3  # of 2e-3, 5e-3 and 2e-2 the best, or near it, on others of Fashion-MNIST's training images
    weight_decay: float = Settings.weight_decay
    area: tuple[float, float] = (1.0, 1.0)  # of the crops: none at random, as for VTAB-1k (arXiv:1910.04867)

    def part(self, of, **more):
        """The fields that the dataclass `of` has too, in one of its own."""
        names = {field.name for field in dataclasses.fields(of)} & vars(self).keys()
        return of(**{name: getattr(self, name) for name in names}, **more)


def peft(subject):
    """Each kind of tuning, of the trained and if asked of the untrained encoder -> scores "peft-lora", ....

    What was trained of the trained encoder, by the first draw, is left in RUN/peft/KIND.npz, see `adapted.Adapted`.
    """
    options = subject.settings("peft", Options())
    rows, said = tuned.training_rows(subject)
    scores = []
    for tuning in tunings(subject, options):
        for name, encoder in subject.encoders.items():
            if name != "trained" and not options.control:
                continue
            how = {"settings": options.part(Settings), "tuning": tuning}
            found = tuned.of_draws(name, subject, rows, **how)
            sizes = counts(found[0]["trained"], own(encoder)[1])
            if name == "trained":
                keep(subject, tuning, found[0], sizes)
            fields = {"classifier": RULES, **tuning.fields, "parameters": sizes}
            scores.append(tuned.score(f"peft-{tuning.name}", name, subject, said, found, fields))
    return scores


def tunings(subject, options):
    """Those asked for; where none are, all that the encoder's network has, and a line on each other one."""
    encoder = subject.encoders["trained"]
    _, params, _ = own(encoder)
    found = []
    for kind in options.kinds.split(",") if options.kinds else KINDS:
        tuning = options.part(Tuning, kind=kind)
        try:
            jax.eval_shape(functools.partial(tuning.split, encoder.method.encoder), params, jax.random.key(0))
        except ValueError as error:
            if options.kinds:
                raise
            say(f"{title(f'peft-{tuning.name}')} is left out: {error}")
            continue
        found.append(tuning)
    return found


def keep(subject, tuning, found, sizes):
    """Writes RUN/peft/KIND.npz and says how much was trained."""
    file = subject.workdir / "peft" / f"{tuning.name}.npz"
    names = subject.splits["train"].label_names
    how = {"run": subject.workdir, "label_names": names, "settings": found["settings"]}
    size = save(file, subject.encoders["trained"], tuning, found["trained"], **how)
    trained, total, classifier = (sizes[part] for part in ("trained", "encoder", "classifier"))
    say(
        f"{title(f'peft-{tuning.name}')}: {trained:,} parameters trained, of the encoder's {total:,} that is "
        f"{trained / total:.1%}, and a classifier of {classifier:,}; {size / 1000:,.0f} kB in {file}"
    )
