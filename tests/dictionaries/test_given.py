"""A dictionary that is given codes and scores as one that was learned with the same atoms."""

import pickle

import numpy as np
import pytest

import sae_gap
from sae_gap import Setting

WIDTH, L0 = 40, 3
LABELS = [f"token {j}" for j in range(WIDTH)]


@pytest.fixture(scope="module")
def task():
    return sae_gap.draw(Setting(num_latents=WIDTH, sparsity=L0, num_samples=600, input_dim=30))


@pytest.fixture(scope="module")
def atoms(task):
    """Of many lengths."""
    lengths = np.random.default_rng(0).uniform(0.1, 9, WIDTH)
    return (np.asarray(task.dictionary) * lengths).astype(np.float32)


def test_it_codes_the_true_concepts_by_their_labels_whatever_the_atoms_lengths(
    tmp_path, task, atoms
):
    given, x = sae_gap.dictionary(atoms, labels=LABELS, l0=L0), np.array(task.train.signals)
    x += np.random.default_rng(1).normal(scale=0.1 * x.std(), size=x.shape).astype(np.float32)
    assert given.agreement(task.dictionary) == pytest.approx(1, abs=1e-5)
    codes, truth = given.encode(x[:300]), np.asarray(task.train.codes)[:300]
    assert given.certificate < 1e-5 and given.fvu(x[:300]) < 0.05
    assert sae_gap.fvu(x[:300], given.decode(codes)) == pytest.approx(given.fvu(x[:300]), rel=0.1)
    named = given.largest(codes, L0)
    firsts = [row[0][0] == LABELS[best] for row, best in zip(named, truth.argmax(1), strict=True)]
    assert np.mean(firsts) > 0.9
    dense = codes.toarray()
    for row, values in zip(named, dense, strict=True):
        best = np.argsort(-values)[: min(L0, np.count_nonzero(values))]
        assert row == [(LABELS[j], values[j]) for j in best]
    report = given.report(x, controls=("random",))
    assert report.lead.low > 0 and {line["dictionary"] for line in report.curves} == {
        "given",
        "random",
    }
    given.save(tmp_path)
    for again in (sae_gap.LearnedDictionary.load(tmp_path), pickle.loads(pickle.dumps(given))):
        assert again.largest(again.encode(x[:300]), L0) == named and repr(again) == repr(given)


def test_without_labels_atoms_have_numbers_and_the_bias_is_taken_off_first(tmp_path, atoms):
    """In double precision, as NumPy makes them."""
    given = sae_gap.dictionary(atoms.astype(float), np.arange(30.0), l0=L0)
    given.save(tmp_path)
    given = sae_gap.LearnedDictionary.load(tmp_path)
    x = given.bias + np.eye(WIDTH)[[3, 7, 7]] @ given.atoms.T
    codes = np.pad([[0, 2, 0, 3]], ((0, 0), (0, WIDTH - 4)))
    assert given.largest(codes, 5) == [[(3, 3), (1, 2)]]
    with pytest.raises(ValueError, match=f"codes must have {WIDTH} columns"):
        given.largest(codes[:, 1:])
    assert [row[0][0] for row in given.largest(given.encode(x, 1), 1)] == [3, 7, 7]
    np.testing.assert_array_equal(sae_gap.dictionary(2 * np.eye(5)).atoms, np.eye(5))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a: sae_gap.dictionary(a[0]), "atoms must be a non-empty matrix"),
        (lambda a: sae_gap.dictionary(a * np.nan), "atoms must be finite"),
        (lambda a: sae_gap.dictionary(a * (np.arange(WIDTH) > 1)), "^2 of the atoms .* number 0"),
        (lambda a: sae_gap.dictionary(a * np.float32(1e-44)), "^40 of the atoms"),
        (lambda a: sae_gap.dictionary(a, np.zeros(WIDTH)), "bias must be 30 finite numbers"),
        (lambda a: sae_gap.dictionary(a, labels=LABELS[1:]), "39 labels do not fit 40 atoms; give"),
        (lambda a: sae_gap.dictionary(a.T, labels=LABELS), "transpose atoms"),
        (lambda a: sae_gap.dictionary(a).fvu(), "was given has no rows; give activations"),
        (lambda a: sae_gap.dictionary(a).encode(a.T), "l0 is 25, .* 7.5"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(atoms, call, match):
    with pytest.raises(ValueError, match=match) as error:
        call(atoms)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
