"""Continued training: the encoder of another run, its warm-up, and the guard."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import config as configs
from jssl.checkpoint import read_arrays
from jssl.data import open_source
from jssl.doctor import doctor
from jssl.experiment import fill, open_data
from jssl.optim import optimizer
from jssl.sharding import flatten, make_mesh, replicated
from jssl.start import start
from jssl.step import TrainState
from jssl.train import Run, train
from jssl.watch import LIMITS, Ended, Watch, fallen
from jssl.writers import read_metrics

TINY = {"train.steps": 8, "eval.every": 4, "checkpoint.every": 2, "log_every": 4, "train.batch_size": 64}
TINY |= {"eval.rows": 300, "checkpoint.keep": 9}


def state_of(params, **carry):
    return jax.device_put(TrainState(jnp.int32(0), params, carry, ()), replicated(make_mesh()))


def encoder(value=0.0, width=3, positions=(2, 2)):
    """A tree of arrays of one value."""
    full = lambda *shape: np.full(shape, value, np.float32)
    block = {"kernel": full(width, width), "bias": full(width)}
    return {"positions": full(*positions, width), "patch": {"kernel": full(4, width)}, "block0": block, "block1": block}


def written(path, tree, prefix=""):
    np.savez(path, **{prefix + name: x for name, x in flatten(tree).items()})
    return path


# ---- what is taken
def test_the_encoder_is_found_wherever_the_other_method_kept_it_and_put_wherever_this_one_does(tmp_path):
    tree = {"encoder": encoder(1.0), "head": {"kernel": np.ones((3, 3))}}
    written(tmp_path / "weights.npz", tree, "carry/target/")
    state = state_of(
        {"encoder": encoder(), "head": {"kernel": np.zeros((3, 3), np.float32)}},
        target={"encoder": encoder()},
        frozen={"encoder": encoder()},
    )
    new, lines = start(state, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, new.params["encoder"], encoder(1.0))
    jax.tree.map(np.testing.assert_array_equal, new.carry["target"]["encoder"], encoder(1.0))
    jax.tree.map(np.testing.assert_array_equal, new.carry["frozen"]["encoder"], encoder())
    assert not new.params["head"]["kernel"].any()
    assert lines == [f"6 of 6 arrays of the encoder are from {tmp_path} (carry/target/encoder)"]


def test_what_does_not_fit_is_listed_and_positions_are_resized(tmp_path):
    other = encoder(1.0, positions=(4, 4))
    other["patch"]["kernel"] = np.ones((16, 3), np.float32)
    other["block2"] = other.pop("block1")
    file = written(tmp_path / "weights.npz", other)
    new, lines = start(state_of({"encoder": encoder()}), file)
    np.testing.assert_allclose(new.params["encoder"]["positions"], np.ones((2, 2, 3)), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, new.params["encoder"]["block0"], encoder(1.0)["block0"])
    assert not new.params["encoder"]["block1"]["kernel"].any()
    assert lines == [
        f"3 of 6 arrays of the encoder are from {file} (/)",
        "  resized: positions 4 x 4 x 3 to 2 x 2 x 3",
        "  not loaded: block1/* (2) (not there), patch/kernel (16 x 3 there, 4 x 3 here)",
        "  no place here for: block2/* (2)",
    ]


def test_batch_statistics_come_along(tmp_path):
    stats = {"norm": {"mean": np.ones(3, np.float32), "var": np.full(3, 2.0, np.float32)}}
    tree = {"params": {"encoder": encoder(1.0)}, "carry": {"stats": {"encoder": stats}}}
    file = written(tmp_path / "weights.npz", tree)
    zeros = jax.tree.map(np.zeros_like, stats)
    new, lines = start(
        state_of({"encoder": encoder()}, stats={"encoder": zeros}, target_stats={"encoder": zeros}), file
    )
    for name in "stats", "target_stats":
        jax.tree.map(np.testing.assert_array_equal, new.carry[name]["encoder"], stats)
    assert lines[1] == f"2 of 2 arrays of the batch statistics are from {file} (carry/stats/encoder)"


def test_bad_origins_are_one_clear_line(tmp_path):
    state = state_of({"encoder": encoder()})
    with pytest.raises(FileNotFoundError, match="there is no encoder or checkpoint in"):
        start(state, tmp_path / "none")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match="cannot be read; expected an"):
        start(state, tmp_path / "text.npz")
    other = written(tmp_path / "other.npz", {"conv": {"kernel": np.ones((3, 3, 1, 8), np.float32)}})
    with pytest.raises(ValueError, match="fits this run's encoder: it has conv/kernel 3 x 3 x 1 x 8; expected such as"):
        start(state, other)


# ---- the warm-up
@pytest.mark.parametrize("groups", [(), ({"pattern": "block1", "weight_decay": 0.0, "lr_scale": 0.5},)])
def test_after_the_warm_up_the_encoder_moves_as_if_it_began_there(groups):
    """Adam's first step: its moments, and the count that corrects them, have waited too."""
    optim = configs.base().optim
    optim.update({"name": "adamw", "weight_decay": 0.1, "groups": groups})
    params = jax.tree.map(jnp.ones_like, {"encoder": encoder(), "head": jnp.zeros(3)})
    rate = lambda step: 0.1 * (1 + step)
    tx, other = optimizer(optim, rate, held=("^encoder/", 2)), optimizer(optim, lambda step: rate(step + 2))
    state, moved = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append(updates)
    for step in range(2):
        assert not any(x.any() for x in jax.tree.leaves(moved[step]["encoder"]))
        assert moved[step]["head"].all()
    first, _ = other.update(jax.tree.map(jnp.ones_like, params), other.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, moved[2]["encoder"], first["encoder"])


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mae")
    train(configs.load("mae:tiny", TINY), folder)
    return folder


def continued(mae, **fields):
    """SimCLR from the MAE's vision transformer."""
    made = configs.load("simclr:tiny", {**TINY, "init.encoder": str(mae), "init.warmup": 0.5})
    made.encoder = configs.load("mae:tiny").encoder
    for path, value in fields.items():
        configs.override(made, path, value)
    return made


def test_the_encoder_waits_to_the_bit_and_then_moves_also_where_the_run_is_cut(mae, tmp_path, capsys):
    end = train(continued(mae), tmp_path)
    assert "arrays of the encoder are from" in capsys.readouterr().err
    rows = read_metrics(tmp_path)
    assert (rows[0].keys(), rows[0]["step"]) == ({"step", "knn"}, 0)

    first = np.load(mae / "encoder" / "weights.npz")
    for step, waits in ((2, True), (4, True), (6, False)):
        found = read_arrays(tmp_path / "checkpoints" / str(step) / "state")
        names = [name for name in found if name.startswith("params/encoder/")]
        assert set(names) == set(first)
        assert all((found[name] == first[name]).all() == waits for name in names)
    for step in (4, 6, 8):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    again = train(continued(mae), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, end.params, again.params)
    assert [row["step"] for row in read_metrics(tmp_path)] == [row["step"] for row in rows]


# ---- the guard
def test_k_nn_has_fallen_where_it_was_low_for_long_enough():
    history = [(4, 0.87), (8, 0.89), (12, 0.87), (16, 0.86)]
    assert fallen(history[:3], 0.9, drop=0.02, patience=2) is None
    assert "86.0% at step 16, and 90.0% before the first" in fallen(history, 0.9, drop=0.02, patience=2)
    assert fallen(history, 0.9, drop=0.05, patience=2) is None
    assert fallen(history[:1], 0.9, drop=0.02, patience=2) is None


def test_only_a_continued_run_is_compared_with_its_start():
    rows = [{"step": step, "knn": 0.5} for step in (4, 8)]
    limits = {**LIMITS, "patience": 1}
    assert not Watch(limits, rows).found
    assert list(Watch(limits, [{"step": 0, "knn": 0.9}, *rows]).found) == ["start"]


def test_a_rate_that_is_absurd_ends_the_run(mae, tmp_path):
    absurd = {"optim.lr": 1e3, "init.warmup": 0.0, "watch.patience": 1, "watch.policy": "stop", "watch.std": 0.0}
    with pytest.raises(Ended, match=r"^step 4: k-NN is below that of the starting weights"):
        train(continued(mae, **absurd, **{"watch.rankme": 0.0}), tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 4, 4]
    assert ". k-NN is below that of the starting weights" in doctor(tmp_path)[0]


@pytest.mark.parametrize(
    ("every", "labels", "said"),
    [(0, True, "eval.every is 0"), (4, False, r"bare\.npz has no labels of two classes"), (4, True, None)],
)
def test_a_continued_run_without_a_guard_says_so(mae, tmp_path, every, labels, said):
    if not labels:
        np.savez(tmp_path / "bare.npz", image=open_source("digits").images[:100])
    spec = "digits" if labels else f"npz:{tmp_path}/bare.npz"
    made = continued(mae, **{"eval.every": every, "data.source": spec})
    source = open_data(made)
    made, _ = fill(made, source)
    mesh = make_mesh(1, 1, jax.devices()[:1])
    with jax.set_mesh(mesh):
        lines = Run(made, source, mesh, tmp_path).unguarded()
    assert len(lines) == bool(said)
    assert not said or re.search(f"undoes what the encoder knew: .*{said}; give eval.every", lines[0])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"init.warmup": 1.5}, "init.warmup=1.5; expected a share of the steps"),
        ({"init.encoder": "nowhere"}, "there is no encoder or checkpoint in nowhere"),
    ],
)
def test_what_cannot_be_is_one_line(mae, tmp_path, fields, match):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        train(continued(mae, **fields), tmp_path)
