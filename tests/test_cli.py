"""The command line: what a person types, and the one line that answers a mistake."""

import subprocess
import sys

import numpy as np
import pytest

import jssl
from jssl import cli
from jssl.config import experiments
from jssl.evals.table import OF_GRAPHS, OF_NODES, PROTOCOLS


def said(capsys, *argv):
    """The exit's message, or what argparse printed."""
    with pytest.raises(SystemExit) as exit:
        cli.main(list(argv))
    return exit.value.code if isinstance(exit.value.code, str) else capsys.readouterr().err.splitlines()[-1]


def test_list_shows_every_method_with_its_variants(capsys):
    cli.main(["list"])
    out = capsys.readouterr().out
    for name in experiments():
        assert name in out
    assert "demo" in out
    assert "imagenet" in out
    images, graphs = out.split("graphs:")
    assert "  simclr   " in images
    assert "  dgi   " in graphs
    assert max(map(len, out.splitlines())) <= 130


def test_help_names_every_protocol(capsys):
    with pytest.raises(SystemExit):
        cli.main(["eval", "--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in (*PROTOCOLS, *OF_NODES, *OF_GRAPHS))


def test_it_is_a_module_too_and_says_its_version():
    command = [sys.executable, "-m", "jssl", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"jssl {jssl.__version__}\n"


def test_who_reads_may_stop_reading():
    command = [sys.executable, "-c", "from jssl.cli import main; main()", "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("argv", "wrong", "right"),
    [
        (["train", "--config", "simclr:dmeo"], "'dmeo'", "demo"),
        (["train", "--config", "simclrr"], "'simclrr'", "simclr"),
        (["train", "--config", "simclr", "--config.optim.lrr=1"], "'optim.lrr'", "optim.lr"),
        (["train", "--config", "simclr", "--config.optim.lr=fast"], "optim.lr=fast", "float"),
        (["train", "--config", "simclr", "--config.data.source=digit"], "'digit'", "digits"),
        (["train", "--config", "simclr", "--config.optim.name=lrs"], "'lrs'", "lars"),
        (["train", "--config", "simclr", "--config.train.batch_size=4096"], "1297 images", "train.batch_size"),
        (["train", "--config", "simclr", "--config.train.steps_per_call=7"], "steps_per_call=7", "nearest"),
        (["train", "--config", "simclr", "--config.train.batch_size=0"], "train.batch_size=0", "at least 1"),
        (["train", "--config", "simclr", "--config.train.accumulate=0"], "train.accumulate=0", "at least 1"),
        (["train", "--config", "simclr", "--config.train.steps=-1"], "train.steps=-1", "at least 1"),
        (["train", "--config", "simclr", "--config.train.epochs=0"], "train.epochs=0", "more than 0"),
        (["train", "--config", "simclr", "--config.dtype=bfloat"], "'bfloat'", "mean bfloat16"),
        (["train", "--config", "simclr", "--config.eval.protocols=knn,lineer"], "'lineer'", "mean linear"),
        (["train", "--config", "simclr", "--optim.lr=1"], "unrecognised", "--config.optim.lr=1"),
        (["train", "--config", "simclr", "--steps=7"], "--steps=7", "--help"),
        (["eval", "--workdir", "nowhere"], "nowhere", "jssl train"),
        (["eval", "--workdir", "x", "--protocol", "knn", "--knn.nonsense=1"], "knn.nonsense", "of k, temperature"),
        (["eval", "--workdir", "x", "--protocol", "finetune", "--finetune.epohcs=1"], "--finetune.epohcs", "epochs"),
        (["eval", "--workdir", "x", "--protocol", "knn", "--finetune.epochs=1"], "asked for", "knn,finetune"),
        (["eval", "--workdir", "x", "--protocol", "fairness", "--fairness.k=1"], "--fairness.k", "no settings"),
        (["eval", "--workdir", "x", "--protocol", "knn", "--knn.k=few"], "--knn.k=few", "int"),
        (["eval", "--workdir", "x", "--draws", "0"], "--draws 0", "at least 1"),
        (["merge", "--workdir", "nowhere", "--peft", "x.npz", "--out", "y"], "nowhere", "jssl train"),
        (["train", "--config", "simclr:tiny", "--init-from", "gone"], "gone", "run directory"),
        (["report", "--workdir", "nowhere"], "nowhere", "run directory"),
        (["embed", "--workdir", "nowhere", "--data", "digits", "--out", "x.csv"], ".csv", ".npz or .parquet"),
        (["evaluate"], "evaluate", "eval"),
        (["train", "--config", "dgi", "--config.data.source=planetoid:gone@cora"], "no folder gone", "planetoid:"),
        (["train", "--config", "graphcl:mutag", "--config.data.source=tu:."], "no TU files in .", "NAME_A.txt"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_right_thing(capsys, tmp_path, monkeypatch, argv, wrong, right):
    monkeypatch.chdir(tmp_path)
    message = said(capsys, *argv)
    assert wrong in message
    assert right in message
    assert "\n" not in message


def test_a_graph_whose_edges_leave_its_nodes_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("far.npz", x=np.eye(3), edges=[[0, 1], [0, 9]])
    message = said(capsys, "train", "--config", "dgi", "--config.data.source=npz:far.npz")
    assert message == "jssl train: npz:far.npz: edge 1 joins 0 and 9, but nodes are 0 to 2"


@pytest.mark.parametrize("pod", [("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), ("SLURM_NTASKS", "SLURM_PROCID")])
def test_what_needs_one_process_is_left_to_the_first(capsys, monkeypatch, pod):
    for name, value in zip(pod, "21"):
        monkeypatch.setenv(name, value)
    cli.main(["list"])
    assert capsys.readouterr() == ("", "jssl list: left to the first process, which does it alone\n")
    monkeypatch.setenv(pod[1], "0")
    cli.main(["list"])
    assert "simclr" in capsys.readouterr().out


def test_the_run_directory_is_named_after_the_config():
    assert cli.default_workdir("experiments/simclr.py:cifar10") == "runs/simclr-cifar10"
    assert cli.default_workdir("simclr") == "runs/simclr"
