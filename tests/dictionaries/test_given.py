"""A dictionary that is given codes and scores as one that was learned with the same atoms."""

import numpy as np
import pytest

import sae_gap
from sae_gap import Setting

WIDTH, L0 = 40, 3


@pytest.fixture(scope="module")
def task():
    return sae_gap.draw(Setting(num_latents=WIDTH, sparsity=L0, num_samples=600, input_dim=30))


@pytest.fixture(scope="module")
def atoms(task):
    """Of many lengths."""
    lengths = np.random.default_rng(0).uniform(0.1, 9, WIDTH)
    return (np.asarray(task.dictionary) * lengths).astype(np.float32)


def test_it_codes_the_true_concepts_whatever_the_atoms_lengths(task, atoms):
    given, x = sae_gap.dictionary(atoms, l0=L0), np.array(task.train.signals)
    x += np.random.default_rng(1).normal(scale=0.1 * x.std(), size=x.shape).astype(np.float32)
    assert given.agreement(task.dictionary) == pytest.approx(1, abs=1e-5)
    codes, truth = given.encode(x[:300]), np.asarray(task.train.codes)[:300]
    assert given.certificate < 1e-5 and given.fvu(x[:300]) < 0.05
    assert sae_gap.fvu(x[:300], given.decode(codes)) == pytest.approx(given.fvu(x[:300]), rel=0.1)
    assert np.mean(codes.toarray().argmax(axis=1) == truth.argmax(axis=1)) > 0.9
    report = given.report(x, controls=("random",))
    assert report.lead.low > 0
    assert {line["dictionary"] for line in report.curves} == {"given", "random"}


def test_the_bias_is_taken_off_first(tmp_path, atoms):
    """In double precision, as NumPy makes them."""
    given = sae_gap.dictionary(atoms.astype(float), np.arange(30.0), l0=L0)
    given.save(tmp_path)
    given = sae_gap.LearnedDictionary.load(tmp_path)
    x = given.bias + np.eye(WIDTH)[[3, 7, 7]] @ given.atoms.T
    assert [*given.encode(x, 1).toarray().argmax(axis=1)] == [3, 7, 7]
    np.testing.assert_array_equal(sae_gap.dictionary(2 * np.eye(5)).atoms, np.eye(5))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a: sae_gap.dictionary(a * (np.arange(WIDTH) > 1)), "^2 of the atoms .* number 0"),
        (lambda a: sae_gap.dictionary(a, np.zeros(WIDTH)), "bias must be 30 numbers"),
        (lambda a: sae_gap.dictionary(a).fvu(), "given or loaded has no rows; give activations"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(atoms, call, match):
    with pytest.raises(ValueError, match=match) as error:
        call(atoms)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
