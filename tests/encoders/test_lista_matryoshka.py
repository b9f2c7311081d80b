"""A step of LISTA before the codes are chosen, against NumPy and against the encoder without it."""

import numpy as np
import pytest

from sae_gap.encoders.lista_matryoshka import ListaMatryoshka

from .test_batchtopk import K, kept, loss, problem

PREFIXES = (0.25, 0.6, 1)


def refined(model, signals, step, threshold):
    """What the codes are chosen from, as its equation has it."""
    weight, shift = np.asarray(model.encoder.affine.weight), np.asarray(model.encoder.affine.bias)
    centred = np.asarray(signals) - np.asarray(model.bias)
    before = centred @ weight + shift
    codes = np.where(before > max(threshold, 0), before, 0)
    return np.maximum(
        before + step * (centred - codes @ np.asarray(model.dictionary).T) @ weight, 0
    )


@pytest.mark.parametrize("threshold", [0.0, 0.4, 3.0])
def test_the_codes_are_those_of_the_equation(threshold):
    model, signals, hidden = problem(threshold=threshold)
    want = refined(model, signals, 0.3, threshold)
    assert not np.allclose(want, hidden)
    np.testing.assert_allclose(
        ListaMatryoshka(K)(model, signals), np.where(want > threshold, want, 0), atol=1e-5
    )


def test_training_keeps_the_largest_of_what_is_refined():
    model, signals, _ = problem(threshold=0.4)
    encoder = ListaMatryoshka(K, prefixes=PREFIXES, step=0.5, rate=0.25)
    losses, threshold = loss(encoder, model, signals, 0)
    codes = kept(refined(model, signals, 0.5, 0.4))
    errors = []
    for end in (2, 5, 7):
        rest = (
            codes[:, :end] @ np.asarray(model.dictionary)[:, :end].T
            + np.asarray(model.bias)
            - np.asarray(signals)
        )
        errors.append((rest**2).mean(axis=1))
    np.testing.assert_allclose(losses, np.mean(errors, axis=0), rtol=1e-4)
    assert float(threshold) == pytest.approx(0.75 * 0.4 + 0.25 * codes[codes > 0].min(), rel=1e-5)
