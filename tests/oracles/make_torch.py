"""Makes torch_losses/: NT-Xent, BYOL's regression and MAE's pixel loss by lightly, in float64, at several shapes.

    python -m venv ENV; ENV/bin/pip install torch==2.13.0 lightly==1.6.0 timm==1.0.31
    ENV/bin/python tests/oracles/make_torch.py

Inputs are not stored: `inputs` below draws them again, in any environment, from numpy's frozen `RandomState`.
"""

import json
import pathlib
from importlib.metadata import version

import numpy as np

NT_XENT = [(2, 8, 0.5), (5, 32, 0.1), (16, 256, 0.07), (64, 8, 0.05), (64, 64, 1.0)]  # N, D, temperature
REGRESSION = [(2, 8), (16, 256), (64, 32)]  # N, D
PIXELS = [
    (2, 8, 1, 2, 0.5, True),
    (4, 16, 3, 4, 0.75, True),
    (3, 32, 3, 8, 0.75, False),
]  # N, side, C, patch, ratio, norm
HALF = [(5, 32, 0.1), (64, 8, 0.05)]  # NT-Xent of inputs rounded to bfloat16


def inputs(*shape, seed):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def pixel_inputs(n, side, channels, patch, ratio, norm):
    """-> (images [N, H, W, C], predictions [N, L, p * p * C], hidden bool [N, L])"""
    length = (side // patch) ** 2
    images = inputs(n, side, side, channels, seed=3)
    pixels = inputs(n, length, patch**2 * channels, seed=4)
    noise = np.random.RandomState(5).rand(n, length)
    return images, pixels, noise.argsort(1).argsort(1) >= int(length * (1 - ratio))


def nt_xent(n, d, temperature, half=False):
    from lightly.loss import NTXentLoss

    z = torch.tensor(inputs(n, 2, d, seed=0))
    z = (z.bfloat16() if half else z).double().requires_grad_()
    return z, NTXentLoss(temperature)(z[:, 0], z[:, 1])


def regression(n, d):
    from lightly.loss import NegativeCosineSimilarity

    q = torch.tensor(inputs(n, d, seed=1)).double().requires_grad_()
    z = torch.tensor(inputs(n, d, seed=2)).double()
    return q, 2 + 2 * NegativeCosineSimilarity()(q, z)


def pixels(n, side, channels, patch, ratio, norm):
    from lightly.models.utils import get_at_index, normalize_mean_var, patchify

    images, predicted, hidden = pixel_inputs(n, side, channels, patch, ratio, norm)
    target = patchify(torch.tensor(np.moveaxis(images, -1, 1)).double(), patch)
    target = normalize_mean_var(target) if norm else target
    at = torch.tensor(np.stack([row.nonzero()[0] for row in hidden]))
    predicted = torch.tensor(predicted).double().requires_grad_()
    return predicted, torch.nn.functional.mse_loss(get_at_index(predicted, at), get_at_index(target, at))


def main():
    cases = {f"nt_xent.{i}": (nt_xent, case) for i, case in enumerate(NT_XENT)}
    cases |= {f"nt_xent_bfloat16.{i}": (nt_xent, (*case, True)) for i, case in enumerate(HALF)}
    cases |= {f"regression.{i}": (regression, case) for i, case in enumerate(REGRESSION)}
    cases |= {f"pixels.{i}": (pixels, case) for i, case in enumerate(PIXELS)}
    losses, gradients = {}, {}
    for name, (function, case) in cases.items():
        x, loss = function(*case)
        losses[name] = loss.item()
        gradients[f"grad.{name}"] = torch.autograd.grad(loss, x)[0].float().numpy()
    manifest = {
        "name": "torch_losses",
        "script": "tests/oracles/make_torch.py",
        "packages": {package: version(package) for package in ("lightly", "torch")},
        "precision": "float64 from float32 inputs (bfloat16 where the name says so); gradients stored in float32",
        "losses": losses,
    }
    folder = pathlib.Path(__file__).parent / "torch_losses"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    np.savez_compressed(folder / "tensors.npz", **gradients)


if __name__ == "__main__":
    import torch

    main()
