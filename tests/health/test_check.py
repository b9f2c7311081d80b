"""What `check` takes, and what it prints, against sums by hand."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import sae_gap
from sae_gap.measure import fvu
from sae_gap.saes.loaded_sae import SAE
from tests.saes.test_loaded_sae import tensor
from tests.torch_files import save

FILES = Path(__file__).parents[1] / "saes/files"
D, K = 12, 3


@pytest.fixture(scope="module")
def given():
    """The arrays of an SAE of orthonormal atoms, and off-centre rows that it reconstructs."""
    rng = np.random.default_rng(0)
    atoms = np.linalg.qr(rng.normal(size=(D, D)))[0].astype("f")
    centre = 3 * rng.normal(size=D).astype("f")
    codes = rng.uniform(1, 2, (1_300, D)) * (np.argsort(rng.random((1_300, D))) < K)
    rows = codes @ atoms + centre + 0.1 * rng.normal(size=(1_300, D))
    return (atoms.T, np.full(D, 0.01, "f"), atoms, centre), rows.astype("f")


OPTIONS = {"architecture": "topk", "k": K}


def test_the_figures_are_those_of_the_sums():
    sae = sae_gap.load_sae(FILES / "saelens/jumprelu")
    rng = np.random.default_rng(1)
    x = (2 + rng.normal(size=(1_300, 6))).astype("f")
    # The last samples leave most latents off, which others turn on.
    x[1_000:] = x[0]
    found = sae_gap.check(sae, x)
    codes, guess = np.asarray(sae.encode(x)), np.asarray(sae.reconstruct(x), np.float64)
    assert found.fvu == pytest.approx(fvu(x, guess), rel=1e-5)
    assert found.l0 == pytest.approx((codes != 0).sum(axis=1).mean())
    assert found.dead == (codes == 0).all(axis=0).sum()
    error, spread = x - guess, (guess - guess.mean(axis=0)).ravel()
    gain = np.linalg.lstsq(spread[:, None], (x - x.mean(axis=0)).ravel())[0][0]
    assert found.gain == pytest.approx(gain, rel=1e-4)
    share = (error.mean(axis=0) ** 2).sum() / (error**2).sum(axis=1).mean()
    assert found.offset == pytest.approx(share, rel=1e-4)
    weights = load_file(FILES / "saelens/jumprelu/sae_weights.safetensors")
    lengths = np.linalg.norm(weights["W_dec"], axis=1)
    told = f"{lengths.min():.4g} to {lengths.max():.4g}, median {np.median(lengths):.4g}: codes of"
    bias = f"of decoder and encoder: {np.linalg.norm(weights['b_dec']):.4g}, "
    told = (told, bias, "SAELens jumprelu", "normalisation: none", "blocks.3.hook_resid_post")
    told += (f"times {gain:.4g}; one vector for all would mend {share:.1%}",)
    assert all(words in str(found) for words in told), found
    assert found.activation_norm == pytest.approx(np.linalg.norm(x, axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        ((1, 0), "the square encoder is transposed"),
        ((0, 1), "the square decoder is transposed"),
        ((1, 1), "give linear=True"),
    ],
)
def test_square_matrices_of_the_other_layout(given, turned, words):
    (weight, offset, atoms, bias), x = given
    weight, atoms = (
        part.T if turn else part for part, turn in zip((weight, atoms), turned, strict=True)
    )
    (said,) = sae_gap.check((weight, offset, atoms, bias), x, **OPTIONS).wrong
    assert words in said


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


CODER = OPTIONS | {"transcoder": True}


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
    arrays = (encoder, offset, atoms, bias)
    found = sae_gap.check(arrays, x, targets=y, W_skip=skip, **CODER)
    assert any(words in said for said in found.wrong) if words else found.wrong == ()


def test_the_figures_of_a_transcoder_are_of_its_targets(transcoded, tmp_path):
    sae = sae_gap.load_sae(FILES / "saelens/transcoder_jumprelu_skip")
    rng = np.random.default_rng(3)
    x = rng.normal(1, 1.5, size=(400, 5)).astype("f")
    y = np.asarray(sae.reconstruct(x)) + rng.normal(size=(400, 6)).astype("f")
    y[:3] *= 5_000
    save(tmp_path / "y.pt", y)
    found = sae_gap.check(sae, x, targets=tmp_path / "y.pt")
    guess = np.asarray(sae.reconstruct(x))
    assert found.fvu == pytest.approx(fvu(y[3:], guess[3:]), rel=1e-5)
    assert found.with_outliers["fvu"] == pytest.approx(fvu(y, guess), rel=1e-5)
    assert (found.outliers, found.rows) == (3, 397)
    error, sums = (y - guess)[3:], np.asarray(sae.encode(x) @ sae.model.decoder.T)[3:]
    sums = sums - sums.mean(axis=0)
    gain = 1 + np.vdot(error - error.mean(axis=0), sums) / np.vdot(sums, sums)
    assert found.gain == pytest.approx(gain, rel=1e-4)
    share = (error.mean(axis=0) ** 2).sum() / (error**2).sum(axis=1).mean()
    assert found.offset == pytest.approx(share, rel=1e-3)
    norm = np.linalg.norm(y[3:], axis=1).mean()
    assert found.activation_norm == pytest.approx(norm, rel=1e-5)
    assert "input_dim 6, of a transcoder of 5 inputs" in str(found)


@pytest.mark.parametrize(
    ("case", "targets", "words"),
    [
        ("saelens/transcoder", None, "give those as targets"),
        ("saelens/standard_square", np.ones((40, 7)), "leave targets out"),
        ("saelens/transcoder", np.ones((40, 5)), "targets have 5 columns, but the transcoder has"),
    ],
)
def test_targets_that_are_missing_or_do_not_fit(case, targets, words):
    x = np.random.default_rng(0).normal(size=(40, 5 if "transcoder" in case else 7))
    with pytest.raises(ValueError, match=words):
        sae_gap.check(FILES / case, x, targets=targets)


def test_outlier_tokens_are_named_and_left_out(given):
    arrays, x = given
    sae = SAE.from_arrays(*arrays, **OPTIONS)
    mixed = np.concatenate([2_000 * np.random.default_rng(1).normal(size=(5, D)), x]).astype("f")
    found, alone = (sae_gap.check(sae, rows) for rows in (mixed, x))
    assert found.wrong == () and "left out: 5 outlier tokens" in str(found)
    assert found.explained == alone.explained
    assert found.activation_norm == alone.activation_norm
    for told, rows in ((alone.explained, x), (found.with_outliers, mixed)):
        expected = fvu(rows, np.asarray(sae.reconstruct(rows)))
        assert told["fvu"] == pytest.approx(expected, rel=1e-4)


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


def test_activations_by_heads_and_those_that_say_nothing():
    sae = sae_gap.load_sae(FILES / "saelens/hook_z")
    x = np.random.default_rng(0).normal(size=(50, 2, 3))
    assert sae_gap.check(sae, x) == sae_gap.check(sae, x.reshape(50, 6))
    for bad, word in (
        (np.ones((20, 6)), "all activations are alike"),
        (np.arange(100.0).reshape(20, 5), "5 columns"),
        (np.ones(6), "rows"),
        (np.random.default_rng(0).normal(size=(9, 6)), "9 activations are too few"),
    ):
        with pytest.raises(ValueError, match=word):
            sae_gap.check(sae, bad)


def test_codes_that_overflow_are_told_without_a_cause(given):
    (weight, offset, atoms, bias), x = given
    sae = SAE.from_arrays(weight, offset, atoms * np.float32(2e38), bias, **OPTIONS)
    with np.errstate(all="ignore"):
        found = sae_gap.check(sae, x)
    assert found.wrong[0].startswith("FVU inf: not read as it was trained")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (((1, 2), np.eye(3)), "but 2 are given"),
        (((1, 2, 3, 4), np.eye(3)), "give architecture"),
        ((3, np.eye(3)), "four arrays"),
        (("nowhere", np.eye(3)), "nowhere is neither a folder nor a file"),
    ],
)
def test_what_is_no_sae_is_refused(given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        sae_gap.check(*given)
