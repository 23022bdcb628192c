"""The training curves of report.html, of one run or of several over each other."""

from jssl import cost, figures
from jssl.sections import escape
from jssl.writers import WORDS

# What a curve shows, and what is healthy: (name or ending of a name, title, caption). The order is the page's.
CURVES = (
    ("loss", "Loss", "What training minimises. It should fall, then flatten; its height says nothing across methods."),
    ("knn", "k-NN accuracy", "How often the nearest neighbours of a held-out example tell its class. It should rise."),
    (
        "probe/accuracy",
        "Online probe: accuracy",
        "A linear classifier trained beside the method, on random views of training images. It should rise.",
    ),
    ("probe/loss", "Online probe: loss", "What that classifier minimises. The method feels nothing of it."),
    ("lr", "Learning rate", "The step size: a warm-up, then a slow decay."),
    ("grad_norm", "Gradient norm", "The length of the gradient. Healthy: steady or falling. Spikes: lower the rate."),
    ("std", "Spread of embeddings", "1: even in all directions; 0: the same for every input. Below 0.1: a collapse."),
    (
        "rankme",
        "Effective rank (RankMe)",
        "How many dimensions are in use. Healthy: high or rising. Near 1: a collapse.",
    ),
    ("alignment", "Alignment", "Squared distance of two views of one example. Healthy: small while uniformity is low."),
    ("uniformity", "Uniformity", "How evenly the embeddings fill the sphere: near -4 evenly, at 0 all are one point."),
    (
        "information",
        "Information of assignments",
        "Nats that a cluster assignment tells about its input. At 0 every input has the same one: a collapse.",
    ),
    (
        "deviation",
        "Standard deviation of embeddings",
        "As they are, where the loss asks for 1. Below 0.1: they have shrunk to one point, a collapse.",
    ),
    ("entropy", "Entropy of assignments", "As a share of ln K. At 1 all are even, at 0 each names one prototype."),
    ("used", "Prototypes or codes in use", "The share that names some input of a batch, of those that could."),
    (
        "perplexity",
        "Codes in use",
        "Perplexity of a tokenizer's codes: as if so many were used evenly. Near 1: a collapse.",
    ),
    ("features_std", "Spread of features", "The same of the encoder's features, which is what one uses afterwards."),
    (
        "features_rankme",
        "Effective rank of features",
        "The dimensions that the encoder's features use. Higher is better.",
    ),
    ("param_norm", "Parameter norm", "The length of all weights. Healthy: slow change."),
    (
        "examples_per_s",
        "Examples per second",
        "Source examples through the whole step, augmentation and update included.",
    ),
    (
        "data_wait",
        "Waiting for data",
        "Share of the time in which the device waited. Above some per cent: more workers.",
    ),
)
NAMED = [name for name, _, _ in CURVES]
PERCENT = ("knn", "probe/accuracy", "data_wait")
FROM_ZERO = ("examples_per_s", "data_wait")  # rates: their share of the whole axis is what counts
OTHER = "Logged by the method."
NOT_DRAWN = ("step", *WORDS, *cost.NAMES)


def curves(runs):
    """runs: {name: rows}; the colours of several are those of `figures.colour`. -> HTML, empty without rows"""
    found = {name: None for rows in runs.values() for row in rows for name in row if name not in NOT_DRAWN}
    figure, taken = [], set()
    for known, heading, caption in CURVES:
        for name in found:
            if name not in taken and known == (name if name in NAMED else name.split("/")[-1]):
                taken.add(name)
                figure.append(_curve(runs, name, heading, caption))
    figure += [_curve(runs, name, name, OTHER) for name in found if name not in taken]
    alone = "health/features_std" in found and "health/alignment" not in found
    no_pairs = " The method compares no two views of an example, which alignment and uniformity need." if alone else ""
    lead = f"<p>Every figure is also in <code>metrics.jsonl</code> and in TensorBoard.{no_pairs}</p>"
    return f'{lead}<div class="curves">{"".join(figure)}</div>' if figure else ""


def _curve(runs, name, heading, caption):
    pairs = {run: [(row["step"], row[name]) for row in rows if name in row] for run, rows in runs.items()}
    lines = [(run, *zip(*of, strict=True)) if of else None for run, of in pairs.items()]
    svg = figures.chart(lines, percent=name in PERCENT, zero=name in FROM_ZERO)
    return f"<figure><h3>{escape(heading)}</h3>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
