"""What the tests of detection, absorption and the like are made of."""

import numpy as np
import scipy.sparse

from sae_gap.core.codes import Codes
from sae_gap.core.types import Model, Split, Task, Tree
from sae_gap.metrics.metric import Inferred

RNG = np.random.default_rng(0)


def unit(rows, columns):
    matrix = RNG.standard_normal((rows, columns)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=0)


def sparse_codes(n, width, share=0.2):
    return np.where(RNG.random((n, width)) < share, RNG.random((n, width)) + 0.1, 0).astype(np.float32)


def forms(codes):
    return codes, scipy.sparse.csr_array(codes), Codes.from_dense(codes)


def inferred(n=40, width=5, **changes):
    truth, codes = unit(6, 8), {name: sparse_codes(n, width) for name in ("id", "ood")}
    splits = [
        Split(RNG.standard_normal((n, 6)).astype(np.float32), scipy.sparse.csr_array(sparse_codes(n, 8))) for _ in range(2)
    ]
    tree = Tree(np.array([-1, 0, 0, -1, -1, -1, -1, -1]), np.array([0, 1, 1, -1, -1, -1, -1, -1]))
    parts = {"task": Task(splits[0], *splits, dictionary=truth, width=width, tree=tree)} | {
        "model": Model(unit(6, width), np.zeros(6))
    }
    return Inferred(**parts | {"codes": codes, "optimum": {}, "lam": 1.0, "protocol": "strict"} | changes)
