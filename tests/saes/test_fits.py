"""The suite's own fits as SAEs: each file infers as the model that it holds, and whatever is no SAE
is refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap import catalogue
from sae_gap.core import identity
from sae_gap.encoders import BatchPursuit, ListaMatryoshka, MatchingPursuit, TopK, encode
from sae_gap.learners import SparseAutoencoder, SparseTranscoder
from sae_gap.storage import trees
from sae_gap.study import Models
from sae_gap.testing import check_sae_format
from tests.saes.examples import ENCODERS, close, example, refused, transcoder


def written(folder, model, learner, note=None, **encoder):
    """A file as a finished fit leaves it, but for what its encoder says of itself."""
    described = identity.describe(learner)
    described["encoder"] |= encoder
    folder.mkdir()
    note = {"learner": described, "source": {"seed": 3}} if note is None else note
    (folder / "fit.safetensors").write_bytes(trees.dump(model, note))
    return folder


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
    folder = written(tmp_path / "fit", model, SparseAutoencoder(model.encode))
    (folder / "000001.safetensors").write_bytes(b"a model along the fit")
    check_sae_format(folder, SIGNALS, own, model.reconstruct(own, None))
    sae = sae_gap.load_sae(folder)
    assert (sae.library, sae.architecture) == ("sae_gap", type(model.encode).__name__)
    told = {"fit": "fit", "learner": "SparseAutoencoder", "seed": "3"}
    # One that infers by thresholds keeps its k in a note.
    k = {"k": "3"} if hasattr(model.encode, "k") and not hasattr(sae.model.encode, "k") else {}
    assert sae.notes == told | k and bool(k) == (name in ("batchtopk", "matryoshka"))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    "name", [name for name, kind in catalogue.saes().items() if kind.reads_inputs]
)
def test_a_transcoder_infers_as_its_model_does_whatever_form_it_is_saved_in(tmp_path, name, skip):
    model, x = transcoder(catalogue.make_encoder(name, sparsity=3), skip=skip)
    codes = np.asarray(encode(model.encode, model, jnp.asarray(x)))
    # The formula, apart from the model's own.
    again = codes @ model.dictionary.T + model.bias + (x @ model.skip if skip else 0)
    fit = written(tmp_path / "fit", model, SparseTranscoder(model.encode))
    hooks = {"hook_name": "blocks.1.ln2", "hook_name_out": "blocks.1.mlp"}
    sae_gap.save_sae(model, tmp_path / "saved", metadata=hooks)
    sae_gap.save_sae(sae_gap.load_sae(tmp_path / "saved"), tmp_path / "again")
    for folder in (fit, tmp_path / "saved", tmp_path / "again"):
        check_sae_format(folder, x, codes, again)
        sae = sae_gap.load_sae(folder)
        assert (sae.transcodes, sae.num_inputs, sae.input_dim) == (True, 5, 6)
        assert not sae.centred
    assert hooks.items() <= sae.notes.items()
    by_saelens = name in ("relu", "jumprelu", "batchtopk", "matryoshka")
    assert (sae.library == "SAELens") == by_saelens
    if by_saelens:
        assert sae.architecture.endswith("skip_transcoder" if skip else "transcoder")


def test_what_the_store_of_fits_keeps_is_read(tmp_path, setting, task):
    learner, models = SparseAutoencoder(TopK(2), num_steps=2), Models(tmp_path)
    model = models.fit(learner, [setting], [task])[0].end.model
    sae = sae_gap.load_sae(str(models.folder(learner, setting)))
    close(sae.encode(task.id.signals), encode(learner.encode, model, task.id.signals))


@pytest.mark.parametrize("encoder", [ListaMatryoshka(3, step=0.9), TopK(50), MatchingPursuit(50)])
def test_what_is_saved_infers_alike_and_the_own_form_is_said(tmp_path, caplog, encoder):
    """A k beyond the width is all latents."""
    model = fitted(encoder)
    sae_gap.save_sae(model, tmp_path / "sae", metadata={"hook_name": "blocks.2"})
    again = sae_gap.load_sae(tmp_path / "sae")
    close(again.encode(SIGNALS), encode(encoder, model, jnp.asarray(SIGNALS)))
    alone = not isinstance(encoder, TopK)
    assert alone == ("sae_gap.load_sae alone reads it" in caplog.text)
    assert again.library == ("sae_gap" if alone else "SAELens")
    assert again.notes["hook_name"] == "blocks.2"


def edited(encoder, **values):
    return lambda folder: written(folder, fitted(encoder), SparseAutoencoder(encoder), **values)


def topk(**values):
    return edited(TopK(3), **values)


def noted(**note):
    learner = SparseAutoencoder(TopK(3))
    return lambda folder: written(folder, example("topk"), learner, note)


FAULTS = {
    "no tensor .encoder.log_threshold": lambda folder: written(
        folder, example("topk"), SparseAutoencoder(ENCODERS["jumprelu"])
    ),
    "of at most 10, but it is 'three'": topk(k="three"),
    "of at most 10, but it is 11": topk(k=11),
    "k in": topk(k=None),
    "screens in": edited(BatchPursuit(2), screens=2**31 - 1),
    "step in the fit fit must be": edited(ListaMatryoshka(3), step=float("nan")),
    "step must be a finite number above 0": edited(ListaMatryoshka(3), step=-1),
    "'os.system'": topk(**{"class": "os.system"}),
    "class in the fit fit must be one of": noted(),
    "metadata in": noted(learner=identity.describe(SparseAutoencoder(TopK(3))), metadata=[1]),
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_is_no_sae_is_refused_in_a_sentence(tmp_path, words):
    folder = FAULTS[words](tmp_path / "fit")
    refused(lambda: sae_gap.load_sae(folder), words)


def test_a_fit_that_is_cut_or_not_finite_is_refused(tmp_path):
    model = fitted(ListaMatryoshka(3))
    spoilt = jax.tree.map(lambda leaf: leaf * jnp.nan, model.encoder)
    for name, parts in (("nan", (model.dictionary, model.bias, spoilt)), ("cut", ())):
        given = sae_gap.Model(*parts) if parts else model
        path = written(tmp_path / name, given, SparseAutoencoder(model.encode)) / "fit.safetensors"
        path.write_bytes(path.read_bytes()[: None if parts else -50])
        refused(lambda: sae_gap.load_sae(path), "NaN" if parts else "cannot be read")  # noqa: B023
