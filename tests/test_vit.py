"""Vision transformers and the decoder of masked autoencoders against timm's and transformers'."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nets import decoder, vit
from jssl.nets.decoder import Decoder
from jssl.nets.net import apply_net, init_net
from jssl.nets.relative import RelativeBias
from jssl.nets.vit import Block, ViT, patchify, sincos_positions, unpatchify
from tests import oracles
from tests.contract import assert_close
from tests.torch_weights import convert, nhwc

TIMM = {
    r"^blocks\.": "block",
    r"^patch_embed\.proj": "patch",
    r"attn\.": "",
    r"mlp\.": "",
    r"ls(\d)\.gamma": r"scale\1",
    r"^cls_token": "cls",
    r"^reg_token": "registers",
    r"^pos_embed": "positions",
}
HF = {
    r"^vit\.|^embeddings\.|embeddings\.(?=cls|pos|patch)": "",
    r"^encoder\.layer\.|^decoder\.decoder_layers\.": "block",
    r"attention\.attention\.qkv": "qkv",
    r"attention\.output\.dense": "proj",
    r"intermediate\.dense": "fc1",
    r"output\.dense": "fc2",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"^layernorm|^decoder\.decoder_norm": "norm",
    r"^patch_embeddings\.projection": "patch",
    r"^cls_token": "cls",
    r"^position_embeddings": "positions",
    r"^decoder\.decoder_embed": "embed",
    r"^decoder\.decoder_pred": "pixels",
    r"^decoder\.mask_token": "mask",
}


BEIT = {
    r"^beit\.": "",
    r"^embeddings\.mask_token": "mask",
    **HF,
    r"lambda_(\d)": r"scale\1",
    r"^encoder\.relative_position_bias\.relative_position_bias_table": "relative.table",
    r"^lm_head": "head",
}


def beit_params(tensors, rules):
    """BEiT's weights: keys have no bias, the table of relative positions ends with the class token's."""
    for name in [name for name in tensors if name.startswith("model.") and name.endswith("query.bias")]:
        tensors[name.replace("query", "key")] = np.zeros_like(tensors[name])
    params = torch_params(tensors, rules)
    table = params["relative"]["table"]
    side = math.isqrt(len(table) - 3)
    params["relative"] = {"table": table[:-3].reshape(side, side, -1), "tokens": table[-3:]}
    return params


def torch_params(tensors, rules, part=""):
    """The weights whose names match `part`, with query, key and value packed and tokens without their batch axis."""
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith(f"model.{part}")}
    for name in [name for name in weights if ".query." in name]:
        packed = [weights.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        weights[name.replace("query", "qkv")] = np.concatenate(packed)
    params, _ = convert(weights, rules)
    for name in {"cls", "registers", "positions", "mask"} & set(params):
        params[name] = params[name][0]
    if "patch" in params:
        kernel = params["patch"]["kernel"]  # [p, p, C, D]
        params["patch"]["kernel"] = kernel.reshape(-1, kernel.shape[-1])
    return params


def learned(params, grid=(4, 4)):
    """Published tables may have a row for the class token: it is one sum with the token itself."""
    table = params["positions"]
    if len(table) > math.prod(grid):
        params["cls"] = params["cls"] + table[:1]
    return {**params, "positions": table[-math.prod(grid) :].reshape(*grid, -1)}


def joined(out):
    return np.concatenate([out["cls"][:, None], *([out["registers"]] if "registers" in out else []), out["tokens"]], 1)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


TINY = ViT(24, 2, 4, patch=4, mlp=48)
IMAGES = np.random.RandomState(0).randn(3, 16, 16, 3).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda rng: init_net(TINY, rng, IMAGES)[0])(jax.random.key(0))


@pytest.fixture(scope="module")
def evaluated(params):
    return jax.jit(lambda p: apply_net(TINY, p, {}, IMAGES)[:2])(params)


@pytest.mark.parametrize(
    "name, net",
    [
        ("timm_vit", ViT(32, 2, 4, patch=4, mlp=64)),
        ("timm_vit_reg_ls", ViT(32, 2, 4, patch=4, mlp=64, registers=4, layer_scale=1e-5)),
    ],
)
def test_tokens_are_timms(name, net):
    _, tensors = oracles.load(name)
    params = learned(torch_params(tensors, TIMM))
    y, out, _ = jax.jit(lambda p: apply_net(net, p, {}, nhwc(tensors["in.x"])))(params)
    close(joined(out), tensors["out.features"])
    np.testing.assert_array_equal(y, out["cls"])


def test_layers_attention_and_input_gradient_are_transformers():
    _, tensors = oracles.load("hf_vit")
    net = TINY.clone(eps=1e-12)
    params = learned(torch_params(tensors, HF))
    params.pop("pooler")

    def loss(x):
        _, out, _ = apply_net(net, params, {}, x)
        tokens = jnp.concatenate([out["cls"][:, None], out["tokens"]], 1)
        return 0.5 * jnp.mean(tokens**2), (tokens, out)

    grad, (tokens, out) = jax.jit(jax.grad(loss, has_aux=True))(nhwc(tensors["in.pixel_values"]))
    close(tokens, tensors["out.last_hidden_state"])
    for layer, expected in zip(out["layers"], (tensors["out.hidden_states.1"], tensors["out.hidden_states.2"])):
        close(layer, expected)
    close(out["attention"], tensors["out.attentions.last"])
    np.testing.assert_allclose(grad, nhwc(tensors["grad.pixel_values"]), rtol=1e-4, atol=1e-7)


def test_learned_positions_are_resized_as_transformers_does():
    _, tensors = oracles.load("hf_vit_interp")
    net = ViT(24, 1, 4, patch=4, mlp=48, eps=1e-12)
    params = learned(torch_params(tensors, HF))
    params.pop("pooler")
    _, out, _ = jax.jit(lambda p: apply_net(net, p, {}, nhwc(tensors["in.pixel_values"])))(params)
    close(joined(out), tensors["out.last_hidden_state"])


@pytest.fixture(scope="module")
def mae():
    _, tensors = oracles.load("hf_vit_mae_normpix")
    order = np.argsort(tensors["in.noise"])  # [N, L]
    return tensors, order[:, :4], np.argsort(order)


def test_the_kept_patches_through_the_encoder_are_transformers(mae):
    tensors, keep, _ = mae
    net = TINY.clone(eps=1e-12, positions="sincos")
    params = torch_params(tensors, HF, "vit")
    table = params.pop("positions")
    close(sincos_positions(4, 4, 24), table[1:])
    np.testing.assert_array_equal(table[0], 0)
    _, out, _ = jax.jit(lambda p: apply_net(net, p, {}, nhwc(tensors["in.pixel_values"]), keep=keep))(params)
    close(joined(out), tensors["out.encoder_last_hidden_state"])
    close(out["layers"][0], tensors["out.encoder_hidden_states.1"])


def test_the_decoders_pixels_are_transformers(mae, monkeypatch):
    tensors, _, restore = mae
    np.testing.assert_array_equal(restore, tensors["out.ids_restore"])
    net = Decoder(16, 2, 2, out_dim=48, mlp=32, eps=1e-12)
    params = torch_params(tensors, HF, "decoder")
    # This fixture's table was left at zero; the encoder's is checked above.
    table = params.pop("decoder")["decoder_pos_embed"][0, 1:]
    monkeypatch.setattr(decoder, "sincos_positions", lambda *_: table)
    encoded = tensors["out.encoder_last_hidden_state"]
    run = lambda p: apply_net(net, p, {}, encoded[:, 1:], restore, prefix=encoded[:, :1])
    pixels, _, _ = jax.jit(run)(params)
    close(pixels, tensors["out.logits"])


def test_the_decoder_tells_hidden_patches_apart_by_their_position():
    net, encoded = Decoder(16, 1, 2, out_dim=3), np.ones((1, 2, 8), np.float32)
    restore = np.array([[5, 0, 2, 3, 1, 4]])
    run = lambda rng: net.init_with_output(rng, encoded, restore, grid=(2, 3))[0]
    pixels, _ = jax.jit(run)(jax.random.key(0))
    assert pixels.shape == (1, 6, 3)
    assert np.abs(pixels[0, 2] - pixels[0, 3]).max() > 1e-3


# timm's counts without the classifier; theirs include a position of the class token.
PUBLISHED = {
    "vit_tiny": 5_524_416 - 192,
    "vit_small": 21_665_664 - 384,
    "vit_base": 85_798_656 - 768,
    "vit_large": 303_301_632 - 1024,
    "vit_huge": 630_764_800 - 1280,
    "vit_giant": 1_011_202_432 - 1408,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_have_the_published_number_of_parameters(name):
    net = getattr(vit, name)()
    shapes = jax.eval_shape(lambda rng: init_net(net, rng, jnp.zeros((1, 224, 224, 3)))[0], jax.random.key(0))
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(shapes)) == PUBLISHED[name]


def test_hidden_patches_change_no_bit_and_kept_ones_do(params):
    keep = jnp.tile(jnp.array([2, 7, 9]), (3, 1))
    run = jax.jit(lambda x: apply_net(TINY, params, {}, x, keep=keep)[1])
    patches = np.array(patchify(IMAGES, 4))
    before = run(IMAGES)
    assert before["tokens"].shape == (3, 3, 24)
    patches[:, [0, 1, 3, 15]] = np.nan
    jax.tree.map(np.testing.assert_array_equal, run(unpatchify(patches, 4)), before)
    patches[:, 7] += 1
    assert np.abs(run(unpatchify(patches, 4))["tokens"] - before["tokens"]).max() > 1e-3


def test_keeping_all_patches_in_another_order_permutes_the_tokens(params, evaluated):
    order = np.tile(np.random.RandomState(1).permutation(16), (3, 1))
    y, out, _ = jax.jit(lambda p: apply_net(TINY, p, {}, IMAGES, keep=order))(params)
    close(out["tokens"], evaluated[1]["tokens"][:, order[0]])
    close(y, evaluated[0])


def test_remat_changes_neither_values_nor_gradients():
    net = TINY.clone(drop_path=0.5, layer_scale=0.5)
    params, _ = jax.jit(lambda rng: init_net(net, rng, IMAGES))(jax.random.key(0))

    def grad(net):
        loss = lambda p: jnp.sum(apply_net(net, p, {}, IMAGES, train=True, rng=jax.random.key(1))[0] ** 3)
        return jax.jit(jax.value_and_grad(loss)).lower(params)

    plain, remat = grad(net), grad(net.clone(remat=True))
    assert remat.as_text().count("dot_general") > plain.as_text().count("dot_general")
    assert_close(remat.compile()(params), plain.compile()(params))


def test_learned_positions_serve_smaller_images(params):
    crops = IMAGES[:, :8, :12]
    run = jax.jit(lambda p: apply_net(TINY, p, {}, crops)[1]["tokens"])
    tokens = run(params)
    assert tokens.shape == (3, 6, 24)
    assert np.abs(run({**params, "positions": params["positions"][::-1]}) - tokens).max() > 1e-3


def test_drop_path_differs_by_rng_in_training_and_is_off_in_evaluation(params, evaluated):
    net = TINY.clone(drop_path=0.5)
    train = jax.jit(lambda rng: apply_net(net, params, {}, IMAGES, train=True, rng=rng)[0])
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    off = jax.jit(lambda p: apply_net(net, p, {}, IMAGES)[0])(params)
    np.testing.assert_allclose(off, evaluated[0], rtol=1e-5, atol=1e-6)


def test_drop_path_leaves_a_branch_out_or_doubles_it():
    x = jax.random.normal(jax.random.key(0), (32, 3, 8))
    block = Block(2, 16, None, 1e-6, jnp.float32, drop=0.5)
    params = jax.jit(lambda rng: block.init({"params": rng, "dropout": rng}, x))(jax.random.key(1))["params"]
    params["fc2"]["kernel"] *= 0  # the attention's branch alone
    run = lambda block: block.apply({"params": params}, x, rngs={"dropout": jax.random.key(2)})[0] - x
    ratio = jnp.sum(run(block) * run(block.clone(drop=0.0)), (1, 2)) / jnp.sum(run(block.clone(drop=0.0)) ** 2, (1, 2))
    assert set(np.round(ratio, 3).tolist()) == {0.0, 2.0}


def test_attention_costs_nothing_unless_it_is_read(params):
    def flops(read):
        compiled = jax.jit(lambda p: read(*apply_net(TINY, p, {}, IMAGES)[:2])).lower(params).compile()
        return compiled.cost_analysis()["flops"]

    map_flops = 2 * 3 * 4 * 17 * 17 * 6
    assert flops(lambda y, out: (y, out["attention"])) - flops(lambda y, out: y) >= map_flops


def test_mean_pooling_needs_no_class_token(params):
    net = TINY.clone(pool="mean", class_token=False)
    bare = {name: value for name, value in params.items() if name != "cls"}
    y, out, _ = jax.jit(lambda p: apply_net(net, p, {}, IMAGES))(bare)
    assert "cls" not in out
    close(y, out["tokens"].mean(1))


def test_bfloat16_computes_in_it_and_returns_float32(params, evaluated):
    net = TINY.clone(dtype=jnp.bfloat16)
    y, out, _ = jax.jit(lambda p: apply_net(net, p, {}, IMAGES))(params)
    assert out["layers"][0].dtype == jnp.bfloat16
    assert {y.dtype, out["tokens"].dtype, out["attention"].dtype} == {jnp.dtype("float32")}
    np.testing.assert_allclose(y, evaluated[0], atol=0.05)
    shapes = jax.eval_shape(lambda rng: init_net(net, rng, IMAGES)[0], jax.random.key(0))
    assert {p.dtype for p in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_patches_are_cut_row_by_row_and_put_back():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patchify(images, 2)
    np.testing.assert_array_equal(patches[1, 4], images[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(unpatchify(patches, 2, (2, 3)), images)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ViT(24, 1, 4, pool="max"), "ViT pool is 'max', expected one of cls, mean"),
        (lambda: ViT(24, 1, 4, class_token=False), "ViT pool is 'cls' without a class token"),
        (lambda: ViT(24, 1, 4, positions="sin"), "ViT positions are 'sin', expected one of learned, sincos"),
        (
            lambda: apply_net(TINY.clone(drop_path=0.1), {}, {}, IMAGES, train=True),
            "drop_path is 0.1 .* give .* an rng",
        ),
        (lambda: Decoder(24, 1, 5, 3), "5 heads cannot share a width of 24"),
        (lambda: patchify(np.zeros((1, 30, 32, 3)), 16), "image is 30 x 32, expected multiples of the patch size 16"),
        (lambda: unpatchify(np.zeros((1, 12, 3)), 1), "12 patches are no square"),
        (lambda: sincos_positions(2, 2, 6), "divisible by 4, not 6"),
    ],
)
def test_a_mistake_is_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_relative_positions_mask_tokens_and_layer_scale_are_beits():
    _, tensors = oracles.load("hf_beit_mim")
    net = ViT(24, 2, 4, patch=4, mlp=48, eps=1e-12, positions="none", relative="shared", layer_scale=0.1)
    params = beit_params(tensors, BEIT)
    head = params.pop("head")
    hidden = tensors["in.bool_masked_pos"].astype(bool)
    x = nhwc(tensors["in.pixel_values"])
    _, out, _ = apply_net(net.clone(mask_token=True), params, {}, x, hidden=hidden)
    for i, layer in enumerate(out["layers"]):
        close(layer, tensors[f"out.hidden_states.{i + 1}"])
    close(out["tokens"] @ head["kernel"] + head["bias"], tensors["out.logits"])


def test_relative_positions_are_relative():
    """Moving everything by one patch moves the bias with it; other distances, rows and columns have entries of their
    own; tokens without a patch have three."""
    net = RelativeBias(2)
    params = net.init(jax.random.key(0), 3, 4, 1)["params"]
    rs = np.random.RandomState(0)
    params = jax.tree.map(lambda x: rs.randn(*x.shape).astype(np.float32), params)
    bias = np.asarray(net.apply({"params": params}, 3, 4, 1))
    assert bias.shape == (2, 13, 13)
    patches = bias[:, 1:, 1:].reshape(2, 3, 4, 3, 4)
    np.testing.assert_array_equal(patches[:, :-1, :-1, :-1, :-1], patches[:, 1:, 1:, 1:, 1:])
    assert len(np.unique(patches[0])) == 5 * 7
    assert len(np.unique(bias[0])) == 5 * 7 + 3
    larger = np.asarray(net.apply({"params": params}, 6, 8, 1))
    assert larger.shape == (2, 49, 49)
    np.testing.assert_array_equal(larger[:, 0, :1], bias[:, 0, :1])


def test_each_block_may_have_positions_of_its_own():
    for relative, tables in ("shared", 1), ("each", 2):
        params, _ = init_net(TINY.clone(relative=relative), jax.random.key(0), IMAGES)
        assert sum(name.startswith("relative") for name in params) == tables


def test_hidden_patches_are_the_mask_token_whatever_they_show():
    net = TINY.clone(mask_token=True)
    params, _ = init_net(net, jax.random.key(0), IMAGES)
    hidden = np.random.RandomState(1).rand(3, 16) < 0.5
    patches = np.array(patchify(IMAGES, 4))
    patches[hidden] += 1
    run = jax.jit(lambda x, hidden: apply_net(net, params, {}, x, hidden=hidden)[0])
    other = np.asarray(unpatchify(patches, 4))
    np.testing.assert_array_equal(run(IMAGES, hidden), run(other, hidden))
    assert np.abs(run(IMAGES, ~hidden) - run(other, ~hidden)).max() > 1e-3


@pytest.mark.parametrize(
    ("net", "call", "match"),
    [
        (TINY, {"hidden": np.ones((3, 16), bool)}, "ViT has no mask token to hide patches with: set mask_token"),
        (
            TINY.clone(relative="shared"),
            {"keep": np.zeros((3, 4), int)},
            "ViT with relative positions reads all patches",
        ),
    ],
)
def test_what_cannot_be_hidden_is_refused(net, call, match):
    with pytest.raises(ValueError, match=match):
        init_net(net, jax.random.key(0), IMAGES, **call)


def test_an_unknown_kind_of_relative_positions_is_refused():
    with pytest.raises(ValueError, match="ViT relative is 'both', expected one of None, shared, each"):
        TINY.clone(relative="both")
