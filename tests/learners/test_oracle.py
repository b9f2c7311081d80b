"""The oracle hands the truth over and learns nothing."""

import jax
import numpy as np

from sae_gap import fit
from sae_gap.learners.oracle import Oracle


def test_the_model_is_the_true_dictionary(task):
    (fitted,) = fit(Oracle(), [task], [jax.random.key(3)])
    model = fitted.end.model
    np.testing.assert_array_equal(model.dictionary, task.dictionary)
    assert model.bias.shape == (12,) and not model.bias.any()
    assert model.encoder is None and model.encode is None and fitted.end.step == 0
