"""The split of a loss: its parts sum to it, each is right where the truth is known, and a killed
run goes on.
"""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap.core import normalise
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.pursuit import OMP
from sae_gap.encoders.topk import TopK
from sae_gap.lm.downstream import Downstream, Network
from sae_gap.lm.language_model import Windows
from sae_gap.measure import losses
from sae_gap.measure.losses import split_lines
from sae_gap.measure.methods import encoder_at, refit
from sae_gap.measure.plan import put_back
from sae_gap.saes.foreign_encoders import AbsTopK
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import sparse_code
from sae_gap.study import scoring

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
    down = Downstream(network, [windows], first=2)
    down.information = down.sensitivity
    return SimpleNamespace(atoms=atoms, downstream=down)


@dataclasses.dataclass(frozen=True)
class Source:
    """The network as a source; another name is another text."""

    network: Downstream = dataclasses.field(compare=False)
    name: str = "this"
    seed: int = 0
    input_dim: int = DIM

    def asdict(self):
        return {"name": self.name, "seed": self.seed}

    def task(self):
        net = self.network
        rows = jnp.asarray(net.activations)
        held = Split(rows, documents=net.documents, counts=net.replaced)
        return Task(Split(rows), held, held, width=20, network=net)


def candidate(name, atoms, encode=None):
    return SAE.of_model(Model(jnp.asarray(atoms), jnp.zeros(DIM), encode=encode), name=name)


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """The support of the lasso, with half its values."""

    lam: float

    def __call__(self, model, signals):
        return sparse_code(signals, model.dictionary, self.lam).codes / 2


def run(patched, folder, *saes, l0=(1, 2), controls=(), codes=CODES, **source):
    store = sae_gap.Store(folder)
    return put_back(Source(patched.downstream, **source), saes, store, l0, codes, controls)


def test_parts_sum_to_the_loss_and_name_what_is_at_fault(patched, tmp_path, monkeypatch):
    random = np.random.default_rng(1).normal(size=(DIM, 20)).astype(np.float32) / DIM**0.5
    candidates = [
        candidate("values", patched.atoms, Shrunk(0.3)),
        candidate("atoms", random, Shrunk(0.7)),
    ]
    candidates += [candidate("true", patched.atoms), candidate("dense", random, Shrunk(0.01))]
    candidates += [candidate("dead", patched.atoms, Shrunk(1.7))]
    rows = run(patched, tmp_path, *candidates)
    scored = {(row["dictionary"], row["codes"], row["level"]): row for row in rows}
    for row in scored.values():
        if row["codes"] == "lasso":
            assert row["own_certificate"] < 1.1e-6
            assert row["l0"] == pytest.approx(row["level"], rel=0.05)
    down = patched.downstream
    dead = [row for row in rows if row.get("dead")]
    assert {row["dictionary"] for row in dead} == {"dead"} and 0 < dead[0]["l0"] < 1
    # No sparse codes are as dense as some, and dead ones have no match.
    lines = {(line["dictionary"], line["loss"]): line for line in split_lines(rows)}
    assert set(lines) == {
        (name, loss) for name in ("values", "atoms") for loss in ("kl", "ce", "fvu")
    }
    # Without the encoder's codes there is nothing to split.
    assert split_lines(row for row in rows if row["codes"] != "own_refit") == []
    for (name, loss), line in lines.items():
        parts = [line[f"{part}_part"] for part in losses.PARTS]
        assert sum(parts) + line["rest"] == pytest.approx(line["total"])
        assert sum(parts[:2]) == pytest.approx(line["amortisation_part"])
        (own,) = (
            row for row in scored.values() if (row["dictionary"], row["codes"]) == (name, "own")
        )
        total = {"kl": own["kl"], "ce": own["ce"] - down.clean.ce.mean(), "fvu": own["fvu"]}[loss]
        assert line["total"] == pytest.approx(total)
        assert sum(own["ce_clean"]) / sum(own["tokens"]) == pytest.approx(down.clean.ce.mean())
        references = own["ce_zero"], own["ce_mean"]
        assert references == pytest.approx((down.zero.ce.mean(), down.mean.ce.mean()))
        assert own["fvu_outliers"] != pytest.approx(own["fvu"], rel=0.1)
    # Its support is that of the lasso, on the true atoms: only values are lost.
    one, other = lines["values", "kl"], lines["atoms", "kl"]
    assert one["values_low"] > 0 and one["support_part"] == pytest.approx(
        0, abs=0.02 * one["total"]
    )
    assert one["dictionary_part"] == pytest.approx(0, abs=1e-6)
    assert other["best"] in ("true", "values") and other["dictionary_low"] > 0
    # A path that is named otherwise changes names alone, and nothing is measured again.
    monkeypatch.setattr(scoring, "Inference", None)
    renamed = [dataclasses.replace(sae, name=f"a/{sae.name}") for sae in candidates]
    for line, other in zip(
        split_lines(rows), split_lines(run(patched, tmp_path, *renamed)), strict=True
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
    measured = {row["dictionary"] for row in rows if row["codes"] == "proposed"}
    assert measured == set(weights) and not any("lam" in row for row in rows)
    lines = {line["dictionary"]: line for line in split_lines(rows) if line["loss"] == "kl"}
    assert lines["function"]["selection_part"] is lines["function"]["screening_high"] is None
    for name in weights:
        line = lines[name]
        selection, screening = (line[f"{part}_part"] for part in losses.SUPPORT)
        assert selection + screening == pytest.approx(line["support_part"])
        assert line["own_best_codes"] == line["best_codes"] == "screened"
    unlike, turned = (lines[name] for name in weights)
    assert unlike["selection_low"] > 10 * abs(unlike["screening_part"])
    assert turned["screening_low"] > 0 and turned["screening_part"] > turned["selection_part"]


def test_codes_with_signs_are_not_screened(patched, tmp_path):
    """Those of a control neither, which have the signs of the first."""
    affine = Affine(jnp.asarray(patched.atoms), jnp.zeros(20))
    signed = SAE.of_model(
        Model(jnp.asarray(patched.atoms), jnp.zeros(DIM), affine, AbsTopK(2)), name="signed"
    )
    chosen = ("own", "screened", "lasso")
    rows = run(patched, tmp_path, signed, controls=("random",), l0=(2,), codes=chosen)
    found = [(row["dictionary"], row["codes"]) for row in rows]
    assert found == [("signed", "own"), ("signed", "lasso"), ("random", "lasso")]
    assert [row["nonneg"] for row in rows if "nonneg" in row] == []


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
    assert losses.best_at(rows, 4) == rows[3] and losses.best_at(rows, 4, "a") == rows[1]
    assert losses.best_at(rows, 3) is None and losses.best_at(rows, 2, "a") == rows[7]
    assert losses.best_at(rows, 8) == rows[-1]


@pytest.mark.parametrize(
    ("l0", "near", "level"),
    [(34, 64, 34), (16.1, 16, 16), (34.3, 64, 34), (33.7, 64, 34), (1.4, 16, 1.4), (0, 16, 0)],
)
def test_an_encoder_is_split_at_its_own_l0_and_beside_the_asked_one_of_nearest_ratio(
    l0, near, level
):
    assert losses.placed(l0, (16, 64)) == {"near": near, "level": level}


def test_weighted_codes_cost_fewer_nats(patched, tmp_path):
    """Than those of least squares on half as many atoms as the rows have; where all errors cost
    alike, they are the same.
    """
    true, kinds, down = (
        candidate("true", patched.atoms),
        ("screened", "weighted"),
        patched.downstream,
    )
    for name, information in (("flat", lambda: np.eye(DIM)), ("nats", down.sensitivity)):
        down.information = information
        plain, weighted = run(patched, tmp_path, true, l0=(1,), codes=kinds, name=name)
        assert (plain["codes"], weighted["codes"]) == kinds
        assert weighted["l0"] == pytest.approx(1, abs=0.05)
        if name == "flat":
            np.testing.assert_allclose(weighted["kl_sums"], plain["kl_sums"], rtol=1e-3)
        else:
            assert weighted["kl"] < 0.97 * plain["kl"] and weighted["fvu"] > plain["fvu"]


@pytest.mark.parametrize("name", ["lasso", "screened", "weighted"])
def test_an_l0_need_not_be_whole(patched, name):
    learner = candidate("true", patched.atoms).given
    found = encoder_at(name, 1.5, learner)
    assert getattr(found, "encoder", found).l0 == 1.5
    # But for the pursuit, whose values are least squares.
    assert encoder_at("omp", 2.6, learner) == refit(OMP(3, nonneg=True))


@pytest.mark.parametrize("kind", [None, "each", "white"])
def test_where_activations_are_in_other_units_none_has_weighted_codes(patched, tmp_path, kind):
    """Dictionaries are compared by codes of the same kinds."""
    plain, eye = candidate("plain", patched.atoms), np.eye(DIM, dtype=np.float32)
    other = {
        "each": normalise.ConstantNorm(),
        "white": normalise.Whitening(np.zeros(DIM, np.float32), 2 * eye, eye / 2),
    }
    saes = [plain]
    if kind:
        model = dataclasses.replace(plain.model, normalisation=other[kind])
        saes.append(dataclasses.replace(plain, name=kind, model=model))
    rows = run(patched, tmp_path, *saes, l0=(1,), codes=("screened", "weighted"))
    found = [row["codes"] for row in rows]
    assert found == (["screened"] * 2 if kind else ["screened", "weighted"])


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([0, 5, 0], "of a single document, so no interval"),
        ([1, 0, 2], "over only 2 documents"),
        ([1] * losses.FEW_DOCUMENTS, f"over {losses.FEW_DOCUMENTS} documents"),
    ],
)
def test_what_intervals_are_over(tokens, told):
    assert losses.over_documents({"tokens": tokens}) == told
