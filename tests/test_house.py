"""The rules of the house that a program can check."""

import ast
import pathlib

from xdist.scheduler import LoadScopeScheduling

from tests.conftest import group

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(ROOT.glob("jssl/**/*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_flax_is_imported_in_nets_alone():
    found = [p for p in FILES if p.parent.name != "nets" and any(name.split(".")[0] == "flax" for name in imports(p))]
    assert not found


def test_methods_never_import_each_other():
    for path in FILES:
        if path.parent.name == "methods":
            assert not [name for name in imports(path) if name.startswith("jssl.methods.")], path


def test_files_are_short():
    long = {path.name: lines for path in FILES if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_reading_data_needs_no_jax():
    """Worker processes decode images; they have no use for an accelerator's library."""
    assert not [p for p in FILES if p.parent.name == "data" and any(name.startswith("jax") for name in imports(p))]


def test_a_worker_runs_the_contract_of_a_method_or_a_file():
    """Or every worker would train and compile every method."""
    assert callable(LoadScopeScheduling._split_scope)  # what conftest overrides
    contract = "tests/test_contract.py"
    assert group(f"{contract}::test_step[byol]") == group(f"{contract}::test_devices[byol, 8 devices]")
    assert group(f"{contract}::test_step[byol]") != group(f"{contract}::test_step[dino]")
    assert group("tests/test_byol.py::test_a[b]") == group("tests/test_byol.py::test_c")
