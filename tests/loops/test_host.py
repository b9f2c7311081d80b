"""The screened pursuit of a CPU and the one for tensors, held to the program of XLA."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from sae_gap.core import pursuit
from sae_gap.core.pursuit import least_gain, screen_sizes
from sae_gap.core.rows import counted
from sae_gap.core.types import Model
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit
from sae_gap.loops import host
from sae_gap.solvers import coding

DIM = 24
# Atoms, rows, and the options: of several screens, one of all atoms, and fewer atoms than a screen
# asks for. With most dimensions pursued, values change their signs and are exchanged.
CASES = {
    "two screens": (60, 50, (8, 2, 2)),
    "many atoms": (200, 20, (6, 3, 2)),
    "more screens than atoms": (60, 50, (2, 2, 4)),
    "one screen of all atoms": (60, 50, (6, 10, 1)),
    "few atoms": (20, 50, (4, 9, 2)),
    "exchanges": (90, 50, (18, 3, 2)),
}


def agree(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.parametrize("form", ["loops", "without the Gram matrix", "tensors"])
@pytest.mark.parametrize("case", CASES)
def test_codes_are_those_of_xla(case, form, monkeypatch):
    width, count, (k, breadth, screens) = CASES[case]
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(width, DIM)) + 0.5 * rng.normal(size=DIM)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = rng.uniform(0.5, 2, (count, width)) * (rng.uniform(size=(count, width)) < 0.08)
    x = codes @ atoms + 0.3 * rng.normal(size=(count, DIM))
    x[0] = 0
    model, found = Model(jnp.asarray(atoms.T, jnp.float32), jnp.zeros(DIM)), host.pursue
    with monkeypatch.context() as patched:
        patched.setattr(coding, "runs_on_host", lambda arrays: False)
        expected = ScreenedPursuit(k, breadth, screens)(model, np.float32(x))
        pruned = BatchPursuit(k // 2, breadth, screens).calibrate(model, np.float32(x))
        left = pruned.encode(pruned, np.float32(x))
    given = x, atoms
    if form == "tensors":
        torch = pytest.importorskip("torch")
        given, found = (
            map(torch.from_numpy, given),
            pytest.importorskip("sae_gap.torch").batched.pursue,
        )
    elif form == "loops":
        # Of the type of the arrays.
        given = np.float32(x), np.float32(atoms)
    else:
        monkeypatch.setattr(pursuit, "WHOLE", 0)
    options = *given, *screen_sizes(k, breadth, screens, DIM, width)
    chosen, codes, gains = map(np.asarray, found(*options))
    agree(host.spread(chosen, codes, width), expected)
    least = least_gain(gains[counted(x)], k // 2)
    assert least == pytest.approx(float(pruned.encoder.value) ** 2, rel=1e-4)
    if form == "tensors":
        least = torch.tensor(least)
    chosen, codes, again = map(np.asarray, found(*options, least))
    agree(host.spread(chosen, codes, width), left)
    np.testing.assert_array_equal(again, gains)


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
