"""Every loader against what the library itself gave for the same file: codes, supports and
reconstructions.
"""

import functools

import numpy as np
from pytest import mark

import sae_gap
from sae_gap.testing import check_sae_format
from tests.saes.examples import FILES, refused

LIBRARIES = {
    "saelens": "SAELens",
    "gemma_scope": "Gemma Scope",
    "circuit_tracer": "circuit-tracer",
    "saved": "SAELens",
}
# Those of which no folder of SAELens can hold the encoder or the normalisation.
UNWRITTEN = {
    "dictionary_learning/batchtopk_older": "BatchLargest",
    "sparsify/groupmax": "GroupMax",
    "saelens/scaled": "scaled by 0.37",
    "saelens/whitened": "whitening",
}
TRANSCODERS = ("circuit_tracer", "sparsify/layers.2.mlp", "sparsify/layers.3.mlp")
CASES = sorted(
    str(path.parent.relative_to(FILES)) for path in FILES.glob("*/**/expected.npz")
)


def expected(case):
    with np.load(FILES / case / "expected.npz") as found:
        return found["activations"], found["codes"], found["reconstruction"]


@functools.cache
def loaded(case):
    return sae_gap.load_sae(FILES / case)


@mark.parametrize("case", CASES)
def test_an_sae_is_the_librarys_own_and_so_is_what_is_written_of_it(case, tmp_path):
    check_sae_format(FILES / case, *expected(case))
    sae = loaded(case)
    again = tmp_path / "sae"
    (library, _) = case.split("/", 1)
    assert sae.library == LIBRARIES.get(library, library)
    assert sae.transcodes == (case.startswith(TRANSCODERS) or "transcoder" in case)
    if case in UNWRITTEN:
        refused(lambda: sae_gap.save_sae(sae, again), UNWRITTEN[case])
        assert not [*tmp_path.iterdir()]
        return
    sae_gap.save_sae(sae, again)
    check_sae_format(again, *expected(case))
    for hook in ("hook_name", "hook_name_out"):
        assert sae_gap.load_sae(again).notes.get(hook) == sae.notes.get(hook)
