"""The section of report.html on corrupted images: accuracy by corruption and severity, and on coarser, cropped and
shifted images."""

from jssl.sections import escape, percent

TASKS = {"robustness": "linear probe", "robustness-knn": "k-NN"}  # the first there is shown, the others folded


def corruptions(data):
    """Tables of the trained encoder's accuracy. data: what scores.json holds"""
    found = {(s["encoder"], s["task"]): s["settings"] for s in data.get("scores", []) if s["task"] in TASKS}
    tasks = [task for task in TASKS if ("trained", task) in found]
    if not tasks:
        return ""
    before = any(encoder == "untrained" for encoder, _ in found)
    small = " In small figures the same encoder untrained, its mean over the severities." if before else ""
    tables = "".join(
        f"<details{' open' if task == tasks[0] else ''}><summary>{TASKS[task]}, on clean images "
        f"{percent(found['trained', task]['clean'])}</summary>"
        f"{_table(found['trained', task], found.get(('untrained', task)))}</details>"
        for task in tasks
    )
    return (
        "<p>Accuracy in per cent of a classifier that learned from clean images, on test images that were corrupted. "
        f"The stronger a cell's colour, the more of the accuracy on clean images is kept.{small}</p>{tables}"
    )


def _table(now, before):
    """now, before: the settings of a score of the trained and the untrained encoder; before may be None."""
    clean, mean = now["clean"], lambda shares: sum(shares) / len(shares)
    cell = lambda share, more="": (
        f'<td style="--kept: {100 * min(1, share / clean if clean else 0):.0f}%">{100 * share:.1f}{more}</td>'
    )
    beside = lambda share: f" <small>{100 * share:.1f}</small>"
    lines = []
    for name, shares in now["by corruption"].items():
        more = beside(mean(before["by corruption"][name])) if before else ""
        lines.append(f"<td>{escape(name)}</td>{''.join(map(cell, shares))}{cell(mean(shares), more)}")
    columns = len(next(iter(now["by corruption"].values())))
    for name, share in now["by shift"].items():
        more = beside(before["by shift"][name]) if before else ""
        lines.append(f'<td colspan="{columns + 1}">{escape(name)}</td>{cell(share, more)}')
    head = "".join(f"<th>{text}</th>" for text in ("Severity", *range(1, columns + 1), "Mean"))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table class="heat"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
