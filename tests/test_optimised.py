"""The programs that users run, with all of XLA's optimisations, which tests/conftest.py leaves out
elsewhere.
"""

import os
import subprocess
import sys

from pytest import approx

from sae_gap import Store
from tests.conftest import IN_ONE, ROOT

# What ties decide in a few of 100 samples, and what is kept to four digits.
COARSE = {"accuracy_id": 0.021, "accuracy_ood": 0.021, "cosines": 1.1e-4}


# The flags that users have.
USERS = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    "XLA_FLAGS": "",
    "PYTEST_ADDOPTS": "",
}
# A method of each kind: fits along gradients, in rounds and on the host, and each kind of codes.
METHODS = "sae_topk,sae_mp,online_dl,dl_fista,fista_oracle"
# Properties of the certified coder, in the process of the command, which has loaded everything, and
# so too late to rewrite assertions.
TESTS = """
import pytest
names = "each_kind and fista and not gaussian"
sys.exit(pytest.main(["-n0", "--assert=plain", "tests/solvers/test_coding.py", "-k", names]))
"""


def test_the_headline_s_rows_are_those_of_plain_programs_and_the_coder_s_properties_hold(
    smoke, tmp_path
):
    name = smoke.directory.name
    folders = (f"--results_dir={tmp_path}", f"--models_dir={tmp_path / 'models'}")
    size = ("--preset=smoke", "--seeds=0", f"--methods={METHODS}")
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE + TESTS, name, *size, *folders],
        cwd=ROOT,
        env=os.environ | USERS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
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
