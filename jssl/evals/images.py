"""Scores of image encoders, by the protocols of `jssl.evals.table`."""

import functools

from jssl.evals import scores as of_scores
from jssl.evals import table
from jssl.evals.shown import save_mistakes, save_patches, save_pictures, unlabelled
from jssl.evals.subject import of_run, saw_labels


def evaluate(workdir, config, protocol=None, draws=None, data=None, test=None, options=None):
    """-> `Scored`; without scores and with a text, where there are no labels. Arguments: see `jssl.evals.run`."""
    asked = tuple(protocol.split(",")) if protocol and protocol != table.ALL else None
    own = config["eval"].get("protocols") or table.DEFAULT
    names = table.PROTOCOLS if protocol == table.ALL else asked or tuple(own.split(","))
    options = options or {}
    table.check(options, names)
    protocols = {name: table.find(name) for name in names}
    subject = of_run(workdir, data, test, draws=draws, options=options, missing=(missing := {}))
    subject.check()
    encoder, tested = subject.encoders["trained"], subject.splits["test"]
    save_pictures(workdir, subject.embedded("trained", "test"), tested)
    save_patches(workdir, encoder, tested)
    said = {part: source.spec for part, source in subject.splits.items()}
    said["encoder_saw_test_images"] = said["test"] == subject.config["data"]["source"]
    if saw_labels(subject.config, tested):
        said["encoder_saw_their_labels"] = True
    if not asked and not subject.labelled and names is not table.PROTOCOLS:
        found = {name: subject.embedded(name, "train") for name in subject.encoders}
        bare = next(source.spec for source in subject.splits.values() if source.labels is None)
        return of_scores.Scored([], unlabelled(workdir, found, bare), encoder)
    scores = []
    for name, score in protocols.items():
        known = len(missing)
        measure = functools.partial(of_scores.timed, name, functools.partial(score, subject))
        found = of_scores.attempt(name, measure, None if asked else missing)
        if asked and not found and len(missing) > known:  # nothing is left of what was asked for
            raise ValueError(list(missing.values())[-1])
        scores += found
    said |= {"left out": missing} if missing else {}
    show = functools.partial(save_mistakes, workdir, source=tested, label_names=subject.splits["train"].label_names)
    return of_scores.Scored(scores, said, encoder, subject.tested, show if subject.labelled else None)
