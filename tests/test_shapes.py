"""The shapes and types in annotations are what really flows: every one is checked at run time on
small studies.
"""

import itertools
import subprocess
import sys

SCRIPT = """
import importlib
import pkgutil
import runpy
import sys

import beartype
import jax.numpy as jnp
from jaxtyping import TypeCheckError, install_import_hook

# An integer is a float, to a checker that reads types as well.
beartype.beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

# Numba compiles no function that a checker wraps.
import sae_gap.loops
for module in pkgutil.iter_modules(sae_gap.loops.__path__, "sae_gap.loops."):
    importlib.import_module(module.name)

with install_import_hook(["sae_gap", "benchmarks"], "beartype.beartype"):
    from sae_gap.core.lasso_problem import lipschitz

    results, *studies = sys.argv[1:]
    for name, methods in zip(studies[::2], studies[1::2], strict=True):
        sys.argv = ["sae-gap", name, "--preset=smoke", "--seeds=0", f"--methods={methods}", f"--results_dir={results}"]
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


def test_annotations_hold_in_smoke_runs_and_a_wrong_shape_is_seen(tmp_path):
    # In one process, which checks and compiles once what both use.
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(tmp_path),
        *itertools.chain(*STUDIES.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(len([*(tmp_path / name).rglob("summary.csv")]) == 1 for name in STUDIES)
    assert done.stdout.endswith("a wrong shape is seen")
