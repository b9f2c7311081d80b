"""The suite's own fits as SAEs: each file infers as the model that it holds, and whatever is no SAE is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap.core import identity
from sae_gap.encoders.encoder import encode
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.storage import checkpoints
from sae_gap.study.models import Models
from tests.saes.examples import ENCODERS, example
from tests.saes.test_libraries import close


def written(folder, model, learner, **source):
    """A file as a finished fit leaves it."""
    input_dim, num_latents = model.decoder.shape
    note = {
        "learner": identity.describe(learner),
        "source": {"input_dim": input_dim, "num_latents": num_latents, "seed": 3} | source,
    }
    path = folder / "000008-end.npz"
    assert checkpoints.write(path, {"model": model}, note)
    return path


@pytest.mark.parametrize("name", ENCODERS)
def test_a_fit_infers_as_its_model_does(tmp_path, name):
    model = example(name)
    activations = np.random.default_rng(0).normal(1, 1.5, size=(40, 6)).astype(np.float32)
    own = np.asarray(encode(model.encode, model, jnp.asarray(activations)))
    path = written(tmp_path / "fit", model, SparseAutoencoder(model.encode))
    (tmp_path / "fit" / "000001.npz").write_bytes(b"a model along the fit")
    for place in (path, path.parent):
        sae = sae_gap.load_sae(place)
        assert (sae.library, sae.architecture, sae.notes["fit"], sae.notes["seed"]) == (
            "sae_gap",
            model.encode.name,
            "fit",
            "3",
        )
        found = np.asarray(sae.encode(activations))
        np.testing.assert_array_equal(found != 0, own != 0)
        close(found, own)
        close(sae.decode(found), own @ model.decoder.T + model.bias)
    assert 0 < (own != 0).mean() < 1


def test_what_the_store_of_fits_keeps_is_read(tmp_path, task):
    setting = sae_gap.Setting(num_latents=task.width, sparsity=2, num_samples=100)
    data, learner, models = sae_gap.draw(setting), SparseAutoencoder(TopK(2), num_steps=2), Models(tmp_path)
    model = models.fit(learner, [setting], [data])[0].end.model
    sae = sae_gap.load_sae(models.folder(learner, setting))
    own = encode(learner.encode, model, data.id.signals)
    close(sae.encode(data.id.signals), own)
    close(sae.reconstruct(data.id.signals), own @ model.decoder.T + model.bias)


def changed(**values):
    """A file whose TopK says something else of itself."""

    def write(folder):
        path = written(folder, example("topk"), SparseAutoencoder(TopK(3)))
        saved = checkpoints.read_or_raise(path, {"model": jax.tree.map(jnp.asarray, example("topk"))})
        learner = saved.note["learner"]
        note = saved.note | {"learner": learner | {"encoder": learner["encoder"] | values}}
        checkpoints.write(path, saved.parts, note)
        return path

    return write


def cut(folder):
    path = written(folder, example("topk"), SparseAutoencoder(TopK(3)))
    path.write_bytes(path.read_bytes()[:-50])
    return path


def without_note(folder):
    path = folder / "000008-end.npz"
    folder.mkdir()
    checkpoints.write(path, {"model": example("topk")}, {})
    return path


FAULTS = {
    "a dictionary": (
        lambda folder: written(folder, sae_gap.Model(jnp.ones((6, 10)), jnp.zeros(6)), OnlineDictionary()),
        "OnlineDictionary, which learns no encoder",
    ),
    "pursuit": (
        lambda folder: written(folder, example("topk"), SparseAutoencoder(MatchingPursuit(3))),
        "MatchingPursuit; give a fit of TopK",
    ),
    "another encoder": (
        lambda folder: written(folder, example("topk"), SparseAutoencoder(ENCODERS["jumprelu"])),
        "fit it again",
    ),
    "size": (lambda folder: written(folder, example("topk"), SparseAutoencoder(TopK(3)), num_latents=12), "is expected"),
    "no size": (lambda folder: written(folder, example("topk"), SparseAutoencoder(TopK(3)), num_latents="wide"), "num_latents"),
    "k": (changed(k=11), "only 10 latents"),
    "k of another type": (changed(k="three"), "k in"),
    "code": (changed(**{"class": "os.system"}), "system"),
    "cut short": (cut, "is not a fit that can be used"),
    "no note": (without_note, "does not tell"),
    "nothing": (lambda folder: folder / "000008-end.npz", "neither a folder nor a file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_sae_is_refused_in_a_sentence(tmp_path, fault):
    make, words = FAULTS[fault]
    with pytest.raises(ValueError) as caught:
        sae_gap.load_sae(make(tmp_path / "fit"))
    assert words in str(caught.value) and "\n" not in str(caught.value), caught.value


def test_a_fit_whose_numbers_are_not_finite_is_refused(tmp_path):
    model = example("relu")
    spoilt = sae_gap.Model(model.dictionary.at[2, 3].set(jnp.nan), model.bias, model.encoder, model.encode)
    with pytest.raises(ValueError, match="NaN"):
        sae_gap.load_sae(written(tmp_path / "fit", spoilt, SparseAutoencoder(model.encode)))
