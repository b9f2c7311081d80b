"""The shapes and types in annotations are what really flows: every one is checked at run time on small studies."""

import json
import subprocess
import sys

SCRIPT = """
import importlib
import json
import sys

import beartype
import jax.numpy as jnp
from jaxtyping import TypeCheckError, install_import_hook

# An integer is a float, to a checker that reads types as well.
beartype.beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
folder, studies = sys.argv[1], json.loads(sys.argv[2])

with install_import_hook(["sae_gap", "benchmarks"], "beartype.beartype"):
    from sae_gap import lasso

    for name, methods in studies.items():
        bench = importlib.import_module(f"benchmarks.{name}").BENCH
        sys.argv = ["x", "--preset=smoke", "--seeds=0", f"--methods={methods}", f"--results_dir={folder}"]
        try:
            bench.run()
        except SystemExit as end:
            if end.code:
                raise
try:
    lasso.lipschitz(jnp.zeros((2, 3, 4)))
except TypeCheckError:
    print("a wrong shape is seen")
"""
# The second has models along a fit, and learners on a base.
STUDIES = {
    "amortisation_gap": "linear_probe,sae_relu,sae_jumprelu,support_topk,refined_mp,dl_fista,online_dl,fista_oracle",
    "warmstart_decoder": "cold_dl,warm_dl_topk",
}


def test_annotations_hold_in_smoke_runs_and_a_wrong_shape_is_seen(tmp_path):
    command = [sys.executable, "-c", SCRIPT, tmp_path, json.dumps(STUDIES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in STUDIES:
        assert (tmp_path / name / "summary.csv").is_file() and (tmp_path / name / "README.md").is_file()
    assert done.stdout.endswith("a wrong shape is seen\n")
