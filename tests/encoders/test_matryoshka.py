"""The Matryoshka loss against one reconstruction for each prefix, and its gradient."""

import numpy as np

from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK

from .test_batchtopk import K, kept, loss, problem

PREFIXES = (0.25, 0.6, 1)


def test_the_loss_is_the_mean_over_prefixes():
    model, signals, hidden = problem()
    losses, threshold = loss(MatryoshkaBatchTopK(K, prefixes=PREFIXES), model, signals, 1e-4)
    codes, dictionary = kept(hidden), np.asarray(model.dictionary)
    errors = []
    # A quarter and three fifths of seven latents, rounded up.
    for end in (2, 5, 7):
        rest = codes[:, :end] @ dictionary[:, :end].T + np.asarray(model.bias) - np.asarray(signals)
        errors.append((rest**2).mean(axis=1))
    np.testing.assert_allclose(losses, np.mean(errors, axis=0), rtol=1e-5)
    assert float(threshold) == float(loss(BatchTopK(K), model, signals, 1e-4)[1])
