"""Every metric says the same of dense codes, of sparse ones and of their active columns."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import catalogue
from sae_gap.core.types import SPLITS, Model, Solution, Split, Task, Tree
from sae_gap.metrics.metric import Inferred
from tests.metrics.samples import forms, sparse_codes, unit


@pytest.mark.parametrize("protocol", ["strict", "paper"])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("width", [5, 30])
def test_codes_of_any_form_measure_alike(width, silent, protocol):
    rng = np.random.default_rng(2)
    truth, atoms = unit(6, 8, rng), unit(6, width, rng) * np.linspace(0.5, 2, width)
    atoms[:, 1] = 0
    signals = {name: jnp.asarray(rng.normal(size=(60, 6)), jnp.float32) for name in SPLITS}
    true_codes = {name: sparse_codes(60, 8, rng=rng) for name in SPLITS}
    codes = {name: sparse_codes(60, width, rng=rng) for name in SPLITS}
    # Latents that are active in some splits alone, latent 0 in the last.
    for name, latents in zip(SPLITS, ([0, 1, 2], [0, 4], [3]), strict=True):
        codes[name] *= rng.choice([-1, 1], codes[name].shape)
        codes[name][:, latents] = 0
    if silent:
        codes["train"][:] = codes["id"][:] = 0
    one = np.ones(60, np.float32)
    optimum = Solution(codes["id"], one, 0 * one, one.astype(int), one > 0)
    tree = Tree(np.array([-1, 0, 0, *[-1] * 5]), np.array([0, 1, 1, *[-1] * 5]))

    def measured(form):
        splits = [Split(signals[name], forms(true_codes[name])[form]) for name in SPLITS]
        task = Task(*splits, dictionary=truth, width=width, tree=tree)
        held = {name: forms(part)[form] for name, part in codes.items()}
        model = Model(jnp.asarray(atoms, jnp.float32), jnp.full(6, 0.1))
        given = Inferred(task, model, held, dict.fromkeys(("id", "ood"), optimum), 0.1, protocol)
        found = [metric(given) for metric in catalogue.metrics().values()]
        return {
            name: value for part in found for name, value in part.items() if np.ndim(value) == 0
        }

    expected = measured(0)
    assert expected["auc_ood"] != 0.5 and len(expected) > 60
    for form in (1, 2):
        assert measured(form) == pytest.approx(expected, rel=1e-5, abs=1e-7)
