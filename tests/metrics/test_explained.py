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
from sae_gap.metrics import Inferred, fvu
from sae_gap.metrics.predictability import METRIC
from sae_gap.metrics.reconstruction import EXPLAINED
from tests.encoders.test_predicted import MODEL, X, inference_of


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
    assert EXPLAINED(given) == pytest.approx(wanted)


def test_fvu_is_one_for_the_mean():
    x = np.random.default_rng(0).normal(3, 2, size=(50, 4))
    assert fvu(x, np.tile(x.mean(axis=0), (50, 1))) == pytest.approx(1) and fvu(x, x) == 0
    assert fvu(7 * x, 7 * (x + 1)) == pytest.approx(fvu(x, x + 1))
    for given, words in (((x, x[:3]), "one shape"), ((np.ones((3, 2)),) * 2, "no variance")):
        with pytest.raises(ValueError, match=words):
            fvu(*given)


def test_bounds_are_those_of_scikit_learn():
    """Of inputs with a large mean."""
    inference = inference_of("hidden", X + np.float32(1e4))
    held = dataclasses.replace(inference.task.id, counts=np.arange(300) < 200)
    inference.task = dataclasses.replace(inference.task, id=held, ood=held)
    encoder = inference.prepare(Predicted(BatchPursuit(2, l0=2.0), steps=1))
    given = Inferred(inference.task, MODEL, {}, {}, 0.1, "", encoder=encoder, inference=inference)
    found, train = METRIC(given), inference.task.train
    x, y = held.inputs[:200], held.signals[:200]
    guesses = {"network": np.asarray(encoder.known.value(x))}
    for name, kind in (("ridge", LinearRegression()), ("neighbours", KNeighborsRegressor(10))):
        guesses[name] = kind.fit(train.inputs.astype(float), train.signals).predict(x.astype(float))
    for name, guess in guesses.items():
        assert found[f"{name}_fvu"] == pytest.approx(fvu(y, guess), rel=1e-3)
    assert found["network_rows"] == 1_200
    # Codes that know the target predict nothing.
    assert METRIC(dataclasses.replace(given, encoder=BatchPursuit(2))) == {}
