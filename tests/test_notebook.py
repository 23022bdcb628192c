"""The notebook runs from top to bottom, and shows what it says."""

import pathlib

import nbformat
from nbclient import NotebookClient

NOTEBOOK = pathlib.Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"


def test_quickstart_runs_and_the_trained_encoder_wins(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # as a reader would run it: without the suite's simulated devices
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    shown = {
        cell.id: cell.outputs[-1]["data"]
        for cell in notebook.cells
        if cell.get("outputs") and "data" in cell.outputs[-1]
    }
    accuracy = next(eval(data["text/plain"]) for data in shown.values() if "linear probe" in data["text/plain"])
    assert accuracy["trained"]["1 label per class"] > accuracy["untrained"]["1 label per class"] + 0.1
    assert accuracy["trained"]["linear probe"] > accuracy["untrained"]["linear probe"]
    assert sum("image/png" in data for data in shown.values()) == 2
