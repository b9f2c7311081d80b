"""Control dictionaries: what they are made of, and that what is learned beats what is drawn."""

import numpy as np
import pytest

from sae_gap.data.activations import Activations
from sae_gap.measure import CONTROLS, control, measure_curve
from sae_gap.measure.learn import learn
from sae_gap.saes.loaded_sae import SAE


@pytest.fixture(scope="module")
def signals(task):
    return np.asarray(task.train.signals) + 3


@pytest.fixture(scope="module")
def models(signals):
    """Of each kind one, made alike."""
    return {name: control(name, signals, 20, 3, seed=5) for name in CONTROLS}


@pytest.mark.parametrize("name", CONTROLS)
def test_atoms_have_unit_length_and_the_bias_is_the_mean(name, models, signals):
    model = models[name]
    np.testing.assert_allclose(np.linalg.norm(model.dictionary, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(model.bias, signals.mean(axis=0), rtol=1e-4)
    assert model.dictionary.shape == (signals.shape[1], 20) and model.encode is None


def test_what_is_learned_is_what_learn_gives(models, signals, monkeypatch):
    # All rows are learned from, in one program with those above.
    monkeypatch.setattr(Activations, "split", lambda rows: (rows, rows))
    learned = learn(signals, 20, 3, seed=5, outliers="keep", show_progress=False)
    np.testing.assert_array_equal(models["online_dl"].dictionary, learned.atoms)


def test_samples_are_distinct_samples(signals):
    atoms = np.asarray(control("samples", signals, 30, 3).dictionary)
    centred = signals - signals.mean(axis=0)
    cosines = (centred / np.linalg.norm(centred, axis=1, keepdims=True)) @ atoms
    assert len(set(cosines.argmax(axis=0))) == 30
    np.testing.assert_allclose(cosines.max(axis=0), 1, atol=1e-5)


def test_what_is_learned_beats_what_is_drawn(models, signals):
    errors = {}
    for name in ("online_dl", "random"):
        errors[name] = (
            measure_curve(SAE.of_model(models[name], name=name), signals, [0.1]).points[0].refit_fvu
        )
    assert errors["online_dl"] < 0.5 * errors["random"]


def test_what_cannot_be_made_is_refused(signals):
    with pytest.raises(ValueError, match="choose from online_dl, samples, random"):
        control("pca", signals, 4, 3)
    with pytest.raises(ValueError, match="6 atoms need 6 training samples"):
        control("samples", signals[:5], 6, 3)
    with pytest.raises(ValueError, match="6 atoms need 1 training samples"):
        control("random", signals[:0], 6, 3)
