"""Codes that the input tells: functions of it alone, as good as its prediction."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest

from sae_gap import Split, Task
from sae_gap.core.types import Transcoder
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.predicted import Predicted
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.study.inference import Inference

READ, DIM, LATENTS = 6, 5, 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(1_500, READ)).astype(np.float32)
SLOPE = RNG.normal(size=(READ, DIM))
MODEL = Transcoder(
    RNG.normal(size=(DIM, LATENTS)).astype(np.float32),
    np.ones(DIM, np.float32),
    Affine(RNG.normal(size=(READ, LATENTS)).astype(np.float32), np.zeros(LATENTS, np.float32)),
    TopK(2),
    centre=np.zeros(READ, np.float32),
    skip=RNG.normal(size=(READ, DIM)).astype(np.float32),
)
TRUTH = {
    "linear": X @ SLOPE + 3,
    "hidden": np.abs(X) @ SLOPE + 3,
    "noise": RNG.normal(size=(len(X), DIM)) + 3,
}


def inference_of(y, x=X):
    y = y.astype(np.float32)
    train, held = (Split(y[rows], inputs=x[rows]) for rows in (slice(1_200), slice(1_200, None)))
    return Inference(Task(train, held, held, width=LATENTS), MODEL)


@pytest.mark.parametrize("kind", TRUTH)
def test_the_better_of_two_maps_predicts(kind):
    inference = inference_of(TRUTH[kind])
    network = inference.prepare(Predicted(BatchPursuit(2, l0=2.0), steps=400)).known.value
    y = inference.task.id.signals
    left = ((y - np.asarray(network(X[1_200:]))) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    low, high = {"linear": (0, 1e-4), "hidden": (0, 0.1), "noise": (0.95, 1.05)}[kind]
    assert low <= left <= high


def test_codes_are_those_of_the_prediction_whatever_the_target():
    inference = inference_of(TRUTH["linear"])
    encoder = inference.prepare(Predicted(BatchPursuit(2, l0=2.0), steps=1))
    found = np.asarray(inference.infer(encoder, "id").codes)
    # A linear map is predicted without error, and so are the best codes given the target.
    best = np.asarray(inference.infer(BatchPursuit(2, l0=2.0), "id").codes)
    assert np.mean((found != 0) == (best != 0)) > 0.99 and (found != 0).sum(
        1
    ).mean() == pytest.approx(2, abs=0.05)
    # Given other targets, the same network has the same codes.
    held = dataclasses.replace(inference.task.id, signals=np.zeros((300, DIM), np.float32))
    other = Inference(dataclasses.replace(inference.task, id=held, ood=held), MODEL)
    np.testing.assert_array_equal(other.infer(encoder, "id").codes, found)


def test_the_rows_of_the_last_network_do_not_stay_in_memory():
    inference = inference_of(TRUTH["linear"])
    inference.prepare(Predicted(BatchPursuit(2, l0=2.0), steps=1))
    train = weakref.ref(inference.task.train)
    del inference
    gc.collect()
    assert train() is None
