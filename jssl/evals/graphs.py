"""Scores of graph encoders: of the nodes of one graph, of many graphs, and of what joins nodes."""

import numpy as np

from jssl.config import nearest
from jssl.data import default_workers
from jssl.evals import cluster, links, nodes, svm
from jssl.evals import protocol as protocols
from jssl.evals.labels import by_class, share
from jssl.evals.shown import SHOWN, save_graph, save_map, unlabelled
from jssl.experiment import open_graph

OF_NODES = ("knn", "linear", "fewshot", "cluster", "links")
OF_GRAPHS = ("svm", "knn", "cluster")
SHOTS = (1, 5)
SPLITS = 20  # random ones, where a graph comes without
RAW = "raw features"


def evaluate(workdir, encoders, config, asked=None, draws=None, data=None):
    """-> scores as of `jssl.evals.protocol.evaluate`, what to say of the data; nothing and a text without labels.

    asked: of one graph, of `OF_NODES`: "linear" is logistic regression on the split that comes with it, or on `draws`
    random ones; "links" needs edges that training has not seen (`data.held_edges`). Of many graphs, of `OF_GRAPHS`. The
    encoder sees every node, without labels; raw features of a graph are the sum of its nodes'.
    """
    fields = config["data"] | ({"source": data} if data else {})
    graph, positive, negative = open_graph(fields, config["seed"])
    tasks = OF_NODES if graph.single else OF_GRAPHS
    asked = asked or tuple(task for task in tasks if task != "links" or positive is not None)
    if unknown := [task for task in asked if task not in tasks]:
        raise ValueError(f"unknown protocol {unknown[0]!r} of {graph.contents}{nearest(unknown[0], tasks)}")
    if "links" in asked and positive is None:
        raise ValueError("links: training has seen every edge; expected a run with --config.data.held_edges=0.1")
    features = {name: encoder.embed(graph, workers=default_workers()) for name, encoder in encoders.items()}
    features[RAW] = raw(graph)
    rows = np.random.default_rng(0).permutation(graph.examples)[:SHOWN]
    shown = None if graph.labels is None else graph.labels[rows]
    save_map(workdir, features["trained"][rows], shown, graph.label_names)
    if graph.labels is None:
        return [], unlabelled(workdir, features, graph.spec)

    parts = split(graph, config["seed"])
    labels = {part: graph.labels[rows] for part, rows in parts.items()}
    scores = []
    for name, found in features.items():
        for task in asked:
            if task == "linear":
                scores.append(linear(name, found, graph, draws, config["seed"]))
            elif task == "svm":
                scores.append(machine(name, found, graph))
            elif task == "cluster":
                scores += clusters(name, found, graph)
            elif task == "links":
                scores += joined(name, found, positive, negative)
            else:
                scores += protocols.evaluate(
                    {part: found[rows] for part, rows in parts.items()},
                    labels,
                    encoder=name,
                    protocols=(task,),
                    shots=SHOTS,
                    seed=config["seed"],
                    k=config["eval"]["k"],
                    temperature=config["eval"]["temperature"],
                    label_names=graph.label_names,
                )
    save_graph(workdir, features["trained"], graph, parts, asked, config)
    return scores, {"graph": graph.spec}


def raw(graph):
    """The features of nodes, or of each graph their sum."""
    return graph.x if graph.single else np.add.reduceat(graph.x, graph.offsets[:-1])


def split(graph, seed):
    """{"train", "test": numbers} of labelled examples: those that came with the data, or four fifths and a fifth."""
    if {"train", "test"} <= graph.splits.keys():
        return {part: graph.splits[part] for part in ("train", "test")}
    known = np.flatnonzero(graph.labels >= 0)
    train = share(graph.labels[known], 0.8, np.random.default_rng(seed))
    return {"train": known[train], "test": known[~train]}


def linear(name, features, graph, draws, seed):
    """Logistic regression on the split that came with the graph, or on random ones."""
    own = {"train", "val", "test"} <= graph.splits.keys()
    splits = [graph.splits] if own else nodes.random_splits(graph.labels, draws or SPLITS, seed=seed)
    found = nodes.probe(features, graph.labels, splits)
    test = splits[0]["test"]
    score = entry(name, "linear", found["accuracies"], found["settings"], len(test))
    return {**score, "classes": by_class(found["predictions"], graph.labels[test], graph.label_names)}


def machine(name, features, graph):
    """An SVM in ten-fold cross-validation."""
    found = svm.svm(features, graph.labels)
    score = entry(name, "svm", found["accuracies"], found["settings"], len(graph))
    return {**score, "classes": by_class(found["predictions"][0], graph.labels, graph.label_names)}


def clusters(name, features, graph):
    """NMI and ARI of k-means."""
    found = cluster.cluster(features, graph.labels)
    return [entry(name, kind, found[f"{kind}s"], found["settings"]) for kind in ("nmi", "ari")]


def joined(name, features, positive, negative):
    """AUC and average precision of telling hidden edges from pairs without one."""
    found = links.scores(features, positive, negative)
    return [entry(name, f"link-{kind}", np.array([found[kind]]), found["settings"]) for kind in ("auc", "ap")]


def entry(name, task, values, settings, rows=None):
    """One score; its error is over draws, or for a single accuracy on so many rows binomial."""
    if len(values) > 1 or rows:
        mean, stderr, kind = protocols.summary(values, rows)
        settings = {**settings, "stderr": kind}
    else:
        mean, stderr = float(values[0]), None
    return {"encoder": name, "task": task, "mean": mean, "stderr": stderr, "draws": len(values), "settings": settings}
