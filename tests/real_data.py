"""Activations as real ones are: float16, tokens in no order of their documents, documents of unequal
lengths, special tokens of other norms, a planted outlier, and a mean of their own.
"""

import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng

DIM = 12
WIDTH = 12
OUTLIERS = (7, 640)
RNG = default_rng(3)
# One document is of a single token, which no share can hold out alone.
SIZES = [1, 2, 40, 77, 130, 250, 300, 500]
DOCUMENTS = RNG.permutation(np.repeat(np.arange(5, 5 + len(SIZES)), SIZES))
COUNT = sum(SIZES)
ATOMS = np.linalg.qr(RNG.normal(size=(DIM, DIM)))[0].astype("f")
CENTRE = (3 * RNG.normal(size=DIM)).astype("f")
# 2.6 latents are on in the mean, and never the same number.
ON = RNG.random((COUNT, WIDTH)) < 2.6 / WIDTH
CODES = RNG.uniform(1, 2, (COUNT, WIDTH)) * ON
ROWS = CODES @ ATOMS + CENTRE + 0.1 * RNG.normal(size=(COUNT, DIM))
# Special tokens, such as the first of each document, are three times as long as others.
ROWS[np.unique(DOCUMENTS, return_index=True)[1]] *= 3
ROWS[[*OUTLIERS]] *= [[400], [2_000]]
ROWS = ROWS.astype(np.float16)
# The encoder knows no more than a threshold: its L0 is nobody's k.
ARRAYS = ATOMS.T, np.full(WIDTH, 0.0, "f"), ATOMS, CENTRE
OPTIONS = {"architecture": "jumprelu", "threshold": np.full(WIDTH, 0.5, "f")}


def codes_of(rows):
    """The codes of the SAE by its formula, in double precision."""
    found = (rows.astype(float) - CENTRE) @ ATOMS.T.astype(float)
    return found * (found > 0.5)


def decoded(codes):
    """The reconstruction, in double precision."""
    return codes @ ATOMS.astype(float) + CENTRE


def usual(rows=ROWS):
    """The numbers of the rows that are no outliers, by the definition."""
    lengths = norm(rows.astype(float), axis=1)
    return np.flatnonzero(lengths <= 10 * np.median(lengths[lengths > 0]))
