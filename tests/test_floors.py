"""A module imports from strictly lower floors only, and rows and figures need no JAX."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module that is not listed lies on the floor of its family. What the rest of a family builds on lies a fraction below it,
# and what is built on the rest a fraction above.
FLOORS = {
    "roll_call": -0.5,
    **dict.fromkeys(("checks", "cores", "hosts", "names", "npy"), 0),
    "codes": 0.25,
    # The command, which starts binaries by their names.
    "__main__": 5.3,
    "types": 0.5,
    "stores": 0.5,
    "buckets": 0.75,
    "files": 0.9,
    "activations.copies": 0.6,
    "activations.rows": 0.7,
    "activations.tables": 0.8,
    "activations": 0.9,
    "activations.opening": 0.95,
    **dict.fromkeys(("assignment", "sharding"), 0.75),
    # Reads whatever others published in tensors.
    "saes.tensors": 0.55,
    "worlds.law": 0.6,
    "worlds.published": 0.65,
    "worlds.firing": 0.7,
    **dict.fromkeys(("worlds.atoms", "worlds.sampling"), 0.8),
    "worlds.world": 0.85,
    "worlds.presets": 0.9,
    "worlds": 0.95,
    **dict.fromkeys(("data", "lasso", "matching", "devices", "results", "progress"), 1),
    "checkpoints": 1.25,
    **dict.fromkeys(("tables", "decompose", "recording"), 1.5),
    **dict.fromkeys(("solvers.batching", "solvers.fista", "solvers.pivoting", "solvers.polish", "solvers.screening"), 1.25),
    "solvers.atoms": 1.25,
    "solvers.slots": 1.3,
    **dict.fromkeys(("solvers.ista", "solvers.working_set", "solvers.implicit", "solvers.reweighted"), 1.5),
    "solvers.problem": 1.5,
    "solvers.blocks": 1.6,
    "solvers.coding": 1.75,
    "solvers": 2,
    "encoders.base": 2.5,
    "encoders.topk": 2.6,
    "encoders.matryoshka": 2.9,
    **dict.fromkeys(("encoders.batchtopk", "encoders.lasso"), 2.75),
    **dict.fromkeys(("encoders", "identity"), 3),
    **dict.fromkeys(("learners.base", "metrics.base", "figures.style"), 3.5),
    **dict.fromkeys(("learners.checks", "learners.renewal", "learners.incoherence", "learners.pulls"), 3.6),
    "learners.kinship": 3.65,
    **dict.fromkeys(("fitting", "learners.online"), 3.75),
    "figures.log_axes": 3.6,
    "figures": 3.75,
    **dict.fromkeys(("learners", "metrics"), 4),
    "catalogue": 4.25,
    **dict.fromkeys(("saes.normalise", "saes.encoders"), 3.5),
    **dict.fromkeys(("saes.pickles", "saes.base"), 3.6),
    "saes": 3.75,
    "saes.own": 3.8,
    "saes.fitted": 3.9,
    **dict.fromkeys(("saes.load", "saes.report"), 4),
    "measure": 4.25,
    "measure.front": 4.35,
    "measure.summary": 4.4,
    "measure.chunk": 4.42,
    "measure.plan": 4.45,
    **dict.fromkeys(("models", "inference"), 4.5),
    "study": 4.75,
    "runner": 5,
}
# The public face is above all that it shows, so that only benchmarks may use it.
FACE = 5.25
# Studies import neither each other nor what runs them all.
BENCHMARKS = {
    **dict.fromkeys(("_ends", "peers", "pictures", "preset", "scores"), 5.4),
    **dict.fromkeys(("cli", "pages", "planned", "published"), 5.5),
    **dict.fromkeys(("command", "problems", "rendering"), 5.55),
    "coders": 5.6,
    "bench": 5.6,
    **dict.fromkeys(("methods", "sweeps"), 5.7),
    **dict.fromkeys(("agreement", "all", "report"), 6.5),
    **dict.fromkeys(("measured", "wrong_commands"), 6.6),
    **dict.fromkeys(("measure_sae", "torture"), 6.7),
}
STUDY = 6
WITHOUT_JAX = (
    "sae_gap.files",
    "sae_gap.results",
    "sae_gap.tables",
    "sae_gap.names",
    "sae_gap.decompose",
    "sae_gap.progress",
    "sae_gap.figures",
)
JAX = {"jax", "jaxlib", "equinox", "optax", "chex", "jaxtyping"}


def read(root):
    """The sources of the suite: module name to (is it a package, text)."""
    found = {}
    for path in sorted(root.glob("sae_gap/**/*.py")) + sorted(root.glob("benchmarks/**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if package else parts)] = (package, path.read_text())
    return found


def imports(name, sources):
    """Full names of the modules that a module imports, wherever in its text; `from package import module` names the module."""
    package, text = sources[name]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            base = ".".join([*home, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in sources else base


def floor(name):
    top, *rest = name.split(".")
    if top == "benchmarks":
        return BENCHMARKS.get(".".join(rest), STUDY)
    if not rest:
        return FACE
    module = ".".join(rest[:2])
    return FLOORS[module if module in FLOORS else rest[0]]


def faults(sources):
    """Each breach in words."""
    found = []
    for name, (package, _) in sources.items():
        if name == "sae_gap":
            continue
        if name.startswith("sae_gap.") and name.split(".")[1] not in FLOORS:
            found.append(f"{name} has no floor")
            continue
        for other in dict.fromkeys(imports(name, sources)):
            if other.split(".")[0] not in ("sae_gap", "benchmarks"):
                continue
            within = package and other.startswith(f"{name}.")
            if other not in sources:
                found.append(f"{name} imports {other}, which is not there")
            elif not within and other != "sae_gap" and other.startswith("sae_gap.") and other.split(".")[1] not in FLOORS:
                found.append(f"{name} imports {other}, which has no floor")
            elif not within and floor(other) >= floor(name):
                found.append(f"{name} imports {other}")
    return found


def reach(name, sources):
    """Top-level packages that a module needs, through the suite's own modules as well."""
    seen, queue = set(), [name]
    while queue:
        for other in imports(queue.pop(), sources):
            if other not in seen:
                seen.add(other)
                queue += [other] if other in sources else []
    return {other.split(".")[0] for other in seen}


def test_every_import_goes_down():
    assert faults(read(ROOT)) == []


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_rows_and_figures_need_no_jax(name):
    assert not reach(name, read(ROOT)) & JAX


def test_the_modules_are_really_read():
    sources = read(ROOT)
    assert {"sae_gap.types", "sae_gap.devices", *WITHOUT_JAX} <= sources.keys()
    assert "sae_gap.figures.style" in imports("sae_gap.figures", sources)
    assert "sae_gap.files" in imports("sae_gap.figures.style", sources)
    listed = {f"sae_gap.{name}" for name in FLOORS} | {f"benchmarks.{name}" for name in BENCHMARKS}
    assert listed <= sources.keys()
    assert "jax" in reach("sae_gap.devices", sources)


SYNTHETIC = {
    "sae_gap": (True, "from sae_gap import study"),
    "sae_gap.types": (False, "import math"),
    "sae_gap.lasso": (False, "from sae_gap import types"),
    "sae_gap.results": (False, "import numpy as np"),
    "sae_gap.solvers": (True, "from sae_gap.solvers import coding, fista, ista"),
    "sae_gap.solvers.fista": (False, "from sae_gap.types import Solution\nfrom .. import lasso"),
    "sae_gap.solvers.ista": (False, "import jax.numpy as jnp\nimport sae_gap.lasso\nfrom . import fista"),
    "sae_gap.solvers.coding": (False, "from sae_gap.solvers import fista, ista"),
    "sae_gap.encoders": (True, ""),
    "sae_gap.encoders.base": (False, "from sae_gap import types"),
    "sae_gap.encoders.relu": (False, "from sae_gap.encoders.base import Encoder\nfrom sae_gap.solvers import coding"),
    "sae_gap.learners": (True, "from . import sae"),
    "sae_gap.learners.base": (False, "from sae_gap.encoders import relu"),
    "sae_gap.learners.oracle": (False, "from .base import Learner"),
    "sae_gap.learners.sae": (False, "from sae_gap import solvers\nfrom sae_gap.solvers.fista import Fista\nfrom . import base"),
    "sae_gap.metrics": (True, "from sae_gap.metrics import gap"),
    "sae_gap.metrics.gap": (False, "from sae_gap.encoders.relu import ReLU"),
    "sae_gap.devices": (False, "import os"),
    "sae_gap.names": (False, ""),
    "sae_gap.figures": (True, "from sae_gap.figures import curves"),
    "sae_gap.figures.curves": (False, "from sae_gap.figures import style"),
    "sae_gap.figures.style": (False, "from sae_gap import names, results"),
    "sae_gap.fitting": (False, "from sae_gap.learners.base import Learner"),
    "sae_gap.models": (False, "from sae_gap import fitting\nfrom sae_gap.learners import oracle"),
    "sae_gap.study": (False, "from sae_gap import learners, results"),
    "sae_gap.runner": (False, "from sae_gap import models, study"),
    "benchmarks": (True, ""),
    "benchmarks.cli": (False, "from sae_gap import devices, runner"),
    "benchmarks.bench": (False, "from benchmarks import cli"),
    "benchmarks.methods": (False, "from benchmarks.bench import Preset"),
    "benchmarks.all": (False, "from benchmarks import headline"),
    "benchmarks.headline": (False, "import sae_gap\nfrom benchmarks import cli, methods\nfrom sae_gap import Setting, study"),
}


def test_a_sound_house_passes():
    assert faults(SYNTHETIC) == []


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("sae_gap.types", "from sae_gap import lasso", "sae_gap.types imports sae_gap.lasso"),
        ("sae_gap.lasso", "from sae_gap import results", "sae_gap.lasso imports sae_gap.results"),
        ("sae_gap.lasso", "def f():\n    import sae_gap.study", "sae_gap.lasso imports sae_gap.study"),
        ("sae_gap.lasso", "from sae_gap.study import run", "sae_gap.lasso imports sae_gap.study"),
        ("sae_gap.lasso", "import sae_gap", "sae_gap.lasso imports sae_gap"),
        ("sae_gap.lasso", "from sae_gap import Setting", "sae_gap.lasso imports sae_gap"),
        ("sae_gap.lasso", "from benchmarks import headline", "sae_gap.lasso imports benchmarks.headline"),
        ("sae_gap.solvers.fista", "from sae_gap.solvers import ista", "sae_gap.solvers.fista imports sae_gap.solvers.ista"),
        ("sae_gap.solvers.fista", "from . import ista", "sae_gap.solvers.fista imports sae_gap.solvers.ista"),
        ("sae_gap.solvers.fista", "from .ista import Ista", "sae_gap.solvers.fista imports sae_gap.solvers.ista"),
        ("sae_gap.solvers.ista", "from sae_gap.solvers import coding", "sae_gap.solvers.ista imports sae_gap.solvers.coding"),
        ("sae_gap.solvers.ista", "from sae_gap import solvers", "sae_gap.solvers.ista imports sae_gap.solvers"),
        ("sae_gap.encoders.base", "from . import relu", "sae_gap.encoders.base imports sae_gap.encoders.relu"),
        ("sae_gap.encoders.relu", "from sae_gap.learners import base", "sae_gap.encoders.relu imports sae_gap.learners.base"),
        ("sae_gap.learners.sae", "from .oracle import Oracle", "sae_gap.learners.sae imports sae_gap.learners.oracle"),
        ("sae_gap.learners.sae", "from sae_gap.metrics import gap", "sae_gap.learners.sae imports sae_gap.metrics.gap"),
        ("sae_gap.figures", "from sae_gap import study", "sae_gap.figures imports sae_gap.study"),
        ("sae_gap.study", "from benchmarks import cli", "sae_gap.study imports benchmarks.cli"),
        ("sae_gap.solvers.ista", "from ..learners.sae import Sae", "sae_gap.solvers.ista imports sae_gap.learners.sae"),
        ("sae_gap.solvers", "from sae_gap.learners import sae", "sae_gap.solvers imports sae_gap.learners.sae"),
        ("sae_gap.study", "from sae_gap import gone", "sae_gap.study imports sae_gap"),
        ("sae_gap.study", "import sae_gap.gone", "sae_gap.study imports sae_gap.gone, which is not there"),
        ("benchmarks.headline", "import benchmarks.headline", "benchmarks.headline imports benchmarks.headline"),
        ("benchmarks.cli", "from benchmarks import headline", "benchmarks.cli imports benchmarks.headline"),
        ("benchmarks.cli", "from benchmarks import bench", "benchmarks.cli imports benchmarks.bench"),
        ("benchmarks.bench", "from benchmarks import methods", "benchmarks.bench imports benchmarks.methods"),
        ("benchmarks.headline", "from benchmarks import all", "benchmarks.headline imports benchmarks.all"),
        ("benchmarks.headline", "from benchmarks import other", "benchmarks.headline imports benchmarks"),
        ("sae_gap.fitting", "from sae_gap.learners import sae", "sae_gap.fitting imports sae_gap.learners.sae"),
        ("sae_gap.learners.sae", "from sae_gap import models", "sae_gap.learners.sae imports sae_gap.models"),
        ("sae_gap.models", "from sae_gap.study import Study", "sae_gap.models imports sae_gap.study"),
        ("sae_gap.study", "from sae_gap import runner", "sae_gap.study imports sae_gap.runner"),
        ("sae_gap.figures.style", "from . import curves", "sae_gap.figures.style imports sae_gap.figures.curves"),
        ("sae_gap.names", "from sae_gap import results", "sae_gap.names imports sae_gap.results"),
        ("sae_gap.helpers", "", "sae_gap.helpers has no floor"),
    ],
)
def test_a_breach_is_found(name, line, fault):
    package, text = SYNTHETIC.get(name, (False, ""))
    assert faults(SYNTHETIC | {name: (package, f"{text}\n{line}")}) == [fault]


@pytest.mark.parametrize(
    "line", ["import jax", "from jax import numpy", "from sae_gap import results, devices", "import equinox as eqx"]
)
def test_jax_is_found_behind_another_module(line):
    sources = SYNTHETIC | {"sae_gap.results": (False, line), "sae_gap.devices": (False, "import jax.numpy as jnp")}
    assert reach("sae_gap.figures", sources) & JAX
    assert not reach("sae_gap.figures", SYNTHETIC) & JAX
