"""Other data sets: k-NN and the linear probe on each, and classifiers of the run's own set tested on them."""

import dataclasses
import pathlib
import re

from jssl import data as sources
from jssl.evals import frozen
from jssl.evals.kept import identity, on
from jssl.evals.subject import RAW, held_out

TASKS = ("knn", "linear")


@dataclasses.dataclass(frozen=True)
class Settings:
    to: str | None = None  # comma-separated sources, each TRAIN+TEST, or TRAIN, of which a fifth is then for testing
    same_classes: bool = False  # whether classes without names are the run's own, number by number


def protocol(subject):
    """Scores of each set: "transfer-NAME-knn" and "-linear", learned from its own training images; and, where its
    classes are those of the run's set, "transfer-NAME-own-knn" and "-own-linear", learned from the run's images."""
    settings = subject.settings("transfer", Settings())
    if not settings.to:
        raise ValueError("transfer needs the sets to go to: expected --transfer.to=TRAIN+TEST, or several with commas")
    scores = []
    for name, spec in named(settings.to.split(",")).items():
        there = dataclasses.replace(subject, splits=split(spec, subject.encoders["trained"].channels))
        said = {"train": there.splits["train"].spec, "test": there.splits["test"].spec}
        scores += of(there, there.features, f"transfer-{name}", said)
        if alike(subject.splits["train"], there.splits["test"], settings.same_classes):
            scores += across(subject, there, f"transfer-{name}-own")
    return scores


def named(specs):
    """{name: spec}, by the names of files and folders; a second one of the same name gets a number."""
    names = {}
    for spec in specs:
        first = re.split(r"[+@]", spec.strip())[0]
        stem = pathlib.PurePath(first.rpartition(":")[2]).stem
        stem = re.sub(r"[^\w.]+", "_", stem) or "set"
        again = sum(other == stem or other.startswith(f"{stem}.") for other in names)
        names[f"{stem}.{again + 1}" if again else stem] = spec.strip()
    return names


def split(spec, channels):
    """{"train", "test": source} of TRAIN+TEST; of TRAIN alone, a fifth of each class by `held_out`.

    Raises ValueError where there are no labels.
    """
    train, _, test = spec.partition("+")
    train = sources.open_source(train, channels=channels)
    if test:
        return {"train": train, "test": sources.open_source(test, channels=channels)}
    if train.labels is None:
        raise ValueError(f"{train.spec} has no labels; transfer needs one class per image")
    return held_out(train)


def of(subject, features, task, said):
    """Scores of both classifiers on features as of `Subject.features`, and the labels of the subject."""
    scores, measure = [], subject.config["eval"]
    how = {"seed": subject.seed, "k": measure["k"], "temperature": measure["temperature"]}
    how["label_names"] = subject.splits["train"].label_names
    for encoder, found in features.items():
        for score in frozen.evaluate(found, subject.labels, encoder=encoder, protocols=TASKS, **how):
            rows = {"right": score["rows"]["right"]}  # predictions are kept of the run's own test set
            more = {"task": f"{task}-{score['task']}", "settings": {**score["settings"], **said}, "rows": rows}
            scores.append({**score, **more})
    return on(scores, identity(said["test"], subject.splits["test"].names))


def alike(train, test, same):
    """Whether the classes of two sources are the same: by their names, or by their number where the user says so."""
    if train.labels is None:
        return False
    if train.label_names and test.label_names:
        return set(test.label_names) <= set(train.label_names)
    return same and test.labels.max() <= train.labels.max()


def across(subject, there, task):
    """Classifiers of the run's training images on another set's test images; raw pixels where they are as many."""
    both = dataclasses.replace(subject, splits={"train": subject.splits["train"], "test": there.splits["test"]})
    features = {name: {"train": found["train"]} for name, found in subject.features.items()}
    for name, found in features.items():
        found["test"] = there.features[name]["test"]
    if features[RAW]["train"].shape[1] != features[RAW]["test"].shape[1]:
        del features[RAW]
    return of(both, features, task, {"train": both.splits["train"].spec, "test": both.splits["test"].spec})
