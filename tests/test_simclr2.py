"""SimCLR v2: the head's first layer, the memory, and what fine-tuning and distillation do with labels."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl import train as loop
from jssl.checkpoint import checkpoint_steps, read_arrays
from jssl.encoder import Encoder
from jssl.evals.labels import share
from jssl.evals.run import SEEN, evaluate
from jssl.evals.subject import config_of, learns_labels, saw_labels
from jssl.losses import info_nce, nt_xent
from jssl.method import LABELS, Time
from jssl.methods.simclr2 import Distilled, FineTuned, SimCLRv2, distillation
from jssl.modalities.image import labelled_part
from jssl.nets.mlp import MLP
from jssl.nets.net import apply_net
from jssl.sharding import make_mesh
from jssl.train import train
from tests.contract import assert_close, assert_equal, trained
from tests.trajectories import BACKBONE, close

SMALL = SimCLRv2(BACKBONE, hidden=12, dim=5, temperature=0.5, memory=11, momentum=0.9)
TUNED = FineTuned(BACKBONE, classes=4, rows=40, hidden=12)
DISTILLED = Distilled(MLP(6, 6), 4, 40, "jssl.nets.mlp:MLP", (("hidden", 10), ("dim", 10)), hidden=12)
X = np.random.RandomState(0).randn(8, 2, 6).astype(np.float32)
VIEWS = {"image": X, "index": np.arange(8, dtype=np.int32) * 5}
LABELLED = np.arange(40, dtype=np.int32) // 5 % 4  # row 5 i of image i
START = Time(0, 100, 10.0)


def start(method):
    """(params, carry), every leaf moved off its starting value, labels given."""
    params, carry = jax.jit(method.init)(jax.random.key(0), VIEWS)
    leaves, tree = jax.tree.flatten((params, carry.get("frozen", {})))
    noise = [0.1 * np.random.RandomState(i).randn(*leaf.shape) for i, leaf in enumerate(leaves)]
    params, frozen = tree.unflatten([jnp.float32(leaf + abs(n)) for leaf, n in zip(leaves, noise)])
    carry |= {"frozen": frozen} if frozen else {}
    carry |= {LABELS: jnp.asarray(LABELLED)} if LABELS in carry else {}
    return params, carry


def loss(method, params, carry, views=VIEWS):
    return jax.jit(lambda p, c, v: method.loss(p, c, v, jax.random.key(1), START))(params, carry, views)


def test_the_head_has_three_layers_and_the_loss_is_simclrs():
    method = dataclasses.replace(SMALL, memory=0)
    params, carry = start(method)
    value, (_, out) = loss(method, params, carry)
    assert [name for name in params["projector"] if name.startswith("dense")] == ["dense0", "dense1", "dense2"]
    np.testing.assert_allclose(value, nt_xent(out["embedding"], 0.5), rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_features_come_from_the_layer_that_is_asked_for(layer):
    params, carry = start(SMALL)
    method = dataclasses.replace(SMALL, layer=layer)
    h, _, _ = apply_net(SMALL.encoder, params["encoder"], carry["stats"]["encoder"], X[:, 0])
    _, out, _ = apply_net(SMALL.nets["projector"], params["projector"], carry["stats"]["projector"], h)
    close(method.embed(params, carry, {"image": X[:, 0]})["features"], (h, *out["layers"])[layer])


@pytest.mark.parametrize("layer", [0, 1])
def test_an_encoder_without_batch_norm_is_read_from_its_export(layer):
    method = dataclasses.replace(SMALL, encoder=MLP(10, 10, norm=False), layer=layer)
    params, carry = start(method)
    exported = {"stats": {"projector": carry["stats"]["projector"]}} if layer else {}  # what has no leaves is not there
    close(*(method.embed(params, c, {"image": X[:, 0]})["features"] for c in (carry, exported)))


def test_a_layer_that_the_head_has_not_is_refused():
    with pytest.raises(ValueError, match=r"layer=3: expected 0 \(the encoder\) to 2"):
        SimCLRv2(BACKBONE, layer=3)


def test_with_a_memory_the_other_views_key_is_the_positive_and_the_memory_of_before_the_negatives():
    params, carry = start(SMALL)
    carry["target"] = jax.tree.map(lambda x: 0.9 * x, params)
    value, (after, out) = loss(SMALL, params, carry)
    z = out["embedding"]
    _, (_, of_target) = loss(SMALL, carry["target"], {**carry, "stats": carry["target_stats"]})
    k = of_target["embedding"] / np.linalg.norm(of_target["embedding"], axis=-1, keepdims=True)
    close(
        value, (info_nce(z[:, 0], k[:, 1], 0.5, carry["queue"]) + info_nce(z[:, 1], k[:, 0], 0.5, carry["queue"])) / 2
    )
    keys = np.concatenate([k[:, 0], k[:, 1]])  # 16 keys for a ring of 11: the last 11 stay
    assert after["pointer"] == 16 % 11
    close(after["queue"][(np.arange(16) % 11)[5:]], keys[5:])


def test_with_a_memory_both_views_are_learned_from():
    """The views swapped, the gradient is the same: neither half of the loss is held fixed."""
    params, carry = start(SMALL)
    gradient = lambda views: jax.grad(lambda params: loss(SMALL, params, carry, views)[0])(params)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(near, gradient(VIEWS), gradient({**VIEWS, "image": X[:, ::-1]}))


def test_memory_network_is_an_average_that_no_gradient_reaches():
    params, carry = start(SMALL)
    grads = jax.grad(lambda target: loss(SMALL, params, {**carry, "target": target})[0])(carry["target"])
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    _, moved = SMALL.update(params, carry, START)
    jax.tree.map(lambda new, t, p: close(new, 0.9 * t + 0.1 * p), moved["target"], carry["target"], params)


def test_memory_is_the_same_on_eight_devices():
    one, eight = (trained("simclr2", mesh, method__memory=96) for mesh in [(1, 1), (8, 1)])
    assert_close(one.losses, eight.losses)
    assert_close(one.end, eight.end)
    assert np.abs(one.end.carry["queue"] - one.start.carry["queue"]).max(1).min() > 0
    found = eight.collectives()
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert all(size <= eight.out["embedding"].size for kind, size in found if kind == "all-gather"), found


def test_fine_tuning_reads_the_labels_of_its_rows_and_starts_at_guessing():
    params, carry = start(TUNED)
    value, (after, out) = loss(TUNED, params, carry)
    logits = out["features"] @ params["classifier"]["kernel"] + params["classifier"]["bias"]  # [N, V, classes]
    right = np.take_along_axis(jax.nn.log_softmax(logits), LABELLED[VIEWS["index"]][:, None, None], 2)
    np.testing.assert_allclose(value, -right.mean(), rtol=1e-5)
    np.testing.assert_array_equal(after[LABELS], LABELLED)
    fresh, _ = TUNED.init(jax.random.key(0), VIEWS)
    np.testing.assert_allclose(loss(TUNED, fresh, carry)[0], np.log(4), rtol=1e-6)


def test_rows_without_a_label_do_not_count():
    params, carry = start(TUNED)
    few = {**carry, LABELS: jnp.asarray(np.where(np.arange(40) < 20, LABELLED, -1))}  # of images 0 to 3
    _, (_, out) = loss(TUNED, params, carry)
    logits = out["features"] @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    right = np.take_along_axis(jax.nn.log_softmax(logits), LABELLED[VIEWS["index"]][:, None, None], 2)
    np.testing.assert_allclose(loss(TUNED, params, few)[0], -right[:4].mean(), rtol=1e-5)


def test_fine_tuning_goes_on_from_the_first_layer_of_the_head():
    """With the pretrained network's weights, its features are those of the network's own first layer."""
    params, carry = start(SMALL)
    fresh, own = TUNED.init(jax.random.key(3), VIEWS)
    kept = {name: params["projector"][name] for name in fresh["projector"]}
    assert set(kept) == {"dense0", "norm0"}
    fresh = {**fresh, "encoder": params["encoder"], "projector": kept}
    found = TUNED.embed(fresh, {**own, "stats": carry["stats"]}, {"image": X[:, 0]})
    probed = dataclasses.replace(SMALL, layer=1).embed(params, carry, {"image": X[:, 0]})
    close(found["features"], probed["features"])
    assert found["logits"].shape == (8, 4)


def test_a_student_learns_the_teachers_probabilities_at_its_temperature():
    """Equation 2 by hand, of logits in float64."""
    student, teacher = (np.random.RandomState(seed).randn(5, 4) for seed in (1, 2))
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    expected = -np.mean(np.sum(softmax(teacher / 0.3) * np.log(softmax(student / 0.3)), -1))
    np.testing.assert_allclose(distillation(jnp.float32(student), jnp.float32(teacher), 0.3), expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_distillation_is_equation_3(alpha):
    method = dataclasses.replace(DISTILLED, temperature=0.5, alpha=alpha)
    params, carry = start(method)
    value, (_, out) = loss(method, params, carry)
    assert (LABELS in carry) == (alpha < 1)

    student = out["features"] @ params["classifier"]["kernel"] + params["classifier"]["bias"]  # [N, V, classes]
    frozen = carry["frozen"]
    tuned = FineTuned(MLP(10, 10), 4, 40, hidden=12)
    see = lambda v: tuned.embed(frozen["params"], {"stats": frozen["stats"]}, {"image": X[:, v]})["logits"]
    expected = alpha * distillation(student, jnp.stack([see(0), see(1)], 1), 0.5)
    right = np.take_along_axis(jax.nn.log_softmax(student), LABELLED[VIEWS["index"]][:, None, None], 2)
    np.testing.assert_allclose(value, expected - (1 - alpha) * right.mean(), rtol=1e-5)


def test_no_gradient_reaches_the_teacher_and_nobody_writes_it():
    params, carry = start(DISTILLED)
    grads = jax.grad(lambda frozen: loss(DISTILLED, params, {**carry, "frozen": frozen})[0])(carry["frozen"])
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    _, (after, _) = loss(DISTILLED, params, carry)
    assert_equal(after["frozen"], carry["frozen"])
    to_student = jax.grad(lambda params: loss(DISTILLED, params, carry)[0])(params)
    assert all(np.any(g) for g in jax.tree.leaves(to_student))


@pytest.mark.parametrize("method", [SMALL, TUNED, DISTILLED], ids=lambda method: type(method).__name__)
def test_bfloat16_costs_its_rounding_and_no_more(method):
    half = dataclasses.replace(method, encoder=dataclasses.replace(method.encoder, dtype=jnp.bfloat16))
    params, carry = start(method)
    value, _ = loss(method, params, carry)
    rounded, (_, out) = loss(half, params, carry)
    assert out["features"].dtype == jnp.float32
    np.testing.assert_allclose(rounded, value, rtol=0.05)
    grads = jax.grad(lambda params: loss(half, params, carry)[0])(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The three trainings on digits, a few steps each, one from the other; the student is half as wide."""
    folder = tmp_path_factory.mktemp("simclr2")
    small = {
        "encoder.widths": (16, 32),
        "method.hidden": 32,
        "eval.every": 0,
        "checkpoint.every": 30,
        "dtype": "float32",
    }
    small |= {"train.batch_size": 64, "train.steps": 60}
    variants = {"demo": "", "demo_finetune": "demo", "demo_distill": "demo_finetune"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda *_: make_mesh(1, 1, jax.devices()[:1]))
        states = {}
        for variant, origin in variants.items():
            own = {"init_run": str(folder / origin)} if origin else {}
            if variant == "demo_finetune":
                own |= {"data.share": 0.5, "optim.lr": 2.0}
            if variant == "demo_distill":
                own |= {
                    "train.steps": 150,
                    "optim.lr": 0.12,
                    "optim.warmup": 0.0,
                    "encoder.widths": (8, 16),
                    "method.teacher_fields": (("widths", (16, 32)),),
                }
            states[variant] = train(configs.load(f"simclr2:{variant}", small | own), folder / variant)
    return folder, states


def accuracy(workdir):
    """Of the exported network's logits on digits that no run has seen."""
    encoder, test = Encoder(workdir), data.open_source("digits@test")
    arrays = read_arrays(workdir / "checkpoints" / str(checkpoint_steps(workdir / "checkpoints")[0]) / "state")
    kernel, bias = (arrays[f"params/classifier/{name}"] for name in ("kernel", "bias"))
    return np.mean((encoder.embed(test) @ kernel + bias).argmax(1) == test.labels)


def test_few_labels_and_a_teacher_bring_the_accuracy_far_above_chance(runs):
    folder, _ = runs
    assert accuracy(folder / "demo_finetune") > 0.5
    assert accuracy(folder / "demo_distill") > 0.35


def test_fine_tuning_begins_with_the_pretrained_weights_and_its_rows_are_the_labelled_ones(runs):
    folder, states = runs
    untrained = dict(np.load(folder / "demo_finetune" / "encoder" / "untrained.npz"))
    encoder = jax.tree.leaves(states["demo"].params["encoder"])
    begun = [value for path, value in untrained.items() if path.startswith("params/encoder")]
    assert sorted(x.tobytes() for x in begun) == sorted(np.asarray(x).tobytes() for x in encoder)
    labels = np.asarray(states["demo_finetune"].carry[LABELS])
    source = labelled_part(data.open_source("digits"), 0.5, 0)
    np.testing.assert_array_equal(labels, source.labels)


def test_the_teacher_is_the_fine_tuned_network_and_stored_once(runs):
    folder, states = runs
    tuned, student = states["demo_finetune"], states["demo_distill"]
    assert_equal(student.carry["frozen"]["params"], tuned.params)
    assert_equal(student.carry["frozen"]["stats"], tuned.carry["stats"])
    assert len(list((folder / "demo_distill" / "frozen").iterdir())) == 1
    assert LABELS not in student.carry
    size = lambda params: sum(x.size for x in jax.tree.leaves(params))
    assert size(student.params) < size(tuned.params) / 2


def test_scores_on_images_whose_labels_were_learned_say_so(runs):
    folder, source = runs[0], data.open_source("digits")
    learns = lambda run: learns_labels(Encoder(run).method, config_of(run), source)
    runs = [folder / variant for variant in ("demo", "demo_finetune", "demo_distill")]
    assert [learns(run) for run in runs] == [False, True, False]
    assert [saw_labels(config_of(run), source) for run in runs] == [False, True, True]  # the student by its teacher
    assert not saw_labels(config_of(runs[2]), data.open_source("digits@test"))
    run = folder / "demo_finetune"
    content = json.loads((run / "config.json").read_text())
    content["config"]["data"]["eval_source"] = None
    (run / "config.json").write_text(json.dumps(content))
    assert SEEN in evaluate(run, protocol="knn")
    assert json.loads((run / "scores.json").read_text())["protocol"]["data"]["encoder_saw_their_labels"]
    assert SEEN not in evaluate(run, protocol="knn", test="digits@test")


def test_a_share_of_the_labels_is_of_every_class_and_drawn_by_the_seed():
    source = data.open_source("digits")
    part = labelled_part(source, 0.1, 0)
    counts = np.bincount(source.labels)
    np.testing.assert_array_equal(np.bincount(part.labels), np.round(0.1 * counts))
    assert part.names != labelled_part(source, 0.1, 1).names
    assert part.names == labelled_part(source, 0.1, 0).names
    assert labelled_part(source, 1.0, 0) is source
    assert share(source.labels, 0.1, np.random.default_rng(0)).sum() == len(part)


def test_fine_tuning_without_labels_is_refused_in_one_line(tmp_path):
    np.savez(tmp_path / "images.npz", image=np.zeros((64, 8, 8, 1), np.uint8))
    config = configs.load("simclr2:demo_finetune", {"data.source": f"npz:{tmp_path}/images.npz"})
    with pytest.raises(ValueError, match=r"data\.share=0\.1 is of every class, but .* has no labels"):
        train(config, tmp_path / "run")
    config.data.share = 1.0
    with pytest.raises(ValueError, match=r"FineTuned needs labels, but .* has none"):
        train(config, tmp_path / "run")
