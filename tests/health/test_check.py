"""What `check` takes, and what it prints, against sums by hand; every cause that it names, and what it
shows where it is sure of none; sound SAEs are accused of nothing.
"""

import types

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from pytest import approx, fixture, mark, raises

import sae_gap
from sae_gap import catalogue, check, load_sae
from sae_gap.core import ConstantNorm, LayerNorm, Scale, Split, Task
from sae_gap.health import Evidence, Reading, faults, others
from sae_gap.measure import fvu
from sae_gap.metrics import CHANCES
from sae_gap.saes import SAE, Parts, of_parts
from tests import real_data
from tests.saes.examples import FILES
from tests.saes.test_save import tensor
from tests.torch_files import save

D = 12
FEW = 3
OPTIONS = {"architecture": "topk", "k": FEW}
X = default_rng(0).normal(size=(40, 7))
SQUARE = FILES / "saelens/standard_square"
TRANSCODER = FILES / "saelens/transcoder"


@fixture(scope="module")
def given():
    """The arrays of an SAE of orthonormal atoms, and off-centre rows that it reconstructs."""
    rng = default_rng(0)
    codes = rng.uniform(1, 2, (1_300, D)) * (np.argsort(rng.random((1_300, D))) < FEW)
    rows = real_data.decoded(codes) + 0.1 * rng.normal(size=(1_300, D))
    return real_data.ARRAYS, rows.astype("f")


@mark.parametrize("case", ["jumprelu", "transcoder_jumprelu_skip"])
def test_the_figures_are_those_of_the_sums(case, tmp_path):
    """Of the targets of a transcoder, without outlier tokens."""
    sae = load_sae(FILES / "saelens" / case)
    rng = default_rng(1)
    x = rng.normal(1, 1.5, (1_300, sae.num_inputs)).astype("f")
    # The last samples leave most latents off, which others turn on.
    x[1_000:] = x[5]
    y = np.asarray(sae.reconstruct(x)) + rng.normal(size=(1_300, 6)).astype("f")
    y = y if sae.transcodes else x
    y[:3] *= 5_000
    save(tmp_path / "y.pt", y)
    found = check(sae, x, targets=tmp_path / "y.pt" if sae.transcodes else None)
    codes = np.asarray(sae.encode(x))
    guess = np.asarray(sae.reconstruct(x), float)
    assert found.with_outliers["fvu"] == approx(fvu(y, guess), rel=1e-4)
    assert found.outliers == 3
    codes = codes[3:]
    guess = guess[3:]
    y = y[3:]
    sums = codes.astype(float) @ np.asarray(sae.model.decoder, float).T
    error = y - guess
    sums = sums - sums.mean(axis=0)
    wanted = {
        "fvu": fvu(y, guess),
        "l0": (codes != 0).sum(axis=1).mean(),
        "dead": (codes == 0).all(axis=0).sum(),
        "gain": 1 + np.vdot(error - error.mean(axis=0), sums) / np.vdot(sums, sums),
        "offset": (error.mean(axis=0) ** 2).sum() / (error**2).sum(axis=1).mean(),
    }
    told = {name: getattr(found.read, name) for name in wanted}
    assert told == approx(wanted, rel=1e-4)
    assert found.activation_norm == approx(norm(y, axis=1).mean(), rel=1e-4)
    assert found.columns == {
        "library": "SAELens",
        "architecture": sae.architecture,
        "normalisation": "none",
        **{name: told[name] for name in ("fvu", "l0", "dead")},
    }
    np.testing.assert_array_equal(found.read.used, (codes != 0).sum(axis=0))
    lengths = norm(sae.model.decoder, axis=0)
    words = [
        f"{lengths.min():.4g} to {lengths.max():.4g}, median {np.median(lengths):.4g}: codes of",
        f"of decoder and encoder: {norm(sae.bias):.4g}, ",
        "left out: 3 outlier tokens",
        f"on 1,297 rows: L0 {told['l0']:.4g}, {told['dead']} of",
    ]
    assert all(part in str(found) for part in words), found


def test_arrays_and_tensors_and_files(given, tmp_path):
    arrays, x = given
    half = x.astype(ml_dtypes.bfloat16)
    found = check(tuple(map(tensor, arrays)), tensor(half), **OPTIONS)
    sae = SAE.from_arrays(*arrays, **OPTIONS)
    assert found.wrong == () and str(found) == str(check(sae, half))
    assert "L0 3 (k is 3), 0 of 12 latents never fire" in str(found)
    assert "nearest to their own atom: 100.0%; copied latents: 0" in str(found)
    save(tmp_path / "x.pt", half)
    model = check(sae.model, tmp_path / "x.pt", rows=100)
    assert "on 100 rows" in str(model) and model.wrong == ()
    by_heads = check(FILES / "saelens/hook_z", x[:50, :6].reshape(50, 2, 3))
    assert str(by_heads) == str(check(FILES / "saelens/hook_z", x[:50, :6]))
    weight, offset, atoms, bias = arrays
    few = SAE.from_arrays(
        weight, offset - 1e3 * (np.arange(D) < 7), atoms, bias, **OPTIONS
    )
    assert "7 of 12 latents never fire (rare" in str(check(few, x[:40]))
    assert "never fire (rare" not in str(check(few, x))


@fixture(scope="module")
def transcoded(given):
    """The arrays of a transcoder of as many inputs as targets and latents, and rows for it."""
    rng = default_rng(2)
    (weight, offset, atoms, bias), y = given
    columns = np.linalg.qr(rng.normal(size=(D, D)))[0].astype("f")
    codes = (y - bias) @ weight
    # As long as a normalised activation.
    unit = D**0.5 / norm(codes, axis=1).mean()
    skip = (rng.normal(size=(D, D)) / D).astype("f")
    x = unit * codes @ columns.T
    return {"e": columns / unit, "offset": offset, "d": atoms, "bias": bias} | {
        "skip": skip,
        "x": x,
        "y": y + x @ skip,
    }


@mark.parametrize(
    ("names", "change", "words"),
    [
        ("", None, None),
        (["skip"], np.transpose, "the square skip is transposed"),
        ("e", np.transpose, "the square encoder is transposed"),
        ("d", np.transpose, "the square decoder is transposed"),
        ("ed", np.transpose, "give linear=True"),
        ("x", lambda part: 20 * part, "20 times as long"),
        ("x", np.flipud, "not read as it was trained"),
        ("y", lambda part: part - real_data.CENTRE, "subtracted from the targets"),
        (["bias"], np.negative, "bias has the wrong sign"),
    ],
)
def test_a_transcoder_read_in_another_way_than_it_was_trained(
    transcoded, names, change, words
):
    changed = {name: change(transcoded[name]) for name in names}
    *arrays, skip, x, y = (transcoded | changed).values()
    options = OPTIONS | {"transcoder": True, "W_skip": skip}
    found = check(arrays, x, targets=y, **options)
    assert any(words in said for said in found.wrong) if words else found.wrong == ()


@mark.parametrize(
    ("case", "words"),
    [
        ("saelens/scaled_without_factor", "scaled to a mean norm"),
        ("dictionary_learning/batchtopk_older", "no threshold"),
    ],
)
def test_what_the_file_says_is_missing_is_said_first(case, words):
    assert words in check(FILES / case, X[:, :6]).wrong[0]


@mark.parametrize(
    ("sae", "x", "words"),
    [
        (SQUARE, np.ones((20, 7)), "all activations are alike"),
        (SQUARE, X[:, :5], "5 columns"),
        (SQUARE, X[:9], "9 activations are too few"),
        (TRANSCODER, X[:, :5], "give those as targets"),
        ((1, 2), X, "but 2 are given"),
        ((1, 2, 3, 4), X, "give architecture"),
        (3, X, "four arrays"),
    ],
)
def test_what_does_not_fit_is_refused(sae, x, words):
    with raises((ValueError, TypeError), match=words):
        check(sae, x)


def test_only_a_transcoder_has_targets():
    with raises(ValueError, match="leave targets out"):
        check(SQUARE, X, targets=X)


DIM = 96
WIDTH = 256
K = 8
DRAWS = default_rng(2)
LENGTHS = np.exp(DRAWS.normal(0, 0.7, (WIDTH, 1))).astype(np.float32)
ORDER = np.r_[np.roll(np.arange(64), 1), 64:WIDTH]
DEAD = DRAWS.random(WIDTH) < 0.6


def drawn(seed):
    """Activations of few directions, heavy tails and a large mean."""
    rng = default_rng(seed)
    atoms = rng.normal(size=(WIDTH, DIM)) * np.arange(1, DIM + 1) ** -0.3
    often = 2 * np.arange(1, WIDTH + 1) ** -0.8
    codes = rng.lognormal(0, 0.5, (7_000, WIDTH)) * (rng.random((7_000, WIDTH)) < often)
    rows = codes @ atoms / norm(atoms, axis=1).mean()
    rows += 0.1 * rng.standard_t(4, rows.shape) + 2 * rng.normal(size=DIM)
    return rows.astype(np.float32)


def trained(kind, rows):
    """The arrays of an SAE, as libraries keep them."""
    signals = jnp.asarray(rows)
    task = Task(Split(signals), Split(signals[:2]), Split(signals[:2]), width=WIDTH)
    learner = catalogue.sae_for_activations(
        kind, sparsity=K, input_dim=DIM, num_steps=12
    )
    model = sae_gap.fit(learner, [task], [0], show_progress=False)[0].end.model
    affine = getattr(model.encoder, "affine", model.encoder)
    arrays = {"W_dec": model.decoder.T, "b_dec": model.bias, "W_enc": affine.weight}
    arrays |= {"b_enc": affine.bias}
    if kind == "jumprelu":
        arrays["threshold"] = np.exp(model.encoder.log_threshold)
    return {name: np.asarray(array) for name, array in arrays.items()}


def loaded(arrays, **changes):
    """The SAE of arrays, with other attributes or other arrays."""
    encoder = "jumprelu" if "threshold" in arrays else "topk"
    given = {"encoder": encoder, "options": {"k": K} if encoder == "topk" else {}}
    given |= {"centred": True, "library": "test", "architecture": "test", "notes": {}}
    tensors = {name: changes.pop(name, array) for name, array in arrays.items()}
    return of_parts(Parts(tensors=tensors, **given | changes))


@fixture(scope="module")
def zoo():
    """Held-out activations of one layer and another, and the arrays of two SAEs."""
    rows = drawn(0)
    saes = {kind: trained(kind, rows[:6_000]) for kind in ("topk", "jumprelu")}
    return rows[6_000:], drawn(1)[6_000:], saes


def rescaled(arrays, lengths):
    """The same SAE with atoms of other lengths, and codes to match."""
    flat = lengths[:, 0]
    return {
        "W_dec": arrays["W_dec"] * lengths,
        **{name: arrays[name] / flat for name in arrays.keys() - {"W_dec", "b_dec"}},
    }


def causes(arrays, x):
    """By what is said: what is changed, and the activations."""
    weight = arrays["W_enc"]
    bias = arrays["b_dec"]
    offset = arrays["b_enc"]
    shift = bias @ weight
    norms = norm(x, axis=1, keepdims=True)
    yield "activations are 0.5 times as long", {}, x / 2
    yield "activations are 32 times as long", {}, 32 * x
    yield "a normalisation is missing", {}, x / norms
    yield "bias is subtracted twice", {}, x - bias
    yield "input and should not be", {"b_enc": offset - shift}, x
    yield "input and is not", {"centred": False}, x
    yield "added twice", {"b_dec": 2 * bias, "b_enc": offset + shift}, x
    yield "bias has the wrong sign", {"b_dec": -bias}, x
    yield "wrong sign", {"b_dec": -bias, "centred": False, "b_enc": offset - shift}, x
    for kind in (LayerNorm(), ConstantNorm()):
        yield f"is not {kind.name} but none", {"normalisation": kind}, x
    if "threshold" not in arrays:
        yield "rescale_acts_by_decoder_norm", rescaled(arrays, LENGTHS**2), x
    yield "signs of the encoder", {"W_dec": -arrays["W_dec"]}, x
    yield "permuted", {"W_enc": weight[:, ORDER], "b_enc": offset[ORDER]}, x
    yield "permuted", {"W_dec": DRAWS.permutation(arrays["W_dec"])}, x
    yield "to one length", {"W_dec": arrays["W_dec"] * LENGTHS}, x


def doubts(arrays, other, x, layer):
    """By what is said where no cause is sure: the same, for a JumpReLU SAE."""
    weight = arrays["W_enc"]
    atoms = arrays["W_dec"]
    bias = arrays["b_dec"]
    noise = weight.std() * DRAWS.normal(size=weight.shape).astype(np.float32)
    copied = np.where(np.arange(WIDTH) % 4, np.arange(WIDTH), 0)
    off = np.full(WIDTH, -1e3)
    zero = np.zeros(WIDTH, "f")
    yield "a normalisation, another layer or another file", {}, layer
    yield "high for an SAE", {"threshold": 1.5 * arrays["threshold"]}, x
    yield "many rows have no latent on", {"b_enc": off}, x
    yield "would mend", {"b_dec": 0 * bias}, x
    yield "the decoder's bias is zero", {"b_dec": 0 * bias}, x
    yield "the encoder's bias is zero", {"b_enc": zero}, layer
    yield "the encoder's bias is zero", {"centred": False, "b_enc": zero}, layer
    yield "multiplied by", {"W_dec": 2 * atoms}, x
    yield "multiplied by", {"W_enc": weight + 2 * noise}, x
    yield "nearest to its own atom", {"W_enc": other["W_enc"]}, x
    yield (
        "latents never fire",
        {"b_enc": np.where(DEAD, -1e3, arrays["b_enc"])},
        np.tile(x, (3, 1)),
    )
    yield "but k is 30", {"notes": {"k": "30"}}, x
    yield "dense for an SAE", {"b_enc": 5 + arrays["b_enc"]}, x
    yield "63 atoms or encoder columns are copies", {"W_dec": atoms[copied]}, x
    yield "63 atoms or encoder columns are copies", {"W_enc": weight[:, copied]}, x
    yield (
        "latents have an atom or encoder weights",
        {"W_dec": atoms * ~DEAD[:, None]},
        x,
    )


def test_a_cause_is_named_where_it_is_sure_and_only_there(zoo):
    x, layer, saes = zoo
    for kind, arrays in saes.items():
        for words, changes, rows in causes(arrays, x):
            (said,) = check(loaded(arrays, **changes), rows).wrong
            assert words in said, (kind, said)
    arrays = saes["jumprelu"]
    other = saes["topk"]
    for words, changes, rows in doubts(arrays, other, x, layer):
        wrong = check(loaded(arrays, **changes), rows).wrong
        assert any(words in said for said in wrong), (words, wrong)
        assert not any("so the FVU" in said or "put both" in said for said in wrong), (
            wrong
        )


def test_sound_saes_are_accused_of_nothing(zoo):
    x, _, saes = zoo
    for kind, arrays in saes.items():
        shift = arrays["b_dec"] @ arrays["W_enc"]
        sound = [{}, {"centred": False, "b_enc": arrays["b_enc"] - shift}]
        if kind == "jumprelu":
            sound += [rescaled(arrays, LENGTHS), {"notes": {"k": "9"}}]
        for changes in sound:
            for rows in (x, x[:60]):
                found = check(loaded(arrays, **changes), rows)
                assert found.wrong == () and str(found).endswith("nothing found"), found


def exact():
    """The arrays of an SAE without biases, of orthonormal atoms that sum to zero, and rows that it
    reconstructs.
    """
    rng = default_rng(0)
    atoms = (
        np.linalg.qr(np.c_[np.ones(12), rng.normal(size=(12, 11))])[0].T[1:].astype("f")
    )
    rows = (rng.uniform(1, 2, (400, 11)) * (rng.random((400, 11)) < 0.2) + 1e-3) @ atoms
    arrays = {"W_dec": atoms, "b_dec": np.zeros(12, "f"), "W_enc": atoms.T}
    arrays |= {"b_enc": np.zeros(11, "f"), "threshold": np.full(11, 0.5, "f")}
    return arrays, rows.astype("f") * rng.lognormal(size=(400, 1)).astype("f")


@mark.parametrize("kind", [LayerNorm(), ConstantNorm()])
def test_a_normalisation_that_the_configuration_lacks_is_named(kind):
    arrays, x = exact()
    x = 1e-3 * x
    sae = loaded(arrays, normalisation=kind)
    plain = loaded(arrays)
    # An error of nearly nothing may be one vector.
    assert check(sae, x).wrong == ()
    tried = dict(others(Reading.of(plain), x))
    (reading,) = (
        tried[cause] for cause in tried if f"not none but {kind.name};" in cause
    )
    assert reading.read(x).fvu == Reading.of(sae).read(x).fvu < 0.01
    (said,) = check(plain, x).wrong
    assert "is not none but" in said


def test_columns_count_by_the_energy_of_their_codes():
    arrays, x = exact()
    off = np.arange(11) == 3
    changes = {
        "W_enc": np.where(off, -1, 1) * arrays["W_enc"],
        "threshold": 0.5 + 1e9 * off,
    }
    found = check(loaded(arrays, **changes), x).evidence
    assert (found.aligned, found.negated) == approx((1, 0))


def test_readings_that_mean_nothing_of_an_sae_are_not_tried():
    """Without a bias only the usual scale, whatever that of the file."""
    arrays, x = exact()
    tried = dict(others(Reading.of(loaded(arrays, normalisation=Scale(4))), x))
    cause = [*tried][-1]
    scale = 12**0.5 / norm(x, axis=1).mean()
    assert tried[cause].normalisation.factor == approx(scale)
    assert f"{4 / scale:.2g} times as long" in cause and "norm of about 0.866" in cause
    causes = " ".join(tried)
    assert causes.count("times as long") == 1 and "square" not in causes
    assert "decoder's bias is" not in causes and "unit norm" not in causes


def extreme(big, kind):
    """The rows with one that is far longer than all, of some type of numbers."""
    rows = real_data.ROWS[real_data.usual()].astype(kind)
    spoilt = rows.copy()
    spoilt[[7, 300]] = np.array([[big], [-0.9 * big]]) * np.sign(rows[[7, 300]])
    return rows, spoilt


@mark.parametrize(
    ("big", "kind"), [(1e30, "f4"), (3e38, "f4"), (6e4, "f2"), (1e20, "f8")]
)
def test_an_extreme_row_neither_warns_nor_changes_what_is_found(big, kind):
    rows, spoilt = extreme(big, kind)
    sae = SAE.from_arrays(*real_data.ARRAYS, **real_data.OPTIONS)
    found = check(sae, spoilt)
    left = check(sae, np.delete(rows, [7, 300], axis=0))
    assert (
        found.wrong == left.wrong == () and found.outliers == 2 and left.outliers == 0
    )
    assert found.columns == left.columns and found.evidence == left.evidence
    assert "left out: 2 outlier tokens" in str(found) and "left out" not in str(left)
    # Beyond this codes themselves overflow.
    if big < 1e38:
        guess = real_data.decoded(real_data.codes_of(spoilt))
        assert found.with_outliers["fvu"] == approx(fvu(spoilt, guess), rel=1e-3)


HEALTHY = {
    "fvu": 0.2,
    "l0": 4.0,
    "offset": 0.0,
    "gain": 1.0,
    "used": np.full(20, 100),
    "dead": 0,
}
HEALTHY |= Evidence(0, True, 1.0, 0.0, 0.0, 0, 0, ())._asdict()
# A number, its value beyond a threshold, its value within, and what is said beyond.
THRESHOLDS = [
    ("fvu", 0.51, 0.49, "high for an SAE"),
    ("fvu", 0.9, 0.499, "not read as it was trained"),
    ("l0", 0.99, 1.0, "no latent on"),
    ("l0", 6.1, 6.0, "dense for an SAE"),
    ("offset", 0.26, 0.25, "one vector for all"),
    ("gain", 0.75, 0.76, "fit best when multiplied"),
    ("gain", 1.12, 1.11, "fit best when multiplied"),
    ("aligned", 0.84, 0.86, "nearest to its own atom"),
    ("k", 8, 7.9, "but k is 8"),
    ("k", 2, 2.1, "but k is 2"),
    ("negated", 0.51, 0.5, "signs of the encoder"),
    ("misplaced", 0.021, 0.02, "permuted"),
    ("dead", 11, 10, "latents never fire"),
    ("empty", 1, 0, "weights of zeros"),
    ("copies", 1, 0, "are copies"),
]


@fixture
def faults_of(monkeypatch):
    """What is said of a healthy SAE with some other numbers."""
    monkeypatch.setattr(faults, "others", lambda *_: ())

    def faults_of(**numbers):
        seen = types.SimpleNamespace(**HEALTHY | numbers)
        own = types.SimpleNamespace(atoms=np.ones((20, 12)), most_gain=1.12)
        own.read = lambda *_: seen
        return [*faults.find_faults(own, [None], seen, seen)]

    return faults_of


@mark.parametrize(("name", "beyond", "within", "words"), THRESHOLDS)
def test_each_threshold_speaks_just_beyond_it_alone(
    faults_of, name, beyond, within, words
):
    (said,) = faults_of(**{name: beyond})
    assert words in said
    assert faults_of(**{name: within}) == []


def test_latents_that_had_few_chances_may_be_rare(faults_of):
    for chances in (CHANCES - 1, CHANCES):
        found = faults_of(dead=20, used=np.full(20, chances))
        assert len(found) == (chances >= CHANCES)
