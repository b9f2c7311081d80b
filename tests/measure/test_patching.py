"""The split of a loss: that its parts sum to it, what each is on cases whose truth is known, and
that it goes on.
"""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

import sae_gap
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.topk import TopK
from sae_gap.lm.language_model import Windows
from sae_gap.measure import patching
from sae_gap.measure.downstream import Downstream, Network
from sae_gap.measure.patching import Patching, split_lines
from sae_gap.saes import normalise
from sae_gap.saes.foreign_encoders import AbsTopK
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import sparse_code
from sae_gap.solvers.greedy import orthogonal_matching_pursuit

ROWS, LENGTH, DIM = 12, 16, 16
# Less those of a screened pursuit, of which each number of atoms is a program.
CODES = ("own", "own_refit", "lasso", "lasso_refit", "omp")


@pytest.fixture(scope="module")
def patched():
    """A network whose residual stream is a sparse sum of known atoms, and whose logits are linear
    in it.
    """
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(DIM, 20)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=0)
    codes = rng.uniform(1, 2, (ROWS, LENGTH, 20)) * (
        rng.random((ROWS, LENGTH, 20)).argsort(axis=2) < 2
    )
    stream = (codes @ atoms.T).astype(np.float32)
    # Outlier tokens, as dense as can be, which take no part in anything.
    stream[:, 0] *= 300
    stream[:, 0] += 100 * rng.normal(size=(ROWS, DIM))
    network = Network(
        lambda _: stream, lambda hidden, _: hidden, rng.normal(size=(30, DIM)).astype(np.float32)
    )
    tokens, positions = rng.integers(0, 30, (ROWS, LENGTH)), np.tile(np.arange(LENGTH), (ROWS, 1))
    windows = Windows(*(jnp.asarray(part, jnp.int32) for part in (tokens, 0 * tokens, positions)))
    return SimpleNamespace(atoms=atoms, downstream=Downstream(network, [windows], first=2))


def candidate(name, atoms, encode=None):
    return SAE.of_model(Model(jnp.asarray(atoms), jnp.zeros(DIM), encode=encode), name=name)


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """The support of the lasso, with half its values."""

    lam: float

    def __call__(self, model, signals):
        return sparse_code(signals, model.dictionary, self.lam).codes / 2


def run(patched, folder, *saes, l0=(1, 2), controls=None, **options):
    found = Patching(patched.downstream, "this", sae_gap.Store(folder), l0, **options)
    return found.run(saes, controls or {}, show_progress=False)


def test_parts_sum_to_the_loss_and_name_what_is_at_fault(patched, tmp_path, monkeypatch):
    random = np.random.default_rng(1).normal(size=(DIM, 20)).astype(np.float32) / DIM**0.5
    candidates = [
        candidate("values", patched.atoms, Shrunk(0.3)),
        candidate("atoms", random, Shrunk(0.7)),
    ]
    candidates += [candidate("true", patched.atoms), candidate("dense", random, Shrunk(0.01))]
    candidates += [candidate("dead", patched.atoms, Shrunk(1.7))]
    rows = run(patched, tmp_path, *candidates, codes=CODES)
    scored = {
        (row["dictionary"], row["codes"], row["level"]): row
        for row in rows
        if row["kind"] == "score"
    }
    for row in scored.values():
        if row["codes"].startswith("lasso"):
            assert row["certificate"] < 1.1e-6
            assert row["l0"] == pytest.approx(row["level"], rel=0.05)
    down = patched.downstream
    dead = [row for row in rows if row.get("dead")]
    assert {row["dictionary"] for row in dead} == {"dead"} and 0 < dead[0]["l0"] < 1
    # No sparse codes are as dense as some, and dead ones have no match.
    lines = {(line["dictionary"], line["loss"]): line for line in split_lines(rows)}
    assert set(lines) == {
        (name, loss) for name in ("values", "atoms") for loss in ("kl", "ce", "fvu")
    }
    for (name, loss), line in lines.items():
        parts = [line[f"{part}_part"] for part in patching.PARTS]
        assert sum(parts) + line["rest"] == pytest.approx(line["total"])
        (own,) = (
            row for row in scored.values() if (row["dictionary"], row["codes"]) == (name, "own")
        )
        total = {"kl": own["kl"], "ce": own["ce"] - down.clean.ce.mean(), "fvu": own["fvu"]}[loss]
        assert line["total"] == pytest.approx(total)
        for part in patching.PARTS:
            assert line[f"{part}_low"] <= line[f"{part}_part"] <= line[f"{part}_high"]
    # Its support is that of the lasso, on the true atoms: only values are lost.
    one, other = lines["values", "kl"], lines["atoms", "kl"]
    assert one["values_low"] > 0 and one["support_part"] == pytest.approx(
        0, abs=0.02 * one["total"]
    )
    assert one["dictionary_part"] == pytest.approx(0, abs=1e-6)
    assert other["best"] in ("true", "values") and other["dictionary_low"] > 0
    # What is stored is not measured again.
    monkeypatch.setattr(patching, "code", None)
    again = run(patched, tmp_path, *candidates, codes=CODES)
    assert [row["key"] for row in again] == [row["key"] for row in rows]
    assert len(run(patched, tmp_path, *candidates, l0=(2,), codes=CODES)) < len(rows)
    # A path that is named otherwise changes names alone.
    renamed = [dataclasses.replace(sae, name=f"a/{sae.name}") for sae in candidates]
    for line, other in zip(
        split_lines(rows), split_lines(run(patched, tmp_path, *renamed, codes=CODES)), strict=True
    ):
        assert other == line | {name: f"a/{line[name]}" for name in ("dictionary", "best")}


def test_the_support_part_tells_latents_not_taken_from_those_not_proposed(patched, tmp_path):
    """One encoder weighs latents unlike each other, and another turns some round, which it then
    proposes last; of an encoder that is a function nothing is known.
    """
    rng, atoms = np.random.default_rng(2), jnp.asarray(patched.atoms)
    weights = {"unlike": rng.uniform(0.4, 1.6, 20), "turned": np.where(np.arange(20) < 6, -1, 1)}
    saes = [candidate("function", patched.atoms, Shrunk(0.3))]
    for name, weight in weights.items():
        affine = Affine(atoms * jnp.asarray(weight, jnp.float32), jnp.zeros(20))
        saes.append(SAE.of_model(Model(atoms, jnp.zeros(DIM), affine, TopK(2)), name=name))
    chosen = ("own", "own_refit", "screened", "proposed")
    rows = run(patched, tmp_path, *saes, l0=(2,), codes=chosen)
    measured = {row["dictionary"] for row in rows if row.get("codes") == "proposed"}
    assert measured == set(weights) and not any("lam" in row for row in rows)
    lines = {line["dictionary"]: line for line in split_lines(rows) if line["loss"] == "kl"}
    assert lines["function"]["selection_part"] is lines["function"]["screening_high"] is None
    for name in weights:
        line = lines[name]
        selection, screening = (line[f"{part}_part"] for part in patching.SUPPORT)
        assert selection + screening == pytest.approx(line["support_part"])
        for part in patching.SUPPORT:
            assert line[f"{part}_low"] <= line[f"{part}_part"] <= line[f"{part}_high"]
        assert line["own_best_codes"] == line["best_codes"] == "screened"
    unlike, turned = (lines[name] for name in weights)
    assert unlike["selection_low"] > 10 * abs(unlike["screening_part"])
    assert turned["screening_low"] > 0 and turned["screening_part"] > turned["selection_part"]


def test_codes_with_signs_are_not_screened(patched, tmp_path):
    affine = Affine(jnp.asarray(patched.atoms), jnp.zeros(20))
    signed = SAE.of_model(
        Model(jnp.asarray(patched.atoms), jnp.zeros(DIM), affine, AbsTopK(2)), name="signed"
    )
    alike = dataclasses.replace(candidate("true", patched.atoms), signed=True, role="control")
    controls = {"true": ({"control": "true"}, lambda: alike)}
    rows = run(patched, tmp_path, signed, controls=controls, l0=(2,), codes=("own", "screened"))
    assert {row.get("codes") for row in rows} == {None, "own"}


def test_the_best_codes_are_those_of_least_divergence_at_the_very_l0():
    places = (
        ("a", "omp", 4, 0.5, 0.1),
        ("a", "lasso_refit", 4, 0.4, 0.2),
        ("a", "own", 4, 0.1, 0),
        ("b", "omp", 4, 0.3, 0.3),
    )
    places += (("b", "lasso_refit", 2, 0.2, 0), ("b", "lasso_refit", 8, 0.1, 0))
    places += (("a", "screened", 4, 0.45, 0), ("a", "screened", 2, 0.1, 0.3))
    places += (("a", "lasso_refit", 2, 0.15, 0.2), ("a", "proposed", 2, 0.05, 0.1))
    places += (("a", "weighted", 8, 0.05, 0.2),)
    rows = [
        dict(zip(("dictionary", "codes", "level", "kl", "fvu"), place, strict=True))
        for place in places
    ]
    assert patching.best_at(rows, 4) == rows[3] and patching.best_at(rows, 4, "a") == rows[1]
    assert patching.best_at(rows, 3) is None and patching.best_at(rows, 2, "a") == rows[7]
    assert patching.best_at(rows, 8) == rows[-1]


def test_an_encoder_is_split_at_its_own_l0_and_beside_the_asked_one_of_nearest_ratio(
    patched, tmp_path
):
    found = Patching(patched.downstream, "this", sae_gap.Store(tmp_path), (16, 64))
    assert found._placed(34) == {"near": 64, "level": 34}
    assert found._placed(16.1) == {"near": 16, "level": 16}
    assert found._placed(34.3) == found._placed(33.7) == {"near": 64, "level": 34}
    assert found._placed(1.4) == {"near": 16, "level": 1.4}


def test_a_pursuit_of_codes_without_sign_has_values_of_non_negative_least_squares(
    patched, tmp_path
):
    atoms = np.random.default_rng(1).normal(size=(DIM, 60)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=0)
    one, down = candidate("atoms", atoms), patched.downstream
    x = down.activations[down.replaced]
    found = run(patched, tmp_path, one, l0=(3, 6), codes=("omp",))
    for row, steps in zip(found[1:], (3, 6), strict=True):
        pursued = np.asarray(
            orthogonal_matching_pursuit(jnp.asarray(x), jnp.asarray(atoms), steps, nonneg=True)
        )
        rests = [
            nnls(atoms[:, code != 0], signal)[1] ** 2
            for signal, code in zip(x, pursued, strict=True)
        ]
        assert row["fvu"] == pytest.approx(sum(rests) / down.variance.sum(), rel=1e-4)
    assert np.any(pursued < 0)


def test_a_control_is_made_when_it_is_measured_and_not_again(patched, tmp_path):
    """Its rows are those of the same atoms given as a dictionary."""
    alike, made = candidate("given", patched.atoms), []

    def make():
        made.append(1)
        return dataclasses.replace(alike, name="true", role="control")

    made_by = {"controls": {"true": ({"control": "true"}, make)}, "codes": CODES}
    rows = run(patched, tmp_path, alike, l0=(2,), **made_by)
    kl = {(row["dictionary"], row["codes"]): row["kl"] for row in rows if row["kind"] == "score"}
    assert made and all(
        kl["true", codes] == kl["given", codes] for codes in ("lasso", "lasso_refit", "omp")
    )
    made.clear()
    assert run(patched, tmp_path, alike, l0=(2,), **made_by) == rows and not made


def test_a_run_that_was_killed_goes_on_with_what_is_missing(patched, tmp_path, monkeypatch):
    one = candidate("values", patched.atoms, Shrunk(0.3))
    score, calls = Downstream.score, []

    def killed(self, guess):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(self, guess)

    monkeypatch.setattr(Downstream, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        run(patched, tmp_path, one, codes=CODES)
    stored = sae_gap.Store(tmp_path).keys()
    # The clean model, the encoder's codes, and the pursuit.
    assert len(stored) == 4
    assert stored < {row["key"] for row in run(patched, tmp_path, one, codes=CODES)}
    # Without those, there is nothing to split.
    assert split_lines(run(patched, tmp_path, one, codes=("omp",))) == []


def test_weighted_codes_cost_fewer_nats(patched, tmp_path):
    """Than those of least squares on half as many atoms as the rows have; where all errors cost
    alike, they are the same.
    """
    true, kinds = candidate("true", patched.atoms), ("screened", "weighted")
    for name, information in (("flat", np.eye(DIM)), ("nats", patched.downstream.sensitivity())):
        rows = run(
            patched,
            tmp_path,
            true,
            l0=(1,),
            codes=kinds,
            metric=(name, lambda information=information: information),
        )
        plain, weighted = (row for row in rows if row["kind"] == "score")
        assert (plain["codes"], weighted["codes"]) == kinds
        if name == "flat":
            np.testing.assert_allclose(weighted["kl_sums"], plain["kl_sums"], rtol=1e-3)
        else:
            assert weighted["kl"] < 0.97 * plain["kl"]
            assert weighted["fvu"] > plain["fvu"]
            assert weighted["l0"] == pytest.approx(1, abs=0.05)
    assert not split_lines(rows)


@pytest.mark.parametrize("kind", [None, "each", "white"])
def test_where_activations_are_in_other_units_none_has_weighted_codes(patched, tmp_path, kind):
    """Dictionaries are compared by codes of the same kinds; nor has any without a metric."""
    plain, eye = candidate("plain", patched.atoms), np.eye(DIM)
    other = {
        "each": normalise.ConstantNorm(),
        "white": normalise.Whitening(np.zeros(DIM), 2 * eye, eye / 2),
    }
    saes = [plain]
    if kind:
        saes.append(dataclasses.replace(plain, name=kind, normalisation=other[kind]))
    given = {"l0": (1,), "codes": ("screened", "weighted")}
    rows = run(patched, tmp_path, *saes, **given, metric=("eye", lambda: eye))
    found = [row["codes"] for row in rows if row["kind"] == "score"]
    assert found == (["screened"] * 2 if kind else ["screened", "weighted"])
    rows = run(patched, tmp_path, plain, **given)
    assert [row["codes"] for row in rows if row["kind"] == "score"] == ["screened"]


def test_the_row_of_the_model_without_a_change(patched, tmp_path):
    (row,) = run(patched, tmp_path, candidate("true", patched.atoms), l0=(1,), codes=("own",))
    down = patched.downstream
    expected = {"ce": down.clean.ce.mean(), "ce_zero": down.zero.ce.mean()}
    expected |= {"ce_mean": down.mean.ce.mean(), "kl_zero": down.zero.kl.mean()}
    expected |= {"kl_mean": down.mean.kl.mean(), "outliers": ROWS, "rows": ROWS * LENGTH}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert sum(row["ce_sums"]) / sum(row["tokens"]) == pytest.approx(row["ce"])


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([0, 5, 0], "of a single document, so no interval"),
        ([1, 0, 2], "over only 2 documents"),
        ([1] * patching.FEW_DOCUMENTS, f"over {patching.FEW_DOCUMENTS} documents"),
    ],
)
def test_what_intervals_are_over(tokens, told):
    assert patching.over_documents({"tokens": tokens}) == told
