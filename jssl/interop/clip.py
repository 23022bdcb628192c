"""CLIP's image encoder (Radford et al., 2021; arXiv:2103.00020) as our `ViT`, from files of transformers."""

import json
import math
import pathlib

import numpy as np

from jssl.interop.safetensors import read_safetensors

FFN = {"gelu": "mlp", "quick_gelu": "quick_gelu"}  # their names for the activation: ours
PARTS = {"patch": "embeddings.patch_embedding", "pre_norm": "pre_layrnorm", "norm": "post_layernorm"}
BLOCK = {
    "norm1": "layer_norm1",
    "qkv": "self_attn.qkv",
    "proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def read_clip(folder):
    """-> (fields of `jssl.nets.vit:ViT`, {path: float32 array} of its parameters).

    folder: config.json and model.safetensors, as `save_pretrained` of a CLIPModel, CLIPVisionModel or
    CLIPVisionModelWithProjection writes them; nothing in them is executed. The projection, where there is one, becomes
    the ViT's last layer. Raises FileNotFoundError or ValueError, one line, where something else is there.
    """
    folder = pathlib.Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; expected the folder of a CLIP that transformers wrote")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError:
        raise ValueError(f"{folder / 'config.json'} cannot be read; expected JSON") from None
    weights = read_safetensors(folder / "model.safetensors", r"vision_model\.|visual_projection\.")
    config = config.get("vision_config", config)
    if config.get("hidden_act", "quick_gelu") not in FFN:
        raise ValueError(f"{folder}: hidden_act is {config['hidden_act']!r}, expected one of {', '.join(FFN)}")
    try:
        return _fields(config, weights), _arrays(weights)
    except KeyError as error:
        raise ValueError(f"{folder} is no CLIP of transformers: it has no {error.args[0]}") from None


def _fields(config, weights):
    """What the arrays' shapes do not say has CLIPVisionConfig's defaults."""
    dim, _, _, patch = weights["vision_model.embeddings.patch_embedding.weight"].shape
    positions = weights["vision_model.embeddings.position_embedding.weight"]
    return {
        "dim": dim,
        "depth": _depth(weights),
        "heads": config.get("num_attention_heads", 12),
        "patch": patch,
        "mlp": len(weights["vision_model.encoder.layers.0.mlp.fc1.bias"]),
        "ffn": FFN[config.get("hidden_act", "quick_gelu")],
        "table": math.isqrt(len(positions) - 1),
        "eps": config.get("layer_norm_eps", 1e-5),
        "pre_norm": True,
        "out_dim": len(weights["visual_projection.weight"]) if "visual_projection.weight" in weights else None,
    }


def _arrays(weights):
    names = {ours: f"vision_model.{theirs}" for ours, theirs in PARTS.items()}
    for i in range(_depth(weights)):
        names |= {f"block{i}/{ours}": f"vision_model.encoder.layers.{i}.{theirs}" for ours, theirs in BLOCK.items()}
    if "visual_projection.weight" in weights:
        names["out"] = "visual_projection"
    weights = weights | _packed(weights)
    arrays = {}
    for ours, theirs in names.items():
        arrays |= {f"{ours}/{leaf}": x for leaf, x in _layer(weights, theirs).items()}

    positions = weights["vision_model.embeddings.position_embedding.weight"]  # [1 + L, D], the class token's first
    side = math.isqrt(len(positions) - 1)
    cls = weights["vision_model.embeddings.class_embedding"] + positions[:1]
    return {**arrays, "cls": cls, "positions": positions[1:].reshape(side, side, -1)}


def _depth(weights):
    return sum(name.endswith(".layer_norm1.weight") for name in weights)


def _packed(weights):
    """Query, key and value as one layer, by its name."""
    names = {name: name.replace("q_proj", "qkv") for name in weights if ".q_proj." in name}
    of = lambda name: [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
    return {packed: np.concatenate(of(name)) for name, packed in names.items()}


def _layer(weights, name):
    """A norm's scale, or a kernel [inputs, D], whose inputs are a patch's pixels row by row; and the bias, 0 where they
    have none."""
    weight = weights[f"{name}.weight"]  # [D], [D, inputs] or [D, C, p, p]
    bias = weights.get(f"{name}.bias", np.zeros(len(weight), np.float32))
    if weight.ndim == 1:
        return {"scale": weight, "bias": bias}
    return {"kernel": np.moveaxis(weight, 1, -1).reshape(len(weight), -1).T, "bias": bias}
