"""Scores of graph encoders: of the nodes of one graph, of many graphs, and of what joins nodes."""

import functools

import numpy as np

from jssl import modalities
from jssl.config import nearest
from jssl.data import default_workers
from jssl.data.graph import each_split
from jssl.encoder import Encoder
from jssl.evals import cluster, fewshot, frozen, links, nodes, rank, svm
from jssl.evals.kept import identity, on
from jssl.evals.labels import by_class, each_count, share
from jssl.evals.scores import Scored, attempt, entry, timed, title
from jssl.evals.shown import SHOWN, save_graph, save_map, unlabelled
from jssl.evals.table import ALL, OF_GRAPHS, OF_NODES
from jssl.modalities.graph import open_graph

SHOTS = (1, 5)
SPLITS = 20  # random ones, where a graph comes without
RAW = "raw features"
UNPAIRED = {rank.of_pairs(): "it is of images alone: two views of a graph need not hold the same nodes"}


def evaluate(workdir, config, protocol=None, draws=None, data=None, test=None, options=None):
    """-> `Scored`; without scores and with a text, where there are no labels. Arguments: see `jssl.evals.run`."""
    if options:
        name, given = next(iter(options.items()))
        raise ValueError(f"--{name}.{next(iter(given))}: the protocols of graphs have no settings")
    if test:
        raise ValueError(f"--test {test}: test nodes come with a graph, as a split of it; expected --data alone")
    asked = tuple(protocol.split(",")) if protocol and protocol != ALL else None
    encoders = {name: Encoder(workdir, of) for name, of in (("trained", "weights"), ("untrained", "untrained"))}
    scores, said = of_encoders(workdir, encoders, config, asked, draws, data)
    return Scored(scores, said, encoders["trained"])


def of_encoders(workdir, encoders, config, asked=None, draws=None, data=None):
    """-> scores as of `jssl.evals.frozen.evaluate`, what to say of the data; nothing and a text without labels.

    asked: of one graph, of `OF_NODES`: "linear" is logistic regression on the splits that come with it, or on `draws`
    random ones; "links" needs edges that training has not seen (`data.held_edges`). Of many graphs, of `OF_GRAPHS`.
    "rank" alone needs no labels. None: all that the data allow; what they do not is said beside the scores. The encoder
    sees every node, without labels; raw features of a graph are the sum of its nodes'.
    """
    fields = config["data"] | ({"source": data} if data else {})
    graph, positive, negative = open_graph(fields, config["seed"])
    modalities.expect(graph, "graph", "the encoder")
    tasks = OF_NODES if graph.single else OF_GRAPHS
    missing = None if asked else {}
    asked = asked or tuple(task for task in tasks if task != "links" or positive is not None)
    if unknown := [task for task in asked if task not in tasks]:
        raise ValueError(f"unknown protocol {unknown[0]!r} of {graph.contents}{nearest(unknown[0], tasks)}")
    if draws and not ("linear" in asked and graph.single and not _given(graph)):
        raise ValueError(
            f"--draws {draws}: draws are of random splits, for the linear probe of nodes whose graph comes without one"
        )
    if "links" in asked and positive is None:
        raise ValueError("links: training has seen every edge; expected a run with --config.data.held_edges=0.1")
    features = {name: encoder.embed(graph, workers=default_workers()) for name, encoder in encoders.items()}
    features[RAW] = raw(graph)
    rows = np.random.default_rng(0).permutation(graph.examples)[:SHOWN]
    shown = None if graph.labels is None else graph.labels[rows]
    save_map(workdir, features["trained"][rows], shown, graph.label_names)
    if graph.labels is None and asked == ("rank",):
        scores = [score for name, found in features.items() for score in ranks(name, found, graph, config["seed"])]
        return scores, {"graph": graph.spec, "left out": UNPAIRED}
    if graph.labels is None:
        return [], unlabelled(workdir, features, graph.spec)

    parts = split(graph, config["seed"])
    labels = {part: graph.labels[rows] for part, rows in parts.items()}
    tested = identity(graph.spec, parts["test"])
    few = each_count(parts["train"], labels["train"], SHOTS, fewshot.DRAWS) if "fewshot" in asked else None
    own = {
        "linear": lambda name, found: linear(name, found, graph, draws, config["seed"]),
        "svm": lambda name, found: machine(name, found, graph),
        "cluster": lambda name, found: clusters(name, found, graph),
        "rank": lambda name, found: ranks(name, found, graph, config["seed"]),
        "links": lambda name, found: joined(name, found, positive, negative),
    }

    def common(task):
        scores = lambda name, found: frozen.evaluate(
            {part: found[rows] for part, rows in parts.items()},
            labels,
            encoder=name,
            protocols=(task,),
            shots=SHOTS,
            seed=config["seed"],
            k=config["eval"]["k"],
            temperature=config["eval"]["temperature"],
            label_names=graph.label_names,
            few=few,
            names=parts["train"],
            missing=missing,
        )
        return lambda name, found: on(scores(name, found), tested)

    scores = []
    for name, found in features.items():
        for task in asked:
            measure = functools.partial(own.get(task) or common(task), name, found)
            scores += attempt(title(task), functools.partial(timed, f"{task} of {name}", measure), missing)
    tasks = {score["task"] for score in scores if score["encoder"] == "trained"}
    first = node_splits(graph, 1, config["seed"])[0] if "linear" in tasks else parts
    draw = functools.partial(save_graph, workdir, features["trained"], graph, first, tasks, config)
    attempt("the drawn graph", draw, {} if missing is None else missing)
    left = (missing or {}) | (UNPAIRED if "rank" in asked else {})
    return scores, {"graph": graph.spec, **({"left out": left} if left else {})}


def raw(graph):
    """The features of nodes, or of each graph their sum."""
    if graph.single:
        return graph.x
    found = np.zeros((len(graph), graph.x.shape[1]), graph.x.dtype)
    np.add.at(found, np.repeat(np.arange(len(graph)), graph.sizes[:, 0]), graph.x)
    return found


def split(graph, seed):
    """{"train", "test": numbers} of labelled examples: those that came with the data, or four fifths and a fifth."""
    if _given(graph):
        first = each_split(graph.splits)[0]
        return {part: first[part] for part in ("train", "test")}
    known = np.flatnonzero(graph.labels >= 0)
    train = share(graph.labels[known], 0.8, np.random.default_rng(seed))
    return {"train": known[train], "test": known[~train]}


def node_splits(graph, count, seed):
    """[{"train", "val", "test": numbers}, ...]: those that came with the graph, or `count` random ones.

    Where it has no validation nodes a stratified fifth of the training nodes are.
    """
    if not _given(graph):
        return nodes.random_splits(graph.labels, count, seed=seed)
    given = each_split(graph.splits)
    if "val" in given[0]:
        return given
    rng = np.random.default_rng(seed)
    return [_with_val(one, share(graph.labels[one["train"]], 0.8, rng)) for one in given]


def _given(graph):
    """Whether a split came with the graph."""
    return {"train", "test"} <= graph.splits.keys()


def _with_val(one, kept):
    return {**one, "train": one["train"][kept], "val": one["train"][~kept]}


def linear(name, features, graph, draws, seed):
    """Logistic regression on every split of the nodes."""
    splits = node_splits(graph, draws or SPLITS, seed)
    found = nodes.probe(features, graph.labels, splits)
    test = splits[0]["test"]
    drawn = "that came with the graph" if _given(graph) else "random"
    if _given(graph) and "val" not in graph.splits:
        drawn += ", a stratified fifth of the training nodes for validation"
    settings = {**found["settings"], "split": drawn}
    predictions, labels = found["predictions"][test], graph.labels[test]
    by = by_class(predictions, labels, graph.label_names)
    right = predictions == labels if len(splits) == 1 else None
    settings |= {"std": found["std"]} if len(splits) > 1 else {}
    more = {"right": right, "rows": len(test), "over": "splits", "classes": by}
    return on([entry("linear", name, found["accuracies"], settings, **more)], identity(graph.spec, test))


def machine(name, features, graph):
    """An SVM in ten-fold cross-validation of the labelled graphs."""
    known = graph.labels >= 0
    labels = graph.labels[known]
    found = svm.svm(features[known], labels)
    by = by_class(found["predictions"][0], labels, graph.label_names)
    right = np.mean(found["predictions"] == labels, 0)
    settings = {**found["settings"], "std": float(np.std(found["accuracies"], ddof=1))}
    score = entry("svm", name, found["accuracies"], settings, right=right, over="shuffles into folds", classes=by)
    return on([score], identity(graph.spec, np.flatnonzero(known)))


def clusters(name, features, graph):
    """NMI and ARI of k-means."""
    found = cluster.cluster(features, graph.labels)
    settings = lambda kind: {**found["settings"], "std": found[f"{kind}_std"]}
    return [entry(kind, name, found[f"{kind}s"], settings(kind), over="k-means' seeds") for kind in ("nmi", "ari")]


def ranks(name, features, graph, seed):
    """RankMe and alpha-ReQ of an encoder."""
    return [] if name == RAW else rank.of_features(name, features, graph.contents, seed)


def joined(name, features, positive, negative):
    """AUC and average precision of telling hidden edges from pairs without one."""
    found = links.scores(features, positive, negative)
    return [entry(f"link-{kind}", name, [found[kind]], found["settings"]) for kind in ("auc", "ap")]
