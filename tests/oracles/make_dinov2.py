"""Makes hf_dinov2_swiglu/: DINOv2's network with registers and SwiGLU by transformers, in float64.

    python -m venv ENV; ENV/bin/pip install torch==2.13.0 transformers==4.57.6
    ENV/bin/python tests/oracles/make_dinov2.py

`giant` in the manifest is the number of parameters of the published ViT-g/14, without its mask token.
"""

import json
import pathlib
from importlib.metadata import version

import numpy as np
import torch
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

HERE = pathlib.Path(__file__).parent / "hf_dinov2_swiglu"
HYPER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 4,
    "patch_size": 4,
    "image_size": 16,
    "num_register_tokens": 4,
    "use_swiglu_ffn": True,
}


def main():
    rs = np.random.RandomState(0)
    net = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**HYPER, attn_implementation="eager")).eval()
    weights = {}
    for name, p in net.named_parameters():
        around = 1.0 if p.ndim == 1 and name.endswith(("weight", "lambda1")) else 0.0
        weights[name] = (around + 0.2 * rs.randn(*p.shape)).astype(np.float32)
        p.data = torch.tensor(weights[name])
    net = net.double()
    images = rs.randn(2, 3, 16, 16).astype(np.float32)
    x = torch.tensor(images).double().requires_grad_()
    tokens, *_ = net(pixel_values=x, return_dict=False)
    loss = 0.5 * (tokens**2).mean()
    loss.backward()

    tensors = {"in.pixel_values": images, "out.last_hidden_state": tokens.detach(), "grad.pixel_values": x.grad}
    HERE.mkdir(exist_ok=True)
    np.savez(HERE / "tensors.npz", **{name: np.asarray(value, np.float32) for name, value in tensors.items()})
    np.savez(HERE / "model.npz", **weights)
    manifest = {
        "name": HERE.name,
        "package": "transformers",
        "version": version("transformers"),
        "class": "Dinov2WithRegistersModel",
        "call": "Dinov2WithRegistersModel(config)(pixel_values=in.pixel_values), eval mode, in float64",
        "hyper": HYPER,
        "scalars": {"pseudo_loss": loss.item(), "giant": giant()},
        "notes": ["grad.pixel_values is of 0.5 * mean(out.last_hidden_state ** 2), in place of a loss"],
        "tensors": {name: {"shape": list(value.shape), "dtype": "float32"} for name, value in tensors.items()},
        "reference_precision": "float64",
    }
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def giant():
    config = Dinov2Config(1536, 40, 24, mlp_ratio=4, image_size=518, patch_size=14, use_swiglu_ffn=True)
    with torch.device("meta"):
        return sum(p.numel() for name, p in Dinov2Model(config).named_parameters() if "mask" not in name)


if __name__ == "__main__":
    main()
