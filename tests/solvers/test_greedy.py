import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model
from sae_gap.encoders.pursuit import OMP, NonNegativePursuit
from sae_gap.solvers import greedy, host_pursuits, nonneg_matching_pursuit, orthogonal_matching_pursuit, pursuit_order
from sae_gap.solvers.loops import matching, routines

from .problems import draw


def test_a_negative_correlation_has_a_code_of_zero():
    signals = jnp.asarray([[2.0, -1.0], [-3.0, -4.0]])
    np.testing.assert_array_equal(nonneg_matching_pursuit(signals, 4 * jnp.eye(2), 2), [[2, 0], [0, 0]])
    np.testing.assert_array_equal(NonNegativePursuit(2)(Model(4 * jnp.eye(2), jnp.zeros(2)), signals), [[0.5, 0], [0, 0]])


def _greedy(signal, atoms, steps):
    rest, code, free = signal.astype(float), np.zeros(atoms.shape[1]), np.ones(atoms.shape[1], bool)
    for _ in range(steps):
        pull = rest @ atoms
        j = np.argmax(np.where(free, pull, -np.inf))
        free[j] = False
        code[j] = max(pull[j], 0)
        rest = rest - code[j] * atoms[:, j]
    return code


def test_follows_the_greedy_rule_on_unit_atoms():
    signals, dictionary = draw()
    codes = nonneg_matching_pursuit(jnp.asarray(signals), jnp.asarray(3 * dictionary), 6)
    for signal, code in zip(signals, np.asarray(codes), strict=True):
        np.testing.assert_allclose(code, _greedy(signal, dictionary.astype(float), 6), atol=1e-5)


# The two ways of an orthogonal pursuit: a loop for each sample, and all samples at once.
WAYS = pytest.mark.parametrize("function", [lambda code: code, jax.jit], ids=["each", "at_once"])


@pytest.fixture
def each_alone(monkeypatch, request):
    """No sample takes its steps beside others, unless the test asks for it."""
    if request.node.callspec.params["function"] is not jax.jit:
        monkeypatch.delattr(greedy, "_pursue_at_once")


def _orthogonal(signal, atoms, steps, nonneg):
    chosen, rest = [], signal
    for _ in range(steps):
        pull = rest @ atoms if nonneg else np.abs(rest @ atoms)
        pull[chosen] = -np.inf
        chosen.append(int(np.argmax(pull)))
        values = np.linalg.lstsq(atoms[:, chosen], signal, rcond=None)[0]
        rest = signal - atoms[:, chosen] @ values
    return chosen, values


@WAYS
@pytest.mark.parametrize("precision", [np.float16, np.int8])
def test_codes_have_single_precision_at_least(function, precision):
    rng = np.random.default_rng(0)
    signals, dictionary = (rng.integers(-9, 9, shape).astype(precision) for shape in ((40, 6), (6, 8)))
    for pursuit in (orthogonal_matching_pursuit, nonneg_matching_pursuit):
        codes = function(lambda y, pursuit=pursuit: pursuit(y, dictionary, np.int64(2)))(signals)
        assert codes.dtype == np.float32
        np.testing.assert_allclose(codes, pursuit(np.float32(signals), np.float32(dictionary), 2), atol=1e-5)


@WAYS
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_atoms_have_any_scale(function, scale, each_alone):
    signals, dictionary = draw(3)
    for pursuit in (orthogonal_matching_pursuit, nonneg_matching_pursuit):
        codes = function(lambda y, d, pursuit=pursuit: pursuit(y, d, 4))(signals, np.float32(scale) * dictionary)
        np.testing.assert_allclose(codes, pursuit(signals, dictionary, 4), atol=1e-5)


def test_no_codes_are_given_on_a_dictionary_that_is_not_finite():
    signals, dictionary = draw()
    dictionary[0, 2] = np.nan
    for pursuit in (orthogonal_matching_pursuit, nonneg_matching_pursuit):
        with pytest.raises(ValueError, match="dictionary has a NaN"):
            pursuit(signals, dictionary, 4)
        assert np.isnan(jax.jit(lambda d, pursuit=pursuit: pursuit(signals, d, 4))(dictionary)).any(axis=1).all()


@WAYS
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_an_orthogonal_pursuit_is_that_of_dense_least_squares(function, nonneg, precision, each_alone, monkeypatch):
    # A few samples at once, and atoms of several tiles.
    monkeypatch.setattr(greedy, "BASES", 20 * 12 * 10)
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(20, matching.TILE + 100)).astype(precision)
    atoms = dictionary / np.linalg.norm(dictionary, axis=0)
    signals = rng.normal(size=(210, 20)).astype(precision)
    with jax.enable_x64(precision == np.float64):
        order = function(lambda y: pursuit_order(y, dictionary, 12, nonneg=nonneg))(signals)
        codes = np.asarray(function(lambda y: orthogonal_matching_pursuit(y, dictionary, 12, nonneg=nonneg))(signals))
    assert order.dtype == np.int32 and codes.dtype == precision
    for signal, row, code in zip(signals[::10].astype(float), np.asarray(order)[::10], codes[::10], strict=True):
        chosen, values = _orthogonal(signal, atoms.astype(float), 12, nonneg)
        want = np.zeros(atoms.shape[1])
        want[chosen] = values
        assert list(row) == chosen
        np.testing.assert_allclose(code, want, atol=1e-4 if precision == np.float32 else 1e-10)


def test_the_encoder_has_codes_of_the_atoms_as_they_are_and_clips_them():
    signals, dictionary = draw(2)
    # Correlated atoms leave some codes negative.
    dictionary = np.abs(dictionary) * np.float32(3)
    found = OMP(3, nonneg=True).infer(Model(jnp.asarray(dictionary), jnp.ones(len(dictionary))), jnp.asarray(signals + 1)).codes
    clipped = 0
    for signal, code in zip(signals.astype(float), np.asarray(found), strict=True):
        chosen, values = _orthogonal(signal, dictionary / np.linalg.norm(dictionary, axis=0), 3, nonneg=True)
        clipped += np.sum(values < 0)
        want = np.zeros(dictionary.shape[1])
        want[chosen] = (values / np.linalg.norm(dictionary, axis=0)[chosen]).clip(0)
        np.testing.assert_allclose(code, want, atol=1e-4)
    assert clipped


@WAYS
def test_dependent_and_zero_atoms(function, each_alone):
    signals, dictionary = draw(3)
    signals[0] = 0
    dictionary[:, 1::2] = dictionary[:, ::2]
    dictionary[:, -4:] = 0
    codes = function(lambda y: orthogonal_matching_pursuit(y, dictionary, 8))(signals)
    assert np.all(np.isfinite(codes)) and not np.any(codes[:, -4:])
    # Of twins one has a code at most, and no atom is chosen twice.
    assert not np.any(codes[:, ::2] * codes[:, 1::2])
    assert all(len({*row}) == 8 for row in np.asarray(function(lambda y: pursuit_order(y, dictionary, 8))(signals)))
    assert np.all(np.isfinite(nonneg_matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), 40)))


def test_a_gram_matrix_is_made_where_it_fits_and_is_worth_its_products(monkeypatch):
    signals, dictionary = draw()
    monkeypatch.delattr(host_pursuits, "match")
    monkeypatch.setattr(greedy, "LARGEST_GRAM", 4 * 40**2 - 1)
    assert pursuit_order(signals, dictionary, 2).shape == (len(signals), 2)
    monkeypatch.setattr(greedy, "LARGEST_GRAM", 4 * 40**2)
    assert pursuit_order(signals[:19], dictionary, 2).shape == (19, 2)
    with pytest.raises(AttributeError, match="match"):
        pursuit_order(signals[:20], dictionary, 2)


@WAYS
def test_of_atoms_that_tie_the_first_is_chosen(function, each_alone):
    width = 2 * routines.CHUNK + 6
    order = function(lambda y: pursuit_order(y, np.eye(width, dtype=np.float32), width))(np.ones((2, width), np.float32))
    np.testing.assert_array_equal(order, [np.arange(width)] * 2)


@pytest.mark.parametrize("count", [0, 41, 2.0, True])
def test_bad_counts_are_refused(count):
    signals, dictionary = (jnp.asarray(a) for a in draw())
    with pytest.raises(ValueError, match="num_atoms"):
        nonneg_matching_pursuit(signals, dictionary, count)
    with pytest.raises(ValueError, match="num_atoms"):
        orthogonal_matching_pursuit(signals, dictionary, count)
    with pytest.raises(ValueError, match="above input_dim"):
        orthogonal_matching_pursuit(signals, dictionary, 17)


def test_dependent_atoms_have_codes_of_zero_and_a_broken_signal_has_none():
    rng = np.random.default_rng(0)
    # Forty atoms of rank 8, which rounding to single precision hides.
    dictionary = (rng.normal(size=(16, 8)) @ rng.normal(size=(8, 40))).astype(np.float32)
    signals = rng.normal(size=(20, 16)).astype(np.float32)
    signals[3, 0] = np.nan
    codes, order = orthogonal_matching_pursuit(signals, dictionary, 12), pursuit_order(signals, dictionary, 12)
    assert all(len(set(row)) == 12 for row in np.asarray(order).tolist())
    assert np.isnan(codes[3]).sum() == 12
    fine = np.arange(20) != 3
    assert np.all(np.count_nonzero(codes[fine], axis=1) == 8)
    atoms = dictionary / np.linalg.norm(dictionary, axis=0)
    # Eight independent atoms span what all of them span.
    spanned = np.linalg.svd(atoms.astype(float))[0][:, :8]
    np.testing.assert_allclose(np.asarray(codes)[fine] @ atoms.T, signals[fine] @ spanned @ spanned.T, atol=1e-4)


@pytest.mark.parametrize(
    ("signals", "dictionary"),
    [([[1.0, 2.0]], np.eye(2)), (np.ones(2), np.eye(2)), (np.ones((1, 3)), np.eye(2)), (np.ones((1, 2), complex), np.eye(2))],
)
def test_what_is_no_problem_is_refused_in_one_sentence(signals, dictionary):
    with pytest.raises(ValueError, match=r"two dimensions|disagree on input_dim"):
        orthogonal_matching_pursuit(signals, dictionary, 1)
