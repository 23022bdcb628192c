"""iBOT and DINOv2 against lightly's and Meta's figures, and the papers' statements on masks, teacher and targets."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.losses import cross_crops, cross_patches, koleo, shares
from jssl.method import Time
from jssl.methods.ibot import IBOT, at
from jssl.nets.conv import convnet
from jssl.nets.net import apply_net
from jssl.nets.vit import ViT
from jssl.sharding import ROWS, make_mesh
from jssl.transforms import ema
from tests import oracles
from tests.contract import COLLECTIVE
from tests.test_mae import changed

NET = ViT(16, 1, 2, patch=4)
SMALL = IBOT(NET, 12, 6, prototypes=10, block=2, tau_t=0.04, tau_t_warmup=0.0)
OTHER = dataclasses.replace(SMALL, patch_prototypes=7, centering="sinkhorn", koleo_weight=0.1, mask_group=4)
SHORT = dataclasses.replace(SMALL, patch_prototypes=7, patch_dim=5, center_hidden=True)  # as DINOv2's vitl16_short
RANDOM = np.random.RandomState(0)
VIEWS = {"image": RANDOM.randn(6, 2, 16, 16, 3).astype(np.float32), "local": RANDOM.randn(6, 3, 8, 8, 3).astype("f")}
START = Time(0, 100, 10.0)
KEY = jax.random.key(1)


METHODS = {"iBOT": SMALL, "DINOv2": OTHER, "DINOv2, means": SHORT}


@pytest.fixture(scope="module", params=METHODS.values(), ids=METHODS)
def state(request):
    """(method, params, carry), the teacher moved away from the student, the centres from 0."""
    method = request.param
    params, carry = jax.jit(method.init)(jax.random.key(0), VIEWS)
    moved = jax.tree.map(lambda x: 0.9 * x + 0.02, carry["target"])
    center = jax.tree.map(lambda x: x + jnp.linspace(-0.1, 0.1, len(x)), carry.get("center", {}))
    return method, params, {"target": moved, **({"center": center} if center else {})}


def padded(tokens, mask):
    """Masked tokens [M, K] in row-major order, as [B, S, K] with the places that are there."""
    mask = mask.reshape(len(mask), -1)
    there = np.arange(mask.sum(1).max()) < mask.sum(1)[:, None]
    full = np.zeros((*there.shape, tokens.shape[-1]), tokens.dtype)
    full[there] = tokens
    return full, there


def test_two_losses_of_patches_their_centres_and_gradients_are_lightlys():
    manifest, tensors = oracles.load("ibot_centering")
    hyper = manifest["hyper"]
    tau = hyper["teacher_temp"]
    method = dataclasses.replace(SMALL, tau_s=hyper["student_temp"], tau_t=tau, m=hyper["center_momentum"])
    of = lambda who, s: padded(tensors[f"in.{who}{s}"], tensors[f"in.mask{s}"])
    inputs = [[of(who, s) for who in ("teacher", "student")] for s in (0, 1)]

    def total(students):
        center, losses, centers = jnp.zeros(10), [], []
        for student, ((teacher, there), _) in zip(students, inputs, strict=True):
            carry = {"center": {"cls": jnp.zeros(10), "patch": center}}
            _, p = method.targets(jnp.zeros((1, 1, 10)), teacher, jnp.asarray(there), carry, START)
            losses.append(cross_patches(p, jax.nn.log_softmax(student / method.tau_s), shares(there)))
            center = ema(center, teacher[there].mean(0), method.m)
            centers.append(center)
        return sum(losses), (losses, centers)

    students = [student for _, (student, _) in inputs]
    (value, (losses, centers)), grads = jax.value_and_grad(total, has_aux=True)(students)
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    for s in (0, 1):
        np.testing.assert_allclose(losses[s], tensors[f"out.loss{s}"], rtol=1e-5)
        np.testing.assert_allclose(centers[s], tensors[f"out.center_after{s}"], rtol=1e-5, atol=1e-7)
        there = inputs[s][0][1]
        np.testing.assert_allclose(grads[s][there], tensors[f"grad.student{s}"], rtol=1e-4, atol=1e-6)


def test_koleo_and_its_gradient_are_lightlys():
    manifest, tensors = oracles.load("koleo")
    value, grad = jax.jit(jax.value_and_grad(koleo))(tensors["in.x"])
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, tensors["grad.x"], rtol=1e-4, atol=1e-6)


def test_balanced_targets_of_crops_and_their_loss_are_metas():
    """Theirs is the sum over pairs of the batch's mean: two small crops predict two large ones."""
    manifest, tensors = oracles.load("dinov2_cls_sinkhorn")
    hyper = manifest["hyper"]
    method = dataclasses.replace(OTHER, tau_s=hyper["student_temp"], tau_t=hyper["teacher_temp"])
    t = jnp.moveaxis(tensors["in.teacher"].reshape(2, 4, 10), 0, 1)
    p, _ = method.targets(t, jnp.zeros((1, 1, 7)), jnp.ones((1, 1), bool), {}, START)
    theirs = jnp.moveaxis(tensors["out.teacher_sinkhorn"].reshape(2, 4, 10), 0, 1)
    np.testing.assert_allclose(p, theirs, rtol=1e-4, atol=1e-6)

    def total(s):
        log_q = jax.nn.log_softmax(s / method.tau_s)
        return 6 * cross_crops(p, jnp.concatenate([jnp.zeros((4, 2, 10)), log_q], 1))  # of 6 pairs two count 0

    s = jnp.stack([tensors["in.student.0"], tensors["in.student.1"]], 1)
    value, grad = jax.value_and_grad(total)(s)
    np.testing.assert_allclose(value, manifest["scalars"]["loss"], rtol=1e-5)
    for i in (0, 1):
        np.testing.assert_allclose(grad[:, i], tensors[f"grad.student.{i}"], rtol=1e-4, atol=1e-6)


def test_patches_that_are_not_there_have_no_part_in_the_balance():
    t = jnp.array(RANDOM.randn(3, 5, 7), jnp.float32)
    there = jnp.arange(5) < jnp.array([5, 2, 0])[:, None]
    balanced = lambda t: OTHER.targets(jnp.zeros((1, 1, 10)), t, there, {}, START)[1]
    np.testing.assert_array_equal(balanced(t)[there], balanced(jnp.where(there[..., None], t, 9.0))[there])
    nothing = OTHER.targets(jnp.zeros((1, 1, 10)), t, there & False, {}, START)[1]
    assert np.isfinite(nothing).all()


def test_masks_hide_a_share_of_some_images():
    method = IBOT(ViT(16, 1, 2, patch=16))
    hidden = jax.jit(method.mask)(KEY, np.zeros((2000, 224, 224, 3), np.float32))
    share = hidden.mean(1)
    some = share > 0
    assert some.mean() == pytest.approx(0.5, abs=0.04)
    assert 0.09 <= share[some].min() < 0.12
    assert 0.48 < share[some].max() <= 0.5
    assert share[some].mean() == pytest.approx(0.3, abs=0.02)
    runs = np.abs(np.diff(hidden[some].reshape(-1, 14, 14).astype(int), axis=1)).mean()
    assert runs < 0.15  # blocks: of scattered patches it would be 0.42


def test_shares_of_hidden_patches_are_spread_over_a_group():
    """Of eight crops in a row four have hidden patches, one of 10 to 20 %, one of 20 to 30 %, ..., in any order."""
    method = IBOT(ViT(16, 1, 2, patch=16), mask_group=8)
    hidden, place, weights = jax.jit(method.patches)(KEY, np.zeros((1600, 224, 224, 3), np.float32))
    counts = np.asarray(hidden.sum(1)).reshape(200, 8)
    ordered = np.sort(counts, 1)
    assert not ordered[:, :4].any()
    for i, found in enumerate(ordered[:, 4:].T, 1):
        assert int(0.1 * i * 196) <= found.min() < found.max() <= (0.1 * i + 0.1) * 196
    assert (counts > 0).mean(0) == pytest.approx(np.full(8, 0.5), abs=0.12)
    assert counts.mean() == pytest.approx(0.15 * 196, abs=1)
    assert place.shape == (200, 39 + 58 + 78 + 98)
    np.testing.assert_array_equal((weights > 0).sum(1), counts.sum(1))


def test_groups_stay_on_their_devices():
    tokens = RANDOM.randn(32, 16, 5).astype(np.float32)

    def taken(x, tokens):
        _, place, weights = OTHER.patches(KEY, x)
        return at(tokens, place), weights

    mesh = make_mesh(8, 1, jax.devices()[:8])
    with jax.set_mesh(mesh):
        inputs = [jax.device_put(x, NamedSharding(mesh, P(ROWS))) for x in (np.zeros((32, 16, 16, 3)), tokens)]
        program = jax.jit(taken, out_shardings=NamedSharding(mesh, P(ROWS))).lower(*inputs).compile()
    assert not COLLECTIVE.search(program.as_text())
    jax.tree.map(np.testing.assert_array_equal, program(*inputs), jax.jit(taken)(np.zeros((32, 16, 16, 3)), tokens))


def test_no_patch_is_hidden_that_is_not_compared():
    """0.57 * 100 is 56.99999999999999, and 57 in float32."""
    method = IBOT(ViT(16, 1, 2, patch=4), mask_probability=1.0, mask_ratio=(0.57, 0.57))
    hidden, _, weights = jax.jit(method.patches)(KEY, np.zeros((3, 40, 40, 3), np.float32))
    np.testing.assert_array_equal(hidden.sum(1), 56)
    np.testing.assert_array_equal((weights > 0).sum(1), 56)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


def by_hand(method, params, carry):
    """The loss with scores of all patches, network by network -> (loss, (features, scores of crops, of patches))."""
    large, target, patch = VIEWS["image"].reshape(12, 16, 16, 3), carry["target"], method.patch_head
    hidden = method.mask(jax.random.split(KEY, 3)[0], large)
    _, teacher, _ = apply_net(method.encoder, target["encoder"], {}, large)
    _, student, _ = apply_net(method.student, params["encoder"], {}, large, hidden=hidden)
    _, small, _ = apply_net(method.encoder, params["encoder"], {}, VIEWS["local"].reshape(18, 8, 8, 3))
    h = jnp.concatenate([student["cls"].reshape(6, 2, 16), small["cls"].reshape(6, 3, 16)], 1)
    t, t_patch = (
        method.scores("head", target, teacher["cls"].reshape(6, 2, 16))[0],
        method.scores(patch, target, teacher["tokens"])[0],
    )
    p, p_patch = method.targets(t, t_patch, hidden, carry, START)
    said = lambda name, x: jax.nn.log_softmax(method.scores(name, params, x)[0] / 0.1)
    log_q = said("head", h), said(patch, student["tokens"])
    loss = cross_crops(p, log_q[0]) + cross_patches(p_patch, log_q[1], shares(hidden))
    if method.koleo_weight:
        loss += 0.1 * (koleo(h[:, 0]) + koleo(h[:, 1]))
    return loss, (h, t, t_patch)


@pytest.mark.parametrize(
    "state, dtype, tolerance",
    [(method, "float32", 1e-6) for method in METHODS.values()] + [(OTHER, "bfloat16", 1e-2)],
    ids=[*METHODS, "DINOv2, bfloat16"],
    indirect=["state"],
)
def test_the_loss_is_of_what_the_student_says_of_hidden_patches_and_of_other_crops(state, dtype, tolerance):
    """And its gradient: scores of the patches that are not compared change neither."""
    method, params, carry = state
    method = dataclasses.replace(method, encoder=NET.clone(dtype=jnp.dtype(dtype)))
    run = jax.value_and_grad(lambda params: method.loss(params, carry, VIEWS, KEY, START), has_aux=True)
    (value, (after, out)), grads = jax.jit(run)(params)
    assert out["embedding"].shape == (6, 5, 6)
    hidden = method.mask(jax.random.split(KEY, 3)[0], VIEWS["image"].reshape(12, 16, 16, 3))
    assert 0 < hidden.any(1).sum() < 12

    run = jax.value_and_grad(lambda params: by_hand(method, params, carry), has_aux=True)
    (expected, (h, t, t_patch)), expected_grads = jax.jit(run)(params)
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    grads, expected_grads = ravel_pytree(grads)[0], ravel_pytree(expected_grads)[0]
    assert jnp.linalg.norm(grads - expected_grads) <= tolerance * jnp.linalg.norm(expected_grads)
    np.testing.assert_allclose(out["features"], h, atol=10 * tolerance)
    if "center" in carry:
        means = {"cls": t.mean((0, 1))}
        means["patch"] = t_patch[hidden].mean(0) if method.center_hidden else t_patch.mean((0, 1))
        moved = ema(carry["center"], means, 0.9)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), after["center"], moved)
    else:
        assert "center" not in after


def test_heads_see_no_more_patches_than_may_be_hidden(state):
    """Half of the 16 of each of 12 crops, or 4 and 8 of each group of four; but iBOT's centre is the mean of what the
    teacher's head says of all."""
    method, params, carry = state
    program = str(jax.make_jaxpr(method.loss)(params, carry, VIEWS, KEY, START))
    groups = 12 // method.mask_group
    places = lambda width: {int(found) for found in re.findall(rf"f32\[{groups},(\d+),{width}\]", program)}
    most = {12 if method is OTHER else 8}
    assert places(method.hidden) == most | ({16} if method is SMALL else set())
    assert places(method.patch_prototypes or method.prototypes) == most


def test_hidden_patches_never_reach_the_student(state):
    """Their pixels change its gradient through the teacher alone: with the teacher's part held, not at all."""
    method, params, carry = state
    large = VIEWS["image"].reshape(12, 16, 16, 3)
    hidden = np.asarray(method.mask(jax.random.split(KEY, 3)[0], large))
    other = changed(large, hidden)
    assert np.abs(other - large).max() > 0.1
    run = jax.jit(lambda x: apply_net(method.student, params["encoder"], {}, x, hidden=hidden)[0])
    np.testing.assert_array_equal(run(large), run(other))
    teacher = jax.jit(lambda x: apply_net(method.teacher_net, carry["target"]["encoder"], {}, x)[0])
    assert np.abs(teacher(large) - teacher(other))[hidden.any(1)].min() > 1e-4


def test_no_gradient_reaches_the_teacher_which_follows_the_student(state):
    method, params, carry = state
    grads = jax.jit(jax.grad(lambda carry: method.loss(params, carry, VIEWS, KEY, START)[0]))(carry)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    stepped = jax.tree.map(lambda x: x - 0.1, params)
    _, moved = method.update(stepped, carry, START)
    jax.tree.map(np.testing.assert_array_equal, moved["target"], ema(carry["target"], stepped, np.float32(0.996)))


def test_patches_share_the_head_or_have_their_own(state):
    method, params, _ = state
    own = method.patch_prototypes is not None
    assert set(params) == {"encoder", "head"} | ({"patch_head"} if own else set())
    assert params["head"]["last"]["dense0"]["kernel"].shape == (6, 10)
    shape = (5 if method is SHORT else 6, 7) if own else (6, 10)
    assert params[method.patch_head]["last"]["dense0"]["kernel"].shape == shape
    learned = dataclasses.replace(method, norm_last_layer=False)
    gains = [head["gain"].shape for name, head in jax.eval_shape(learned.init, KEY, VIEWS)[0].items() if "head" in name]
    assert gains == ([(1, 10), (1, 7)] if own else [(1, 10)])


def test_what_cannot_be_is_one_line():
    for make, message in (
        (lambda: IBOT(convnet()), "IBOT compares class tokens and patches: encoder ConvNet has none, expected a ViT"),
        (lambda: dataclasses.replace(SMALL, mask_ratio=(0.5, 0.1)), "expected two shares between 0 and 1, ascending"),
        (
            lambda: dataclasses.replace(SMALL, mask_group=3),
            "expected 1, or a number of crops of which .*0.5 is a whole",
        ),
        (
            lambda: dataclasses.replace(SMALL, mask_group=8).mask(KEY, VIEWS["image"][:, 0]),
            "divisor of the 6 large crops",
        ),
        (lambda: dataclasses.replace(SMALL, centering="sinkhor"), "did you mean sinkhorn"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            make()
        assert "\n" not in str(error.value)
