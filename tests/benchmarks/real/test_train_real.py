"""SAEs of one's own activations: stored as learned, scored as numpy does, on held-out rows that no
fit has seen.
"""

import csv
import dataclasses
import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from benchmarks.real import train_real
from sae_gap import Store, catalogue, load_sae, open_activations, save_activations
from sae_gap.core.rows import evenly_spaced

DIM, LATENTS, K = 8, 16, 3


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(LATENTS, DIM))
    codes = np.where(rng.random((600, LATENTS)) < K / LATENTS, rng.random((600, LATENTS)), 0)
    path = tmp_path_factory.mktemp("rows") / "x.npz"
    save_activations(path, (codes @ atoms + 2).astype(np.float32), np.arange(600) // 30)
    return path


OPTIONS = (f"--width={LATENTS}", f"--sparsity={K}", "--epochs=2", "--visits=2", "--samples=50")


@pytest.fixture(scope="module")
def done(file, call, tmp_path_factory):
    methods = "--methods=topk,jumprelu,online_dl,topk_from_online_dl,batch_pursuit,samples"
    options = (
        f"--activations={file}",
        f"--results_dir={tmp_path_factory.mktemp('results')}",
        *OPTIONS,
        methods,
        "--codes=omp",
    )
    code, out, err = call("train_real", *options)
    assert code == 0, err
    return options, out


def rows_in(results):
    rows = Store(results / "train_real").rows()
    return {(row["dictionary"], row["codes"]): row for row in rows}


def test_every_method_is_trained_stored_and_scored(done, file, call):
    options, out = done
    results = Path(options[1].partition("=")[2])
    directory = results / "train_real"
    train, held = open_activations(file).split()
    rows, saes = rows_in(results), ["topk", "jumprelu", "topk_from_online_dl", "batch_pursuit"]
    # SAELens has no form for `batch_pursuit`.
    names, codes = [*saes, "online_dl", "samples"], ("lasso", "lasso_refit", "omp")
    assert set(rows) == {
        *itertools.product(names, codes),
        *itertools.product(saes, ("own", "own_refit")),
    }
    assert "FVU omp" in out and all(name in out for name in names)
    scored = held.take(evenly_spaced(60, 50)).astype(float)
    variance = ((scored - scored.mean(axis=0)) ** 2).sum()
    for name in names:
        fvu = {each: row["fvu"] for (of, each), row in rows.items() if of == name}
        if name not in saes:
            dictionary, bias = (
                np.load(directory / name / f"{part}.npy") for part in ("dictionary", "bias")
            )
        else:
            sae = load_sae(directory / name)
            dictionary, bias = (
                np.asarray(sae.model.dictionary),
                np.asarray(scored - sae.target(jnp.asarray(scored, jnp.float32)))[0],
            )
            own = np.asarray(sae.reconstruct(jnp.asarray(scored, jnp.float32)))
            assert fvu["own"] == pytest.approx(((scored - own) ** 2).sum() / variance, rel=1e-4)
            assert fvu["own_refit"] <= fvu["own"] * (1 + 1e-6)
        dictionary = dictionary / np.linalg.norm(dictionary, axis=0)
        lasso = rows[name, "lasso"]
        # The lasso by non-negative least squares on a system that holds the penalty in one more
        # row.
        squares = 0.0
        for target in scored - bias:
            matrix = np.vstack([dictionary, np.full(LATENTS, 1e-3)])
            best = nnls(matrix, np.append(target, -lasso["lam"] / 1e-3))[0]
            squares += ((target - dictionary @ best) ** 2).sum()
        assert fvu["lasso"] == pytest.approx(squares / variance, rel=2e-2)
        assert fvu["lasso_refit"] <= fvu["lasso"] and lasso["own_certificate"] < 1e-5
        assert abs(lasso["l0"] - K) <= 0.01 * K and "fvu_outliers" not in lasso
    np.testing.assert_allclose(
        np.load(directory / "online_dl" / "bias.npy"), train.mean(), rtol=1e-5
    )
    # A fit takes the seconds of its base too.
    assert (
        rows["topk_from_online_dl", "own"]["total_seconds"]
        > (rows["online_dl", "lasso"]["total_seconds"])
    )
    again = call("train_real", *options)
    assert again[:2] == (0, out) and rows_in(results) == rows
    # Each model has taken the place of the one before it, and left nothing of that or of its draft.
    assert {path.name for path in directory.iterdir()} == {*names, "rows", "summary.csv"}


def test_a_summary_has_the_seeds_and_methods_of_its_options(file, call, tmp_path):
    options = (f"--activations={file}", f"--results_dir={tmp_path}", *OPTIONS)
    told = []
    for other in ((), ("--epochs=1",), ("--epochs=1", "--seed=1"), ("--methods=samples",)):
        code, _, err = call("train_real", *options, "--methods=topk", *other)
        assert code == 0, err
        with (tmp_path / "train_real" / "summary.csv").open() as lines:
            told.append({line["method"]: line for line in csv.DictReader(lines)})
    own = [row for row in Store(tmp_path / "train_real").rows() if row["codes"] == "own"]
    own.sort(key=lambda row: (-row["learner"]["num_steps"], row["seed"]))
    first, second, third = (row["fvu"] for row in own)
    means = [float(lines["topk"]["fvu_own_mean"]) for lines in told]
    assert first != second and means == [first, second, pytest.approx((second + third) / 2), first]
    assert [*told[3]] == ["samples", "topk"] and told[2]["topk"]["seeds"] == "2"


def test_atoms_that_are_copies_are_counted(tmp_path, call):
    rng = np.random.default_rng(0)
    # Next to all that there is to learn is one direction.
    rows = np.outer(rng.random(300), rng.normal(size=DIM)) + 0.02 * rng.normal(size=(300, DIM))
    save_activations(tmp_path / "x.npz", rows.astype(np.float32), np.arange(300) // 30)
    flags = (f"--activations={tmp_path / 'x.npz'}", f"--results_dir={tmp_path}", *OPTIONS)
    code, out, _ = call("train_real", *flags, "--methods=online_dl")
    assert code == 0 and "copied atoms" in out
    atoms = np.load(tmp_path / "train_real" / "online_dl" / "dictionary.npy")
    cosines = np.abs(atoms.T @ atoms) - np.eye(LATENTS)
    copies = rows_in(tmp_path)["online_dl", "lasso"]["duplicates"]
    assert copies == (cosines.max(axis=0) > 0.95).sum() >= 2


@pytest.mark.parametrize("outliers", ["drop", "keep"])
def test_outlier_tokens_stand_beside_the_figures(file, call, tmp_path, outliers):
    rows = open_activations(file).take(np.arange(600))
    usual = rows.copy()
    rows[::60] *= 300
    save_activations(tmp_path / "x.npz", rows, np.arange(600) // 30)
    flags = (
        f"--activations={tmp_path / 'x.npz'}",
        f"--results_dir={tmp_path}",
        f"--outliers={outliers}",
        *OPTIONS,
    )
    code, out, _ = call("train_real", *flags, "--methods=topk")
    found = rows_in(tmp_path)["topk", "own"]
    assert code == 0 and "FVU own with outlier tokens" in out
    assert found["learned_from"] == {"drop": 531, "keep": 540}[outliers]
    held = open_activations(rows, documents=np.arange(600) // 30).split()[1]
    held = held.take(np.arange(60)).astype(float)
    large = np.linalg.norm(held, axis=1) > 10 * np.median(np.linalg.norm(usual, axis=1))
    lean = held[~large]
    # As large a share of outlier tokens as of others.
    most = -(-large.sum() * 50 // len(lean))
    beside = held[large][np.arange(most) * large.sum() // most]
    chosen = np.concatenate([lean[np.arange(50) * len(lean) // 50], beside])
    sae = load_sae(tmp_path / "train_real" / "topk")
    errors = (chosen - np.asarray(sae.reconstruct(jnp.asarray(chosen, jnp.float32)))) ** 2
    spread = (chosen - chosen.mean(axis=0)) ** 2
    assert found["fvu_outliers"] == pytest.approx(errors.sum() / spread.sum(), rel=1e-3)
    assert large.any() and rows_in(tmp_path)["topk", "lasso"]["fvu_outliers"] > 0


LEARNERS = train_real.TrainOptions(width=16, sparsity=5, epochs=1, batch_size=4, visits=7.0)


def test_families_go_on_from_online_dl_with_its_margin_and_its_slots():
    alone, incoherent, families = (
        train_real.learner_of(name, LEARNERS, 8) for name in train_real.DICTIONARIES
    )
    assert (
        families.base == incoherent == dataclasses.replace(alone, incoherent=True)
        and not alone.incoherent
    )
    assert (families.margin, families.num_slots, alone.num_slots) == (alone.margin, 12, 12)
    assert (alone.visits, alone.centred) == (7, True)


def test_an_sae_from_a_dictionary_goes_on_from_online_dl_itself():
    for name in catalogue.saes():
        found, alone = (
            train_real.learner_of(each, LEARNERS, 8) for each in (name + train_real.FROM, name)
        )
        assert found.base == train_real.learner_of("online_dl", LEARNERS, 8) and alone.base is None
        assert dataclasses.replace(found, base=None) == alone


FAULTS = {
    "no file": (["--activations=nowhere.npy"], "neither a file nor a folder"),
    "no flag": ([], "--activations is needed"),
    "method": (["--methods=topk,sae"], "an entry of --methods must be one of"),
    "sparsity": (
        [f"--sparsity={DIM}"],
        f"--sparsity must be below the {LATENTS} atoms and the {DIM} dimensions",
    ),
    "key": (["--key=other"], "has no array 'other'"),
    "seed": (["--seed=-1"], "--seed must be"),
    "codes": (["--codes=topk"], "topk has parameters"),
    "learner": (["--methods=pruned"], "Pruned needs a base"),
    "truth": (["--methods=oracle"], "--methods: oracle cannot be learned"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, file, call, case):
    arguments, message = FAULTS[case]
    given = [] if case == "no flag" else [f"--activations={file}"]
    code, out, err = call(
        "train_real", *given, f"--results_dir={tmp_path / 'results'}", *OPTIONS, *arguments
    )
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "results").exists()
