"""Makes torch_joint/: the losses of joint-embedding methods by lightly, in float64, at several shapes.

    python -m venv ENV; ENV/bin/pip install torch==2.13.0 lightly==1.6.0
    ENV/bin/python tests/oracles/make_joint.py

Inputs are not stored: `inputs` draws them again, in any environment, from numpy's frozen `RandomState`. Every case is
made twice: of float32 inputs, and of the same rounded to bfloat16.
"""

import json
import pathlib
from importlib.metadata import version

import numpy as np

# N, D, and for crops: the number of small ones beside two large; temperatures where there are any.
CASES = {
    "barlow_twins": [(4, 8), (16, 32), (33, 12)],
    "vicreg": [(4, 8), (16, 32), (33, 12)],
    "tico": [(4, 8), (16, 32), (33, 12)],
    "dcl": [(4, 8, 0.5), (16, 32, 0.1), (33, 12, 0.07)],
    "moco": [(4, 8, 0.5, 16), (16, 32, 0.07, 40), (33, 12, 0.2, 64)],  # and the queue's length
    "swav": [(8, 6, 0, 0.1, 0.05), (16, 24, 3, 0.1, 0.05), (33, 12, 6, 0.2, 0.03)],  # tau, epsilon
    "dino": [(8, 6, 0, 0.1, 0.04), (16, 24, 3, 0.1, 0.07), (33, 12, 8, 0.2, 0.04)],  # student, teacher
}


def inputs(name, i):
    """-> the arrays of a case, float32: views [N, V, D], and for some a second one."""
    n, d, *more = CASES[name][i]
    rs = np.random.RandomState(100 + i)
    draw = lambda *shape: rs.randn(*shape).astype(np.float32)
    if name == "moco":
        queue = draw(more[1], d)
        return draw(n, 2, d), queue / np.linalg.norm(queue, axis=1, keepdims=True)
    if name == "swav":
        return (draw(n, 2 + more[0], d) / 5,)  # of the size of cosines
    if name == "dino":
        return draw(n, 2 + more[0], d), draw(n, 2, d) / 5
    return (draw(n, 2, d),)


def loss_of(name, i, x):
    """lightly's loss of torch tensors x, as in `inputs`."""
    from lightly import loss as L

    more = CASES[name][i][2:]
    views = x[0].unbind(1)
    if name == "barlow_twins":
        return L.BarlowTwinsLoss(lambda_param=5e-3)(*views)
    if name == "vicreg":
        return L.VICRegLoss()(*views)
    if name == "tico":
        return L.TiCoLoss(beta=0.9, rho=8.0)(views[0], views[1].detach())
    if name == "dcl":
        return L.DCLLoss(temperature=more[0])(*views)
    if name == "moco":
        criterion = L.NTXentLoss(more[0], memory_bank_size=(more[1], x[1].shape[1]))
        criterion.memory_bank.bank = x[1].clone()
        criterion.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
        return criterion(views[0], views[1].detach())
    if name == "swav":
        return L.SwaVLoss(temperature=more[1], sinkhorn_epsilon=more[2])(list(views[:2]), list(views[2:]))
    teacher = list(x[1].detach().unbind(1))
    criterion = L.DINOLoss(x[1].shape[2], more[2], more[2], 0, more[1]).double()
    return criterion(teacher, list(views), epoch=1)


def main():
    losses, gradients = {}, {}
    for name, cases in CASES.items():
        for i in range(len(cases)):
            for half in "", ".bfloat16":
                x = [torch.tensor(value) for value in inputs(name, i)]
                x = [(value.bfloat16() if half else value).double() for value in x]
                x[0].requires_grad_()
                loss = loss_of(name, i, x)
                losses[f"{name}.{i}{half}"] = loss.item()
                gradients[f"{name}.{i}{half}"] = torch.autograd.grad(loss, x[0])[0].float().numpy()
    manifest = {
        "name": "torch_joint",
        "script": "tests/oracles/make_joint.py",
        "packages": {package: version(package) for package in ("lightly", "torch")},
        "precision": "float64 from float32 inputs (bfloat16 where the name says so); gradients stored in float32",
        "losses": losses,
    }
    folder = pathlib.Path(__file__).parent / "torch_joint"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    np.savez_compressed(folder / "tensors.npz", **gradients)


if __name__ == "__main__":
    import torch

    main()
