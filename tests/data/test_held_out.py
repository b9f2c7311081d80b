"""A user's activations as a source: the inputs of transcoders stay beside what they explain."""

import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark, raises

from sae_gap import open_activations
from sae_gap.data import HeldOut

RNG = default_rng(0)
INPUTS = RNG.normal(size=(900, 4)).astype(np.float32)
# What stands beside an input tells which one it is.
TARGETS = np.concatenate([INPUTS, 2 * INPUTS[:, :1]], axis=1)
TARGETS[::30] *= 1_000


@mark.parametrize(
    "options", [{}, {"keep_outliers": True}, {"together": True}, {"learn_from": 99}]
)
def test_inputs_are_of_the_same_rows_as_their_targets(options):
    x = open_activations(INPUTS)
    y = open_activations(TARGETS)
    source = HeldOut(y, inputs=x, **options)
    task = source.task()
    for split in (task.train, task.id):
        read = np.asarray(split.inputs)
        targets = np.asarray(split.signals)
        scale = np.where(np.abs(targets).max(axis=1) > 50, 1_000, 1)[:, None]
        assert_allclose(targets[:, :4], scale * read, rtol=1e-5)
    assert_array_equal(source.scored_inputs, task.id.inputs[: len(source.scored)])
    # The number of rows is in the key where the caller decides on it, and not the memory.
    known = "learned_from" in source.seen()
    assert known == bool({*options} & {"together", "learn_from"})


def test_what_a_recorded_mlp_adds_is_known_to_be_a_function(tmp_path):
    for place in ("mlp2_in", "mlp3_in", "mlp3_out"):
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "0.npy", INPUTS if "in" in place else TARGETS)
    other, x, y = (open_activations(place) for place in sorted(tmp_path.iterdir()))
    assert not y.with_inputs(x).of_mlp
    (tmp_path / "recording.json").touch()
    assert y.with_inputs(x).of_mlp and not y.with_inputs(other).of_mlp and not y.of_mlp


def test_rows_with_outliers_of_the_inputs_are_left_out_too():
    x = INPUTS.copy()
    y = INPUTS[:, :2].copy()
    x[[3, 500, 700]] *= 1_000
    y[[500, 11]] *= 1_000
    rows = open_activations(y)
    for held_out in (0.1, rows):
        source = HeldOut(rows, inputs=open_activations(x), held_out=held_out)
        parts = np.concatenate([part.numbers for part in source.parts])
        assert (
            {*range(900)} - {*parts}
            == {*source.activations.outliers.rows}
            == {3, 11, 500, 700}
        )


@mark.parametrize(
    ("read", "of", "words"),
    [
        (INPUTS[1:], TARGETS, "^there are 900 targets for 899 activations; give one"),
        (
            INPUTS.reshape(90, 10, 4),
            TARGETS,
            "the targets other ones or none; give both the same",
        ),
        (INPUTS, INPUTS, "the targets are the activations themselves; give what"),
    ],
)
def test_other_rows_are_refused_and_the_same_ones_by_other_names_are_not(
    read, of, words
):
    with raises(ValueError, match=words):
        HeldOut(open_activations(of), inputs=open_activations(read))
    same = open_activations(TARGETS, documents=7 + 2 * (np.arange(900) // 10))
    assert (
        HeldOut(same, inputs=open_activations(INPUTS.reshape(90, 10, 4))).num_train
        > 750
    )
