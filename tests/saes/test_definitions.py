"""Every number of the page of definitions, by its formula in NumPy and by the suite's functions."""

import itertools
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap.core import matching
from sae_gap.lm.downstream import Downstream, Network
from sae_gap.lm.language_model import Windows
from sae_gap.metrics import definitions
from sae_gap.metrics.atoms import atom_scores
from sae_gap.metrics.definitions import explained
from sae_gap.saes.loaded_sae import SAE

PAGE = Path(definitions.__file__).with_name("DEFINITIONS.md").read_text()
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
# By library and name: what stands in the last column.
LINES = re.findall(r"^\| (\w+) \| `(\w+)` \|.*\| ([-.\d]+) \|$", PAGE, re.MULTILINE)
TOLD = {(library, name): float(number) for library, name, number in LINES}


@pytest.fixture(scope="module")
def example():
    names = {}
    exec(CODE, names)
    return names


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def matched(similarity):
    """The best mean over true rows of one column each."""
    rows, columns = similarity.shape
    return max(
        np.mean(similarity[range(rows), order])
        for order in itertools.permutations(range(columns), rows)
    )


def by_formula(names):
    x, z, guess, tokens = (names[name] for name in ("x", "z", "reconstruction", "tokens"))
    rest, centred = ((x - guess) ** 2).sum(1), ((x - x.mean(0)) ** 2).sum(1)
    legacy, q = (1 - rest / centred).mean(), (x**2).mean(0).mean() * 2
    saebench = 1 - rest.mean() / (q - (x**2).mean(0).mean() ** 2)
    found = dict.fromkeys([("sae_gap", "fvu"), ("sparsify", "fvu")], rest.sum() / centred.sum())
    found["SAELens", "explained_variance"] = 1 - rest.sum() / centred.sum()
    for library in ("SAELens", "SAEBench"):
        found[library, "explained_variance_legacy"] = legacy
    found["SAEBench", "explained_variance"] = saebench
    found["dictionary_learning", "frac_variance_explained"] = (
        1 - np.var(x - guess, axis=0, ddof=1).sum() / np.var(x, axis=0, ddof=1).sum()
    )
    for library in ("sae_gap", "SAELens", "SAEBench", "dictionary_learning"):
        found[library, "l0"] = (z != 0).sum() / len(z)
    found["sparsify", "k"], found["sparsify", "dead_pct"] = z.shape[1], 0
    for pair in (("sae_gap", "dead"), ("SAELens", "dead_latents")):
        found[pair] = (z == 0).all(0).sum()
    found["SAEBench", "frac_alive"] = (z > 0).any(0).mean()
    found["dictionary_learning", "frac_alive"] = (z.sum(0) != 0).mean()
    p, q, zero = (
        log_softmax(rows @ names["unembedding"].T) for rows in (x, guess, np.zeros_like(x))
    )
    kl, kl_zero = ((np.exp(p) * (p - other)).sum(1) for other in (q, zero))
    ce, clean, ablated = (-each[range(len(tokens) - 1), tokens[1:]].mean() for each in (q, p, zero))
    found["sae_gap", "kl"] = kl[:-1].mean()
    for library in ("SAELens", "SAEBench"):
        found[library, "kl_div_with_sae"] = kl.mean()
    found["SAELens", "kl_div_score"] = 1 - kl.mean() / kl_zero.mean()
    found["sae_gap", "delta_ce"] = ce - clean
    scores = ("sae_gap", "ce_score"), ("SAELens", "ce_loss_score")
    for pair in (*scores, ("dictionary_learning", "frac_recovered")):
        found[pair] = (ablated - ce) / (ablated - clean)
    true, atoms = names["true_atoms"], names["W_dec"]
    cosines = np.abs(true @ atoms.T)
    for pair in (("SAELens", "mean_correlation_coefficient"), ("sae_gap", "atom_mcc")):
        found[pair] = matched(cosines)
    with np.errstate(invalid="ignore"):
        correlations = np.abs(np.corrcoef(names["true_codes"].T, z.T)[:2, 2:])
    found["sae_gap", "mcc"] = matched(np.nan_to_num(correlations))
    return found


def test_the_page_has_every_number_as_its_formula_gives_it(example):
    assert len(LINES) == len(TOLD)
    assert by_formula(example) == pytest.approx(TOLD, abs=5.1e-5)


def test_the_suite_has_its_own_numbers(example):
    x, guess = (example[name].astype(np.float32) for name in ("x", "reconstruction"))
    ours = {name: value for (library, name), value in TOLD.items() if library == "sae_gap"}
    found = explained(x, guess)
    for pair, name in (
        (("SAELens", "explained_variance_legacy"), "ev_saelens_legacy"),
        (("SAEBench", "explained_variance"), "ev_saebench"),
        (("dictionary_learning", "frac_variance_explained"), "ev_dictionary_learning"),
    ):
        assert found[name] == pytest.approx(TOLD[pair], abs=1e-4)
    arrays = (example[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    report = sae_gap.check(SAE.from_arrays(*arrays, architecture="relu"), np.tile(x, (2, 1)))
    found |= {"l0": report.l0, "dead": report.dead}
    row = jnp.arange(len(x))[None]
    windows = Windows(jnp.asarray(example["tokens"])[None], 0 * row, row)
    network = Network(lambda _: x[None], lambda stream, _: stream, example["unembedding"])
    found |= Downstream(network, [windows], first=0).score(guess)
    true, atoms = (example[name].astype(np.float32).T for name in ("true_atoms", "W_dec"))
    match, nearest = matching.match_atoms(atoms, true), matching.nearest_atoms(atoms, true)
    found |= atom_scores(match, atoms.shape[1], nearest, {})
    found["mcc"] = sae_gap.mcc(example["true_codes"], example["z"])
    assert {name: found[name] for name in ours} == pytest.approx(ours, abs=1e-4)
