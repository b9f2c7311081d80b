"""Transcoders: what they learn of a map whose sparse form is known, in any units, and what they
refuse.
"""

import jax
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark, raises

from sae_gap import Split, Task, catalogue, fit
from sae_gap.core import Model
from sae_gap.encoders import MatchingPursuit, ReLU
from sae_gap.learners import Oracle, SparseTranscoder
from sae_gap.study import Inference

READ = 12
DIM = 8
LATENTS = 16
K = 4
RNG = default_rng(0)
INPUTS = RNG.normal(size=(1_200, READ)).astype(np.float32)
WEIGHT = RNG.normal(size=(READ, LATENTS)).astype(np.float32) / READ**0.5
CODES = np.maximum(INPUTS @ WEIGHT - 0.7, 0)
TARGETS = (CODES @ RNG.normal(size=(LATENTS, DIM)) + 0.3 * INPUTS[:, :DIM] + 2).astype(
    np.float32
)


def task_of(inputs=INPUTS, targets=TARGETS):
    train, held = (
        Split(targets[rows], inputs=inputs[rows])
        for rows in (slice(1_000), slice(-200, None))
    )
    return Task(train, held, held, width=LATENTS)


def learned(name, *, skip=False, task=None):
    learner = catalogue.transcoder_for_activations(
        name, skip=skip, sparsity=K, input_dim=DIM, num_steps=30, batch_size=50
    )
    task = task or task_of()
    (found,) = fit(learner, [task], [0], show_progress=False)
    return learner, found.end.model, Inference(task, found.end.model)


@mark.parametrize(("name", "skip"), [("topk", False), ("gated", True)])
def test_it_learns_a_sparse_map_and_reads_the_input_alone(name, skip):
    learner, model, inference = learned(name, skip=skip)
    own = np.asarray(inference.infer(learner.encode, "id").codes)
    assert (
        learner.name == f"{name}{'_skip' * skip}_transcoder"
        and 2 < (own != 0).sum(1).mean() < 5
    )
    # The best of the linear maps leaves .4, so that nothing but the codes explains so much.
    x = INPUTS[-200:]
    y = TARGETS[-200:]
    left = y - np.asarray(model.reconstruct(own, None, x))
    assert (left**2).sum() < 0.25 * ((y - y.mean(axis=0)) ** 2).sum()
    assert (model.skip is not None) == skip
    # What the codes should add up to is no part of what they are.
    other = Inference(task_of(targets=TARGETS[::-1].copy()), model)
    assert_array_equal(other.infer(learner.encode, "id").codes, own)


@mark.parametrize("skip", [False, True])
def test_units_of_inputs_and_targets_change_nothing_but_units(skip):
    _, model, inference = learned("topk", skip=skip)
    scaled = task_of(4 * INPUTS + 5, 8 * TARGETS - 3)
    learner, other, its = learned("topk", skip=skip, task=scaled)
    own = its.infer(learner.encode, "id").codes
    guess = other.reconstruct(own, None, scaled.id.inputs)
    mine = model.reconstruct(
        inference.infer(learner.encode, "id").codes, None, INPUTS[-200:]
    )
    assert_allclose(guess, 8 * mine - 3, atol=0.02)


def test_it_starts_from_the_dictionary_of_a_base_and_from_the_regression():
    learner = SparseTranscoder(ReLU(), base=Oracle(), skip=True)
    data = learner.select(task_of())
    atoms = np.eye(DIM, LATENTS, dtype=np.float32)
    base = Model(3 * atoms, np.ones(DIM, np.float32))
    state = learner.init(data, num_latents=LATENTS, key=jax.random.key(0), base=base)
    assert_allclose(state.model.decoder, atoms, atol=1e-6)
    assert_allclose(learner.model(state).bias, 1, atol=1e-5)
    x, y = (
        (part - part.mean(0)) / (part - part.mean(0)).std()
        for part in (data.inputs, data.signals)
    )
    slope = np.linalg.lstsq(x, y, rcond=None)[0] @ np.asarray(state.model.decoder)
    found = np.asarray(state.model.encoder.weight)
    gain = np.vdot(found, slope) / np.vdot(slope, slope)
    assert_allclose(found, gain * slope, atol=0.01 * gain)
    assert gain > 0 and not np.asarray(state.model.skip).any()


def test_what_is_no_transcoder_is_refused():
    with raises(ValueError, match=r"^mp takes residuals of what it explains"):
        SparseTranscoder(MatchingPursuit(2))
    learner, model, _ = learned("topk", skip=True)
    alone = Split(TARGETS[-200:])
    assert learner.needs(Task(alone, alone, alone, width=2)) == "inputs"
    for inputs, told in ((None, "None"), (INPUTS[:1], r".*\(1, 12\)")):
        with raises(
            ValueError, match=rf"reads inputs of shape \(1200, 12\), but.* {told}"
        ):
            model.signals(TARGETS, inputs)
    with raises(ValueError, match=r"^signals must have the shape \(n, 12\)"):
        learner.encode(model, TARGETS)
    plain = learned("topk")[1]
    with raises(
        ValueError, match=r"^a transcoder reads inputs, and these activations have"
    ):
        Inference(Task(alone, alone, alone, width=2), plain).infer(learner.encode, "id")
