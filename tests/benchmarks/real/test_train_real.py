"""SAEs of one's own activations: stored as learned, scored as numpy does, on held-out rows that no
fit has seen.
"""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark

from sae_gap import Store, load_sae, open_activations, save_activations
from sae_gap.core import evenly_spaced
from sae_gap.data import HeldOut
from sae_gap.encoders import Predicted
from sae_gap.measure import methods
from tests import tiny
from tests.conftest import lines_of, refused, succeed

DIM = 8
LATENTS = 16
K = 3


@fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "x.npz"
    tiny.write_rows(path, LATENTS, DIM, K)
    return path


OPTIONS = f"--width={LATENTS} --sparsity={K} --epochs=2 --visits=2 --samples=50".split()
SAES = ("topk", "jumprelu", "topk_from_online_dl", "batch_pursuit")


@fixture
def train(file, tmp_path):
    """Trains with further flags: what it prints, and its rows by dictionary and codes."""

    def run(*flags, data=file):
        given = (f"--activations={data}", f"--results_dir={tmp_path}", *OPTIONS, *flags)
        out = succeed("train_real", *given)
        rows = Store(tmp_path / "train_real").rows()
        return out, {(row["dictionary"], row["codes"]): row for row in rows}

    return run


def test_every_method_is_trained_stored_and_scored(train, file, tmp_path):
    directory = tmp_path / "train_real"
    names = [*SAES, "online_dl", "samples"]
    flags = (f"--methods={','.join(names)}", "--codes=omp,topk:mp")
    out, rows = train(*flags)
    codes = itertools.product(names, ("lasso", "lasso_refit", "omp"))
    coded = {*codes, *itertools.product(SAES, ("own", "own_refit"))}
    # Codes of one dictionary are not those of another that starts from it.
    assert set(rows) == {*coded, ("topk", "mp")}
    assert all(word in out for word in (*names, "omp"))
    learned_from, held = open_activations(file).split()
    scored = held.take(evenly_spaced(60, 50))
    variance = ((scored - scored.mean(axis=0, dtype=float)) ** 2).sum()
    for name in names:
        fvu = {each: row["fvu"] for (of, each), row in rows.items() if of == name}
        # SAELens has no form for `batch_pursuit`.
        if name in SAES:
            own = np.asarray(
                load_sae(directory / name).reconstruct(jnp.asarray(scored))
            )
            errors = (scored.astype(float) - own) ** 2
            assert fvu["own"] == approx(errors.sum() / variance, rel=1e-4)
            assert fvu["own_refit"] <= fvu["own"] * (1 + 1e-6)
        else:
            bias = np.load(directory / name / "bias.npy")
            assert_allclose(bias, learned_from.mean(), rtol=1e-5)
        lasso = rows[name, "lasso"]
        assert fvu["lasso_refit"] <= fvu["lasso"] and lasso["own_certificate"] < 1e-5
        assert abs(lasso["l0"] - K) <= 0.01 * K and "fvu_outliers" not in lasso
    # A fit takes the seconds of its base too.
    alone, later = (
        rows[name, "lasso"] for name in ("online_dl", "topk_from_online_dl")
    )
    assert later["fit_seconds"] > alone["fit_seconds"] > 0
    assert train(*flags) == (out, rows)


def test_a_summary_has_the_seeds_and_methods_of_its_options(train, tmp_path):
    told = []
    for other in (
        (),
        ("--epochs=1",),
        ("--epochs=1", "--seed=1"),
        ("--methods=samples",),
    ):
        train("--methods=topk", *other)
        lines = lines_of(tmp_path / "train_real" / "summary.csv")
        told.append({line["method"]: line for line in lines if line["codes"] == "own"})
    own = [
        row for row in Store(tmp_path / "train_real").rows() if row["codes"] == "own"
    ]
    own.sort(key=lambda row: (-row["learner"]["num_steps"], row["seed"]))
    first, second, third = (row["fvu"] for row in own)
    means = [float(lines["topk"]["fvu_mean"]) for lines in told]
    assert first != second and means == [
        first,
        second,
        approx((second + third) / 2),
        first,
    ]
    assert told[2]["topk"]["seeds"] == "2"


@mark.parametrize(("outliers", "seen"), [("drop", 531), ("keep", 540)])
def test_outlier_tokens_stand_beside_the_figures(train, file, tmp_path, outliers, seen):
    rows = open_activations(file).take(np.arange(600))
    data = tmp_path / "x.npz"
    rows[::60] *= 300
    save_activations(data, rows, np.arange(600) // 30)
    flags = ("--methods=topk", f"--outliers={outliers}", "--samples=60")
    _, found = train(*flags, data=data)
    own = found["topk", "own"]
    held = open_activations(data).split()[1].take(np.arange(60))
    assert (own["learned_from"], own["num_scored"]) == (seen, 59)
    guess = load_sae(tmp_path / "train_real" / "topk").reconstruct(jnp.asarray(held))
    errors = (held.astype(float) - np.asarray(guess)) ** 2
    assert own["fvu_outliers"] == approx(
        errors.sum() / (60 * held.var(axis=0).sum()), 1e-3
    )


def test_transcoders_read_the_activations_and_explain_the_targets(
    train, file, tmp_path, monkeypatch
):
    monkeypatch.setattr(methods, "Predicted", functools.partial(Predicted, steps=20))
    x = open_activations(file)
    data = tmp_path / "both.npz"
    y = np.maximum(
        x.take(np.arange(600)) @ np.linspace(-1, 1, DIM * 6).reshape(DIM, 6), 0
    )
    # Two outlier tokens of the targets, which decide what is left out.
    y[[40, 500]] *= 300
    parts = {"activations": x.take(np.arange(600)), "targets": y.astype(np.float32)}
    np.savez(data, documents=x.documents, **parts)
    names = ("topk_transcoder", "jumprelu_skip_transcoder", "topk", "online_dl")
    flags = (f"--targets={data}", f"--methods={','.join(names)}", "--codes=predicted")
    _, rows = train(*flags, data=data)
    # Codes are predicted from an input alone.
    assert {of for of, codes in rows if codes == "predicted"} == {*names[:2]}
    targets = open_activations(data, key="targets")
    held = HeldOut(targets, samples=50, split_seed=0, inputs=x)
    for name in names[:2]:
        guess = load_sae(tmp_path / "train_real" / name).reconstruct(held.scored_inputs)
        errors = (held.scored - np.asarray(guess)) ** 2
        expected = errors.sum() / ((held.scored - held.scored.mean(axis=0)) ** 2).sum()
        assert rows[name, "own"]["fvu"] == approx(expected, rel=1e-4)
    assert rows["topk", "own"]["num_scored"] == 50


FAULTS = {
    f"--sparsity must be below the {LATENTS} atoms and": f"--sparsity={DIM}",
    "topk has parameters": "--codes=topk",
    "a dictionary of codes must be one of": "--codes=other:omp",
    "'oracle' is not learned from rows alone": "--methods=oracle",
    "topk_transcoder cannot be learned, since": "--methods=topk_transcoder",
}


@mark.parametrize("words", FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, file, words):
    given = (f"--activations={file}", f"--results_dir={tmp_path / 'results'}", *OPTIONS)
    refused(words, "train_real", *given, FAULTS[words])
    assert not (tmp_path / "results").exists()
