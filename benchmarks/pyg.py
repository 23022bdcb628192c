"""Seconds per epoch of DGI and GraphMAE on Cora and of GraphCL on NCI1, written with torch_geometric's own layers.

    PYTHON benchmarks/pyg.py dgi:cora=.data/cora.npz graphmae:cora=.data/cora.npz graphcl:nci1=.data/nci1.npz

The other side of `benchmarks.graph_speed`: it runs where torch and torch_geometric are, and imports nothing of jssl.
It prints one line of JSON, the medians of several runs, each with one thread and with one for each core, as it is and
through `torch.compile`. Networks, losses and optimizers are those of experiments/{dgi,graphmae,graphcl}.py. What a
graph needs once (its features' shares, self-loops, the normalisation of GCN) is made once, before the clock runs.
"""

import argparse
import json
import os
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
import torch_geometric
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import DeepGraphInfomax, GATConv, GCNConv, GINConv, global_add_pool
from torch_geometric.utils import add_self_loops, dropout_node, to_torch_csr_tensor, to_undirected


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="+", metavar="METHOD:DATA=FILE")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed run")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, of which the median counts")
    parser.add_argument("--turns", action="store_true", help="instead, a line for each METHOD:DATA read: of one run")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    ways = {}
    for name, _, path in (case.partition("=") for case in arguments.cases):
        if name not in CASES:
            raise SystemExit(f"{name} is not here, expected {', '.join(CASES)}")
        method, data = CASES[name]
        ways[name] = ways_of(method, data(path))
    measure = lambda name, repeats: {way: median(go, arguments.seconds, repeats) for way, go in ways[name].items()}
    versions = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
    if not arguments.turns:
        print(json.dumps({"seconds": {name: measure(name, arguments.repeats) for name in ways}, "versions": versions}))
        return
    print(json.dumps({"versions": versions}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(line.strip(), 1)), flush=True)


def ways_of(method, data):
    """{name: epoch} of all ways to run a method, each with an epoch behind it, which compiles."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ways = {}
    for words, compiled in ("", False), (", compiled", True):
        for threads in sorted({1, cores}):
            ways[f"{threads} thread{'s' * (threads > 1)}{words}"] = with_threads(threads, method(data, compiled))
    for epoch in ways.values():
        epoch()
    return ways


def with_threads(threads, epoch):
    def go():
        torch.set_num_threads(threads)
        epoch()

    return go


def median(epoch, seconds, repeats):
    """Seconds per epoch, the median of `repeats` runs of about `seconds`."""
    epoch()
    count = max(1, round(seconds / timed(epoch, 1)))
    return statistics.median(timed(epoch, count) / count for _ in range(repeats))


def timed(epoch, count):
    began = time.perf_counter()
    for _ in range(count):
        epoch()
    return time.perf_counter() - began


def cora(path):
    """The graph, both directions of every edge, features divided by their sum."""
    arrays = np.load(path)
    x = np.zeros(arrays["x_shape"], np.float32)
    x[np.repeat(np.arange(len(x)), np.diff(arrays["x_indptr"])), arrays["x_indices"]] = arrays["x_data"]
    x /= np.maximum(x.sum(1, keepdims=True), 1)
    return Data(torch.from_numpy(x), to_undirected(torch.from_numpy(arrays["edges"].T.astype(np.int64))))


def nci1(path):
    """The graphs, features the nodes' kinds as one-hot vectors."""
    arrays = np.load(path)
    offsets, edges = arrays["node_offsets"], arrays["edges"].astype(np.int64)
    kinds, which = np.unique(arrays["node_label"], return_inverse=True)
    x, of = torch.eye(len(kinds))[torch.from_numpy(which)], np.searchsorted(offsets, edges[:, 0], "right") - 1
    own = [torch.from_numpy(edges[of == i].T - first) for i, first in enumerate(offsets[:-1])]
    return [Data(x[a:b], to_undirected(edge)) for a, b, edge in zip(offsets[:-1], offsets[1:], own)]


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Infomax(nn.Module):
    """DGI's encoder: one layer of GCN, which keeps the graph's normalisation."""

    def __init__(self, features, dim=512):
        super().__init__()
        self.layer, self.activation = GCNConv(features, dim, cached=True), nn.PReLU()

    def forward(self, x, edges):
        return self.activation(self.layer(x, edges))


def dgi(graph, compiled):
    encoder, edges = Infomax(graph.num_features), graph.edge_index
    if not compiled:  # sums over edges as a sparse matrix product, which is not compiled
        edges = to_torch_csr_tensor(edges, size=(graph.num_nodes, graph.num_nodes))
    encoder(graph.x, edges)  # keeps the normalisation
    model = DeepGraphInfomax(
        512,
        torch.compile(encoder) if compiled else encoder,
        summary=lambda z, *_: torch.sigmoid(z.mean(0)),
        corruption=lambda x, edges: (x[torch.randperm(len(x))], edges),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    return lambda: step(optimizer, model.loss(*model(graph.x, edges)))


class MaskedAutoencoder(nn.Module):
    """GraphMAE with GAT: encoder, link and decoder, and the token of hidden nodes."""

    def __init__(self, features, dim=512, heads=4, mask=0.5, replace=0.05, drop=0.2, attention_drop=0.1):
        super().__init__()
        layer = lambda a, b, heads: GATConv(a, b // heads, heads, dropout=attention_drop, add_self_loops=False)
        self.layers = nn.ModuleList([layer(features, dim, heads), layer(dim, dim, heads)])
        self.activations = nn.ModuleList([nn.PReLU(), nn.PReLU()])
        self.link, self.decoder = nn.Linear(dim, dim, bias=False), layer(dim, features, 1)
        self.token = nn.Parameter(torch.zeros(features))
        self.mask, self.replace, self.drop = mask, replace, drop

    def forward(self, x, edges):
        hidden = torch.randperm(len(x))[: int(self.mask * len(x))]
        replaced = hidden[: int(self.replace * len(hidden))]
        h = x.clone()
        h[hidden] = self.token
        h[replaced] = x[torch.randperm(len(x))[: len(replaced)]]
        for layer, activation in zip(self.layers, self.activations):
            h = activation(layer(F.dropout(h, self.drop), edges))
        h = self.link(h)
        h[hidden] = 0
        y = self.decoder(F.dropout(h, self.drop), edges)
        return (1 - F.cosine_similarity(y[hidden], x[hidden])).pow(3).mean()


def graphmae(graph, compiled):
    model, edges = MaskedAutoencoder(graph.num_features), add_self_loops(graph.edge_index)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=2e-4, fused=True)
    loss = torch.compile(model) if compiled else model
    return lambda: step(optimizer, loss(graph.x, edges))


class Contrast(nn.Module):
    """GraphCL's encoder and projector: layers of GIN, batch norm after the activation, the sums of all side by side."""

    def __init__(self, features, dim=32, depth=3):
        super().__init__()
        network = lambda width: nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList([GINConv(network(dim if i else features)) for i in range(depth)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(dim) for _ in range(depth)])
        wide = depth * dim
        self.projector = nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, wide))

    def forward(self, x, edges, of, graphs):
        layers = []
        for layer, norm in zip(self.layers, self.norms):
            x = norm(F.relu(layer(x, edges)))
            layers.append(x)
        return self.projector(global_add_pool(torch.cat(layers, 1), of, graphs))


def graphcl(graphs, compiled, temperature=0.2):
    model = Contrast(graphs[0].num_features)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    embed = torch.compile(model, dynamic=True) if compiled else model
    loader = DataLoader(graphs, batch_size=128, shuffle=True)

    def loss(batch):
        edges, _, kept = dropout_node(batch.edge_index, 0.1, batch.num_nodes, relabel_nodes=True)
        z = F.normalize(embed(batch.x, batch.edge_index, batch.batch, batch.num_graphs))
        other = F.normalize(embed(batch.x[kept], edges, batch.batch[kept], batch.num_graphs))
        logits = z @ other.T / temperature
        positive = logits.diagonal()
        others = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        return (others.logsumexp(1) - positive).mean()

    def epoch():
        for batch in loader:
            step(optimizer, loss(batch))

    return epoch


CASES = {"dgi:cora": (dgi, cora), "graphmae:cora": (graphmae, cora), "graphcl:nci1": (graphcl, nci1)}

if __name__ == "__main__":
    main()
