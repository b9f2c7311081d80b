"""The modules of `sae_gap.torch`: the codes of JAX, gradients by finite differences, and folders."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import sae_gap
from sae_gap.core import lasso_problem
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.encoders.on_support import LeastSquares
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit, Threshold
from sae_gap.torch import SAE, pursuit_codes

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
WIDTH, DIM, COUNT = 60, 24, 50


def arrays(width=WIDTH, dim=DIM, count=COUNT, lengths=(0.3, 3.0)):
    """Coherent atoms of many lengths, a bias, and noisy signals of few of them, one of zeros."""
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(width, dim)) + 0.5 * rng.normal(size=dim)
    atoms *= rng.uniform(*lengths, (width, 1)) / np.linalg.norm(atoms, axis=1, keepdims=True)
    bias = rng.normal(size=dim)
    codes = rng.uniform(0.5, 2, (count, width)) * (rng.uniform(size=(count, width)) < 0.08)
    x = codes @ atoms + bias + 0.3 * rng.normal(size=(count, dim))
    x[0] = bias
    return [array.astype(np.float32) for array in (atoms, bias, x)]


def jax_codes(encoder, atoms, bias, x, threshold=None):
    parameters = None if threshold is None else Threshold(jnp.float32(threshold))
    return np.asarray(encoder(Model(jnp.asarray(atoms.T), jnp.asarray(bias), parameters), x))


def tensors(*values):
    return [torch.from_numpy(value) for value in values]


def equal(found, expected, tolerance=1e-5):
    found, expected = (np.asarray(part, np.float64) for part in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.nanmax(expected))


# More rows or fewer, so that the Gram matrix of all atoms pays or does not; unit and other atoms; a
# screen of all atoms; a dictionary of fewer candidates than a screen asks for.
CASES = {
    "whole Gram": ({}, (8, 2, 2)),
    "Grams of candidates": ({"width": 200, "count": 20}, (6, 3, 2)),
    "unit atoms": ({"lengths": (1, 1)}, (5, 2, 3)),
    "one screen of all atoms": ({}, (6, 10, 1)),
    "few atoms": ({"width": 20}, (4, 9, 2)),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_codes_are_those_of_jax(case, threshold):
    sizes, options = CASES[case]
    atoms, bias, x = arrays(**sizes)
    pursuit = BatchPursuit if threshold else ScreenedPursuit
    expected = jax_codes(pursuit(*options), atoms, bias, x, threshold)
    options = dict(zip(("k", "breadth", "screens"), options, strict=True))
    sae = SAE(*tensors(atoms, bias), **options, threshold=threshold)
    sae.chunk = 7
    found = sae.encode(torch.from_numpy(x))
    equal(found, expected)
    np.testing.assert_array_equal(found != 0, expected != 0)
    assert not found[0].any() and 0 < (expected != 0).mean() < 0.5
    equal(sae(torch.from_numpy(x)), expected @ atoms + bias)


@torch.no_grad()
def test_a_pruned_pursuit_is_calibrated_as_in_jax():
    atoms, bias, x = arrays()
    encoder = BatchPursuit(4, 3)
    fitted = encoder.calibrate(Model(jnp.asarray(atoms.T), jnp.asarray(bias)), x)
    sae = SAE(*tensors(atoms, bias), k=4, breadth=3).calibrate(torch.from_numpy(x))
    assert sae.threshold.item() == pytest.approx(float(fitted.encoder.value), rel=1e-5)
    assert (sae.encode(torch.from_numpy(x)) > 0).sum() == 4 * COUNT


@torch.no_grad()
def test_twins_and_more_atoms_than_dimensions_explain_what_jax_explains():
    """Which twin has a value, and what the last dimensions are spent on, is a tie."""
    atoms, bias, x = arrays()
    atoms[30:40] = 2 * atoms[:10]
    atoms[50] = 0
    x = x[:20]
    for k in (8, DIM + 2):
        expected = jax_codes(ScreenedPursuit(k, 2), atoms, bias, x)
        found = SAE(*tensors(atoms, bias), k=k).encode(torch.from_numpy(x)).numpy()
        assert not found[:, 50].any() and not (found[:, 30:40] * found[:, :10]).any()
        assert (np.count_nonzero(found, axis=1) <= min(k, DIM)).all()
        if k == 8:
            found, expected = (
                np.hstack([z[:, :10] + 2 * z[:, 30:40], z[:, 10:30], z[:, 40:]])
                for z in (found, expected)
            )
            equal(found, expected, 1e-4)
        else:
            errors = [np.linalg.norm(x - bias - z @ atoms, axis=1) for z in (found, expected)]
            np.testing.assert_allclose(*errors, atol=0.05 * np.linalg.norm(x - bias, axis=1).max())


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["sae_gap_pursuit", "topk"])
def test_half_precision_is_coded_in_float32_and_what_is_no_number_shows(architecture):
    atoms, bias, x = (part.bfloat16() for part in tensors(*arrays()))
    options = {"architecture": architecture, "W_enc": atoms.mT, "k": 6}
    half, single = SAE(atoms, bias, **options), SAE(atoms, bias, **options).float()
    x = x.reshape(5, -1, DIM)
    x[1, 2, 3] = torch.nan
    with torch.autocast("cpu", torch.bfloat16):
        codes, again = half.encode(x), half(x)
    assert codes.dtype == again.dtype == torch.bfloat16 and codes.shape == (5, 10, WIDTH)
    torch.testing.assert_close(codes, single.encode(x.float()).bfloat16(), equal_nan=True)
    torch.testing.assert_close(again, single(x.float()).bfloat16(), equal_nan=True)
    rows = codes.isnan().reshape(COUNT, -1)
    assert again[1, 2].isnan().all() and rows.any(1).nonzero().tolist() == [[12]]
    assert half.decode(codes).dtype == torch.bfloat16


def test_gradients_reach_the_input_and_the_dictionary():
    """They are those of differences; and half a squared error at its least squares has r and z rᵀ,
    as if codes were held.
    """
    atoms, bias, x = tensors(*arrays(width=20, count=9))
    x = (x - bias)[1:].double().requires_grad_()
    weights = atoms.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weights: pursuit_codes(x, weights, k=4, breadth=2, chunk=3), (x, weights)
    )
    sae = SAE(atoms, k=4)
    codes = sae.encode(x.float())
    sae.refit(x.float(), codes).square().sum().backward()
    single = x.grad.clone(), sae.W_dec.grad.clone()
    x.grad = None
    pursuit_codes(x, weights, k=4).square().sum().backward()
    for found, expected in zip(single, (x.grad, weights.grad), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    sae.zero_grad()
    rest = sae(x.float()) - x.float()
    rest.square().sum().div(2).backward()
    torch.testing.assert_close(sae.W_dec.grad, codes.detach().mT @ rest.detach(), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_least_squares_on_a_support_are_those_of_jax_and_of_numpy():
    atoms, bias, x = arrays()
    codes = np.random.default_rng(5).uniform(size=(COUNT, WIDTH)) < 0.1
    sae = SAE(*tensors(atoms, bias), k=4)
    sae.chunk = 20
    found = sae.refit(*tensors(x, codes.astype(np.float32)))

    class Chosen(ScreenedPursuit):
        def __call__(self, model, signals):
            return jnp.asarray(codes, jnp.float32)

    expected = jax_codes(LeastSquares(Chosen(4)), atoms, bias, x)
    equal(found, expected)
    for row, support, values in zip(x - bias, codes, found.numpy(), strict=True):
        best = np.linalg.lstsq(atoms[support].T.astype(np.float64), row, rcond=None)[0]
        np.testing.assert_allclose(values[support], best.clip(0), atol=1e-4)
        assert not values[~support].any()
    # On more atoms than dimensions nothing is left.
    every = torch.ones(COUNT, WIDTH)
    signed = torch.from_numpy(np.abs(x))
    free = SAE(torch.cat([torch.eye(DIM), torch.eye(DIM)]), k=4)
    torch.testing.assert_close(free.decode(free.refit(signed, every[:, : 2 * DIM])), signed)


@torch.no_grad()
@pytest.mark.parametrize("lam", [0.1, 1.0, 100.0])
def test_the_certificate_is_that_of_jax(lam):
    atoms, bias, x = arrays()
    sae = SAE(*tensors(atoms, bias), k=6)
    codes = sae.encode(torch.from_numpy(x)) * 0.9
    found = sae.certify(torch.from_numpy(x), codes, lam)
    unit, lengths = unit_atoms(jnp.asarray(atoms.T))
    expected = lasso_problem.certificate(x - bias, unit, codes.numpy() * lengths, lam)
    for ours, theirs in zip(found, expected, strict=True):
        equal(ours, theirs)
    # No codes beat the bound, those of the lasso itself among them.
    best = sae_gap.sparse_code(x - bias, unit, lam, tol=1e-6)
    assert (np.asarray(best.objective) >= (found[0] - found[1]).numpy() - 1e-3).all()
    optimum = sae.certify(*tensors(x, np.array(best.codes / lengths)), lam)
    assert (optimum[1] <= 1e-4 * optimum[0] + 1e-6).all()
    with pytest.raises(ValueError, match="non-negative"):
        sae.certify(torch.from_numpy(x), -codes, lam)
