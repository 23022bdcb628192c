"""Graphs: of one the nodes are the examples, many are examples themselves."""

from jssl import data
from jssl.config import complete
from jssl.evals import links

EVALUATE = "jssl.evals.graphs:evaluate"
sheet = None


def open_data(fields, seed):
    """The graphs of `config.data`, without the edges that are held out, weighted and sampled as it says."""
    for name, default in ("share", 1), ("eval_source", None):
        if fields[name] != default:
            raise ValueError(f"data.{name}={fields[name]!r} is for images; expected {default} with graphs")
    source, _, _ = open_graph(fields, seed)
    if source.modality == "graph" and fields.centrality is not None:
        source = source.weighted(fields.centrality)
    return source if fields.sample is None else data.sample(source, fields.sample, fields.fanouts, fields.walks)


def open_source(text, kept):
    """Graphs as they are."""
    return data.open_source(text)


def open_graph(fields, seed):
    """The graphs of a config's `data`, and the pairs of nodes to tell apart, [P, 2] with and [P, 2] without an edge,
    or None and None: edges that are held out are not in the graph."""
    source = data.open_source(fields["source"])
    if source.modality != "graph" or not fields["held_edges"]:
        return source, None, None
    return links.without(source, fields["held_edges"], seed)


def fill(config, source, choose, devices):
    """The batch, in how many rows it lies, and of sampled graphs what the encoder gives."""
    complete(config)
    if config.data.sample and config.encoder.get("pool", "") is None:
        choose("encoder.pool", "first", "graphs are sampled around their first nodes")
    choose("train.batch_size", min(len(source), 128), source.contents)
    pieces = config.train.accumulate * len(devices)
    choose("data.rows", 1 if config.train.batch_size % pieces else pieces, f"{len(devices)} devices")


def check(config, source):
    """ValueError where the encoder embeds nodes and the examples are graphs, or the other way round."""
    if config.eval.protocols:
        raise ValueError(f"eval.protocols={config.eval.protocols}: is of images; expected None, and --protocol")
    if source.single != (config.encoder.get("pool") is None):
        raise ValueError(f"{source.spec} holds {source.contents}: expected encoder.pool to be {_pool(source)}")


def example(source, fields):
    """How many features nodes have, and how one graph was sampled."""
    sample = {name: fields[name] for name in ("fanouts", "walks")} | {"kind": fields["sample"]}
    return {"features": source.x.shape[1], "sample": sample if fields["sample"] else None}


def ready(source, kept):
    """The source, sampled where it was so in training. ValueError for other features, or nodes where the encoder embeds
    graphs."""
    if source.x.shape[1] != kept["features"]:
        raise ValueError(
            f"{source.spec} has nodes of {source.x.shape[1]} features; expected {kept['features']}, as the encoder was "
            "trained on"
        )
    if kept["sample"] and source.single:
        source = data.sample(source, **kept["sample"])
    if source.single != (kept["encoder"].get("pool") is None):
        embeds = "graphs" if source.single else "nodes"
        raise ValueError(
            f"{source.spec} holds {source.contents}, but the encoder embeds {embeds}; expected encoder.pool to be "
            f"{_pool(source)}"
        )
    return source


def _pool(source):
    """What the encoder has to do with the nodes of such a source."""
    if source.single:
        return "None: nodes are the examples"
    sampled = isinstance(source, data.Sampled)
    return "first: graphs are of their first nodes" if sampled else "sum, mean or max: graphs are the examples"
