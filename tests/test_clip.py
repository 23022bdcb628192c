"""CLIP's image encoder, out of a folder that transformers wrote, against transformers; and as VQ-KD's teacher."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.checkpoint import fill
from jssl.interop.clip import read_clip
from jssl.interop.safetensors import read_safetensors
from jssl.method import Time
from jssl.methods.vqkd import VQKD
from jssl.nets.net import apply_net
from jssl.nets.vit import ViT
from jssl.sharding import make_mesh, nested, replicated
from jssl.step import TrainState
from jssl.transforms import unit
from tests import oracles
from tests.test_vit import close
from tests.torch_weights import nhwc

FOLDER = oracles.HERE / "hf_clip"
FIELDS, ARRAYS = read_clip(FOLDER)
NET = ViT(16, 1, 2, patch=4, pool="mean")
SMALL = VQKD(NET, "jssl.nets.vit:ViT", tuple(FIELDS.items()), vocabulary=12, dim=4, depth=1)
VIEWS = {"image": np.random.RandomState(0).randn(3, 1, 16, 16, 3).astype(np.float32)}
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.fixture(scope="module")
def state():
    """VQ-KD's before step 0, and the same with CLIP as its teacher."""
    params, carry = jax.jit(SMALL.init)(jax.random.key(0), VIEWS)
    state = jax.device_put(TrainState(jnp.int32(0), params, carry, ()), replicated(make_mesh()))
    return state, fill(state, {"carry/frozen/params": f"{FOLDER}#params/encoder"})


def test_tokens_and_the_projected_class_token_are_transformers():
    _, tensors = oracles.load("hf_clip")
    net = ViT(**FIELDS)
    y, out, _ = jax.jit(lambda p, x: apply_net(net, p, {}, x))(nested(ARRAYS), nhwc(tensors["in.pixel_values"]))
    close(out["layers"][-1], tensors["out.vision_last_hidden_state"])
    close(unit(y), tensors["out.image_embeds"])
    norm, last = (nested(ARRAYS)[name] for name in ("norm", "out"))
    h = np.asarray(out["layers"][-1], np.float64)
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
    close(out["tokens"], h[:, 1:] @ last["kernel"])


def test_a_vision_model_by_itself_has_the_same_weights_but_for_the_projection(tmp_path):
    written(tmp_path, {name: x for name, x in stored().items() if name.startswith("vision_model.")})
    config = json.loads((FOLDER / "config.json").read_text())["vision_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    fields, arrays = read_clip(tmp_path)
    assert fields == {**FIELDS, "out_dim": None}
    assert ARRAYS.keys() - arrays.keys() == {"out/kernel", "out/bias"}
    jax.tree.map(np.testing.assert_array_equal, arrays, {path: ARRAYS[path] for path in arrays})


def test_what_the_shapes_do_not_say_is_read_from_the_config(tmp_path):
    shutil.copy(FOLDER / "model.safetensors", tmp_path)
    changed = {"num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": changed}))
    assert read_clip(tmp_path)[0] == {**FIELDS, "heads": 2, "ffn": "mlp", "eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}}))  # as published ones leave out defaults
    assert read_clip(tmp_path)[0] == {**FIELDS, "heads": 12}


def test_half_precision_is_read_too(tmp_path):
    for dtype in (np.float16, jnp.bfloat16):
        written(tmp_path, {"x": np.arange(6).reshape(2, 3).astype(dtype), "text": np.zeros(2, dtype)})
        (name, x), *more = read_safetensors(tmp_path / "model.safetensors", "x$").items()
        assert (name, x.dtype, more) == ("x", np.float32, [])
        np.testing.assert_array_equal(x, [[0, 1, 2], [3, 4, 5]])


def test_an_imported_clip_teaches_and_gets_no_gradient(state):
    before, filled = state
    teacher = nested(ARRAYS)
    jax.tree.map(np.testing.assert_array_equal, filled.carry["frozen"]["params"], teacher)
    assert before.params["head"]["dense1"]["kernel"].shape[-1] == 16  # of the projection

    def loss(params, carry):
        return SMALL.loss(params, carry, VIEWS, jax.random.key(1), Time(0, 100, 10.0))

    (value, (carry, _)), (params, frozen) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        filled.params, filled.carry
    )
    assert np.isfinite(value)
    assert np.abs(params["encoder"]["block0"]["fc1"]["kernel"]).max() > 0
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(frozen["frozen"]))
    jax.tree.map(np.testing.assert_array_equal, carry["frozen"]["params"], teacher)


def test_the_teacher_sees_images_normalised_as_its_own_were():
    pixels = np.random.RandomState(0).rand(3, 16, 16, 3).astype(np.float32)
    method = VQKD(**{**vars(SMALL), "mean": (0.5,), "std": (0.25,), "teacher_mean": MEAN, "teacher_std": STD})
    frozen = {"params": nested(ARRAYS)}
    expected = apply_net(ViT(**FIELDS), frozen["params"], {}, (pixels - np.array(MEAN)) / np.array(STD))[1]["tokens"]
    np.testing.assert_allclose(method.targets(frozen, (pixels - 0.5) / 0.25), expected, rtol=1e-4, atol=1e-5)
    same = VQKD(**{**vars(SMALL), "mean": (0.5,), "std": (0.25,)})
    np.testing.assert_array_equal(same.targets(frozen, pixels), SMALL.targets(frozen, pixels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read; expected JSON"),
        (
            lambda folder: (folder / "config.json").write_text('{"hidden_act": "relu"}'),
            "hidden_act is 'relu', expected one of gelu, quick_gelu",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99), "expected a whole file of the safet"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((FOLDER / "model.safetensors").read_bytes()[:-9]),
            "model.safetensors cannot be read; expected a whole file of the safetensors format",
        ),
        (
            lambda folder: written(folder, {"vit.embeddings.cls_token": np.zeros(3, np.float32)}),
            "is no CLIP of transformers: it has no vision_model.embeddings.patch_embedding.weight",
        ),
        (
            lambda folder: written(folder, {name: x for name, x in stored().items() if "layers.0" not in name}),
            "is no CLIP of transformers: it has no vision_model.encoder.layers.0",
        ),
        (
            lambda folder: shutil.rmtree(folder),
            "is no run directory, exported encoder, .npz file or CLIP of transformers",
        ),
    ],
)
def test_what_is_not_clip_is_one_line(state, tmp_path, change, message):
    folder = tmp_path / "clip"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FOLDER / name, folder)
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        fill(state[0], {"carry/frozen/params": f"{folder}#params/encoder"})
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_another_clip_than_the_teacher_is_one_line(state):
    teacher = state[0].carry["frozen"]["params"]
    out = {name: x[..., 1:] for name, x in teacher["out"].items()}
    other = state[0]._replace(carry={"teacher": {**teacher, "out": out}})
    with pytest.raises(ValueError, match=r"init_from: carry/teacher/out/bias is \[15\], but \[16\] in .*hf_clip#"):
        fill(other, {"carry/teacher": f"{FOLDER}#params/encoder"})


def stored():
    return read_safetensors(FOLDER / "model.safetensors")


def written(folder, arrays):
    """model.safetensors of these arrays."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    for name, x in arrays.items():
        offsets = [len(data), len(data) + x.nbytes]
        header[name] = {"dtype": names[x.dtype.name], "shape": x.shape, "data_offsets": offsets}
        data += x.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
