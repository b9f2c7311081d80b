"""The binary on a small dictionary: its tables, that it measures nothing again, what decides its
rows, the blocks of a recording, and bad input.
"""

import numpy as np
import pytest
from matplotlib import image

from benchmarks.real import decompose
from sae_gap.data.activations import open_activations
from sae_gap.lm.lens import fit_lens
from sae_gap.measure import evenly_spaced
from sae_gap.study import runner
from sae_gap.study.job import jobs
from tests import tiny
from tests.conftest import lines_of, refused, succeed
from tests.lm.test_lens import published

ATOMS = np.random.default_rng(0).normal(size=(10, 30)).astype(np.float32)
# Shapes are those of the tests of measure.decomposition, whose programs are then at hand.
X = np.random.default_rng(1).normal(size=(24, 10)).astype(np.float32)
X[7] *= 1000
DOCUMENTS = np.arange(24) // 4


def write(folder, atoms=ATOMS, documents=DOCUMENTS):
    np.save(folder / "D.npy", atoms)
    np.savez(folder / "x.npz", mine=X, other=X[:3], documents=documents)
    return [f"--dictionary={folder / 'D.npy'}", f"--activations={folder / 'x.npz'}", "--key=mine"]


@pytest.fixture
def asked(monkeypatch):
    """The studies that are asked for, whose rows are made up."""
    studies = []

    def run(study, store):
        studies.append(study)
        made = {"errors": [0.9, 1 - 0.1 * len(studies)], "energy": [1, 1], "l0": 3.0}
        coded = [{"codes": codes, "k": k} for codes in ("orthogonal", "best") for k in (3, 5)]
        return [made | each for each in coded] + [{"control": "given", "gains": [[0.1] * 5]}]

    monkeypatch.setattr(decompose, "run", run)
    return studies


def test_it_prints_its_tables_and_measures_nothing_again(tmp_path, monkeypatch):
    flags = [*write(tmp_path), "--k=3", "--controls=2", "--controlled=24", "--centred"]
    flags += ["--codes=orthogonal,mp", f"--results_dir={tmp_path}"]
    out = succeed("decompose", *flags)
    assert "Captured variance of at most k atoms" in out
    lines = lines_of(tmp_path / "decompose" / "x-D" / "summary.csv")
    coded = ["orthogonal", "best", "mp", "ceiling"]
    assert [line["codes"] for line in lines] == coded + ["span"] * 4
    assert all(0 < float(line["captured"]) < 1 and line["num_samples"] == "23" for line in lines)
    monkeypatch.setattr(runner, "score", None)
    assert succeed("decompose", *flags) == out


def test_rows_are_those_of_the_key_less_outliers_evenly_spread(tmp_path, asked):
    """With their documents. On controls as many as are asked for."""
    flags = ["--k=3", "--samples=12", "--controlled=5", f"--results_dir={tmp_path}"]
    succeed("decompose", *write(tmp_path), *flags)
    rows, few = asked[0].sources
    places = np.delete(np.arange(24), 7)[evenly_spaced(23, 12)]
    np.testing.assert_array_equal(rows.task().id.signals, X[places])
    np.testing.assert_array_equal(rows.task().id.documents, DOCUMENTS[places])
    np.testing.assert_array_equal(few.scored, X[places][evenly_spaced(12, 5)])


def test_outliers_after_any_block_are_left_out_of_all(tmp_path, monkeypatch, asked):
    blocks = X[::-1].copy(), X
    given = [0, 1], [open_activations(x) for x in blocks], lambda block: ATOMS
    monkeypatch.setattr(decompose, "_given", lambda options: given)
    succeed("decompose", *write(tmp_path), "--k=3", f"--results_dir={tmp_path}")
    for study, x in zip(asked, blocks, strict=True):
        np.testing.assert_array_equal(study.sources[0].scored, np.delete(x, [7, 16], axis=0))


def test_another_input_is_another_key(tmp_path, asked):
    document = np.append(DOCUMENTS[:-1], 6)
    for changed, flag in (
        *(({}, "--seed=0"), ({}, "--seed=0"), ({"documents": document}, "--seed=0")),
        *(({"atoms": ATOMS**2}, "--seed=0"), ({}, "--centred"), ({}, "--seed=9")),
    ):
        flags = [*write(tmp_path, **changed), flag, "--k=3", f"--results_dir={tmp_path}"]
        succeed("decompose", *flags)
    keys, again, *others, seeded = (
        {line.key for job in jobs(each) for line in job.lines} for each in asked
    )
    assert keys == again and len(keys) == 8 + 1 + 35
    # Of another seed 23 draws of the covariance are there.
    assert not any(keys & other for other in others) and len(keys - seeded) == 2 + 9


@pytest.fixture(scope="module")
def lens(recorded):
    found = fit_lens(recorded.lm, recorded.texts, recorded.folder / "lens", 1, 16, 4)
    published(recorded.folder / "one.pt", {1: found.jacobian(1)})
    return found


@pytest.mark.parametrize("dictionary", ["unembedding", "lens"])
def test_each_block_of_a_recording_has_its_own_activations_and_atoms(
    recorded, lens, tmp_path, asked, dictionary
):
    folder, lm, found = recorded.folder, recorded.lm, recorded.found
    path = dictionary if dictionary == "unembedding" else folder / "lens"
    flags = [f"--recording={folder / 'r'}", f"--model={folder / 'tiny.gguf'}", "--k=3,5"]
    flags += [f"--dictionary={path}", "--controls=1", f"--results_dir={tmp_path}", "--samples=2000"]
    succeed("decompose", *flags, "--centred_atoms")
    shown = tmp_path / "decompose" / f"r-{dictionary}"
    best = [line for line in lines_of(shown / "summary.csv") if line["codes"] == "best"]
    told = [(line["block"], line["k"], round(float(line["captured"]), 6)) for line in best]
    assert told == [("0", "3", 0.1), ("0", "5", 0.1), ("1", "3", 0.15), ("1", "5", 0.15)]
    count = len(found.tokens)
    assert {(line["num_samples"], line["centred_atoms"]) for line in best} == {(str(count), "True")}
    assert image.imread(shown / "blocks.png").std() > 0.01
    for more in ([], ["--centred"]):
        succeed("decompose", *flags, "--layers=1", *more)
    for block, centred_atoms, centred, study in zip(
        (0, 1, 1, 1), (1, 1, 0, 0), (0, 0, 0, 1), asked, strict=True
    ):
        rows, x = study.sources[0], found.activations(block).take(np.arange(count))
        given = study.methods(rows)[0].learner.ready
        own = lm.model.unembedding if dictionary == "unembedding" else lens.atoms(block)[0]
        own = np.asarray(own - centred_atoms * own.mean(axis=0))
        unit = own / np.linalg.norm(own, axis=1)[:, None]
        np.testing.assert_allclose(given.dictionary.T, unit, atol=1e-5)
        np.testing.assert_array_equal(rows.scored, x)
        np.testing.assert_array_equal(rows.members, found.documents)
        np.testing.assert_allclose(given.bias, centred * x.mean(axis=0), atol=1e-5)


def test_a_model_other_than_the_recorded_one_and_a_block_that_is_lacking_are_refused(
    recorded, lens, tmp_path, monkeypatch
):
    """Before anything is measured."""
    folder = recorded.folder
    monkeypatch.setattr(decompose, "run", None)
    tiny.write_lm(tmp_path / "other.gguf", seed=1)
    flags = [f"--recording={folder / 'r'}", f"--results_dir={tmp_path}"]
    for more, match in (
        ([f"--model={tmp_path / 'other.gguf'}", "--dictionary=unembedding"], "another model"),
        ([f"--dictionary={folder / 'one.pt'}", "--layers=0,1"], "no block 0, but 1; name"),
        (["--dictionary=unembedding", "--layers=0,2"], "block 2 is not in"),
        (["--dictionary=unembedding", "--activations=x.npz"], "either --activations or"),
        (["--dictionary=unembedding", "--key=x"], "--key with --activations; give one"),
    ):
        refused(match, "decompose", f"--model={folder / 'tiny.gguf'}", *flags, *more)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--dictionary={D}"], "give --dictionary, and either --activations or --recording"),
        (
            ["--dictionary={D}", "--activations={x}", "--k=11"],
            "--k=11 is more than the 10 atoms or dim",
        ),
        (["--dictionary={zero}", "--activations={x}", "--k=3"], "1 of the atoms have zero length"),
        (["--dictionary={D}", "--activations={x}", "--layers=1"], "--layers goes with --recording"),
        (["--dictionary=unembedding", "--activations={x}"], "the block, which commands take from"),
        (["--dictionary={D}", "--activations={x}", "--k=3", "--codes=weighted"], "leave them out"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, flags, match):
    write(tmp_path)
    np.save(tmp_path / "zero.npy", ATOMS * (np.arange(30) != 7))
    paths = {"D": tmp_path / "D.npy", "zero": tmp_path / "zero.npy", "x": tmp_path / "x.npz"}
    given = [*(flag.format(**paths) for flag in flags), "--key=mine", f"--results_dir={tmp_path}"]
    refused(match, "decompose", *given)
