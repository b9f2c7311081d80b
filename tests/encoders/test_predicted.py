"""Codes that the input tells: functions of it alone, as good as its prediction."""

import gc
import weakref
from dataclasses import replace

import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_array_equal
from pytest import mark

from sae_gap import Split, Task
from sae_gap.core import Transcoder
from sae_gap.encoders import Affine, BatchPursuit, Predicted, TopK
from sae_gap.study import Inference

READ = 6
DIM = 5
LATENTS = 10
PURSUIT = BatchPursuit(2, l0=2.0)
RNG = default_rng(0)
X = RNG.normal(size=(1_500, READ)).astype(np.float32) + 0.5
SLOPE = RNG.normal(size=(READ, DIM))
ATOMS, WEIGHT, SKIP = (
    RNG.normal(size=shape).astype(np.float32)
    for shape in ((DIM, LATENTS), (READ, LATENTS), (READ, DIM))
)
AFFINE = Affine(WEIGHT, np.zeros(LATENTS, np.float32))
ZEROS = np.zeros(READ, np.float32)
MODEL = Transcoder(
    ATOMS, np.ones(DIM, np.float32), AFFINE, TopK(2), centre=ZEROS, skip=SKIP
)
# What the inputs tell, and limits of the share of the variance that the network leaves.
TRUTH = {
    "linear": (X @ SLOPE + 3, 0, 1e-4),
    "hidden": (abs(X) @ SLOPE + 3, 0, 0.1),
    "noise": (RNG.normal(size=(len(X), DIM)) + 3, 0.95, 1.02),
}


def inference_of(kind):
    y = TRUTH[kind][0].astype(np.float32)
    train, scored = (
        Split(y[rows], inputs=X[rows]) for rows in (slice(1_200), slice(1_200, None))
    )
    return Inference(Task(train, scored, scored, width=LATENTS), MODEL)


@mark.parametrize("kind", TRUTH)
def test_the_better_of_two_maps_predicts(kind):
    inference = inference_of(kind)
    steps = 20 if kind == "linear" else 400
    network = inference.prepare(Predicted(PURSUIT, steps=steps)).known.value
    y = inference.task.id.signals
    left = ((y - np.asarray(network(X[1_200:]))) ** 2).sum() / (
        (y - y.mean(axis=0)) ** 2
    ).sum()
    _, low, high = TRUTH[kind]
    assert low <= left <= high


def test_codes_are_those_of_the_prediction_whatever_the_target():
    inference = inference_of("linear")
    encoder = inference.prepare(Predicted(PURSUIT, steps=1))
    # A linear map is predicted without error, and so are the best codes given the target.
    found, best = (inference.infer(each, "id").codes for each in (encoder, PURSUIT))
    assert np.mean((found != 0) == (best != 0)) > 0.99
    # Given other targets, the same network has the same codes.
    other = replace(inference.task.id, signals=np.zeros((300, DIM), np.float32))
    other = Inference(replace(inference.task, id=other, ood=other), MODEL)
    assert_array_equal(other.infer(encoder, "id").codes, found)
    # The rows of the last network do not stay in memory.
    train = weakref.ref(inference.task.train)
    del inference, other
    gc.collect()
    assert train() is None
