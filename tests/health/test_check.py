"""What `check` takes, and what it prints, against sums by hand."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import sae_gap
from sae_gap.measure import fvu
from sae_gap.saes import SAE
from tests.saes.test_loaded_sae import tensor
from tests.torch_files import save

FILES = Path(__file__).parents[1] / "saes/files"
D, K = 12, 3
OPTIONS = {"architecture": "topk", "k": K}


@pytest.fixture(scope="module")
def given():
    """The arrays of an SAE of orthonormal atoms, and off-centre rows that it reconstructs."""
    rng = np.random.default_rng(0)
    atoms = np.linalg.qr(rng.normal(size=(D, D)))[0].astype("f")
    centre = 3 * rng.normal(size=D).astype("f")
    codes = rng.uniform(1, 2, (1_300, D)) * (np.argsort(rng.random((1_300, D))) < K)
    rows = codes @ atoms + centre + 0.1 * rng.normal(size=(1_300, D))
    return (atoms.T, np.full(D, 0.01, "f"), atoms, centre), rows.astype("f")


@pytest.mark.parametrize("case", ["jumprelu", "transcoder_jumprelu_skip"])
def test_the_figures_are_those_of_the_sums(case, tmp_path):
    """Of the targets of a transcoder, without outlier tokens."""
    sae, rng = sae_gap.load_sae(FILES / "saelens" / case), np.random.default_rng(1)
    x = rng.normal(1, 1.5, (1_300, sae.num_inputs)).astype("f")
    # The last samples leave most latents off, which others turn on.
    x[1_000:] = x[5]
    y = np.asarray(sae.reconstruct(x)) + rng.normal(size=(1_300, 6)).astype("f")
    y = y if sae.transcodes else x
    y[:3] *= 5_000
    save(tmp_path / "y.pt", y)
    found = sae_gap.check(sae, x, targets=tmp_path / "y.pt" if sae.transcodes else None)
    codes, guess = np.asarray(sae.encode(x)), np.asarray(sae.reconstruct(x), np.float64)
    assert found.with_outliers["fvu"] == pytest.approx(fvu(y, guess), rel=1e-4)
    assert (found.outliers, found.rows) == (3, 1_297)
    codes, guess, y = codes[3:], guess[3:], y[3:]
    sums = codes.astype(float) @ np.asarray(sae.model.decoder, float).T
    assert found.fvu == pytest.approx(fvu(y, guess), rel=1e-5)
    assert found.l0 == pytest.approx((codes != 0).sum(axis=1).mean())
    assert found.dead == (codes == 0).all(axis=0).sum()
    error, sums = y - guess, sums - sums.mean(axis=0)
    gain = 1 + np.vdot(error - error.mean(axis=0), sums) / np.vdot(sums, sums)
    assert found.gain == pytest.approx(gain, rel=1e-4)
    share = (error.mean(axis=0) ** 2).sum() / (error**2).sum(axis=1).mean()
    assert found.offset == pytest.approx(share, rel=1e-3)
    norm = np.linalg.norm(y, axis=1).mean()
    assert found.activation_norm == pytest.approx(norm, rel=1e-5)
    lengths = np.linalg.norm(sae.model.decoder, axis=0)
    words = [
        f"{lengths.min():.4g} to {lengths.max():.4g}, median {np.median(lengths):.4g}: codes of",
        f"of decoder and encoder: {np.linalg.norm(sae.bias):.4g}, ",
        "normalisation: none",
        "left out: 3 outlier tokens",
        f"times {found.gain:.4g}; one vector for all would mend {found.offset:.1%}",
        "of a transcoder of 5 inputs" if sae.transcodes else "SAELens jumprelu",
    ]
    assert all(part in str(found) for part in words), found


def test_arrays_and_tensors_and_files(given, tmp_path):
    arrays, x = given
    half = x.astype(ml_dtypes.bfloat16)
    found = sae_gap.check(tuple(map(tensor, arrays)), tensor(half), **OPTIONS)
    sae = SAE.from_arrays(*arrays, **OPTIONS)
    assert found.wrong == () and str(found) == str(sae_gap.check(sae, half))
    assert "L0 3 (k is 3), 0 of 12 latents never fire" in str(found)
    assert "nearest to their own atom: 100.0%; copied latents: 0" in str(found)
    save(tmp_path / "x.pt", half)
    model = sae_gap.check(sae.model, tmp_path / "x.pt", rows=100)
    assert model.rows == 100 and model.wrong == ()
    by_heads = sae_gap.load_sae(FILES / "saelens/hook_z")
    assert sae_gap.check(by_heads, x[:50, :6].reshape(50, 2, 3)) == sae_gap.check(
        by_heads, x[:50, :6]
    )


@pytest.fixture(scope="module")
def transcoded(given):
    """The arrays of a transcoder of as many inputs as targets and latents, and rows for it."""
    rng = np.random.default_rng(2)
    (weight, offset, atoms, bias), y = given
    columns = np.linalg.qr(rng.normal(size=(D, D)))[0].astype("f")
    codes = (y - bias) @ weight
    # As long as a normalised activation.
    unit = D**0.5 / np.linalg.norm(codes, axis=1).mean()
    skip = (rng.normal(size=(D, D)) / D).astype("f")
    x = unit * codes @ columns.T
    return (columns / unit, offset, atoms, bias), skip, x, y + x @ skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e, d, s, x, y, b: (e, d, s, x, y), None),
        (lambda e, d, s, x, y, b: (e, d, s.T, x, y), "the square skip is transposed"),
        (lambda e, d, s, x, y, b: (e.T, d, s, x, y), "the square encoder is transposed"),
        (lambda e, d, s, x, y, b: (e, d.T, s, x, y), "the square decoder is transposed"),
        (lambda e, d, s, x, y, b: (e.T, d.T, s, x, y), "give linear=True"),
        (lambda e, d, s, x, y, b: (e, d, s, 20 * x, y), "20 times as long"),
        (lambda e, d, s, x, y, b: (e, d, s, x, y - b), "subtracted from the targets"),
        (lambda e, d, s, x, y, b: (e, d, s, x[::-1], y), "not read as it was trained"),
        (lambda e, d, s, x, y, b: (e, -d, s, x, y), "not read as it was trained"),
    ],
)
def test_a_transcoder_read_in_another_way_than_it_was_trained(transcoded, change, words):
    (encoder, offset, atoms, bias), skip, x, y = transcoded
    encoder, atoms, skip, x, y = change(encoder, atoms, skip, x, y, bias)
    arrays, options = (encoder, offset, atoms, bias), OPTIONS | {"transcoder": True}
    found = sae_gap.check(arrays, x, targets=y, W_skip=skip, **options)
    assert any(words in said for said in found.wrong) if words else found.wrong == ()


def test_few_rows_leave_latents_off(given):
    (weight, offset, atoms, bias), x = given
    sae = SAE.from_arrays(weight, offset - 1e3 * (np.arange(D) < 7), atoms, bias, **OPTIONS)
    assert "7 of 12 latents never fire (rare" in str(sae_gap.check(sae, x[:40]))
    assert "never fire (rare" not in str(sae_gap.check(sae, x))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("saelens/scaled_without_factor", "scaled to a mean norm"),
        ("dictionary_learning/batchtopk_not_estimated", "never estimated"),
        ("dictionary_learning/batchtopk_older", "no threshold"),
    ],
)
def test_what_the_file_says_is_missing_is_said_first(case, words):
    x = np.random.default_rng(0).normal(size=(40, 6))
    assert words in sae_gap.check(FILES / case, x).wrong[0]


def test_codes_that_overflow_are_told_without_a_cause(given):
    (weight, offset, atoms, bias), x = given
    sae = SAE.from_arrays(weight, offset, atoms * np.float32(2e38), bias, **OPTIONS)
    with np.errstate(all="ignore"):
        found = sae_gap.check(sae, x)
    assert found.wrong[0].startswith("FVU inf: not read as it was trained")


X = np.random.default_rng(0).normal(size=(40, 7))
SQUARE, TRANSCODER = FILES / "saelens/standard_square", FILES / "saelens/transcoder"


@pytest.mark.parametrize(
    ("sae", "x", "targets", "words"),
    [
        (SQUARE, np.ones((20, 7)), None, "all activations are alike"),
        (SQUARE, X[:, :5], None, "5 columns"),
        (SQUARE, X[0], None, "rows"),
        (SQUARE, X[:9], None, "9 activations are too few"),
        (SQUARE, X, X, "leave targets out"),
        (TRANSCODER, X[:, :5], None, "give those as targets"),
        (TRANSCODER, X[:, :5], X[:, 2:], "targets have 5 columns, but the transcoder has"),
        ((1, 2), X, None, "but 2 are given"),
        ((1, 2, 3, 4), X, None, "give architecture"),
        (3, X, None, "four arrays"),
        ("nowhere", X, None, "nowhere is neither a folder nor a file"),
    ],
)
def test_what_does_not_fit_is_refused(sae, x, targets, words):
    with pytest.raises((ValueError, TypeError), match=words):
        sae_gap.check(sae, x, targets=targets)
