"""The binary on a small dictionary: its tables, that it measures nothing again, and bad input."""

import csv

import numpy as np
import pytest

from sae_gap.measure import decomposition


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
    with (tmp_path / "decompose" / "summary.csv").open(newline="") as file:
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


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--dictionary={D}"], "nothing to decompose; give --activations and --dictionary"),
        (["--dictionary={D}", "--activations={x}", "--k=11"], "at least 11 atoms"),
        (["--dictionary={zero}", "--activations={x}", "--k=3"], "1 of the atoms have zero length"),
        (["--dictionary={x}", "--activations={x}"], "x.npz cannot be read as an .npy file"),
    ],
)
def test_bad_input_is_one_sentence(files, call, tmp_path, flags, match):
    given = [
        flag.format(D=files / "D.npy", x=files / "x.npz", zero=files / "zero.npy") for flag in flags
    ]
    code, _, err = call("decompose", *given, f"--results_dir={tmp_path}")
    assert code == 2 and match in err.splitlines()[-1]
