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
X = np.random.default_rng(0).normal(size=(40, 7))
SQUARE, TRANSCODER = FILES / "saelens/standard_square", FILES / "saelens/transcoder"


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
    assert found.outliers == 3
    codes, guess, y = codes[3:], guess[3:], y[3:]
    sums = codes.astype(float) @ np.asarray(sae.model.decoder, float).T
    error, sums = y - guess, sums - sums.mean(axis=0)
    wanted = {
        "fvu": fvu(y, guess),
        "l0": (codes != 0).sum(axis=1).mean(),
        "dead": (codes == 0).all(axis=0).sum(),
        "gain": 1 + np.vdot(error - error.mean(axis=0), sums) / np.vdot(sums, sums),
        "offset": (error.mean(axis=0) ** 2).sum() / (error**2).sum(axis=1).mean(),
        "activation_norm": np.linalg.norm(y, axis=1).mean(),
    }
    told = {name: found.columns[name] for name in wanted}
    assert told == pytest.approx(wanted, rel=1e-4)
    lengths = np.linalg.norm(sae.model.decoder, axis=0)
    words = [
        f"{lengths.min():.4g} to {lengths.max():.4g}, median {np.median(lengths):.4g}: codes of",
        f"of decoder and encoder: {np.linalg.norm(sae.bias):.4g}, ",
        "left out: 3 outlier tokens",
        f"on 1,297 rows: L0 {told['l0']:.4g}, {told['dead']} of",
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
    assert "on 100 rows" in str(model) and model.wrong == ()
    by_heads = sae_gap.check(FILES / "saelens/hook_z", x[:50, :6].reshape(50, 2, 3))
    assert str(by_heads) == str(sae_gap.check(FILES / "saelens/hook_z", x[:50, :6]))
    weight, offset, atoms, bias = arrays
    few = SAE.from_arrays(weight, offset - 1e3 * (np.arange(D) < 7), atoms, bias, **OPTIONS)
    assert "7 of 12 latents never fire (rare" in str(sae_gap.check(few, x[:40]))
    assert "never fire (rare" not in str(sae_gap.check(few, x))


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
    return {"e": columns / unit, "offset": offset, "d": atoms, "bias": bias} | {
        "skip": skip,
        "x": x,
        "y": y + x @ skip,
    }


@pytest.mark.parametrize(
    ("names", "change", "words"),
    [
        ("", None, None),
        (["skip"], lambda part, bias: part.T, "the square skip is transposed"),
        ("e", lambda part, bias: part.T, "the square encoder is transposed"),
        ("d", lambda part, bias: part.T, "the square decoder is transposed"),
        ("ed", lambda part, bias: part.T, "give linear=True"),
        ("x", lambda part, bias: 20 * part, "20 times as long"),
        ("x", lambda part, bias: part[::-1], "not read as it was trained"),
        ("y", lambda part, bias: part - bias, "subtracted from the targets"),
    ],
)
def test_a_transcoder_read_in_another_way_than_it_was_trained(transcoded, names, change, words):
    changed = {name: change(transcoded[name], transcoded["bias"]) for name in names}
    *arrays, skip, x, y = (transcoded | changed).values()
    options = OPTIONS | {"transcoder": True, "W_skip": skip}
    found = sae_gap.check(arrays, x, targets=y, **options)
    assert any(words in said for said in found.wrong) if words else found.wrong == ()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("saelens/scaled_without_factor", "scaled to a mean norm"),
        ("dictionary_learning/batchtopk_older", "no threshold"),
    ],
)
def test_what_the_file_says_is_missing_is_said_first(case, words):
    assert words in sae_gap.check(FILES / case, X[:, :6]).wrong[0]


@pytest.mark.parametrize(
    ("sae", "x", "targets", "words"),
    [
        (SQUARE, np.ones((20, 7)), None, "all activations are alike"),
        (SQUARE, X[:, :5], None, "5 columns"),
        (SQUARE, X[:9], None, "9 activations are too few"),
        (SQUARE, X, X, "leave targets out"),
        (TRANSCODER, X[:, :5], None, "give those as targets"),
        ((1, 2), X, None, "but 2 are given"),
        ((1, 2, 3, 4), X, None, "give architecture"),
        (3, X, None, "four arrays"),
    ],
)
def test_what_does_not_fit_is_refused(sae, x, targets, words):
    with pytest.raises((ValueError, TypeError), match=words):
        sae_gap.check(sae, x, targets=targets)
