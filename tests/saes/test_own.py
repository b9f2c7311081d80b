"""The suite's own fits as SAEs: each file infers as the model that it holds, and whatever is no SAE
is refused.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import sae_gap
from sae_gap.core import identity
from sae_gap.encoders.encoder import encode
from sae_gap.encoders.lista_matryoshka import ListaMatryoshka
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.storage import trees
from sae_gap.study.models import Models
from tests.saes.examples import ENCODERS, example
from tests.saes.test_libraries import close


def written(folder, model, learner, **encoder):
    """A file as a finished fit leaves it, but for what its encoder says of itself."""
    described = identity.describe(learner)
    if encoder:
        described["encoder"] |= encoder
    folder.mkdir()
    (folder / "fit.safetensors").write_bytes(
        trees.dump(model, {"learner": described, "source": {"seed": 3}})
    )
    return folder / "fit.safetensors"


@pytest.mark.parametrize("name", ENCODERS)
def test_a_fit_infers_as_its_model_does(tmp_path, name):
    model = example(name)
    activations = np.random.default_rng(0).normal(1, 1.5, size=(24, 6)).astype(np.float32)
    own = np.asarray(encode(model.encode, model, jnp.asarray(activations)))
    path = written(tmp_path / "fit", model, SparseAutoencoder(model.encode))
    (tmp_path / "fit" / "000001.safetensors").write_bytes(b"a model along the fit")
    sae = sae_gap.load_sae(path.parent)
    assert (sae.library, sae.architecture) == ("sae_gap", model.encode.name)
    assert sae.notes == {"fit": "fit", "learner": "SparseAutoencoder", "seed": "3"}
    found = np.asarray(sae.encode(activations))
    np.testing.assert_array_equal(found != 0, own != 0)
    close(found, own)
    for held in (found, scipy.sparse.csr_array(found)):
        close(sae.decode(held), own @ model.decoder.T + model.bias)
    assert 0 < (own != 0).mean() < 1


def test_what_the_store_of_fits_keeps_is_read(tmp_path, setting, task):
    learner, models = SparseAutoencoder(TopK(2), num_steps=2), Models(tmp_path)
    model = models.fit(learner, [setting], [task])[0].end.model
    sae = sae_gap.load_sae(str(models.folder(learner, setting)))
    close(sae.encode(task.id.signals), encode(learner.encode, model, task.id.signals))


def fitted(encoder):
    """A model with atoms of many lengths and a bias."""
    random = np.random.default_rng(1)
    atoms, bias = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((6, 10), 6))
    return sae_gap.Model(atoms, bias, encoder.parameters(0.3 * atoms, jax.random.key(0)), encoder)


@pytest.mark.parametrize("encoder", [BatchPursuit(2, 1, 3), ListaMatryoshka(3)])
def test_a_fit_that_no_library_has_a_form_for_infers_as_its_model_does(tmp_path, caplog, encoder):
    model = fitted(encoder)
    sae = sae_gap.load_sae(written(tmp_path / "fit", model, SparseAutoencoder(model.encode)))
    activations = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    own = np.asarray(encode(model.encode, model, jnp.asarray(activations)))
    close(sae.encode(activations), own)
    close(sae.reconstruct(activations), own @ model.decoder.T + model.bias)
    # On unit atoms the codes grow by the lengths, and the lasso of `measure_sae` is on those.
    lengths = np.linalg.norm(model.decoder, axis=0)
    close(sae.encode_target(sae.target(activations)), own * lengths)
    close(sae.unit_dictionary, model.decoder / lengths)
    report = sae_gap.check(sae, activations)
    assert report.l0 == (own != 0).sum(axis=1).mean()
    for number, one in enumerate((model, sae)):
        sae_gap.save_sae(
            one, tmp_path / f"{number}", metadata={"hook_name": "blocks.2.hook_resid_post"}
        )
        alone = "sae_gap.load_sae alone reads it" in caplog.text
        assert alone == isinstance(encoder, ListaMatryoshka)
        again = sae_gap.load_sae(tmp_path / f"{number}")
        np.testing.assert_array_equal(again.encode(activations), sae.encode(activations))
        np.testing.assert_array_equal(again.reconstruct(activations), sae.reconstruct(activations))
        assert again.notes["hook_name"] == "blocks.2.hook_resid_post"
        assert again.library == ("sae_gap" if alone else "SAELens")
        caplog.clear()


@pytest.mark.parametrize(
    "encoder", [ListaMatryoshka(3, step=0.9), BatchPursuit(50, 3), MatchingPursuit(50)]
)
def test_what_inference_asks_for_is_kept_and_a_k_beyond_the_width_is_all_latents(tmp_path, encoder):
    model, signals = (
        fitted(encoder),
        np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32),
    )
    sae_gap.save_sae(model, tmp_path / "sae")
    close(
        sae_gap.load_sae(tmp_path / "sae").encode(signals),
        encode(encoder, model, jnp.asarray(signals)),
    )


def test_a_signed_fit_stays_signed_and_a_dead_atom_dead(tmp_path):
    model = fitted(MatchingPursuit(2))
    dead = dataclasses.replace(model, dictionary=model.decoder.at[:, 3].set(0))
    sae = sae_gap.load_sae(written(tmp_path / "fit", dead, SparseAutoencoder(model.encode)))
    signals = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    codes = np.asarray(sae.encode_target(sae.target(signals)))
    assert sae.signed and codes.min() < 0 < codes.max()
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(sae.lengths) == 0), [3])
    close(sae.encode(signals), encode(model.encode, dead, jnp.asarray(signals)))


def cut(folder):
    path = written(folder, example("topk"), SparseAutoencoder(TopK(3)))
    path.write_bytes(path.read_bytes()[:-50])
    return path


def noteless(folder):
    folder.mkdir()
    (folder / "fit.safetensors").write_bytes(trees.dump(example("topk"), {}))
    return folder


def told_a_list(folder):
    folder.mkdir()
    told = {"learner": identity.describe(SparseAutoencoder(TopK(3))), "metadata": [1]}
    (folder / "fit.safetensors").write_bytes(trees.dump(example("topk"), told))
    return folder


def edited(encoder, **values):
    return lambda folder: written(folder, fitted(encoder), SparseAutoencoder(encoder), **values)


def topk(**values):
    return edited(TopK(3), **values)


def thresholdless(folder):
    model = fitted(BatchPursuit(3))
    spoilt = dataclasses.replace(model.encoder, value=jnp.asarray(jnp.nan))
    return written(
        folder, dataclasses.replace(model, encoder=spoilt), SparseAutoencoder(model.encode)
    )


FAULTS = {
    "another encoder": (
        lambda folder: written(folder, example("topk"), SparseAutoencoder(ENCODERS["jumprelu"])),
        "is expected",
    ),
    "k of another type": (topk(k="three"), "k in its note"),
    "k beyond the width": (topk(k=11), "of at most 10, but it is 11"),
    "no k": (topk(k=None), "k in"),
    "a negative k": (topk(k=-1), "of at most 10, but it is -1"),
    "screens without end": (edited(BatchPursuit(2), screens=2**31 - 1), "screens in"),
    "a step of NaN": (edited(ListaMatryoshka(3), step=float("nan")), "step in"),
    "a step back": (edited(ListaMatryoshka(3), step=-1), "step must be a finite number above 0"),
    "a threshold of NaN": (thresholdless, "NaN"),
    "code": (topk(**{"class": "os.system"}), "'os.system'"),
    "cut short": (cut, "cannot be read"),
    "no note": (noteless, "class in its note must be one of"),
    "metadata that are a list": (told_a_list, "metadata in its note must be an object"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_sae_is_refused_in_a_sentence(tmp_path, fault):
    make, words = FAULTS[fault]
    with pytest.raises(ValueError) as caught:
        sae_gap.load_sae(make(tmp_path / "fit"))
    assert (
        words in str(caught.value)
        and "fit it again" in str(caught.value)
        and "\n" not in str(caught.value)
    ), caught.value
