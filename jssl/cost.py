"""What a run costs: device-hours, examples seen, FLOPs."""

import time

import jax

NAMES = ("device_hours", "flops")  # in each row of metrics.jsonl, both since step 0


class Meter:
    """Device-hours and FLOPs since step 0, on so many devices. rows: those before this process took over; hours go on
    from the last one.

    What a killed process did after the row that the run goes on from is not counted: nothing is left of it.
    """

    def __init__(self, devices, rows=()):
        self.began, self.devices = time.monotonic(), devices
        self.before = next((row["device_hours"] for row in reversed(rows) if "device_hours" in row), 0.0)
        self.flops = None  # of a step

    def so_far(self, step):
        """The entries of the row of `step`, compiling and evaluating included."""
        hours = self.before + self.devices * (time.monotonic() - self.began) / 3600
        return {"device_hours": hours} | ({} if self.flops is None else {"flops": self.flops * step})


def flops_per_step(lowered, steps_per_call, accumulate):
    """XLA's count of the floating-point operations of a step on all devices, of the lowered program of a call of so
    many; None where this backend has no count.

    XLA counts the body of a loop once: on a CPU, where `step.scan` is no loop, all that there is, elsewhere one
    micro-batch of one step.
    """
    try:
        analysis = lowered.cost_analysis()
    except Exception:  # of any kind, by backend: a run needs no count
        return None
    count = (analysis or {}).get("flops")
    if not count or count < 0:
        return None
    return count / steps_per_call if jax.default_backend() == "cpu" else count * accumulate


def of(rows, config):
    """{"device_hours", "examples", "flops"} of a run, those that are known. config: the plain config of the run."""
    if not rows:
        return {}
    last = {name: row[name] for row in rows for name in NAMES if name in row}
    batch = config.get("train", {}).get("batch_size")
    return last | ({"examples": rows[-1]["step"] * batch} if batch else {})


def words(cost, kind="image"):
    """'0.12 device-hours, 153,600 images seen, 3.2e+15 FLOPs (XLA's count)'"""
    texts = {
        "device_hours": lambda x: f"{x:.2g} device-hours" if x < 10 else f"{x:,.0f} device-hours",
        "examples": lambda x: f"{x:,} {kind}s seen",
        "flops": lambda x: f"{x:.2g} FLOPs (XLA's count)",
    }
    return ", ".join(text(cost[name]) for name, text in texts.items() if name in cost)
