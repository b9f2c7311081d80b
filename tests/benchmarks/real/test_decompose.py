"""The binary on a small dictionary: its tables, that it measures nothing again, the blocks of a
recording, and bad input.
"""

import csv

import numpy as np
import pytest
from matplotlib import image

from sae_gap.lm.lens import fit_lens
from sae_gap.lm.recording import record
from sae_gap.lm.texts import Texts
from sae_gap.measure import decomposition, evenly_spaced
from tests import tiny
from tests.lm.test_lens import published


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    atoms = rng.normal(size=(10, 30)).astype(np.float32)
    # Shapes are those of the tests of measure.decomposition, whose programs are then at hand.
    x = np.abs(rng.normal(size=(24, 30))) @ atoms.T * 0.1 + rng.normal(size=(24, 10)) + 1
    np.save(folder / "D.npy", atoms)
    np.save(folder / "zero.npy", atoms * (np.arange(30) != 7))
    np.savez(folder / "x.npz", activations=x.astype(np.float32), documents=np.arange(24) // 4)
    return folder


def test_it_prints_its_tables_and_measures_nothing_again(files, call, tmp_path, monkeypatch):
    flags = [f"--dictionary={files / 'D.npy'}", f"--activations={files / 'x.npz'}", "--k=3"]
    flags += ["--controls=2", "--controlled=24", "--centred", f"--results_dir={tmp_path}"]
    code, out, err = call("decompose", *flags)
    assert code == 0 and "Captured variance of at most k atoms" in out, err
    with (tmp_path / "decompose" / "D" / "summary.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["codes"] for line in lines} == {*decomposition.CODES, "ceiling", "span"}
    spans = {line["control"]: line for line in lines if line["control"]}
    assert len(spans) == 4 and all(
        1 <= float(spans[kind]["occupancy"]) <= 3
        for kind in ("isotropic", "shuffled", "covariance")
    )
    low, mid, high = (float(spans["covariance"][name]) for name in ("low", "captured", "high"))
    assert 0 < low < mid < high < 1
    monkeypatch.setattr(decomposition, "decompose", None)
    monkeypatch.setattr(decomposition, "gains", None)
    assert call("decompose", *flags)[:2] == (0, out)


def test_rows_are_those_of_the_key_less_outliers_evenly_spread_with_their_documents(
    files, call, tmp_path, monkeypatch
):
    """On controls as many as are asked for."""
    x = np.random.default_rng(4).normal(size=(24, 10)).astype(np.float32)
    x[7] *= 1000
    np.savez(tmp_path / "two.npz", other=x[:3], mine=x, documents=np.arange(24) // 4)
    seen, few = [], []
    monkeypatch.setattr(decomposition, "decompose", lambda _, *given: seen.append(given) or [])
    monkeypatch.setattr(decomposition, "ceiling", lambda _, x: few.append(x) or {"codes": "none"})
    monkeypatch.setattr(decomposition, "gains", lambda _, x, steps: np.ones((len(x), steps)))
    flags = [f"--dictionary={files / 'D.npy'}", f"--activations={tmp_path / 'two.npz'}", "--k=3"]
    flags += ["--key=mine", "--samples=12", "--controlled=5", "--controls=0"]
    code, _, err = call("decompose", *flags, f"--results_dir={tmp_path}")
    assert code == 0, err
    ((rows, documents, sizes),) = seen
    places = np.delete(np.arange(24), 7)[evenly_spaced(23, 12)]
    np.testing.assert_array_equal(rows, x[places])
    np.testing.assert_array_equal(documents, places // 4)
    assert sizes == (3,)
    np.testing.assert_array_equal(few[0], rows[evenly_spaced(12, 5)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model, its recording after the first and the last block, and a lens."""
    folder, rng = tmp_path_factory.mktemp("model"), np.random.default_rng(1)
    lm, words = tiny.tiny_lm(folder), ["the cat", "in", "hat", "1 2"]
    texts = [" ".join(rng.choice(words, 24)) for _ in range(4)]
    texts = Texts(tuple(texts), tuple(map(str, range(4))), None)
    found = record(lm, texts, folder / "r", layers=(0, 2), context=32, dtype="float32")
    lens = fit_lens(lm, texts, folder / "lens", windows=1, context=16, first=4)
    (folder / "pt").mkdir()
    published(folder / "pt" / "one.pt", {1: lens.jacobian(1)})
    return folder, lm, found, lens


@pytest.mark.parametrize("dictionary", ["unembedding", "lens"])
def test_each_block_of_a_recording_has_its_own_activations_and_atoms(
    model, call, tmp_path, monkeypatch, dictionary
):
    folder, lm, found, lens = model
    seen = []

    def decompose(sae, x, documents, sizes):
        seen.append((np.asarray(sae.unit_dictionary), x, documents, np.asarray(sae.target(x))))
        part = {"captured": 0.1 * len(seen), "low": 0.05, "high": 0.3}
        return [part | {"codes": codes, "k": k} for codes in ("orthogonal", "best") for k in sizes]

    monkeypatch.setattr(decomposition, "decompose", decompose)
    monkeypatch.setattr(decomposition, "ceiling", lambda sae, x: {"codes": "ceiling"})
    monkeypatch.setattr(decomposition, "gains", lambda sae, x, steps: np.ones((len(x), steps)))
    path = dictionary if dictionary == "unembedding" else folder / "lens"
    flags = [f"--recording={folder / 'r'}", f"--model={folder / 'tiny.gguf'}", "--k=3,5"]
    flags += [f"--dictionary={path}", "--controls=1", f"--results_dir={tmp_path}"]
    code, out, err = call("decompose", *flags, "--centred_atoms")
    assert code == 0, err
    for block, (atoms, x, documents, target) in zip((0, 2), seen, strict=True):
        own = lm.model.unembedding if dictionary == "unembedding" else lens.atoms(block)[0]
        own = np.asarray(own - own.mean(axis=0))
        np.testing.assert_allclose(atoms.T, own / np.linalg.norm(own, axis=1)[:, None], atol=1e-5)
        np.testing.assert_array_equal(x, found.activations(block).take(np.arange(len(x))))
        np.testing.assert_array_equal(target, x)
        np.testing.assert_array_equal(documents, found.documents)
        assert len(x) == len(found.tokens)
    shown = tmp_path / "decompose" / dictionary
    with (shown / "summary.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["codes"] == "best"]
    told = [(line["block"], line["k"], float(line["captured"])) for line in lines]
    assert told == [("0", "3", 0.1), ("0", "5", 0.1), ("2", "3", 0.2), ("2", "5", 0.2)]
    # Of the most atoms alone.
    assert out.count("best") == out.count("orthogonal") == out.count("isotropic") == 2
    assert {(line["num_samples"], line["centred_atoms"]) for line in lines} == {
        (str(len(x)), "True")
    }
    assert image.imread(shown / "blocks.png").std() > 0.01
    assert call("decompose", *flags, "--layers=2")[0] == 0
    raw = np.asarray(lm.model.unembedding if dictionary == "unembedding" else lens.atoms(2)[0])
    np.testing.assert_allclose(seen[2][0].T, raw / np.linalg.norm(raw, axis=1)[:, None], atol=1e-5)
    np.testing.assert_array_equal(seen[2][1], seen[1][1])
    assert call("decompose", *flags, "--layers=2", "--centred")[0] == 0
    np.testing.assert_allclose(seen[3][3], seen[1][1] - seen[1][1].mean(axis=0), atol=1e-5)


def test_a_model_other_than_the_recorded_one_and_a_block_that_is_lacking_are_refused(
    model, call, tmp_path, monkeypatch
):
    """Before anything is measured."""
    folder, *_ = model
    monkeypatch.setattr(decomposition, "decompose", None)
    tiny.write_lm(tmp_path / "other.gguf", seed=1)
    flags = [f"--recording={folder / 'r'}", f"--results_dir={tmp_path}"]
    for more, match in (
        ([f"--model={tmp_path / 'other.gguf'}", "--dictionary=unembedding"], "another model"),
        ([f"--dictionary={folder / 'pt' / 'one.pt'}", "--layers=0,2"], "no block 0, but 1; name"),
        (["--dictionary=unembedding", "--layers=0,1"], "block 1 is not in"),
        (["--dictionary=unembedding", "--activations=x.npz"], "either --activations or"),
        (["--dictionary=unembedding", "--key=x"], "--key with --activations; give one"),
    ):
        code, _, err = call("decompose", f"--model={folder / 'tiny.gguf'}", *flags, *more)
        assert code == 2 and match in err.splitlines()[-1]


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
    ],
)
def test_bad_input_is_one_sentence(files, call, tmp_path, flags, match):
    given = [
        flag.format(D=files / "D.npy", x=files / "x.npz", zero=files / "zero.npy") for flag in flags
    ]
    code, _, err = call("decompose", *given, f"--results_dir={tmp_path}")
    assert code == 2 and match in err.splitlines()[-1]
