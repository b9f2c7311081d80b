"""The suite's own fits as SAEs: each file infers as the model that it holds, and whatever is no SAE
is refused.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap import catalogue
from sae_gap.core import identity
from sae_gap.encoders.encoder import encode
from sae_gap.encoders.lista_matryoshka import ListaMatryoshka
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.learners.sparse_transcoder import SparseTranscoder
from sae_gap.storage import trees
from sae_gap.study.models import Models
from sae_gap.testing import check_sae_format
from tests.saes.examples import ENCODERS, example, transcoder
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


def fitted(encoder):
    """A model with atoms of many lengths, a bias and parameters as training moves them."""
    random = np.random.default_rng(1)
    atoms, bias = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((6, 10), 6))
    parameters = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(random.uniform(0, 0.3, leaf.shape), jnp.float32),
        encoder.parameters(0.3 * atoms, jax.random.key(0)),
    )
    return sae_gap.Model(atoms, bias, parameters, encoder)


SIGNALS = np.random.default_rng(0).normal(1, 1.5, size=(24, 6)).astype(np.float32)


@pytest.mark.parametrize("name", catalogue.saes())
def test_a_fit_infers_as_its_model_does(tmp_path, name):
    model = fitted(catalogue.make_encoder(name, sparsity=3))
    own = np.asarray(encode(model.encode, model, jnp.asarray(SIGNALS)))
    path = written(tmp_path / "fit", model, SparseAutoencoder(model.encode))
    (tmp_path / "fit" / "000001.safetensors").write_bytes(b"a model along the fit")
    check_sae_format(path.parent, SIGNALS, own, model.reconstruct(own, None))
    sae = sae_gap.load_sae(path.parent)
    assert (sae.library, sae.architecture) == ("sae_gap", type(model.encode).__name__)
    assert sae.notes.items() >= {"fit": "fit", "learner": "SparseAutoencoder", "seed": "3"}.items()
    assert sae.notes.get("k", str(sae.model.encode.k) if "k" in dir(model.encode) else None) in (
        None,
        "3",
    )


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    "name", [name for name, kind in catalogue.saes().items() if kind.reads_inputs]
)
def test_a_transcoder_infers_as_its_model_does_whatever_form_it_is_saved_in(tmp_path, name, skip):
    model, x = transcoder(catalogue.make_encoder(name, sparsity=3), skip=skip)
    codes = np.asarray(encode(model.encode, model, jnp.asarray(x)))
    # The formula, apart from the model's own.
    again = codes @ model.dictionary.T + model.bias + (x @ model.skip if skip else 0)
    fit = written(tmp_path / "fit", model, SparseTranscoder(model.encode)).parent
    hooks = {"hook_name": "blocks.1.ln2", "hook_name_out": "blocks.1.mlp"}
    sae_gap.save_sae(model, tmp_path / "saved", metadata=hooks)
    sae_gap.save_sae(sae_gap.load_sae(tmp_path / "saved"), tmp_path / "again")
    for folder in (fit, tmp_path / "saved", tmp_path / "again"):
        check_sae_format(folder, x, codes, again)
        sae = sae_gap.load_sae(folder)
        assert (sae.transcodes, sae.num_inputs, sae.input_dim) == (True, 5, 6)
        assert not sae.centred
    assert hooks.items() <= sae.notes.items()
    if sae.library == "SAELens":
        assert sae.architecture.endswith("skip_transcoder" if skip else "transcoder")
    else:
        assert name not in ("relu", "jumprelu", "batchtopk")


def test_what_the_store_of_fits_keeps_is_read(tmp_path, setting, task):
    learner, models = SparseAutoencoder(TopK(2), num_steps=2), Models(tmp_path)
    model = models.fit(learner, [setting], [task])[0].end.model
    sae = sae_gap.load_sae(str(models.folder(learner, setting)))
    close(sae.encode(task.id.signals), encode(learner.encode, model, task.id.signals))


@pytest.mark.parametrize("encoder", [BatchPursuit(2, 1, 3), ListaMatryoshka(3)])
def test_what_saelens_has_no_form_for_is_written_in_the_own_form_and_said(
    tmp_path, caplog, encoder
):
    sae_gap.save_sae(fitted(encoder), tmp_path / "sae", metadata={"hook_name": "blocks.2"})
    alone = isinstance(encoder, ListaMatryoshka)
    assert alone == ("sae_gap.load_sae alone reads it" in caplog.text)
    again = sae_gap.load_sae(tmp_path / "sae")
    assert again.library == ("sae_gap" if alone else "SAELens")
    assert again.notes["hook_name"] == "blocks.2"
    sae_gap.save_sae(again, tmp_path / "other")
    found, other = (one.encode(SIGNALS) for one in (again, sae_gap.load_sae(tmp_path / "other")))
    np.testing.assert_array_equal(found, other)


@pytest.mark.parametrize(
    "encoder", [ListaMatryoshka(3, step=0.9), BatchPursuit(5, 3), MatchingPursuit(50)]
)
def test_what_inference_asks_for_is_kept_and_a_k_beyond_the_width_is_all_latents(tmp_path, encoder):
    model = fitted(encoder)
    sae_gap.save_sae(model, tmp_path / "sae")
    wanted = encode(encoder, model, jnp.asarray(SIGNALS))
    close(sae_gap.load_sae(tmp_path / "sae").encode(SIGNALS), wanted)


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
