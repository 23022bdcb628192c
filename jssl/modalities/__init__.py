"""What the engine has to know of a modality: one module for each, named as `config.modality` says.

A module has
    open_data(fields, seed) -> the training source that `config.data` asks for;
    fill(config, source, choose, devices): chooses fields that are None, of the views, the network and the batch, by
        `choose(path, value, why)`;
    check(config, source): raises ValueError for what cannot be;
    example(source, fields) -> {name: JSON value}, what is kept of the training data, and of `config.data`, in the
        config.json of an exported encoder;
    open_source(text, kept) -> the source that `jssl embed --data TEXT` names; kept: the exported encoder's config.json;
    ready(source, kept) -> a source as the encoder takes it, or ValueError;
    sheet(augment, views) -> uint8 [H, W, C], a picture of views, or None in its place where views cannot be drawn;
    EVALUATE: "MODULE:FUNCTION" that scores a run, see `jssl.evals.run.evaluate`.
"""

import importlib
import pkgutil

from jssl.config import nearest


def find(name):
    """The module of a modality. ValueError for an unknown name, with the near misses."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise ValueError(f"modality={name!r} is unknown{nearest(name, names)}")
    return importlib.import_module(f"jssl.modalities.{name}")


def expect(source, name, who):
    """ValueError for a source of another modality than `who`, as a message calls it, is trained on."""
    if source.modality != name:
        raise ValueError(
            f"{source.spec} holds {source.contents}, but {who} is trained on data of another kind: expected a source "
            f"of modality {name!r}"
        )
