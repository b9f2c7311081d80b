"""An encoder, a learner and a metric that are dropped in, one file each, take part by their names in
every command on a real model, with a row, an interval's sums, a key and a line of the table.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sae_gap import Store
from tests.conftest import IN_ONE
from tests.test_project import ADDED, ROOT

# Variance loads no language model.
NO_NETWORK = """
    if sys.argv[0] == "measure":
        assert not [name for name in sys.modules if name.startswith("sae_gap.lm")]
"""
ENCODER = '''
"""The atoms of largest correlation, above one threshold for all samples."""

import dataclasses

import numpy as np

from sae_gap.core.options import option
from sae_gap.encoders.encoder import Encoder, above, unit_atoms


class Nearest(Encoder):
    label, colour = "nearest atoms", "#123456"
    l0: float = option(default=3.0, static=True, above=0)
    threshold: float | None = option(default=None, static=True)

    def prepared(self, model, split, task):
        pull = np.asarray((split.counted - model.bias) @ unit_atoms(model.decoder)[0])
        share = 1 - self.l0 / pull.shape[1]
        return dataclasses.replace(self, threshold=float(np.quantile(pull, share)))

    def __call__(self, model, signals):
        atoms, norms = unit_atoms(model.decoder)
        pull = (signals - model.bias) @ atoms
        return above(pull, self.threshold, pull) / self.l0 / norms
'''


def test_files_that_are_dropped_in_take_part_in_every_command(recorded, tmp_path):
    tree, folder = tmp_path / "tree", recorded.folder
    for part in ("sae_gap", "benchmarks"):
        shutil.copytree(ROOT / part, tree / part)
    for path in ("sae_gap/learners/kmeans.py", "sae_gap/metrics/effective.py"):
        (tree / path).write_text(ADDED[path])
    (tree / "sae_gap/encoders/nearest.py").write_text(ENCODER)
    put, rows = recorded.flags[:-1], f"--activations={folder / 'r' / 'block1'}"
    sae, results = f"--sae={folder / 'mine'}", f"--results_dir={tmp_path / 'results'}"
    small = ("--methods=kmeans,relu", "--width=40", "--sparsity=4", "--epochs=1", "--samples=100")
    codes = "own,own_refit,lasso_refit,nearest,nearest_refit"
    commands = [
        ("measure", rows, sae, "--controls=kmeans", "--codes=nearest", "--samples=100"),
        ("train_real", rows, *small, "--codes=nearest"),
        ("downstream", *put, sae, "--controls=kmeans", f"--codes={codes}"),
        ("encoder_cost", *put, sae, "--codes=own,nearest"),
    ]
    words = [word for each in commands for word in ("then", *each, results)][1:]
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE + NO_NETWORK, *words],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    told = dict(zip((each[0] for each in commands), done.stdout.split("then\n"), strict=True))
    for name, out in told.items():
        found = [row for row in Store(tmp_path / "results" / name).rows() if "fvu" in row]
        mine = [row for row in found if row["codes"] == "nearest"]
        learners = {row["dictionary"] for row in mine}
        assert learners >= ({"mine"} if name == "encoder_cost" else {"kmeans"}), name
        for row in mine:
            assert 0 < row["effective"] <= row["l0"] and row["encoder"]["class"].endswith("Nearest")
            # `encoder_cost` finds thresholds on other rows, and `measure` names its levels.
            if name in ("train_real", "downstream"):
                assert row["l0"] == pytest.approx(row["level"], rel=0.02)
            assert len(row["errors"]) > 1 and np.isfinite(row["errors"]).all(), name
        assert len({row["key"] for row in found}) == len(found)
        assert "nearest" in out, name
        pages = [*(tmp_path / "results" / name).rglob("[Rs]*.[cm]*")]
        assert "nearest" in "".join(page.read_text() for page in pages), name
        (summary,) = (page for page in pages if page.name == "summary.csv")
        assert "effective" in summary.read_text().partition("\n")[0], name
