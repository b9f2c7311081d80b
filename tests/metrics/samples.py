"""What the tests of detection, absorption and the like are made of."""

import numpy as np
import scipy.sparse

from sae_gap.core import Model, Split, Task, Tree
from sae_gap.metrics import Inferred

RNG = np.random.default_rng(0)


def unit(rows, columns, rng=RNG):
    matrix = rng.standard_normal((rows, columns)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=0)


def sparse_codes(n, width, share=0.2, rng=RNG):
    return np.where(rng.random((n, width)) < share, rng.random((n, width)) + 0.1, 0).astype(
        np.float32
    )


def forms(codes):
    return codes, scipy.sparse.csr_array(codes)


def inferred(n=40, width=5, **changes):
    # The same whichever tests have run before.
    rng = np.random.default_rng(1)
    truth, codes = (
        unit(6, 8, rng),
        {name: sparse_codes(n, width, rng=rng) for name in ("id", "ood")},
    )
    splits = [
        Split(
            rng.standard_normal((n, 6)).astype(np.float32),
            scipy.sparse.csr_array(sparse_codes(n, 8, rng=rng)),
        )
        for _ in range(2)
    ]
    tree = Tree(np.array([-1, 0, 0, -1, -1, -1, -1, -1]), np.array([0, 1, 1, -1, -1, -1, -1, -1]))
    parts = {"task": Task(splits[0], *splits, dictionary=truth, width=width, tree=tree)} | {
        "model": Model(unit(6, width, rng), np.zeros(6))
    }
    return Inferred(
        **parts | {"codes": codes, "optimum": {}, "lam": 1.0, "protocol": "strict"} | changes
    )
