"""The shapes and types in annotations are what really flows: every one is checked at run time on small studies."""

import subprocess
import sys

import pytest

SCRIPT = """
import runpy
import sys

import beartype
import jax.numpy as jnp
from jaxtyping import TypeCheckError, install_import_hook

# An integer is a float, to a checker that reads types as well.
beartype.beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

with install_import_hook(["sae_gap", "benchmarks"], "beartype.beartype"):
    from sae_gap.core.lasso_problem import lipschitz

    name, *arguments = sys.argv[1:]
    sys.argv = ["sae-gap", name, "--preset=smoke", "--seeds=0", *arguments]
    try:
        runpy.run_module("sae_gap", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
try:
    lipschitz(jnp.zeros((2, 3, 4)))
except TypeCheckError:
    sys.stdout.write("a wrong shape is seen")
"""
# The second has models along a fit, and learners on a base.
STUDIES = {
    "amortisation_gap": "linear_probe,sae_jumprelu,support_topk,online_dl,fista_oracle",
    "warmstart_decoder": "warm_dl_topk",
}


@pytest.mark.parametrize("name", STUDIES)
def test_annotations_hold_in_a_smoke_run_and_a_wrong_shape_is_seen(tmp_path, name):
    command = [sys.executable, "-c", SCRIPT, name, f"--methods={STUDIES[name]}", f"--results_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / name / "summary.csv").is_file() and done.stdout.endswith("a wrong shape is seen")
