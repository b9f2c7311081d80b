"""The screened pursuit, a form a column, against a loop in NumPy and SciPy that knows no Gram
matrix: it selects atoms, refits their values and prunes.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from sae_gap.core import least_gain, pursuit, screen_sizes
from sae_gap.loops import host
from sae_gap.solvers import screened

DIM = 24


def loops(x, atoms, options, threshold):
    given = *map(np.float32, (x, atoms)), *options, threshold**2
    chosen, codes, gains = host.pursue(*given)
    return host.spread(chosen, codes, len(atoms)), gains


def without_the_gram_matrix(*given):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pursuit, "WHOLE", 0)
        return loops(*given)


def xla(x, atoms, options, threshold):
    given = jnp.asarray(atoms, jnp.float32), jnp.ones(len(atoms)), jnp.asarray(x, jnp.float32)
    return screened._compiled(options, *given, None, jnp.float32(threshold))


def tensors(x, atoms, options, threshold):
    torch = pytest.importorskip("torch")
    batched = pytest.importorskip("sae_gap.torch").batched
    given = (torch.from_numpy(np.float32(part)) for part in (x, atoms))
    found = batched.pursue(*given, *options, torch.tensor(threshold**2, dtype=torch.float32))
    chosen, codes, gains = (part.numpy() for part in found)
    return host.spread(chosen, codes, len(atoms)), gains


FORMS = pytest.mark.parametrize("form", [loops, without_the_gram_matrix, xla, tensors])


def by_loop(signal, atoms, sizes, candidates):
    """Screens by sorting, steps by lstsq, and values by SciPy's active set."""
    unit, chosen, rest = atoms / np.linalg.norm(atoms, axis=0), [], signal
    for size in sizes:
        pull = rest @ unit
        pull[chosen] = np.inf
        proposed = np.argsort(-pull, kind="stable")[:candidates]
        while len(chosen) < size:
            free = [atom for atom in proposed if atom not in chosen]
            best = max(free, key=lambda atom: rest @ unit[:, atom])
            if rest @ unit[:, best] <= 0:
                break
            chosen.append(best)
            values = np.linalg.lstsq(unit[:, chosen], signal, rcond=None)[0]
            rest = signal - unit[:, chosen] @ values
    codes = np.zeros(atoms.shape[1])
    if chosen:
        codes[chosen] = scipy.optimize.nnls(atoms[:, chosen], signal)[0]
    return codes


def left_out(signal, atoms, code):
    """The rise of the squared error without each atom that is on."""
    on, gains = np.flatnonzero(code), np.zeros(len(code))

    def error(support):
        values = np.linalg.lstsq(atoms[:, support], signal, rcond=None)[0]
        return np.sum((signal - atoms[:, support] @ values) ** 2)

    for j in on:
        gains[j] = error(on[on != j]) - error(on)
    return gains


# Atoms, rows, and the options: of several screens, one of all atoms, and fewer atoms than a screen
# asks for. With most dimensions pursued, values change their signs and are exchanged.
CASES = {
    "two screens": (60, 20, (8, 2, 2)),
    "many atoms": (200, 20, (6, 3, 2)),
    "more screens than atoms": (60, 20, (2, 2, 4)),
    "one screen of all atoms": (60, 20, (6, 10, 1)),
    "few atoms": (20, 20, (4, 9, 2)),
    "exchanges": (90, 20, (18, 3, 2)),
}


@FORMS
@pytest.mark.parametrize("case", CASES)
def test_atoms_are_selected_refitted_and_pruned(case, form):
    width, count, (k, breadth, screens) = CASES[case]
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(width, DIM)) + 0.5 * rng.normal(size=DIM)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = rng.uniform(0.5, 2, (count, width)) * (rng.uniform(size=(count, width)) < 0.08)
    x = codes @ atoms + 0.3 * rng.normal(size=(count, DIM))
    x[0] = 0
    options = screen_sizes(k, breadth, screens, DIM, width)
    found, gains = map(np.asarray, form(x, atoms, options, 0.0))
    expected = np.array([by_loop(row, atoms.T, options[1], options[0]) for row in x])
    # A tie within rounding may go either way.
    same = ((found > 0) == (expected > 0)).all(axis=1)
    assert same.mean() >= 0.9 and (found >= 0).all() and not found[0].any()
    np.testing.assert_allclose(found[same], expected[same], atol=2e-4)
    rises = np.array([left_out(row, atoms.T, code) for row, code in zip(x, found, strict=True)])
    np.testing.assert_allclose(
        np.sort(gains, axis=1), np.sort(rises, axis=1)[:, -gains.shape[1] :], atol=2e-3
    )
    least = float(least_gain(gains[1:], k / 2))
    pruned, again = map(np.asarray, form(x, atoms, options, least**0.5))
    np.testing.assert_array_equal(again, gains)
    for row, code, rise in zip(x, pruned, rises, strict=True):
        on = rise > least
        fit = np.zeros(width)
        fit[on] = scipy.optimize.nnls(atoms[on].T, row)[0] if on.any() else 0
        np.testing.assert_allclose(code, fit, atol=2e-4)


@FORMS
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_dependent_atoms_are_no_choice_and_rounding_chooses_none(form, scale):
    """Twins, an atom of zeros, and more atoms than dimensions; and a signal of one atom."""
    atoms = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.6, 0.8]])
    x = np.array([[3.0, 1.0], [0.0, 0.0], [-1.0, 4.0], [6.0, 8.0]])
    codes, _ = map(np.asarray, form(scale * x, atoms, (4, (1, 2)), 0.0))
    expected = [[3, 1], [0, 0], [0, 4], [6, 8]]
    np.testing.assert_allclose(codes @ atoms / scale, expected, atol=1e-5)
    assert (np.count_nonzero(codes, axis=1) == [2, 0, 1, 1]).all() and not codes[:, 3].any()
    atoms = np.random.default_rng(0).normal(size=(60, DIM))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes, _ = map(np.asarray, form(2 * scale * atoms, atoms, (24, (4, 8)), 0.0))
    np.testing.assert_allclose(codes / scale, 2 * np.eye(60), atol=1e-5)
    assert (np.count_nonzero(codes, axis=1) == 1).all()


def test_exchanges_of_tensors_do_not_go_round_in_circles():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    own = rng.normal(size=(600, 1, 6)) + rng.normal(size=(600, 6, 6))
    x, on = rng.normal(size=(600, 6)), torch.ones(600, 6, dtype=torch.bool)
    codes, _ = pytest.importorskip("sae_gap.torch").batched.least_squares(
        *map(torch.from_numpy, (x, own)), on
    )
    expected = [scipy.optimize.nnls(atoms.T, row)[0] for atoms, row in zip(own, x, strict=True)]
    np.testing.assert_allclose(codes, expected, atol=1e-6)
