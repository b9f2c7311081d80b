"""A study, a training, a measurement, fits and a stream in two processes of two devices each: they
share the work, and together they leave what one would.
"""

import dataclasses
import pickle
import re

import jax
import numpy as np
import pytest

from sae_gap import Models, Store, draw, fit_stream, save_activations
from sae_gap.runtime import distributed
from tests.benchmarks.in_two import ONLINE, SAE, SETTING, SIGNALS
from tests.conftest import IN_ONE, page_of, refused, succeed

IN_TWO = ("--distributed", "--coordinator=localhost:{port}", "--num_processes=2")
IN_TWO += ("--process_id={process}",)
STUDY = ("--preset=smoke", "--seeds=0", "--methods=sae_topk")
TRAIN = ("--methods=topk", "--width=16", "--sparsity=3", "--epochs=2", "--samples=50")
VARY = ("device", "fit_device", "date")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """What is run in a folder for results, one after the other."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("rows") / "x.npz"
    codes = np.where(rng.random((600, 16)) < 3 / 16, rng.random((600, 16)), 0)
    rows = codes @ rng.normal(size=(16, 8)) + 2
    save_activations(file, rows.astype(np.float32), np.arange(600) // 30)

    def of(folder):
        given = (f"--activations={file}", f"--results_dir={folder}")
        sae = f"--sae={folder / 'train_real' / 'topk'}"
        return [
            ("amortisation_gap", *STUDY, f"--results_dir={folder}"),
            ("train_real", *TRAIN, *given),
            ("measure_sae", sae, "--controls=none", *given),
        ]

    return of


@pytest.fixture(scope="module")
def two(commands, pair, tmp_path_factory):
    """The folder of two processes, which run all in one go, and what each wrote."""
    folder = tmp_path_factory.mktemp("two")
    study, train, measure = commands(folder)
    # Else a process that fails would wait for the other, which waits for it.
    hook = "import os, sys\nsys.excepthook = lambda *e: (sys.__excepthook__(*e), os._exit(1))\n"
    then = "from tests.benchmarks.in_two import CODE\nexec(CODE)"
    words = [*study, *IN_TWO, "then", *train, "then", *measure]
    environment = {"FOLDER": str(folder), "PROCESS": "{process}"}
    codes, out, err = pair(["-c", hook + IN_ONE + then, *words], **environment).end()
    assert codes == [0, 0] and re.sub(r"\s|\d", "", out[1]) == "thenthen", err
    assert "running sae" in err[0] and "running sae" not in err[1]
    models = [pickle.loads((folder / f"found{process}.pkl").read_bytes()) for process in range(2)]
    return folder, out[0].split("then\n"), models


def test_a_study_has_the_rows_of_one(two, smoke, commands):
    folder, (out, *_), _ = two
    assert "Recovery" in out
    assert len(list(folder.glob("amortisation_gap/rows/*.json"))) == 1
    assert (page_of(folder / "amortisation_gap") / "README.md").exists()
    assert not list(folder.glob("models/*/state*"))
    (row,) = Store(folder / "amortisation_gap").rows()
    expected = next(one for one in smoke.rows if one["key"] == row["key"])
    assert row.keys() == expected.keys() and row["method"] == "sae_topk"
    for name, value in row.items():
        # On separable codes the accuracy is of a probe that is wherever L-BFGS has stopped.
        if not name.endswith("_seconds") and not name.startswith("accuracy") and name not in VARY:
            if isinstance(value, float | list):
                # Cosines have four decimals, the last of which rounding may turn.
                about = 1.1e-4 if name == "cosines" else 1e-5
                assert value == pytest.approx(expected[name], abs=about), name
            else:
                assert value == expected[name], name
    # Started again, by one process alone, nothing is left to do.
    succeed(*commands(folder)[0])
    assert Store(folder / "amortisation_gap").rows() == [row]


def test_an_sae_is_trained_and_measured_as_by_one(two, commands, tmp_path):
    folder, (_, trained, measured), _ = two
    assert "topk" in trained and "Reconstruction" in measured
    for command in commands(tmp_path)[1:]:
        succeed(*command)

    def numbers(results, binary):
        return {
            tuple(map(row.get, ("dictionary", "codes", "level", "times"))): {
                name: value
                for name, value in row.items()
                if isinstance(value, float) and not name.endswith("seconds")
            }
            for row in Store(results / binary).rows()
        }

    for binary, many in (("train_real", 4), ("measure_sae", 7)):
        found, expected = (numbers(results, binary) for results in (folder, tmp_path))
        assert len(found) >= many
        for place, row in found.items():
            assert row == pytest.approx(expected[place], rel=1e-5, abs=1e-5), place
    devices = {row["device"][:7] for row in Store(folder / "train_real").rows()}
    assert devices == {"4 x cpu"}


def test_an_address_without_the_flag_is_refused(tmp_path):
    options = ("--coordinator=localhost:1", f"--results_dir={tmp_path / 'none'}")
    refused("--coordinator goes with --distributed;", "vary_latents", *options)


def close(model, other):
    for leaf, expected in zip(jax.tree.leaves(model), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf, expected, atol=1e-5)


def test_two_processes_fit_as_one(two):
    (alone,) = Models().fit(SAE, [SETTING], [draw(SETTING)])
    for first, again, _ in two[2]:
        close(first, dataclasses.replace(alone.end.model, encode=None))
        close(again, first)


def test_two_processes_share_a_stream(two):
    alone = fit_stream(ONLINE, SIGNALS, num_latents=64, key=jax.random.key(0))
    for *_, stream in two[2]:
        close(stream, dataclasses.replace(alone, encode=None))


def test_a_process_by_itself_pays_nothing():
    thing = object()
    assert (distributed.count(), distributed.index(), distributed.is_first()) == (1, 0, True)
    assert distributed.gather(thing) == [thing] and distributed.from_first(thing) is thing
    distributed.wait("nobody")
    distributed.leave(3)


def test_half_of_an_address_is_refused():
    with pytest.raises(ValueError, match="go together"):
        distributed.start("localhost:1234", 2)
