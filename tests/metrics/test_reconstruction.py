"""Variance explained and shrinkage by their formulas, and what an input tells of a target, against
scikit-learn.
"""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from sae_gap.core import Model, Split, Task
from sae_gap.encoders import BatchPursuit, Predicted
from sae_gap.encoders.on_support import Known
from sae_gap.metrics import Inferred, fvu, reconstruction
from sae_gap.metrics.reconstruction import PREDICTABILITY
from sae_gap.study import Inference


def test_explained_is_by_its_formula():
    rng = np.random.default_rng(0)
    codes, atoms = rng.random((30, 4)) * (rng.random((30, 4)) < 0.3), 2 * rng.normal(size=(5, 4))
    drawn, kept = codes @ atoms.T + np.arange(5), np.arange(30) != 7
    x = (drawn + 0.3 * rng.normal(size=(30, 5))) * kept[:, None]
    task, model = Task(*[Split(x)] * 3, width=4, dictionary=atoms), Model(atoms, np.arange(5.0))
    given = Inferred(task, model, dict.fromkeys(("id", "ood"), codes), {}, 1.0, "strict")
    lengths = (np.linalg.norm(part[kept], axis=1) for part in (drawn, x))
    wanted = {
        "r2": r2_score(x, drawn, multioutput="variance_weighted"),
        "shrinkage": np.mean(np.divide(*lengths)),
    }
    wanted = {f"{name}_{split}": wanted[name] for name in wanted for split in ("id", "ood")}
    assert reconstruction.EXPLAINED(given) == pytest.approx(wanted)


def test_a_reconstruction_is_scored_by_document_on_rows_that_count():
    rng = np.random.default_rng(0)
    x, z = rng.normal(3, 1, (30, 5)).astype("f"), np.eye(30, 5, dtype="f")
    counts, documents = np.arange(30) > 2, np.arange(30) // 10
    model = Model(np.eye(5, dtype="f"), np.full(5, 3, "f"))
    held = Split(x, counts=counts, documents=documents)
    given = Inferred(Task(held, held, held, width=5), model, {"id": z}, {}, 0.1, "")
    found, kept = reconstruction.METRIC(given), x[3:]
    errors = (x - z - 3) ** 2, (x - kept.mean(axis=0)) ** 2
    for name, part in zip(("errors", "variance"), errors, strict=True):
        sums = [part[counts & (documents == each)].sum() for each in range(3)]
        assert found[name] == pytest.approx(sums, rel=1e-5)
    assert found["fvu"] == pytest.approx(errors[0][3:].sum() / errors[1][3:].sum())
    assert (found["l0"], found["fired"]) == (2 / 27, 2)


def test_fvu_is_one_for_the_mean():
    x = np.random.default_rng(0).normal(3, 2, size=(50, 4))
    assert fvu(x, np.tile(x.mean(axis=0), (50, 1))) == pytest.approx(1) and fvu(x, x) == 0
    assert fvu(7 * x, 7 * (x + 1)) == pytest.approx(fvu(x, x + 1))
    for given, words in (((x, x[:3]), "one shape"), ((np.ones((3, 2)),) * 2, "no variance")):
        with pytest.raises(ValueError, match=words):
            fvu(*given)


def test_bounds_are_those_of_scikit_learn():
    """Of inputs with a large mean, on rows that count."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(600, 6)) + 1e4).astype(np.float32)
    y = (np.abs(x - 1e4) @ rng.normal(size=(6, 5)) + 3).astype(np.float32)
    held = Split(y[400:], inputs=x[400:], counts=np.arange(200) < 150)
    task = Task(Split(y[:400], inputs=x[:400]), held, held, width=10)
    encoder = Predicted(BatchPursuit(2), known=Known(lambda inputs: inputs[:, :5] - 1e4))
    inference = Inference(task, Model(np.ones((5, 10)), np.zeros(5)))
    given = Inferred(task, None, {}, {}, 0.1, "", encoder=encoder, inference=inference)
    guesses = {"network": x[400:550, :5] - 1e4}
    for name, kind in (("ridge", LinearRegression()), ("neighbours", KNeighborsRegressor(10))):
        guesses[name] = kind.fit(x[:400].astype(float), y[:400]).predict(x[400:550].astype(float))
    wanted = {f"{name}_fvu": fvu(y[400:550], guess) for name, guess in guesses.items()}
    assert PREDICTABILITY(given) == pytest.approx(wanted | {"network_rows": 400}, rel=1e-3)
    # Codes that know the target predict nothing.
    assert PREDICTABILITY(dataclasses.replace(given, encoder=BatchPursuit(2))) == {}
