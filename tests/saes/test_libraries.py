"""Every loader against what the library itself gave for the same file: codes, supports and
reconstructions.
"""

import functools
from pathlib import Path

import numpy as np
import pytest

import sae_gap
from sae_gap.encoders.encoder import encode

FILES = Path(__file__).parent / "files"
LIBRARIES = {
    "saelens": "SAELens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
    "gemma_scope": "Gemma Scope",
    "saved": "SAELens",
}
CASES = sorted(str(path.parent.relative_to(FILES)) for path in FILES.glob("*/**/expected.npz"))


def expected(case):
    with np.load(FILES / case / "expected.npz") as found:
        return found["activations"], found["codes"], found["reconstruction"]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * max(1, np.abs(wanted).max()))


def test_there_are_files_of_every_library():
    assert {case.split("/")[0] for case in CASES} == set(LIBRARIES)
    assert len(CASES) > 45


@functools.cache
def loaded(case):
    return sae_gap.load_sae(FILES / case)


@pytest.mark.parametrize("case", CASES)
def test_the_sae_is_the_librarys_own(case):
    activations, codes, reconstruction = expected(case)
    sae = loaded(case)
    assert sae.library == LIBRARIES[case.split("/")[0]]
    assert (sae.num_latents, sae.input_dim) == (codes.shape[1], reconstruction.shape[1])
    found = np.asarray(sae.encode(activations))
    np.testing.assert_array_equal(found != 0, codes != 0)
    close(found, codes)
    close(sae.decode(codes, like=activations), reconstruction)
    close(sae.reconstruct(activations), reconstruction)


@pytest.mark.parametrize("case", CASES)
def test_its_model_has_the_librarys_codes_and_those_on_unit_atoms_fit_the_target(case):
    activations, codes, reconstruction = expected(case)
    sae, flat = loaded(case), activations.reshape(len(activations), -1)
    np.testing.assert_allclose(np.linalg.norm(sae.unit_dictionary, axis=0), 1, atol=1e-6)
    found = encode(sae.model.encode, sae.model, sae.model.signals(flat))
    close(found, codes)
    close(sae.model.reconstruct(found, flat), reconstruction)
    target = sae.target(activations)
    own = sae.encode_target(target)
    close(own, codes * np.asarray(sae.lengths))
    close(sae.normalisation.undo(target + sae.bias, flat), flat)
