"""The split of a loss: its parts sum to it, each is right where the truth is known, and a killed
run goes on.
"""

import dataclasses
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark

import sae_gap
from sae_gap.analysis import LOSSES, splits
from sae_gap.analysis.parts import AMORTISED
from sae_gap.core import Model, Split, Task, normalise
from sae_gap.encoders import Affine, TopK
from sae_gap.lm import Downstream, Network, Windows
from sae_gap.measure import priced, put_back
from sae_gap.saes import SAE, AbsTopK
from sae_gap.solvers import sparse_code

ROWS = 12
LENGTH = 16
DIM = 16
# Less those of a screened pursuit, of which each number of atoms is a program.
CODES = ("own", "own_refit", "lasso", "lasso_refit", "omp")


@fixture(scope="module")
def patched():
    """A network whose residual stream is a sparse sum of known atoms, and whose logits are linear
    in it.
    """
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(DIM, 20)).astype(np.float32)
    atoms /= norm(atoms, axis=0)
    codes = rng.uniform(1, 2, (ROWS, LENGTH, 20)) * (
        rng.random((ROWS, LENGTH, 20)).argsort(axis=2) < 2
    )
    stream = (codes @ atoms.T).astype(np.float32)
    # Outlier tokens, as dense as can be, which take no part in anything.
    stream[:, 0] *= 300
    stream[:, 0] += 100 * rng.normal(size=(ROWS, DIM))
    network = Network(
        lambda _: stream,
        lambda hidden, _: hidden,
        rng.normal(size=(30, DIM)).astype(np.float32),
    )
    tokens = rng.integers(0, 30, (ROWS, LENGTH))
    positions = np.tile(np.arange(LENGTH), (ROWS, 1))
    windows = Windows(
        *(jnp.asarray(part, jnp.int32) for part in (tokens, 0 * tokens, positions))
    )
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


def candidate(name, atoms, encode=None, bias=0.0):
    model = Model(jnp.asarray(atoms), jnp.full(DIM, bias), encode=encode)
    return SAE.of_model(model, name=name)


def weighing(name, atoms, weight=1.0, encode=TopK(2)):  # noqa: B008
    """An SAE that proposes latents by their correlations times a weight."""
    atoms = jnp.asarray(atoms)
    affine = Affine(atoms * jnp.asarray(weight, jnp.float32), jnp.zeros(20))
    return SAE.of_model(Model(atoms, jnp.zeros(DIM), affine, encode), name=name)


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """The support of the lasso, with half its values."""

    lam: float

    def __call__(self, model, signals):
        return sparse_code(signals, model.dictionary, self.lam).codes / 2


@dataclasses.dataclass(frozen=True)
class Rectified:
    """Correlations above a threshold."""

    above: float

    def __call__(self, model, signals):
        return jnp.maximum(signals @ model.dictionary - self.above, 0)


@fixture(scope="module")
def real(patched):
    """The network on rows as they are in life: outlier and special tokens, and a document that is
    too short for any of its tokens to be scored.
    """
    rng = np.random.default_rng(3)
    shape = (ROWS, LENGTH)
    special = 4
    tokens = rng.integers(0, 30, shape)
    segments = np.zeros(shape, int)
    tokens[:, 5] = special
    positions = np.tile(np.arange(LENGTH), (ROWS, 1))
    segments[-1, 2:] = 1
    positions[-1, 2:] = np.arange(LENGTH - 2)
    documents = np.repeat(np.arange(ROWS), LENGTH)
    documents[-LENGTH + 2 :] = ROWS
    windows = Windows(
        *(jnp.asarray(part, jnp.int32) for part in (tokens, segments, positions))
    )
    network = patched.downstream._network
    down = Downstream(
        network, [windows], documents=documents, first=2, special=[special]
    )
    last = np.roll(segments, -1, axis=1) != segments
    last[:, -1] = True
    outlier = np.arange(ROWS * LENGTH) % LENGTH == 0
    ordinary = tokens.ravel() != special
    return SimpleNamespace(
        downstream=down,
        atoms=patched.atoms,
        head=np.asarray(network.unembedding, float),
        x=np.asarray(network.before(None), float).reshape(-1, DIM),
        ordinary=ordinary,
        replaced=ordinary & ~outlier,
        scored=ordinary & ~outlier & (positions.ravel() >= 2) & ~last.ravel(),
        targets=np.roll(tokens.ravel(), -1),
        documents=documents,
    )


def run(patched, folder, *saes, l0=(1, 2), controls=(), codes=CODES, **source):
    store = sae_gap.Store(folder)
    return put_back(
        Source(patched.downstream, **source), saes, store, l0, codes, controls
    )


def test_the_parts_name_what_is_at_fault(patched, tmp_path):
    random = (
        np.random.default_rng(1).normal(size=(DIM, 20)).astype(np.float32) / DIM**0.5
    )
    rows = run(
        patched,
        tmp_path,
        candidate("values", patched.atoms, Shrunk(0.3)),
        candidate("atoms", random, Shrunk(0.7)),
        candidate("true", patched.atoms),
        candidate("dead", patched.atoms, Shrunk(1.7)),
        candidate("dense", random, Shrunk(0.01)),
    )
    down = patched.downstream
    for row in rows:
        if row["codes"] == "lasso":
            assert row["own_certificate"] < 1.1e-6
            assert row["l0"] == approx(row["level"], rel=0.05)
    # No sparse codes are as dense as some, and dead ones have no match.
    lines = {(line["dictionary"], line["loss"]): line for line in splits(rows, LOSSES)}
    assert {name for name, _ in lines} == {"values", "atoms"}
    own = rows[0]
    assert lines["values", "ce"]["total"] == approx(own["ce"] - down.clean.ce.mean())
    assert own["ce_zero"] == approx(down.zero.ce.mean())
    assert own["ce_mean"] == approx(down.mean.ce.mean())
    assert own["fvu_outliers"] != approx(own["fvu"], rel=0.1)
    # Its support is that of the lasso, on the true atoms: only values are lost.
    one = lines["values", "kl"]
    other = lines["atoms", "kl"]
    assert one["values_low"] > 0
    assert one["support_part"] == approx(0, abs=0.02 * one["total"])
    assert one["dictionary_part"] == approx(0, abs=1e-6)
    assert other["best"] in ("true", "values") and other["dictionary_low"] > 0


def test_every_column_is_that_of_a_splice_by_hand(real, tmp_path):
    bias = 0.02
    shrunk = Rectified(0.9)
    dense = candidate("dense", real.atoms, Rectified(0.6), bias)
    saes = candidate("mine", real.atoms, shrunk, bias), dense
    (row, *_) = rows = run(real, tmp_path, *saes, l0=(1, 4), codes=("own", "omp"))
    z = np.maximum(real.x @ real.atoms - shrunk.above, 0)
    guess = z @ real.atoms.T + bias
    replaced = real.replaced
    scored = real.scored

    def log_p(stream):
        logits = stream @ real.head.T
        return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[scored]

    def cost(stream):
        mine = log_p(stream)
        clean = log_p(real.x)
        at = np.arange(scored.sum())
        return -mine[at, real.targets[scored]], (np.exp(clean) * (clean - mine)).sum(
            axis=1
        )

    def by_document(values, of):
        return np.bincount(real.documents[of], values, ROWS + 1)

    def spliced(values):
        return np.where(replaced[:, None], values, real.x)

    (clean, _) = cost(real.x)
    (ce, kl) = cost(spliced(guess))
    zero = cost(0 * real.x)
    mean = cost(spliced(real.x[replaced].mean(axis=0)))
    errors = np.square(real.x - guess).sum(axis=1)

    def variance(of):
        return np.square(real.x[of] - real.x[of].mean(axis=0)).sum(axis=1)

    every = real.ordinary
    l0 = (z[replaced] > 0).sum() / replaced.sum()
    wanted = {
        "ce": ce.mean(),
        "kl": kl.mean(),
        "delta_ce": (ce - clean).mean(),
        "ce_sums": by_document(ce, scored),
        "kl_sums": by_document(kl, scored),
        "ce_clean": by_document(clean, scored),
        "tokens": by_document(None, scored),
        "ce_zero": zero[0].mean(),
        "ce_mean": mean[0].mean(),
        "l0": l0,
        "fired": (z[replaced] > 0).any(axis=0).sum(),
        "num_scored": replaced.sum(),
        "errors": by_document(errors[replaced], replaced),
        "variance": by_document(variance(replaced), replaced),
        "fvu": errors[replaced].sum() / variance(replaced).sum(),
        "fvu_outliers": errors[every].sum() / variance(every).sum(),
        "near": 1 if l0**2 < 4 else 4,
        "level": l0,
    }
    for name, ablated in (("", zero), ("_mean", mean)):
        lost = [
            (each.mean(), other.mean())
            for each, other in zip((ce, kl), ablated, strict=True)
        ]
        wanted[f"ce_score{name}"] = 1 - (lost[0][0] - clean.mean()) / (
            lost[0][1] - clean.mean()
        )
        wanted[f"kl_score{name}"] = 1 - lost[1][0] / lost[1][1]
    for name, value in wanted.items():
        assert_allclose(row[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    # Its own L0 is neither whole nor a requested one, and one document is not scored.
    assert abs(l0 - round(l0)) > 0.05 and wanted["tokens"][ROWS - 1] == 0
    assert {each["level"] for each in rows if each["codes"] == "omp"} == {1, 4, l0}
    # More than a quarter of the dimensions is not sparse, and is not split.
    above = next(
        each for each in rows if (each["dictionary"], each["codes"]) == ("dense", "own")
    )
    assert DIM / 4 < above["l0"] < DIM / 2
    (line,) = splits(rows, ["kl"])
    assert line["units"] == ROWS and line["total"] == approx(kl.mean(), rel=1e-3)


def test_codes_are_priced_at_the_weight_of_the_lasso_of_as_many(real, tmp_path):
    source = Source(real.downstream)
    store = sae_gap.Store(tmp_path)
    sae = candidate("mine", real.atoms, Rectified(0.9))
    rows = {
        row["codes"]: row for row in priced(source, sae, store, 1, ["lasso", "omp"])
    }
    kinds = ("lasso", "lasso_refit", "lasso_pruned", "omp", "omp_pruned")
    assert (*rows,) == kinds
    x = jnp.asarray(real.x[real.replaced], jnp.float32)
    (lam,) = {row["lam"] for row in rows.values()}
    z = np.asarray(sparse_code(x, jnp.asarray(real.atoms), lam).codes)
    assert (z > 0).sum(axis=1).mean() == approx(1, rel=0.02)
    assert abs(rows["lasso"]["objective_gap"]) < 1e-5 < rows["omp"]["objective_gap"]
    assert rows["omp"]["shared"] == 1 > rows["lasso"]["shared"] > 0
    assert rows["lasso"]["l0"] == approx((z > 0).sum(axis=1).mean())
    assert rows["lasso_refit"]["fvu"] < rows["lasso"]["fvu"]


def test_the_support_part_tells_latents_not_taken_from_those_not_proposed(
    patched, tmp_path
):
    """One encoder weighs latents unlike each other, and another turns some round, which it then
    proposes last; of an encoder that is a function nothing is known.
    """
    rng = np.random.default_rng(2)
    weights = {
        "unlike": rng.uniform(0.4, 1.6, 20),
        "turned": np.where(np.arange(20) < 6, -1, 1),
    }
    saes = [candidate("function", patched.atoms, Shrunk(0.3))]
    for name, weight in weights.items():
        saes.append(weighing(name, patched.atoms, weight))
    chosen = ("own", "own_refit", "screened", "proposed")
    rows = run(patched, tmp_path, *saes, l0=(2,), codes=chosen)
    measured = {row["dictionary"] for row in rows if row["codes"] == "proposed"}
    assert measured == set(weights) and not any("lam" in row for row in rows)
    lines = {line["dictionary"]: line for line in splits(rows, ["kl"])}
    assert (
        lines["function"]["selection_part"]
        is lines["function"]["screening_high"]
        is None
    )
    unlike, turned = (lines[name] for name in weights)
    assert unlike["own_best_codes"] == turned["best_codes"] == "screened"
    assert unlike["selection_low"] > 10 * abs(unlike["screening_part"])
    assert (
        turned["screening_low"] > 0
        and turned["screening_part"] > turned["selection_part"]
    )


def test_an_encoder_is_trained_on_the_dictionary_as_it_is(patched, tmp_path):
    """Retraining mends an encoder that was turned round, and the three parts are all that it loses;
    trained ones are codes of an SAE without a normalisation, and of atoms alone.
    """
    turned = np.where(np.arange(20) < 6, -1.0, 1)
    sae = weighing("turned", patched.atoms, turned)
    model = replace(sae.model, normalisation=normalise.ConstantNorm())
    saes = sae, candidate("true", patched.atoms), replace(sae, name="each", model=model)
    kinds = ("retrained", "hidden_4", "learned_steps_2", "learned_steps_2_refit")
    rows = run(patched, tmp_path, *saes, l0=(2,), codes=("own", "screened", *kinds))
    named = {row["codes"]: row for row in rows if row["dictionary"] == "turned"}
    assert {row["codes"] for row in rows if row["dictionary"] == "each"} == {
        "own",
        "screened",
    }
    assert {row["codes"] for row in rows if row["dictionary"] == "true"} == {
        "screened",
        *kinds,
    }
    assert all(1.5 < named[kind]["l0"] <= 2 for kind in kinds)
    assert [named[kind]["depth"] for kind in kinds[:3]] == [0, 0, 2]
    assert named["learned_steps_2_refit"]["fvu"] < named["learned_steps_2"]["fvu"]
    line = next(
        line for line in splits(rows, ["fvu"]) if line["dictionary"] == "turned"
    )
    parts = [line[f"{part}_part"] for part in AMORTISED]
    assert sum(parts) == approx(line["amortisation_part"])
    few = [row for row in rows if row["codes"] in ("own", "screened", "retrained")]
    alone = next(
        line for line in splits(few, ["fvu"]) if line["dictionary"] == "turned"
    )
    assert (
        alone["training_part"] == parts[0]
        and alone["form_part"] is alone["search_part"] is None
    )
    learned = min(named[kind]["fvu"] for kind in kinds[:3])
    retrained = named["retrained"]["fvu"]
    wanted = named["own"]["fvu"] - retrained, retrained - learned
    assert parts[:2] == approx(wanted) and line["training_low"] > 0 and min(parts) >= 0


def test_codes_with_signs_are_not_screened(patched, tmp_path):
    """Those of a control neither, which have the signs of the first."""
    signed = weighing("signed", patched.atoms, encode=AbsTopK(2))
    chosen = ("own", "screened", "lasso")
    rows = run(patched, tmp_path, signed, controls=("random",), l0=(2,), codes=chosen)
    found = [(row["dictionary"], row["codes"]) for row in rows]
    assert found == [("signed", "own"), ("signed", "lasso"), ("random", "lasso")]


def test_weighted_codes_cost_fewer_nats(patched, tmp_path):
    """Than those of least squares on half as many atoms as the rows have; where all errors cost
    alike, they are the same.
    """
    kinds = ("screened", "weighted")
    down = patched.downstream
    for name, bias, information in (
        ("flat", 0.02, lambda: np.eye(DIM)),
        ("nats", 0.0, down.sensitivity),
    ):
        true = candidate("true", patched.atoms, bias=bias)
        down.information = information
        plain, weighted = run(patched, tmp_path, true, l0=(1,), codes=kinds, name=name)
        assert (plain["codes"], weighted["codes"]) == kinds
        assert weighted["l0"] == approx(1, abs=0.05)
        if name == "flat":
            assert_allclose(weighted["kl_sums"], plain["kl_sums"], rtol=1e-3)
        else:
            assert (
                weighted["kl"] < 0.99 * plain["kl"] and weighted["fvu"] > plain["fvu"]
            )


@mark.parametrize("kind", ["each", "white"])
def test_where_activations_are_in_other_units_none_has_weighted_codes(
    patched, tmp_path, kind
):
    """Dictionaries are compared by codes of the same kinds."""
    plain = candidate("plain", patched.atoms)
    eye = np.eye(DIM, dtype=np.float32)
    units = normalise.ConstantNorm()
    if kind == "white":
        units = normalise.Whitening(np.zeros(DIM, np.float32), 2 * eye, eye / 2)
    model = replace(plain.model, normalisation=units)
    saes = plain, replace(plain, name=kind, model=model)
    rows = run(patched, tmp_path, *saes, l0=(1,), codes=("screened", "weighted"))
    assert [row["codes"] for row in rows] == ["screened"] * 2
