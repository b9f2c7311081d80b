"""The certificate check passes a sound coder and names whatever claim is false, by the seed that
draws it again.
"""

import numpy as np
import pytest

from benchmarks.checks import certificates as binary
from benchmarks.checks import scores
from tests.conftest import succeed

FLOAT32 = np.dtype(np.float32)


def seed_of(**wanted):
    """The first seed whose batch has some properties."""

    def fits(batch):
        found = {name: getattr(batch, name) for name in wanted}
        return found == wanted and len(batch.signals) == 7

    return next(seed for seed in range(2_000) if fits(binary.draw(seed, FLOAT32)))


@pytest.fixture(scope="module", params=[True, False], ids=["nonneg", "signed"])
def sound(request):
    """A batch and the claims of the coder."""
    batch = binary.draw(seed_of(kind="gaussian", nonneg=request.param), FLOAT32)
    return batch, binary.solve(batch)


def test_a_sound_coder_passes(sound):
    verdict = binary.judge(*sound)
    assert verdict.faults == [] and verdict.certified.all()


def better(claimed, **changes):
    fields = ("codes", "objective", "gap", "iterations", "converged")
    return type(claimed)(
        **{name: changes.get(name, np.asarray(getattr(claimed, name))) for name in fields}
    )


def spoil(claimed, name, change):
    values = np.array(getattr(claimed, name))
    values[3] = change(values[3])
    return better(claimed, **{name: values})


# What is spoilt in the claims on sample 3, and what is said of it.
SPOILT = [
    ("objective", lambda v: v * 1.001, "claims an objective that it has not"),
    ("gap", lambda v: -v - 1e-3, "claims a negative gap"),
    ("gap", lambda v: np.nan, "is not finite"),
    ("codes", lambda v: v * np.inf, "is not finite"),
]


@pytest.mark.parametrize(("name", "change", "words"), SPOILT)
def test_a_false_claim_is_named(sound, name, change, words):
    batch, claimed = sound
    with np.errstate(invalid="ignore"):
        faults = binary.judge(batch, spoil(claimed, name, change)).faults
    assert [i for i, said in faults if words in said] == [3]


def off(batch, claimed, *, gap, converged):
    """Claims on codes of which the largest is 10 % short of the optimum, with their true objective;
    also which that is.
    """
    place = np.arange(7) == np.abs(claimed.codes).sum(axis=1).argmax()
    codes = np.asarray(claimed.codes) * np.where(place, 0.9, 1)[:, None].astype(np.float32)
    value, true = scores.score(
        batch.signals, batch.dictionary, codes, batch.lam, nonneg=batch.nonneg
    )
    gaps = np.where(place, true * gap, np.asarray(claimed.gap))
    flags = np.where(place, converged, np.asarray(claimed.converged))
    return better(
        claimed, codes=codes, objective=value.astype(np.float32), gap=gaps, converged=flags
    ), int(place.argmax())


def test_codes_short_of_the_optimum_may_not_be_called_converged(sound):
    spoilt, place = off(*sound, gap=1.0, converged=True)
    verdict = binary.judge(sound[0], spoilt)
    assert [(i, said.partition(" (")[0]) for i, said in verdict.faults] == [
        (place, "claims to be converged")
    ]
    assert verdict.certified.tolist() == [i != place for i in range(7)]


def test_a_bound_above_the_optimum_is_false_and_an_honest_gap_is_not(sound):
    spoilt, place = off(*sound, gap=1e-3, converged=False)
    faults = binary.judge(sound[0], spoilt).faults
    assert [(i, said.partition(" (")[0]) for i, said in faults] == [
        (place, "claims a lower bound above the optimum")
    ]
    honest = binary.judge(sound[0], off(*sound, gap=1.0, converged=False)[0])
    assert honest.faults == [] and not honest.certified[place] and honest.certified.sum() == 6


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("kind", ["duplicate", "dependent", "zeros", "weighted atoms"])
def test_the_projection_is_the_optimum_of_the_dual(kind, nonneg):
    batch = binary.draw(seed_of(kind=kind, nonneg=nonneg), FLOAT32)
    signals, dictionary, weights = (
        np.asarray(array, np.float64) for array in (batch.signals, batch.dictionary, batch.lam)
    )
    for i, lam in enumerate(np.broadcast_to(weights, (7, 30))):
        point, codes = binary.project(signals[i], dictionary, lam, nonneg=nonneg)
        pull = point @ dictionary if nonneg else np.abs(point @ dictionary)
        slack = 1e-12 * np.linalg.norm(dictionary, axis=0)
        assert np.all(pull <= lam * (1 + 1e-9) + slack)
        rest = signals[i] - dictionary @ codes
        primal = 0.5 * rest @ rest + lam @ np.abs(codes)
        dual = signals[i] @ point - 0.5 * point @ point
        assert primal == pytest.approx(dual, rel=1e-8, abs=1e-12)


def test_batches_have_the_faults_that_they_are_named_for():
    batches = {kind: binary.draw(seed_of(kind=kind), FLOAT32) for kind in binary.KINDS}
    atoms = {kind: batch.dictionary.astype(float) for kind, batch in batches.items()}
    norms = {kind: np.linalg.norm(each, axis=0) for kind, each in atoms.items()}
    assert len(np.unique(atoms["duplicate"], axis=1).T) <= 15
    assert np.linalg.matrix_rank(atoms["dependent"], tol=1e-4 * norms["dependent"].max()) == 4
    assert 0 < np.sum(norms["zeros"] == 0) < 30
    for kind in ("scaled atoms", "weighted atoms"):
        assert norms[kind].max() / norms[kind].min() > 1e20
    sizes = np.linalg.norm(batches["scaled signals"].signals.astype(float), axis=1)
    assert sizes.max() / sizes[sizes > 0].min() > 1e10


def test_the_command_counts_and_passes(monkeypatch):
    monkeypatch.setattr(binary, "ATOM_POWERS", 6)
    monkeypatch.setattr(binary, "SHAPES", binary.SHAPES[1:2])
    out = succeed("certificates", "--num_problems=14", "--first_seed=3")
    assert "certified" in out
    last = out.splitlines()[-1].split()
    assert last[0] == "all" and int(last[1]) == 14 and last[-1] == "0"


def test_a_broken_coder_is_named_with_its_seed(call, monkeypatch):
    seed, code_of = seed_of(kind="gaussian"), binary.sparse_code

    monkeypatch.setattr(
        binary, "sparse_code", lambda *a, **o: spoil(code_of(*a, **o), "objective", lambda v: v * 2)
    )
    code, out, _ = call("certificates", f"--first_seed={seed}", "--num_problems=1")
    assert code == 1 and f"seed {seed}, sample 3 (gaussian" in out
