"""The shapes and types in annotations are what really flows: every one is checked at run time on small studies."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib
import sys

import beartype
from jaxtyping import install_import_hook

# An integer is a float, to a checker that reads types as well.
beartype.beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

with install_import_hook(["sae_gap", "benchmarks"], "beartype.beartype"):
    bench = importlib.import_module(f"benchmarks.{sys.argv[1]}").BENCH
    sys.argv = ["x", "--preset=smoke", "--seeds=0", f"--methods={sys.argv[3]}", f"--results_dir={sys.argv[2]}"]
    bench.run()
"""
# The second has models along a fit, and learners on a base.
STUDIES = {
    "amortisation_gap": "linear_probe,sae_relu,sae_jumprelu,support_topk,refined_mp,dl_fista,online_dl,fista_oracle",
    "warmstart_decoder": "cold_dl,warm_dl_topk",
}


@pytest.mark.parametrize("name", STUDIES)
def test_annotations_hold_in_a_smoke_run(tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, tmp_path, STUDIES[name]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / name / "summary.csv").is_file() and (tmp_path / name / "README.md").is_file()


def test_the_checker_sees_a_wrong_shape():
    wrong = SCRIPT.partition("    bench =")[0] + (
        "    import jax.numpy as jnp\n    from sae_gap import lasso\n    lasso.lipschitz(jnp.zeros((2, 3, 4)))\n"
    )
    done = subprocess.run([sys.executable, "-c", wrong], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "TypeCheckError" in done.stderr
