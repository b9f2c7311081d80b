"""The numbers of the page of definitions by the suite's functions; tests/peers/test_definitions.py
has those of other libraries.
"""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from pytest import approx, fixture

import sae_gap
from sae_gap.core import matching
from sae_gap.lm import Downstream, Network, Windows
from sae_gap.metrics import atom_scores, definitions
from sae_gap.metrics.definitions import explained
from sae_gap.saes import SAE

PAGE = Path(definitions.__file__).with_name("DEFINITIONS.md").read_text()
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
# By library and name: what stands in the last column.
LINES = re.findall(r"^\| (\w+) \| `(\w+)` \|.*\| ([-.\d]+) \|$", PAGE, re.MULTILINE)
TOLD = {(library, name): float(number) for library, name, number in LINES}


@fixture(scope="module")
def example():
    names = {}
    exec(CODE, names)
    return names


def test_the_suite_has_its_own_numbers(example):
    x, guess = (example[name].astype(np.float32) for name in ("x", "reconstruction"))
    ours = {
        name: value for (library, name), value in TOLD.items() if library == "sae_gap"
    }
    found = explained(x, guess)
    for pair, name in (
        (("SAELens", "explained_variance_legacy"), "ev_saelens_legacy"),
        (("SAEBench", "explained_variance"), "ev_saebench"),
        (("dictionary_learning", "frac_variance_explained"), "ev_dictionary_learning"),
    ):
        assert found[name] == approx(TOLD[pair], abs=1e-4)
    arrays = (example[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    report = sae_gap.check(
        SAE.from_arrays(*arrays, architecture="relu"), np.tile(x, (2, 1))
    )
    found |= {"l0": report.read.l0, "dead": report.read.dead}
    row = jnp.arange(len(x))[None]
    windows = Windows(jnp.asarray(example["tokens"])[None], 0 * row, row)
    network = Network(
        lambda _: x[None], lambda stream, _: stream, example["unembedding"]
    )
    found |= Downstream(network, [windows], first=0).score(guess)
    true, atoms = (
        example[name].astype(np.float32).T for name in ("true_atoms", "W_dec")
    )
    match = matching.match_atoms(atoms, true)
    nearest = matching.nearest_atoms(atoms, true)
    found |= atom_scores(match, atoms.shape[1], nearest, {})
    found["mcc"] = sae_gap.mcc(example["true_codes"], example["z"])
    assert {name: found[name] for name in ours} == approx(ours, abs=1e-4)
