"""Compiled loops against their own code without the compiler, where NumPy checks each index: Numba
checks none, and what is written out of bounds ends Python or spoils other numbers.
"""

import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose

from sae_gap.core import screen_sizes
from sae_gap.loops import host
from sae_gap.solvers import host_learning, sparse_code


def explained():
    """What codes of each loop explain, from no row on, also with more atoms than dimensions and
    more screens than atoms; some atoms are the same, and some rows zeros.
    """
    rng = default_rng(0)
    for dim, width, count in itertools.product([1, 7], [1, 9], [0, 4]):
        atoms = rng.normal(size=(width, dim))
        x = rng.normal(size=(count, dim))
        atoms[1:4] = atoms[:1]
        atoms /= norm(atoms, axis=1, keepdims=True)
        x[3:] = 0
        rows = np.pad(atoms, ((0, 128 - width), (0, 0)))
        given = x.astype(np.float32), rows.astype(np.float32)
        found = host_learning.reweighted_lasso(
            *given, 0.2, 0.1, num_slots=16, num_rounds=3
        )
        yield from (found[2], host_learning.sums(*found, width)[0])
        start = np.zeros((count, width))
        rate = np.float64(0.1)
        codes = [
            host_learning.iterate(x, atoms.T, rate, 0.2 * rate, start, iterations=5)
        ]
        if count:
            codes += [
                sparse_code(x, atoms.T, 0.1, nonneg=sign).codes
                for sign in (False, True)
            ]
        most = min(dim, width)
        for k, screens in itertools.product({1, most}, [1, 6]):
            found = host.screened_pursuit(
                x, atoms, width, (k,), plain=True, signed=screens == 1
            )
            codes.append(host.spread(*found[:2], width))
            sizes = screen_sizes(k, 2, screens, dim, width)
            found = host.screened_pursuit(
                x, atoms, *sizes, 0.1, rng.normal(size=(count, width))
            )
            codes.append(host.spread(*found[:2], width))
        yield from (each @ atoms for each in codes)


def test_no_loop_reads_or_writes_out_of_bounds():
    """Smaller blocks are multiplied at once there, which the compiler keeps for larger ones."""
    code = "import pickle, sys\nfrom sae_gap.loops import screened\nscreened.FEW_FLOATS = 8\n"
    code += f"from {__name__} import explained\npickle.dump([*explained()], sys.stdout.buffer)"
    plain = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        check=True,
        stdout=subprocess.PIPE,
        timeout=120,
    )
    for found, expected in zip(explained(), pickle.loads(plain.stdout), strict=True):
        assert_allclose(found, expected, atol=1e-5)
