import jax
import numpy as np
import pytest

from sae_gap.loops import host, routines
from sae_gap.solvers import greedy, orthogonal_matching_pursuit, pursuit_order

from .problems import draw

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
@pytest.mark.parametrize("change", [np.float16, np.int8, 1e-30, 1e30])
def test_arrays_have_any_type_and_scale(function, change, each_alone):
    rng = np.random.default_rng(0)
    signals, dictionary = (rng.integers(-9, 9, shape) for shape in ((40, 6), (6, 8)))
    want = orthogonal_matching_pursuit(np.float32(signals), np.float32(dictionary), 2)
    if isinstance(change, float):
        signals, dictionary = np.float32(signals), np.float32(dictionary * change)
    else:
        signals, dictionary = signals.astype(change), dictionary.astype(change)
    codes = function(lambda y, d: orthogonal_matching_pursuit(y, d, np.int64(2)))
    found = codes(signals, dictionary)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, atol=1e-5)


@WAYS
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_an_orthogonal_pursuit_is_that_of_dense_least_squares(
    function, nonneg, precision, each_alone, monkeypatch
):
    # A few samples at once, and atoms of several tiles.
    monkeypatch.setattr(greedy, "BASES", 20 * 12 * 10)
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(20, 2_148)).astype(precision)
    atoms = dictionary / np.linalg.norm(dictionary, axis=0)
    signals = rng.normal(size=(210, 20)).astype(precision)
    with jax.enable_x64(precision == np.float64):
        order = function(lambda y: pursuit_order(y, dictionary, 12, nonneg=nonneg)[0])(signals)
        codes = np.asarray(
            function(lambda y: orthogonal_matching_pursuit(y, dictionary, 12, nonneg=nonneg))(
                signals
            )
        )
    assert order.dtype == np.int32 and codes.dtype == precision
    for signal, row, code in zip(
        signals[::10].astype(float), np.asarray(order)[::10], codes[::10], strict=True
    ):
        chosen, values = _orthogonal(signal, atoms.astype(float), 12, nonneg)
        want = np.zeros(atoms.shape[1])
        want[chosen] = values
        assert list(row) == chosen
        np.testing.assert_allclose(code, want, atol=1e-4 if precision == np.float32 else 1e-10)


def test_a_gram_matrix_is_made_where_it_fits_and_is_worth_its_products(monkeypatch):
    signals, dictionary = draw()
    monkeypatch.delattr(host, "pursue")
    monkeypatch.setattr(greedy, "LARGEST_GRAM", 40**2 - 1)
    assert pursuit_order(signals, dictionary, 2)[0].shape == (len(signals), 2)
    monkeypatch.setattr(greedy, "LARGEST_GRAM", 40**2)
    assert pursuit_order(signals[:19], dictionary, 2)[0].shape == (19, 2)
    with pytest.raises(AttributeError, match="pursue"):
        pursuit_order(signals[:20], dictionary, 2)


@WAYS
def test_of_atoms_that_tie_the_first_is_chosen(function, each_alone):
    width = 2 * routines.CHUNK + 6
    order = function(lambda y: pursuit_order(y, np.eye(width, dtype=np.float32), width)[0])(
        np.ones((2, width), np.float32)
    )
    np.testing.assert_array_equal(order, [np.arange(width)] * 2)


@pytest.mark.parametrize("count", [0, 17, 2.0, True])
def test_bad_counts_are_refused(count):
    with pytest.raises(
        ValueError, match="num_atoms must be an integer of at least 1 and of at most 16"
    ):
        orthogonal_matching_pursuit(*draw(), count)


@WAYS
def test_dependent_atoms_have_codes_of_zero(function, each_alone):
    rng = np.random.default_rng(0)
    # Thirty-six atoms of rank 8, which rounding to single precision hides, and four of zeros.
    dictionary = (rng.normal(size=(16, 8)) @ rng.normal(size=(8, 40))).astype(np.float32)
    dictionary[:, -4:] = 0
    signals = rng.normal(size=(20, 16)).astype(np.float32)
    codes, order = (
        np.asarray(function(lambda y, way=way: way(y, dictionary, 12))(signals))
        for way in (orthogonal_matching_pursuit, lambda *given: pursuit_order(*given)[0])
    )
    assert all(len(set(row[:8])) == 8 for row in order.tolist())
    assert np.all(np.count_nonzero(codes, axis=1) == 8) and not codes[:, -4:].any()
    atoms = dictionary / np.maximum(np.linalg.norm(dictionary, axis=0), 1e-9)
    # Eight independent atoms span what all of them span.
    spanned = np.linalg.svd(atoms.astype(float))[0][:, :8]
    np.testing.assert_allclose(codes @ atoms.T, signals @ spanned @ spanned.T, atol=1e-4)
