"""Every cause that `check` names, and what it shows where it is sure of none; sound SAEs are
accused of nothing.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap import catalogue
from sae_gap.core import ConstantNorm, LayerNorm, Scale, Split, Task
from sae_gap.health import Reading, others
from sae_gap.saes import Parts, of_parts

DIM, WIDTH, K = 96, 256, 8
DRAWS = np.random.default_rng(2)
LENGTHS = np.exp(DRAWS.normal(0, 0.7, (WIDTH, 1))).astype(np.float32)
ORDER = np.r_[np.roll(np.arange(64), 1), 64:WIDTH]
DEAD = DRAWS.random(WIDTH) < 0.6


def drawn(seed):
    """Activations of few directions, heavy tails and a large mean."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(WIDTH, DIM)) * np.arange(1, DIM + 1) ** -0.3
    often = 2 * np.arange(1, WIDTH + 1) ** -0.8
    codes = rng.lognormal(0, 0.5, (7_000, WIDTH)) * (rng.random((7_000, WIDTH)) < often)
    rows = codes @ atoms / np.linalg.norm(atoms, axis=1).mean()
    rows += 0.1 * rng.standard_t(4, rows.shape) + 2 * rng.normal(size=DIM)
    return rows.astype(np.float32)


def trained(kind, rows):
    """The arrays of an SAE, as libraries keep them."""
    signals = jnp.asarray(rows)
    task = Task(Split(signals), Split(signals[:2]), Split(signals[:2]), width=WIDTH)
    learner = catalogue.sae_for_activations(kind, sparsity=K, input_dim=DIM, num_steps=12)
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


@pytest.fixture(scope="module")
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
    weight, bias, offset = arrays["W_enc"], arrays["b_dec"], arrays["b_enc"]
    shift, norms = bias @ weight, np.linalg.norm(x, axis=1, keepdims=True)
    yield "activations are 0.5 times as long", {}, x / 2
    yield "activations are 32 times as long", {}, 32 * x
    yield "a normalisation is missing", {}, x / norms
    yield "bias is subtracted twice", {}, x - bias
    yield "input and should not be", {"b_enc": offset - shift}, x
    yield "input and is not", {"centred": False}, x
    yield "added twice", {"b_dec": 2 * bias, "b_enc": offset + shift}, x
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
    weight, atoms, bias = arrays["W_enc"], arrays["W_dec"], arrays["b_dec"]
    noise = weight.std() * DRAWS.normal(size=weight.shape).astype(np.float32)
    copied = np.where(np.arange(WIDTH) % 4, np.arange(WIDTH), 0)
    off, zero = np.full(WIDTH, -1e3), np.zeros(WIDTH, "f")
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
    yield "latents never fire", {"b_enc": np.where(DEAD, -1e3, arrays["b_enc"])}, np.tile(x, (3, 1))
    yield "but k is 30", {"notes": {"k": "30"}}, x
    yield "dense for an SAE", {"b_enc": 5 + arrays["b_enc"]}, x
    yield "63 atoms or encoder columns are copies", {"W_dec": atoms[copied]}, x
    yield "63 atoms or encoder columns are copies", {"W_enc": weight[:, copied]}, x
    yield "latents have an atom or encoder weights", {"W_dec": atoms * ~DEAD[:, None]}, x


def test_a_cause_is_named_where_it_is_sure_and_only_there(zoo):
    x, layer, saes = zoo
    for kind, arrays in saes.items():
        for words, changes, rows in causes(arrays, x):
            (said,) = sae_gap.check(loaded(arrays, **changes), rows).wrong
            assert words in said, (kind, said)
    arrays, other = saes["jumprelu"], saes["topk"]
    for words, changes, rows in doubts(arrays, other, x, layer):
        wrong = sae_gap.check(loaded(arrays, **changes), rows).wrong
        assert any(words in said for said in wrong), (words, wrong)
        assert not any("so the FVU" in said or "put both" in said for said in wrong), wrong


def test_sound_saes_are_accused_of_nothing(zoo):
    x, _, saes = zoo
    for kind, arrays in saes.items():
        shift = arrays["b_dec"] @ arrays["W_enc"]
        sound = [{}, {"centred": False, "b_enc": arrays["b_enc"] - shift}]
        if kind == "jumprelu":
            sound += [rescaled(arrays, LENGTHS), {"notes": {"k": "9"}}]
        for changes in sound:
            for rows in (x, x[:60]):
                found = sae_gap.check(loaded(arrays, **changes), rows)
                assert found.wrong == () and str(found).endswith("nothing found"), found


def exact():
    """The arrays of an SAE without biases, of orthonormal atoms that sum to zero, and rows that it
    reconstructs.
    """
    rng = np.random.default_rng(0)
    atoms = np.linalg.qr(np.c_[np.ones(12), rng.normal(size=(12, 11))])[0].T[1:].astype("f")
    rows = (rng.uniform(1, 2, (400, 11)) * (rng.random((400, 11)) < 0.2) + 1e-3) @ atoms
    arrays = {"W_dec": atoms, "b_dec": np.zeros(12, "f"), "W_enc": atoms.T}
    arrays |= {"b_enc": np.zeros(11, "f"), "threshold": np.full(11, 0.5, "f")}
    return arrays, rows.astype("f") * rng.lognormal(size=(400, 1)).astype("f")


@pytest.mark.parametrize("kind", [LayerNorm(), ConstantNorm()])
def test_a_normalisation_that_the_configuration_lacks_is_named(kind):
    arrays, x = exact()
    x, sae, plain = 1e-3 * x, loaded(arrays, normalisation=kind), loaded(arrays)
    # An error of nearly nothing may be one vector.
    assert sae_gap.check(sae, x).wrong == ()
    tried = dict(others(Reading.of(plain), x))
    (reading,) = (tried[cause] for cause in tried if f"not none but {kind.name};" in cause)
    assert reading.read(x).fvu == Reading.of(sae).read(x).fvu < 0.01
    (said,) = sae_gap.check(plain, x).wrong
    assert "is not none but" in said


def test_columns_count_by_the_energy_of_their_codes():
    arrays, x = exact()
    off = np.arange(11) == 3
    changes = {"W_enc": np.where(off, -1, 1) * arrays["W_enc"], "threshold": 0.5 + 1e9 * off}
    found = sae_gap.check(loaded(arrays, **changes), x).evidence
    assert (found.aligned, found.negated) == pytest.approx((1, 0))


def test_readings_that_mean_nothing_of_an_sae_are_not_tried():
    """Without a bias only the usual scale, whatever that of the file."""
    arrays, x = exact()
    tried = dict(others(Reading.of(loaded(arrays, normalisation=Scale(4))), x))
    cause, scale = [*tried][-1], 12**0.5 / np.linalg.norm(x, axis=1).mean()
    assert tried[cause].normalisation.factor == pytest.approx(scale)
    assert f"{4 / scale:.2g} times as long" in cause and "norm of about 0.866" in cause
    causes = " ".join(tried)
    assert causes.count("times as long") == 1 and "square" not in causes
    assert "decoder's bias is" not in causes and "unit norm" not in causes
