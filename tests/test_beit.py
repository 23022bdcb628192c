"""BEiT against transformers', BEiT v2 with it, and what their encoders and tokenizers may see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl.checkpoint import read_arrays
from jssl.codes import assign, resized
from jssl.masking import hidden_first
from jssl.method import Time
from jssl.methods.beit import BEiT
from jssl.methods.beitv2 import BEiTv2
from jssl.nets.conv import convnet
from jssl.nets.dvae import pixels
from jssl.nets.net import apply_net
from jssl.nets.vit import ViT
from jssl.train import train
from tests import oracles
from tests.test_mae import changed
from tests.test_vit import BEIT, beit_params
from tests.torch_weights import nhwc

NET = ViT(16, 2, 2, patch=4, relative="shared", positions="none")
TOKENIZER = (("vocabulary", 12), ("hidden", 8), ("groups", 3), ("blocks", 1))
ONE = BEiT(NET, tokenizer_fields=TOKENIZER, block=2, mean=(0.5,), std=(0.25,))
TWO = BEiTv2(NET, vocabulary=12, dim=4, block=2, early=1, depth=1)
BOTH = pytest.mark.parametrize("method", [ONE, TWO], ids=["BEiT", "BEiT v2"])
VIEWS = {"image": np.random.RandomState(0).randn(5, 1, 16, 16, 3).astype(np.float32)}
KEY = jax.random.key(1)
START = Time(0, 100, 10.0)


def state(method):
    return jax.jit(method.init)(jax.random.key(0), VIEWS)


def hidden_of(method):
    return np.asarray(method.mask(jax.random.split(KEY)[0], VIEWS["image"][:, 0]))


def test_the_whole_method_is_transformers(monkeypatch):
    """Of the fixture's weights, mask and codes: the loss and its gradient with respect to every pixel."""
    manifest, tensors = oracles.load("hf_beit_mim")
    hidden = tensors["in.bool_masked_pos"].astype(bool)
    method = BEiT(
        ViT(24, 2, 4, patch=4, mlp=48, eps=1e-12, positions="none", relative="shared", layer_scale=0.1),
        tokenizer_fields=(("vocabulary", 50), *TOKENIZER[1:]),
        mask_ratio=6 / 16,
    )
    assert (hidden.sum(1) == 6).all()
    codes = np.zeros(hidden.shape, np.int32)
    codes[hidden] = tensors["in.labels"]
    monkeypatch.setattr(BEiT, "mask", lambda *_: hidden)
    monkeypatch.setattr(BEiT, "codes", lambda *_: codes)
    params = beit_params(tensors, BEIT)
    params = {"head": {"dense0": params.pop("head")}, "encoder": params}
    loss = lambda x: method.loss(params, {"frozen": {}}, {"image": x[:, None]}, KEY, START)[0]
    value, grad = jax.jit(jax.value_and_grad(loss))(nhwc(tensors["in.pixel_values"]))
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    expected = nhwc(tensors["grad.pixel_values"])
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


@BOTH
def test_hidden_patches_never_reach_the_encoder_but_the_tokenizer(method):
    params, carry = state(method)
    x, hidden = VIEWS["image"][:, 0], hidden_of(method)
    other = changed(x, hidden, 4)
    run = jax.jit(lambda x: apply_net(method.masked, params["encoder"], {}, x, hidden=hidden)[1]["tokens"])
    np.testing.assert_array_equal(run(x), run(other))
    assert (method.codes(carry["frozen"], x) != method.codes(carry["frozen"], other)).any()


@BOTH
def test_as_many_patches_are_hidden_in_each_image_and_not_the_same(method):
    hidden = hidden_of(method)
    np.testing.assert_array_equal(hidden.sum(1), round(16 * 0.4))
    assert len(np.unique(hidden, axis=0)) > 1
    place = np.asarray(hidden_first(hidden, 6))
    assert all((np.flatnonzero(row) == where).all() for row, where in zip(hidden, place))


@BOTH
def test_the_tokenizer_gets_no_gradient_and_stands_still(method):
    params, carry = state(method)
    loss = lambda carry: method.loss(params, carry, VIEWS, KEY, START)[0]
    for grad in jax.tree.leaves(jax.jit(jax.grad(loss))(carry)):
        assert not np.asarray(grad).any()
    _, (after, _) = jax.jit(method.loss)(params, carry, VIEWS, KEY, START)
    for old, new in zip(jax.tree.leaves(carry), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old, new)


def test_beits_loss_is_of_hidden_patches_alone():
    params, carry = state(ONE)
    value, (_, out) = jax.jit(ONE.loss)(params, carry, VIEWS, KEY, START)
    x, hidden = VIEWS["image"][:, 0], hidden_of(ONE)
    _, tokens, _ = apply_net(ONE.masked, params["encoder"], {}, x, hidden=hidden)
    logits, _, _ = apply_net(ONE.head, params["head"], {}, tokens["tokens"])
    codes = np.asarray(ONE.codes(carry["frozen"], x))
    log_p = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), codes[..., None], 2)[..., 0]
    np.testing.assert_allclose(value, -log_p[hidden].mean(), rtol=1e-5)
    right = np.asarray(logits.argmax(-1)) == codes
    np.testing.assert_allclose(out["metrics"]["accuracy"], right[hidden].mean(), rtol=1e-6)


def test_the_tokenizer_sees_pixels_again_and_a_size_that_gives_a_code_for_each_patch():
    x = VIEWS["image"][:, 0]
    np.testing.assert_allclose(ONE.seen(x), pixels(x, (0.5,), (0.25,)))
    assert ONE.seen(x).min() > 0.1 - 1e-6
    assert ONE.seen(x).max() < 0.9 + 1e-6
    larger = BEiT(ViT(16, 1, 2, patch=8), tokenizer_fields=TOKENIZER)
    assert larger.seen(x).shape == (5, 8, 8, 3)
    smooth = jnp.broadcast_to(jnp.linspace(0, 1, 16)[:, None, None], (2, 16, 16, 3))
    halves = smooth.reshape(2, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(resized(smooth, (2, 2), 4)[:, 1:-1], halves[:, 1:-1], atol=0.01)


def test_beit_v2_is_two_losses_with_one_head():
    """The second is named by the class token of the last block and the patches of an early one."""
    params, carry = state(TWO)
    value, (_, out) = jax.jit(TWO.loss)(params, carry, VIEWS, KEY, START)
    alone = dataclasses.replace(TWO, depth=0)
    first, _ = jax.jit(alone.loss)(params, carry, VIEWS, KEY, START)
    x, hidden = VIEWS["image"][:, 0], hidden_of(TWO)
    _, inner, _ = apply_net(TWO.masked, params["encoder"], {}, x, hidden=hidden)
    tokens = jnp.concatenate([inner["layers"][1][:, :1], inner["layers"][0][:, 1:]], 1)
    tower = params["tower"] | {name: params["encoder"][name] for name in ("norm", "relative")}
    tokens, _, _ = apply_net(TWO.tower, tower, {}, tokens, (4, 4))
    logits, _, _ = apply_net(TWO.head, params["head"], {}, tokens[:, 1:])
    codes = np.asarray(TWO.codes(carry["frozen"], x))
    log_p = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), codes[..., None], 2)[..., 0]
    np.testing.assert_allclose(value, first - log_p[hidden].mean(), rtol=1e-5)
    assert "bottleneck/accuracy" in out["metrics"]
    assert "tower" not in state(alone)[0]


def test_only_through_the_class_token_does_the_bottleneck_reach_the_last_block():
    params, carry = state(TWO)
    alone = dataclasses.replace(TWO, depth=0)
    grad = lambda method: jax.grad(lambda p: method.loss(p, carry, VIEWS, KEY, START)[0])(params)["encoder"]
    both, first = jax.jit(lambda: (grad(TWO), grad(alone)))()
    bottleneck = jax.tree.map(lambda a, b: np.abs(a - b).max(), both, first)
    assert min(bottleneck["block0"]["fc1"]["kernel"], bottleneck["block1"]["fc1"]["kernel"]) > 1e-7


def test_the_bottleneck_has_the_encoders_norm_biases_and_drop_path():
    method = BEiTv2(ViT(16, 4, 2, patch=4, relative="shared", drop_path=0.3), early=2, vocabulary=16, dim=8)
    params, carry = state(method)
    assert params["tower"].keys() == {"block0", "block1"}
    np.testing.assert_allclose(method.tower.drops, (0.2, 0.3))
    alone = dataclasses.replace(method, depth=0)
    grad = lambda method: jax.grad(lambda p: method.loss(p, carry, VIEWS, KEY, START)[0])(params)["encoder"]
    both, first = jax.jit(lambda: (grad(method), grad(alone)))()
    bottleneck = jax.tree.map(lambda a, b: np.abs(a - b).max(), both, first)
    assert min(bottleneck["norm"]["scale"], bottleneck["relative"]["table"]) > 1e-6


def test_beit_v2s_codes_are_the_nearest_of_the_codebook():
    _, carry = state(TWO)
    frozen, x = carry["frozen"], VIEWS["image"][:, 0]
    _, out, _ = apply_net(TWO.teacher, frozen["tokenizer"], {}, x)
    v, _, _ = apply_net(TWO.projector, frozen["projector"], {}, out["tokens"])
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(TWO.codes(frozen, x), assign(v, frozen["codebook"]))


@BOTH
def test_pictures_show_the_codes_and_what_is_found_of_them(method):
    params, carry = state(method)
    x = VIEWS["image"][:, 0]
    shown = np.asarray(jax.jit(method.reconstruct)(params, carry, x, KEY))
    assert shown.shape == (5, 4, 16, 16, 3)
    hidden = np.asarray(method.mask(KEY, x)).reshape(5, 4, 4).repeat(4, 1).repeat(4, 2)
    np.testing.assert_array_equal(shown[:, 0], x)
    assert not shown[:, 1][hidden].any()
    np.testing.assert_array_equal(shown[:, 2][~hidden], shown[:, 3][~hidden])
    assert (shown[:, 2][hidden] != shown[:, 3][hidden]).any()


def test_the_steps_follow_each_other_from_the_run_before(tmp_path):
    """iBOT teaches VQ-KD, whose codes BEiT v2 predicts, and BEiT those of the discrete autoencoder: what they take is
    what the run before kept, bit by bit, and no checkpoint has it again."""
    short = {"data.source": "digits@train[:128]", "train.batch_size": 64, "train.steps": 2, "checkpoint.every": 2}
    short |= {"eval.every": 0, "log_every": 2, "optim.warmup": 0.0}
    arrays = {}
    for name, before in (("dvae", None), ("beit", "dvae"), ("ibot", None), ("vqkd", "ibot"), ("beitv2", "vqkd")):
        overrides = {**short, **({"init_run": str(tmp_path / before)} if before else {})}
        if name == "vqkd":
            overrides["train.refresh_every"] = 2
        config = configs.load(f"{name}:demo", overrides)
        smaller(config)
        train(config, tmp_path / name)
        folder = tmp_path / name
        arrays[name] = read_arrays(folder / "checkpoints" / "2" / "state")
        frozen = {}
        for part in (folder / "frozen").glob("*"):
            frozen |= read_arrays(part)
        arrays[f"{name} frozen"] = frozen
        assert not any(path.startswith("carry/frozen") for path in arrays[name])
    for name, below, origin, path in (
        ("beit", "tokenizer/", "dvae", "carry/average/encoder/"),
        ("vqkd", "params/", "ibot", "carry/target/encoder/"),
        ("beitv2", "tokenizer/", "vqkd", "params/encoder/"),
        ("beitv2", "projector/", "vqkd", "params/projector/"),
        ("beitv2", "codebook", "vqkd", "carry/codebook"),
    ):
        taken = {key: x for key, x in arrays[f"{name} frozen"].items() if key.startswith(below)}
        assert taken
        for key, x in taken.items():
            np.testing.assert_array_equal(x, arrays[origin][path + key.removeprefix(below)])


def smaller(config):
    """The demos' networks, made small."""
    if config.encoder.name.endswith(":ViT"):
        config.encoder.update({"dim": 16, "depth": 2, "heads": 2})
    else:
        config.encoder.hidden = 8
    if config.method.name.endswith("beit:BEiT"):
        config.method.tokenizer_fields = tuple({**dict(config.method.tokenizer_fields), "hidden": 8}.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BEiT(convnet()), "BEiT hides patches: encoder ConvNet has no mask token, expected a ViT"),
        (lambda: BEiTv2(convnet()), "BEiTv2 hides patches: encoder ConvNet has no mask token, expected a ViT"),
        (lambda: dataclasses.replace(TWO, early=3), "method.early=3: expected a block of the encoder, 1 to 2"),
        (
            lambda: dataclasses.replace(TWO, encoder=ViT(16, 2, 2, patch=4, pool="mean", class_token=False)),
            "expected an encoder with one, or depth=0",
        ),
    ],
)
def test_what_cannot_be_is_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()
