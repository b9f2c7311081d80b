"""What an input tells of a target, against scikit-learn."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from sae_gap.encoders import BatchPursuit, Predicted
from sae_gap.metrics import Inferred
from sae_gap.metrics.predictability import METRIC
from tests.encoders.test_predicted import MODEL, X, inference_of


@pytest.mark.parametrize("offset", [0, 1e4])
def test_bounds_are_those_of_scikit_learn(offset):
    inference = inference_of("hidden", X + np.float32(offset))
    held = dataclasses.replace(inference.task.id, counts=np.arange(300) < 200)
    inference.task = dataclasses.replace(inference.task, id=held, ood=held)
    encoder = inference.prepare(Predicted(BatchPursuit(2, l0=2.0), steps=100))
    codes = {"id": np.asarray(inference.infer(encoder, "id").codes)}
    inferred = Inferred(
        inference.task, MODEL, codes, {}, None, "strict", encoder=encoder, inference=inference
    )
    found, train = METRIC(inferred), inference.task.train
    x, y = held.inputs[:200], held.signals[:200]
    variance = ((y - y.mean(axis=0)) ** 2).sum()
    for name, kind in (("ridge", LinearRegression()), ("neighbours", KNeighborsRegressor(10))):
        guess = kind.fit(train.inputs.astype(float), train.signals).predict(x.astype(float))
        assert found[f"{name}_fvu"] == pytest.approx(((y - guess) ** 2).sum() / variance, rel=1e-3)
    assert found["network_fvu"] < found["ridge_fvu"] and found["network_rows"] == 1_200
    # Codes that know the target predict nothing.
    assert METRIC(dataclasses.replace(inferred, encoder=BatchPursuit(2))) == {}
