"""The shapes and types in annotations are what really flows: every one is checked at run time on a small study."""

import subprocess
import sys

SCRIPT = """
import sys
from jaxtyping import install_import_hook

with install_import_hook(["sae_gap", "benchmarks"], "beartype.beartype"):
    from benchmarks import amortisation_gap, cli

    sys.argv = ["x", "--preset=smoke", "--seeds=0", f"--results_dir={sys.argv[1]}"]
    cli.run(amortisation_gap.main, amortisation_gap.FLAGS)
"""


def test_annotations_hold_in_a_smoke_run(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "amortisation_gap" / "summary.csv").is_file()


def test_the_checker_sees_a_wrong_shape(tmp_path):
    wrong = SCRIPT.partition("    from benchmarks")[0] + (
        "    import jax.numpy as jnp\n    from sae_gap import lasso\n    lasso.lipschitz(jnp.zeros((2, 3, 4)))\n"
    )
    done = subprocess.run([sys.executable, "-c", wrong, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "TypeCheckError" in done.stderr
