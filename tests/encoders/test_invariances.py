"""What no encoder minds, beside what `sae_gap.testing.check_encoder` checks; and what it costs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import catalogue
from sae_gap.core import Model
from sae_gap.encoders import (
    LISTA,
    OMP,
    GradientPursuit,
    Lasso,
    LearnedSteps,
    ListaMatryoshka,
    MatchingPursuit,
    OnSupport,
    Own,
    Pruned,
    ScreenedPursuit,
    TopK,
)
from tests.test_versions import crossed

TOPK = Own(TopK(3))
FORMS = {
    "signed": Lasso(0.05, TOPK, nonneg=False),
    "signed_support": OnSupport(TOPK, 0.0, False, 0.0),
    "magnitude": Pruned(OnSupport(TOPK, 0.0), 2.0, "magnitude", threshold=0.3),
    "loss": Pruned(OnSupport(TOPK, 0.0), 2.0, threshold=0.3),
}


@pytest.mark.parametrize("name", [*catalogue.encoders(), *FORMS])
def test_lengths_of_atoms_and_a_shift_change_no_code(name):
    """Of atoms that are longer, codes are smaller, or the same where an affine map gives them."""
    encoder, model, y = crossed("topk" if name in FORMS else name)
    encoder, rng = FORMS.get(name, encoder), np.random.default_rng(0)
    codes = encoder.infer(model, y).codes
    if encoder.origin is not None:
        begun = encoder.origin.infer(model, y).codes
        np.testing.assert_allclose(encoder.infer(model, y, begun).codes, codes, atol=1e-4)
    move = jnp.asarray(rng.normal(size=y.shape[1]), y.dtype)
    if name != "lookup":
        moved = dataclasses.replace(model, bias=model.bias + move)
        np.testing.assert_allclose(encoder.infer(moved, y + move).codes, codes, atol=1e-3)
    # These code by products with atoms of any length.
    if name not in ("lista", "lista_matryoshka", "learned_steps"):
        times = jnp.asarray(rng.uniform(0.3, 3, codes.shape[1]), y.dtype)
        longer = dataclasses.replace(model, dictionary=model.dictionary * times)
        mapped = encoder.reads_inputs or name in ("lookup", "linear")
        found = encoder.infer(longer, y).codes * (1 if mapped else times)
        np.testing.assert_allclose(found, codes, atol=1e-3)
    assert codes.any()


def test_codes_of_a_model_leave_out_atoms_of_zeros():
    model = Model(jnp.eye(3).at[1].set(0), jnp.ones(3), encode=lambda model, y: y + 1)
    own = Own(model.encode)
    np.testing.assert_array_equal(own.infer(model, np.ones((1, 3))).codes, [[2, 0, 2]])
    assert own.flops(3, 3) is None and Own(Lasso(nonneg=False)).signed


# In operations of a sample of 5 dimensions and 7 latents.
FLOPS = {
    LISTA(3): 70 * 5,
    LISTA(3, factored=False): 70 * 3 + 2 * 98,
    Lasso(tol=None, max_iterations=3): 5 * 70,
    Lasso(): None,
    OnSupport(TopK(2)): 70,
    Own(TopK(2)): 70,
    MatchingPursuit(2): 2 * 70,
    OMP(2): 70 + 10 * (7 + 4),
    GradientPursuit(2): 10 * (7 + 2) + 10 * (7 + 4),
    ListaMatryoshka(2): 210,
    LearnedSteps(2, steps=2, hidden=3): 5 * 70 + 2 * 3 * 12,
    # Four candidates, of one atom and then of two.
    ScreenedPursuit(2): 10 * (7 + 1) + 4 + 10 * (7 + 2) + 16,
}


@pytest.mark.parametrize("encoder", FLOPS)
def test_costs_are_counted_by_hand(encoder):
    assert encoder.flops(5, 7) == FLOPS[encoder]
