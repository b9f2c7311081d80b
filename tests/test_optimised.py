"""The programs that users run, with all of XLA's optimisations, which tests/conftest.py leaves out
elsewhere.
"""

import os
import subprocess
import sys

from pytest import approx

from sae_gap import Store
from tests.conftest import ROOT

# What ties decide in a few of 100 samples, and what is kept to four digits.
COARSE = {"accuracy_id": 0.021, "accuracy_ood": 0.021, "cosines": 1.1e-4}


def run(*arguments):
    """Ends a Python process with the flags that users have; told if it fails."""
    users = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "XLA_FLAGS": "",
        "PYTEST_ADDOPTS": "",
    }
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | users, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]


# A method of each kind: fits along gradients, in rounds and on the host, and each kind of codes.
METHODS = "sae_topk,sae_mp,online_dl,dl_fista,fista_oracle"


def test_the_headline_s_rows_are_those_of_plain_programs(smoke, tmp_path):
    name = smoke.directory.name
    folders = (f"--results_dir={tmp_path}", f"--models_dir={tmp_path / 'models'}")
    size = ("--preset=smoke", "--seeds=0")
    run("sae_gap", name, *size, f"--methods={METHODS}", *folders)
    plains = {(row["method"], row["seed"]): row for row in smoke.rows}
    found = Store(tmp_path / name).rows()
    assert {row["method"] for row in found} == {*METHODS.split(",")}
    for row in found:
        plain = plains[row["method"], row["seed"]]
        assert row.keys() == plain.keys()
        for column, value in plain.items():
            if isinstance(value, float | list):
                value = approx(value, rel=1e-5, abs=COARSE.get(column, 1e-6))
            assert "seconds" in column or row[column] == value, column


def test_the_certified_coder_s_properties_hold():
    run(
        "pytest",
        "-n0",
        "tests/solvers/test_coding.py",
        "-k",
        "each_kind and fista and not gaussian",
    )
