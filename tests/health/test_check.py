"""`check` on sound SAEs, which it accuses of nothing, and on the faults that users meet, each of
which it names.
"""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import sae_gap
from sae_gap.health.faults import FEW
from sae_gap.health.readings import Seen, by_rows, configured, read
from sae_gap.health.readings import rescaled as other_sizes
from sae_gap.measure import evenly_spaced, fvu
from sae_gap.saes.loaded_sae import SAE
from tests.health.test_faults import loaded, trained
from tests.saes.test_loaded_sae import Torch
from tests.torch_files import save

DIM, WIDTH, K = 96, 256, 8


def drawn(seed, layer=0):
    """Activations of few directions, heavy tails and a large mean."""
    rng = np.random.default_rng([seed, layer])
    atoms = rng.normal(size=(WIDTH, DIM)) * np.arange(1, DIM + 1) ** -0.3
    often = 2 * np.arange(1, WIDTH + 1) ** -0.8
    codes = rng.lognormal(0, 0.5, (6_400, WIDTH)) * (rng.random((6_400, WIDTH)) < often)
    rows = codes @ atoms / np.linalg.norm(atoms, axis=1).mean()
    rows += 0.1 * rng.standard_t(4, rows.shape) + 2 * rng.normal(size=DIM)
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def given():
    """An SAE's arrays, held-out activations of its layer, and others."""
    rows = drawn(0)
    return trained("topk", jnp.asarray(rows[:6_000]), WIDTH, K), rows[6_000:], drawn(0, 1)[:400]


def rescaled(arrays, lengths):
    """The same SAE with atoms of other lengths, and codes to match."""
    return arrays | {
        "atoms": arrays["atoms"] * lengths[:, None],
        "weight": arrays["weight"] / lengths,
        "encoder_bias": arrays["encoder_bias"] / lengths,
    }


def with_dead(arrays):
    """The same SAE with 300 latents that never fire."""
    atoms = DRAWS.normal(size=(300, DIM)).astype(np.float32)
    return arrays | {
        "atoms": np.concatenate([arrays["atoms"], atoms]),
        "weight": np.concatenate([arrays["weight"], atoms.T], axis=1),
        "encoder_bias": np.concatenate([arrays["encoder_bias"], np.full(300, -1e3, np.float32)]),
    }


DRAWS = np.random.default_rng(2)
LENGTHS = np.exp(np.random.default_rng(0).normal(0, 0.5, WIDTH)).astype(np.float32)
OUTLIERS = 2_000 * np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
# What is done to the arrays and to the activations, and what is said of it.
FAULTS = {
    "a TopK SAE loaded as a ReLU": (
        lambda arrays, x, other: (arrays | {"encoder": "standard", "options": {}, "others": {}}, x),
        "TopK SAE that is read as a ReLU",
    ),
    "another layer": (
        lambda arrays, x, other: (arrays, other),
        "are of another layer than its own",
    ),
    "a missing normalisation": (
        lambda arrays, x, other: (arrays, 32 * x),
        "a normalisation is missing",
    ),
    "a missing normalisation, with a small scale": (
        lambda arrays, x, other: (arrays, 0.1 * x),
        "a normalisation is missing",
    ),
    "a decoder not of unit norm": (
        lambda arrays, x, other: (rescaled(arrays, LENGTHS**2), x),
        "the decoder is not of unit norm",
    ),
    "a decoder put to unit norm alone": (
        lambda arrays, x, other: (
            rescaled(arrays, LENGTHS) | {"atoms": rescaled(arrays, 0.5 / LENGTHS)["atoms"]},
            x,
        ),
        "scale",
    ),
    "a bias subtracted twice": (
        lambda arrays, x, other: (arrays, x - arrays["bias"]),
        "subtracted twice",
    ),
    "a bias subtracted twice by the SAE": (
        lambda arrays, x, other: (
            arrays | {"encoder_bias": arrays["encoder_bias"] - arrays["bias"] @ arrays["weight"]},
            x,
        ),
        "subtracted twice",
    ),
    "a bias added twice": (
        lambda arrays, x, other: (
            arrays
            | {
                "bias": 2 * arrays["bias"],
                "encoder_bias": arrays["encoder_bias"] + arrays["bias"] @ arrays["weight"],
            },
            x,
        ),
        "added twice",
    ),
    "noise": (
        lambda arrays, x, other: (arrays, DRAWS.normal(size=x.shape).astype(np.float32)),
        "like noise",
    ),
    "an encoder that is off": (
        lambda arrays, x, other: (arrays | {"encoder_bias": arrays["encoder_bias"] - 1e3}, x),
        "no latent is on in any row",
    ),
    "an encoder that sees nothing": (
        lambda arrays, x, other: (
            arrays | {"weight": 1e-6 * arrays["weight"], "encoder_bias": np.arange(256.0)},
            x,
        ),
        "all rows have the same codes",
    ),
    "latents that died in training": (
        lambda arrays, x, other: (with_dead(arrays), np.tile(x, (4, 1))),
        "latents never fire, although each had 23 chances",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(given, fault):
    change, words = FAULTS[fault]
    arrays, x = change(*given)
    found = sae_gap.check(loaded(arrays), x, better=False)
    assert any(words in said for said in found.wrong), found
    assert words in str(found) and "loading: fine" not in str(found)


def test_a_sound_sae_is_accused_of_nothing_and_better_codes_are_told(given):
    arrays, x, _ = given
    sae = loaded(arrays)
    found = sae_gap.check(sae, x)
    assert found.wrong == () and str(found).endswith("loading: fine"), found
    (better,) = found.better
    assert better.own_l0 == better.l0 == K and better.rows == FEW
    some = x[evenly_spaced(len(x), FEW)]
    assert better.own_fvu == pytest.approx(fvu(some, np.asarray(sae.reconstruct(some))), rel=1e-4)
    assert better.fvu < better.own_fvu
    assert f"FVU {better.fvu:.4f} at L0 8 by a screened pursuit" in str(found)
    # Atoms of any lengths change nothing where codes match them, and are told. Few rows leave many
    # latents off, which is no fault.
    lengths = rescaled(arrays, LENGTHS) | {"encoder": "standard", "options": {}}
    other = sae_gap.check(loaded(lengths), x, better=False)
    assert "codes of two latents compare times these" in str(other)
    assert "compare times these" not in str(found)
    few = sae_gap.check(loaded(with_dead(arrays)), x, better=False)
    assert few.wrong == () and few.dead >= 300 and "(rare ones may on more rows)" in str(few)


def test_few_rows_are_read_by_their_coordinates(given):
    arrays, x, _ = given
    sae, x = loaded(arrays), x[:40]
    narrow, whole = Seen.of(sae, x, by_rows(sae)), Seen(sae, x, by_rows(sae), None)
    assert narrow.basis is not None and narrow.basis.shape == (42, DIM)
    own = read(sae, x, narrow.atoms, sae.encode_target)
    for readings in (configured, lambda seen: other_sizes(seen, own, 1.3)):
        for one, other in zip(readings(narrow), readings(whole), strict=True):
            assert one.how == other.how
            np.testing.assert_allclose(
                narrow.read(one).guess, whole.read(other).guess, rtol=1e-3, atol=1e-3
            )


def test_outlier_tokens_are_named_and_left_out(given):
    arrays, x, _ = given
    sae, mixed = loaded(arrays), np.concatenate([OUTLIERS, x])
    found, alone = sae_gap.check(sae, mixed), sae_gap.check(sae, x)
    assert found.wrong == () and "left out: 5 outlier tokens" in str(found)
    assert found.explained == alone.explained and found.better == alone.better
    for told, rows in ((alone.explained, x), (found.with_outliers, mixed)):
        expected = fvu(rows, np.asarray(sae.reconstruct(rows)))
        assert told["fvu"] == pytest.approx(expected, rel=1e-4)


def test_arrays_and_tensors_and_files(given, tmp_path):
    arrays, x, _ = given
    four = tuple(arrays[name] for name in ("weight", "encoder_bias", "atoms", "bias"))
    half = x.astype(ml_dtypes.bfloat16)
    options = {"architecture": "topk", "k": K}
    found = sae_gap.check(tuple(map(Torch, four)), Torch(half), **options)
    turned = sae_gap.check((four[0].T, four[1], four[2].T, four[3]), half, **options)
    assert str(found) == str(turned) and found.wrong == ()
    save(tmp_path / "x.pt", half)
    sae = SAE.from_arrays(*four, **options)
    again = sae_gap.check(sae, tmp_path / "x.pt", rows=100, certified=True)
    assert again.rows == 100 and again.wrong == ()
    screened, lasso = again.better
    assert lasso.l0 == pytest.approx(K, rel=0.05) and lasso.fvu < lasso.own_fvu
    assert screened.certificate is None and lasso.certificate <= 1.1e-6
    assert "by the certified lasso, refitted, duality gap" in str(again)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (((1, 2), np.eye(3)), "but 2 are given"),
        ((3, np.eye(3)), "four arrays"),
        ((np.float32(0), np.eye(3)), "four arrays"),
        (("nowhere", np.eye(3)), "nowhere is neither a folder nor a file"),
    ],
)
def test_what_is_no_sae_is_refused(given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        sae_gap.check(*given)
