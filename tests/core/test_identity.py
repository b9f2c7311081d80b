"""What decides a number is told by plain data and by the code that runs, and by nothing else."""

import json
import os
import pathlib
import subprocess
import sys

import equinox as eqx
import jax
import numpy as np
import pytest

from sae_gap.core import identity
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.storage import results

SAE = SparseAutoencoder(TopK(3), num_steps=2)


def test_a_learner_and_an_encoder_are_plain_data():
    found = identity.describe(Lasso(0.2, start=TopK(3)))
    assert found["class"] == "sae_gap.encoders.lasso.Lasso" and found["lam"] == 0.2 and found["nonneg"] is True
    assert found["start"] == {"class": "sae_gap.encoders.topk.TopK", "k": 3} | {
        name: value for name, value in found["start"].items() if name not in ("class", "k")
    }
    amortised = identity.describe(Amortised((TopK(3), ReLU()), base=SAE))
    assert amortised["base"] == identity.describe(SAE) and amortised["base"]["num_steps"] == 2
    assert [part["class"] for part in amortised["encoders"]] == ["sae_gap.encoders.topk.TopK", "sae_gap.encoders.relu.ReLU"]
    for thing in (found, amortised):
        assert json.loads(json.dumps(thing)) == thing


def test_functions_and_classes_have_full_names():
    assert identity.qualified(results.key) == "sae_gap.storage.results.key"
    assert identity.qualified(Lasso.infer) == "sae_gap.encoders.lasso.Lasso.infer"


def test_the_precision_is_the_default_float():
    assert identity.precision() == "float32"
    with jax.enable_x64(True):
        assert identity.precision() == "float64"


@pytest.fixture
def edit(monkeypatch, tmp_path):
    """Puts an edited copy in the place of a module's file."""
    real = identity._path

    def clear():
        for function in (identity._closure, identity._parsed, identity._text, identity._imports):
            function.cache_clear()

    def put(module, change):
        text = real(module).read_text()
        assert change(text) != text
        copy = tmp_path / f"{module}.py"
        copy.write_text(change(text))
        monkeypatch.setattr(identity, "_path", lambda name: copy if name == module else real(name))
        clear()

    yield put
    clear()


@pytest.mark.parametrize(
    "module",
    [
        "sae_gap.learners.sparse_autoencoder",
        "sae_gap.encoders.topk",
        # What these two import, and the loop and the data of every fit.
        "sae_gap.learners.learner",
        "sae_gap.encoders.encoder",
        "sae_gap.core.types",
        "sae_gap.study.fitting",
        "sae_gap.data.paper",
    ],
)
def test_code_that_runs_counts(edit, module):
    before = identity.code(SAE)
    edit(module, lambda text: f"{text}\nONE = 1\n")
    assert identity.code(SAE) != before


@pytest.mark.parametrize(
    "module", ["sae_gap.encoders.lasso", "sae_gap.encoders.relu", "sae_gap.metrics.gap", "sae_gap.study.runner"]
)
def test_code_that_does_not_run_does_not_count(edit, module):
    before = identity.code(SAE)
    edit(module, lambda text: f"{text}\nONE = 1\n")
    assert identity.code(SAE) == before


def test_solvers_and_bases_count(edit):
    amortised = Amortised((ReLU(),), base=SAE)
    before, oracle = identity.code(amortised), identity.code(Oracle())
    for module in (
        "sae_gap.solvers.working_set",
        "sae_gap.learners.sparse_autoencoder",
        "sae_gap.encoders.topk",
        "sae_gap.encoders.relu",
    ):
        edit(module, lambda text: f"{text}\nONE = 1\n")
        assert identity.code(amortised) != before, module
        assert identity.code(Oracle()) == oracle


def test_comments_and_docstrings_do_not_count(edit):
    before = identity.code(SAE)
    edit(
        "sae_gap.learners.sparse_autoencoder",
        lambda text: "# New.\n" + text.replace("Trains an encoder", "Teaches an encoder") + "\n# Old.\n",
    )
    assert identity.code(SAE) == before
    edit(
        "sae_gap.learners.sparse_autoencoder",
        lambda text: text.replace("self.step", "self . step").replace("(\n", "(\n\n") + "\n\n",
    )
    assert identity.code(SAE) == before


def test_any_changed_number_counts(edit):
    before = identity.code(SAE)
    edit("sae_gap.learners.sparse_autoencoder", lambda text: text.replace("b2=0.999", "b2=0.99"))
    assert identity.code(SAE) != before


NOTEBOOK = """
import jax.numpy as jnp
from sae_gap.learners.base import Learner
from sae_gap.types import Model

SCALE = 2.0

def helper(x):
    return x * SCALE

class Mine(Learner):
    rate: float = 0.5
    factor = 3.0

    def init(self, data, *, num_latents, key):
        names = {"a", "b", "c", "d", "e"}
        return data.signals.T if "a" in {"a", "b", "c", "d", "e"} else None

    def step(self, data, state):
        return helper(state) * self.factor

    def model(self, state):
        return Model(state, jnp.zeros(len(state)))
"""


def code_of(text):
    scope = {"__name__": "a_notebook"}
    exec(text, scope)
    return identity.code(scope["Mine"]())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(state) * self.factor", "helper(state) + self.factor"),
        ("factor = 3.0", "factor = 4.0"),
        ("x * SCALE", "x / SCALE"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("jnp.zeros(", "jnp.ones("),
    ],
)
def test_a_class_without_a_file_counts_by_what_it_runs(old, new):
    assert old in NOTEBOOK
    assert code_of(NOTEBOOK) == code_of(NOTEBOOK) == code_of(f"# A comment.\n{NOTEBOOK}")
    assert code_of(NOTEBOOK.replace(old, new)) != code_of(NOTEBOOK)


def test_what_a_class_without_a_file_derives_from_counts(edit):
    before = code_of(NOTEBOOK)
    edit("sae_gap.learners.learner", lambda text: f"{text}\nONE = 1\n")
    assert code_of(NOTEBOOK) != before


def test_the_code_is_the_same_in_every_process(tmp_path):
    (tmp_path / "script.py").write_text(
        f"{NOTEBOOK}\nfrom sae_gap import identity\nfrom sae_gap.encoders.topk import TopK\n"
        "from sae_gap.learners.sparse_autoencoder import SparseAutoencoder\n"
        "print(identity.code(Mine()), identity.code(SparseAutoencoder(TopK(3), num_steps=2)), identity.qualified(Mine))"
    )
    root = pathlib.Path(__file__).parents[2]
    found = [
        subprocess.run(
            [sys.executable, tmp_path / "script.py"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] and found[0][1:] == [identity.code(SAE), "__main__.Mine"]


def test_hyper_parameters_are_not_code():
    assert identity.code(SAE) == identity.code(SparseAutoencoder(TopK(5), num_steps=9, learning_rate=np.float32(0.1)))
    assert identity.code(SAE) != identity.code(SparseAutoencoder(ReLU()))


class Beside(eqx.Module):
    """A module of a test file, which has a file of its own."""


def test_a_class_of_a_users_file_counts_by_that_file(edit):
    before = identity.code(Beside())
    edit(Beside.__module__, lambda text: f"{text}\nONE = 1\n")
    assert identity.code(Beside()) != before
