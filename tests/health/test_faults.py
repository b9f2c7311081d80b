"""The report against sums by hand, and every suspicion on an SAE with that very fault and on one
without.
"""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import sae_gap
from sae_gap import catalogue
from sae_gap.core.normalise import LayerNorm, Normalisation
from sae_gap.core.types import Split, Task
from sae_gap.saes.loaded_sae import SAE, of_parts
from sae_gap.saes.parts import Parts

FILES = Path(__file__).parents[1] / "saes/files"
D = 12


def data(seed=0, n=1_300, scale=1.0):
    """Sparse combinations of orthonormal atoms, off centre, which an SAE of those atoms and their
    mean reconstructs.
    """
    rng = np.random.default_rng(seed)
    atoms = np.linalg.qr(rng.normal(size=(D, D)))[0]
    codes = rng.uniform(1, 2, (n, D)) * (rng.random((n, D)) < np.linspace(0.05, 0.45, D))
    centre = 3 * rng.normal(size=D)
    return atoms, centre, scale * (codes @ atoms + centre + 0.01 * rng.normal(size=(n, D)))


def made(atoms, centre, *, lengths=1.0, threshold=0.5, notes=None, normalisation=None):
    """An SAE with a threshold, whose codes are 1.2 z - 0.3 for those of `data`; its atoms may have
    any lengths.
    """
    arrays = {
        "threshold": np.float32(threshold),
        "W_dec": atoms * lengths,
        "b_dec": centre,
        "W_enc": 1.2 * atoms.T / np.ravel(lengths),
        "b_enc": (-0.3 / lengths * np.ones((len(atoms), 1)))[:, 0],
    }
    parts = Parts(
        "jumprelu",
        {},
        {name: np.asarray(array, np.float32) for name, array in arrays.items()},
        centred=True,
        normalisation=normalisation or Normalisation(),
        library="test",
        architecture="jumprelu",
        notes=notes or {},
    )
    return of_parts(parts)


def test_the_figures_are_those_of_the_sums():
    sae = sae_gap.load_sae(FILES / "saelens/jumprelu")
    rng = np.random.default_rng(1)
    activations = (2 + rng.normal(size=(1_500, 6))).astype(np.float32)
    # The last samples leave most latents off, which others turn on.
    activations[1_000:] = activations[0]
    report = sae_gap.check(sae, activations)
    codes, reconstruction = (
        np.asarray(sae.encode(activations)),
        np.asarray(sae.reconstruct(activations), np.float64),
    )
    variance = ((activations - activations.mean(axis=0, dtype=np.float64)) ** 2).sum()
    assert report.fvu == pytest.approx(
        ((activations - reconstruction) ** 2).sum() / variance, rel=1e-5
    )
    assert report.l0 == pytest.approx((codes != 0).sum(axis=1).mean())
    assert report.dead == (codes == 0).all(axis=0).sum()
    weights = load_file(FILES / "saelens/jumprelu/sae_weights.safetensors")
    lengths = np.linalg.norm(weights["W_dec"], axis=1)
    assert f"{lengths.min():.4g} to {lengths.max():.4g}, median {np.median(lengths):.4g}" in str(
        report
    )
    assert f"of decoder and encoder: {np.linalg.norm(weights['b_dec']):.4g}, " in str(report)
    assert report.activation_norm == pytest.approx(
        np.linalg.norm(activations, axis=1).mean(), rel=1e-5
    )
    assert all(
        word in str(report)
        for word in ("SAELens jumprelu", "normalisation: none", "blocks.3.hook_resid_post")
    )


def test_a_sound_sae_raises_no_suspicion():
    atoms, centre, activations = data()
    for lengths in (1.0, np.linspace(0.2, 3, D)[:, None]):
        report = sae_gap.check(made(atoms, centre, lengths=lengths, threshold=0.1), activations)
        assert report.wrong == () and report.fvu < 0.01, report


def suspected(sae, activations, *words):
    found = sae_gap.check(sae, activations).wrong
    assert any(all(word in suspicion for word in words) for suspicion in found), found
    assert all(suspicion.endswith(".") and "\n" not in suspicion for suspicion in found)
    return found


def spoilt(sae, part, change):
    """The SAE with one of its arrays changed."""
    place = {
        "decoder": lambda model: model.dictionary,
        "weight": lambda model: model.encoder.affine.weight,
        "offset": lambda model: model.encoder.affine.bias,
        "bias": lambda model: model.bias,
    }[part]
    model = eqx.tree_at(place, sae.model, replace_fn=change)
    return dataclasses.replace(sae, model=model)


SPOILT = {
    "a square encoder transposed": ("weight", jnp.transpose, "square encoder transposed"),
    "a square decoder transposed": ("decoder", jnp.transpose, "square decoder transposed"),
    "encoder negated": ("weight", jnp.negative, "signs"),
    "two columns in one another's place": (
        "weight",
        lambda weight: weight.at[:, :2].set(weight[:, 1::-1]),
        "2 of 12 encoder columns",
    ),
    "a copied atom": ("decoder", lambda atoms: atoms.at[:, 0].set(atoms[:, 1]), "1 of 12 atoms"),
    "encoder's bias zero": ("offset", jnp.zeros_like, "the encoder's bias is zero"),
    "decoder's bias zero": ("bias", jnp.zeros_like, "the decoder's bias in the file is wrong"),
    "decoder too long": ("decoder", lambda atoms: 2 * atoms, "decoder's weights times 0.49"),
    "zero atoms": ("weight", lambda weight: weight.at[:, :3].set(0), "3 of 12 latents"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_weights_that_were_spoilt(case):
    part, change, words = SPOILT[case]
    atoms, centre, activations = data()
    suspected(spoilt(made(atoms, centre), part, change), activations, words)


def test_both_square_matrices_of_the_other_layout():
    atoms, centre, activations = data()
    given = np.asarray(1.2 * atoms.T), np.full(D, -0.3), atoms, centre
    options = {"architecture": "jumprelu", "threshold": 0.5}
    turned = SAE.from_arrays(given[0].T, given[1], given[2].T, given[3], **options)
    suspected(turned, activations, "both square matrices transposed", "linear=True")
    assert sae_gap.check(SAE.from_arrays(*given, **options), activations).wrong == ()


def test_a_bias_that_is_subtracted_or_not_against_the_configuration():
    atoms, centre, activations = data()
    sound = made(atoms, centre)
    shift = sound.bias @ sound.model.encoder.affine.weight
    # The same weights, said not to be centred, and the reverse.
    loose = spoilt(
        dataclasses.replace(sound, centred=False), "offset", lambda offset: offset + shift
    )
    suspected(loose, activations, "bias subtracted from the encoder's input", "configuration")
    tight = spoilt(
        dataclasses.replace(sound, centred=True), "offset", lambda offset: offset - shift
    )
    suspected(tight, activations, "bias not subtracted from the encoder's input")
    # Of an SAE that is not centred, its bias is as it should be.
    assert sae_gap.check(dataclasses.replace(sound, centred=False), activations).wrong == ()


def test_latents_in_use_are_as_many_as_k_says():
    atoms, centre, activations = data()
    suspected(made(atoms, centre, notes={"k": "9"}), activations, "k is 9")
    assert sae_gap.check(made(atoms, centre, notes={"k": "4"}), activations).wrong == ()


def test_more_latents_at_a_larger_scale_do_not_tell_against_a_fair_sae():
    atoms, centre, activations = data()
    report = sae_gap.check(made(atoms, np.zeros(D), threshold=1.3), activations - centre)
    assert 0.05 < report.fvu < 0.5 and report.wrong == ()


def test_activations_of_another_layer():
    atoms, centre, _ = data()
    other = data(seed=5)[2]
    suspected(
        made(atoms, centre, notes={"hook_name": "blocks.3"}),
        other,
        "another layer than blocks.3",
        "FVU",
    )


def test_what_the_file_says_is_missing_is_said():
    for case, words in (
        ("saelens/scaled_without_factor", ("scaled to a mean norm",)),
        ("dictionary_learning/batchtopk_not_estimated", ("never estimated",)),
        ("dictionary_learning/batchtopk_older", ("no threshold",)),
    ):
        suspected(
            sae_gap.load_sae(FILES / case), np.random.default_rng(0).normal(size=(40, 6)), *words
        )


def test_a_scale_is_not_tried_where_each_sample_is_normalised():
    atoms, centre, activations = data()
    report = sae_gap.check(made(atoms, centre, normalisation=LayerNorm()), activations)
    assert not any("activations times" in suspicion for suspicion in report.wrong)
    assert "normalisation: layer norm" in str(report)


def test_activations_by_heads_and_those_that_say_nothing():
    sae = sae_gap.load_sae(FILES / "saelens/hook_z")
    activations = np.random.default_rng(0).normal(size=(50, 2, 3))
    assert sae_gap.check(sae, activations) == sae_gap.check(sae, activations.reshape(50, 6))
    for bad, word in (
        (np.ones((20, 6)), "all activations are alike"),
        (np.arange(100.0).reshape(20, 5), "5 columns"),
        (np.ones(6), "rows"),
        (np.random.default_rng(0).normal(size=(9, 6)), "9 activations are too few"),
    ):
        with pytest.raises(ValueError, match=word):
            sae_gap.check(sae, bad)


def trained(kind, signals, width, k):
    """The arrays of an SAE of standardised signals, as libraries keep them."""
    task = Task(Split(signals), Split(signals[:2]), Split(signals[:2]), width=width)
    learner = catalogue.sae_for_activations(
        kind, sparsity=k, input_dim=signals.shape[1], num_steps=12
    )
    model = sae_gap.fit(learner, [task], [0], show_progress=False)[0].end.model
    affine = getattr(model.encoder, "affine", model.encoder)
    arrays = {"atoms": model.decoder.T, "bias": model.bias, "weight": affine.weight}
    arrays |= {"encoder_bias": affine.bias, "encoder": "topk", "options": {"k": k}, "others": {}}
    if kind == "jumprelu":
        arrays |= {"encoder": "jumprelu", "options": {}}
        arrays |= {"others": {"threshold": np.exp(model.encoder.log_threshold)}}
    return {
        name: np.asarray(part) if hasattr(part, "shape") else part for name, part in arrays.items()
    }


def loaded(arrays, **changes):
    given = {"centred": True, "library": "test", "architecture": "test", "notes": {}}
    given |= arrays | changes
    names = {"atoms": "W_dec", "bias": "b_dec", "weight": "W_enc", "encoder_bias": "b_enc"}
    tensors = {theirs: given.pop(name) for name, theirs in names.items()} | given.pop("others")
    return of_parts(Parts(tensors=tensors, **given))


@pytest.fixture(scope="module")
def zoo():
    """Activations of few directions, heavy tails and a large mean, held-out ones, and SAEs."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(256, 96)) * np.arange(1, 97) ** -0.3
    codes = rng.lognormal(0, 0.5, (6_500, 256)) * (
        rng.random((6_500, 256)) < 2 * np.arange(1, 257) ** -0.8
    )
    signals = codes @ atoms / np.linalg.norm(atoms, axis=1).mean()
    signals = signals + 0.1 * rng.standard_t(4, signals.shape) + 2 * rng.normal(size=96)
    signals = jnp.asarray(signals, jnp.float32)
    saes = {kind: trained(kind, signals[:6_000], 256, 8) for kind in ("topk", "jumprelu")}
    return signals[6_100:], saes


def damages(arrays, other):
    """By name: what is changed, and a word of the cause."""
    weight, atoms, rng = arrays["weight"], arrays["atoms"], np.random.default_rng(0)
    order = np.arange(256)
    order[:20] = np.roll(order[:20], 1)
    half = np.where(np.arange(256) % 2, -1e3, arrays["encoder_bias"])
    yield {"weight": weight[:, order]}, "encoder columns are nearest to the atom of another"
    yield {"weight": rng.permuted(weight, axis=1)}, "encoder and decoder"
    yield {"weight": other["weight"], "encoder_bias": other["encoder_bias"]}, "encoder and decoder"
    yield {"atoms": other["atoms"]}, "encoder and decoder"
    yield {"weight": -weight}, "signs"
    for factor in (0.1, 1.2, 2):
        yield {"weight": factor * weight}, "scale"
        yield {"atoms": factor * atoms}, "scale"
    yield {"encoder_bias": half}, "never fire"
    yield {"bias": 2 * arrays["bias"]}, "bias"
    yield {"bias": 0 * arrays["bias"]}, "bias"
    yield {"centred": False}, "subtracted"
    yield {"normalisation": LayerNorm()}, "normalisation"
    for factor in (0, 0.1, 2, 10) if arrays["others"] else ():
        yield {"others": {"threshold": factor * arrays["others"]["threshold"]}}, "threshold"


def test_damage_that_harms_is_named_by_its_cause_and_healthy_saes_are_not_accused(zoo):
    activations, saes = zoo
    harmful = []
    for kind, other in (("topk", "jumprelu"), ("jumprelu", "topk")):
        healthy = sae_gap.check(loaded(saes[kind]), activations, better=False)
        assert healthy.wrong == (), (kind, healthy)
        for changes, word in damages(saes[kind], saes[other]):
            report = sae_gap.check(loaded(saes[kind], **changes), activations, better=False)
            if report.fvu > 1.05 * healthy.fvu or abs(report.l0 / healthy.l0 - 1) > 0.2:
                harmful.append((kind, word, report.wrong))
    named = [case for case in harmful if case[2]]
    right = [case for case in named if any(case[1] in said for said in case[2])]
    assert len(harmful) > 30
    assert len(named) >= 0.85 * len(harmful), [case for case in harmful if not case[2]]
    assert len(right) >= 0.9 * len(named), [case for case in named if case not in right]
