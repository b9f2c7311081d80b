"""The pursuit on arrays of NumPy and of PyTorch, held to the one that JAX compiles."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.pursuit import by_chunk, least_gain, least_squares, pursue, scatter
from sae_gap.core.rows import counted
from sae_gap.core.types import Model
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit

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


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_codes_are_those_of_jax(case, library):
    width, count, (k, breadth, screens) = CASES[case]
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(width, DIM)) + 0.5 * rng.normal(size=DIM)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = rng.uniform(0.5, 2, (count, width)) * (rng.uniform(size=(count, width)) < 0.08)
    x = codes @ atoms + 0.3 * rng.normal(size=(count, DIM))
    x[0] = 0
    atoms, x = np.float32(atoms), np.float32(x)
    model = Model(jnp.asarray(atoms.T), jnp.zeros(DIM))
    expected = ScreenedPursuit(k, breadth, screens)(model, x)
    pruned = BatchPursuit(k // 2, breadth, screens).calibrate(model, x)
    if library == "torch":
        atoms, x = map(pytest.importorskip("torch").from_numpy, (atoms, x))
    chosen, codes, gains = by_chunk(lambda rows: pursue(rows, atoms, k, breadth, screens), 7, x)
    agree(scatter(chosen, codes, width), expected)
    least = least_gain(gains[counted(x)], k // 2)
    assert float(least) == pytest.approx(float(pruned.encoder.value) ** 2, rel=1e-4)
    codes, _ = least_squares(x, atoms[chosen], (gains > 0) & (gains >= least))
    agree(scatter(chosen, codes, width), pruned.encode(pruned, np.asarray(x)))
