"""What encoders share: unit atoms, models whose parts do not fit, what no encoder minds beside what
`sae_gap.testing.check_encoder` checks, and what it costs.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark, raises

from sae_gap import catalogue
from sae_gap.core import Model, Transcoder
from sae_gap.encoders import (
    FISTA,
    LISTA,
    OMP,
    Affine,
    GradientPursuit,
    JumpReLU,
    JumpReLUParameters,
    Lasso,
    LearnedSteps,
    ListaMatryoshka,
    MatchingPursuit,
    OnSupport,
    Own,
    Pruned,
    ScreenedPursuit,
    TopK,
    check_model,
    unit_atoms,
)
from tests.test_versions import crossed


def test_unit_atoms_are_columns_of_unit_length_and_zero_stays():
    dictionary = jnp.array([[3.0, 0.0, 1e-30], [4.0, 0.0, 0.0]])
    atoms, norms = unit_atoms(dictionary)
    assert_allclose(atoms, [[0.6, 0, 1], [0.8, 0, 0]], rtol=1e-6)
    assert_allclose(norms, [5, 1, 1e-30], rtol=1e-6)
    slope = jax.grad(lambda given: unit_atoms(given)[0].sum())(dictionary)
    assert_allclose(slope[:, :2], [[0.032, 0], [-0.024, 0]], atol=1e-6)


WEIGHT = jnp.ones((4, 6))
ZEROS = jnp.zeros(4)
FITS = Model(WEIGHT, ZEROS, Affine(WEIGHT, jnp.zeros(6)), TopK(3))
READS = Transcoder(
    WEIGHT, ZEROS, Affine(WEIGHT[:3], jnp.zeros(6)), TopK(3), centre=jnp.zeros(3)
)
PARTS = JumpReLUParameters(FITS.encoder, jnp.zeros(1))
MISFITS = {
    "dictionary must be a non-empty matrix": {"dictionary": ZEROS},
    r"bias must be of shape \(4,\)": {"bias": jnp.zeros(3)},
    "bias must be finite": {"bias": ZEROS.at[1].set(jnp.nan)},
    "the encoder.s affine map must be finite": {
        "encoder": Affine(WEIGHT.at[0, 0].set(jnp.inf), jnp.zeros(6))
    },
    r"weight must have the shape \(4, 6\) .* transpose": {
        "encoder": Affine(WEIGHT.T, ZEROS)
    },
    "JumpReLU reads JumpReLUParameters from .*; give": {"encode": JumpReLU()},
    "log_threshold must have": {"encode": JumpReLU(), "encoder": PARTS},
    "centre must be finite": {"centre": jnp.full(3, jnp.nan)},
    r"skip must be of shape \(3, 4\)": {"skip": WEIGHT[:, :3]},
}


@mark.parametrize("fault", MISFITS)
def test_parts_that_do_not_fit_are_refused(fault):
    changes = MISFITS[fault]
    model = READS if changes.keys() & {"centre", "skip"} else FITS
    check_model(model)
    with raises(ValueError, match=fault):
        check_model(replace(model, **changes))


TOPK = Own(TopK(3))
FORMS = {
    "signed": Lasso(0.05, TOPK, nonneg=False),
    "signed_support": OnSupport(TOPK, 0.0, False, 0.0),
    "magnitude": Pruned(OnSupport(TOPK, 0.0), 2.0, "magnitude", threshold=0.3),
    "loss": Pruned(OnSupport(TOPK, 0.0), 2.0, threshold=0.3),
}


@mark.parametrize("name", [*catalogue.encoders(), *FORMS])
def test_lengths_of_atoms_change_no_code(name):
    """Of atoms that are longer, codes are smaller, or the same where an affine map gives them."""
    encoder, model, y = crossed("topk" if name in FORMS else name)
    encoder = FORMS.get(name, encoder)
    codes = encoder.infer(model, y).codes
    if encoder.origin is not None:
        begun = encoder.origin.infer(model, y).codes
        assert_allclose(encoder.infer(model, y, begun).codes, codes, atol=1e-4)
    # These code by products with atoms of any length.
    if name not in ("lista", "lista_matryoshka", "learned_steps"):
        times = jnp.asarray(np.linspace(0.3, 3, codes.shape[1]), y.dtype)
        longer = replace(model, dictionary=model.dictionary * times)
        mapped = encoder.reads_inputs or name in ("lookup", "linear")
        found = encoder.infer(longer, y).codes * (1 if mapped else times)
        assert_allclose(found, codes, atol=1e-3)
    assert codes.any()


def test_codes_of_a_model_leave_out_atoms_of_zeros():
    model = Model(jnp.eye(3).at[1].set(0), jnp.ones(3), encode=lambda model, y: y + 1)
    own = Own(model.encode)
    assert_array_equal(own.infer(model, np.ones((1, 3))).codes, [[2, 0, 2]])
    assert own.flops(3, 3) is None and Own(Lasso(nonneg=False)).signed


# In operations of a sample of 5 dimensions and 7 latents.
FLOPS = {
    LISTA(3): 70 * 5,
    LISTA(3, factored=False): 70 * 3 + 2 * 98,
    FISTA(iterations=3): 5 * 70,
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


@mark.parametrize("encoder", FLOPS)
def test_costs_are_counted_by_hand(encoder):
    assert encoder.flops(5, 7) == FLOPS[encoder]
