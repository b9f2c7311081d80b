"""Is it the encoder or the dictionary? Certified benchmarks of the amortisation gap of sparse autoencoders.

The public names are loaded when first used, so that rows can be read and tabulated without loading JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_gap.core.matching import match_atoms as match_atoms
    from sae_gap.core.types import Model as Model
    from sae_gap.core.types import Setting as Setting
    from sae_gap.core.types import Solution as Solution
    from sae_gap.core.types import Split as Split
    from sae_gap.core.types import Task as Task
    from sae_gap.data.activations import open_activations as open_activations
    from sae_gap.data.activations import save_activations as save_activations
    from sae_gap.data.paper import draw as draw
    from sae_gap.data.recording import Recording as Recording
    from sae_gap.data.task_file import load as load
    from sae_gap.data.worlds import World as World
    from sae_gap.data.worlds import WorldStream as WorldStream
    from sae_gap.data.worlds import published_world as published_world
    from sae_gap.measure.atom_statistics import agreement as agreement
    from sae_gap.measure.curve import fvu as fvu
    from sae_gap.measure.downstream import Downstream as Downstream
    from sae_gap.measure.downstream import Network as Network
    from sae_gap.measure.learned import LearnedDictionary as LearnedDictionary
    from sae_gap.measure.learned import learn as learn
    from sae_gap.metrics.gap import amortisation_gap as amortisation_gap
    from sae_gap.metrics.recovery import mcc as mcc
    from sae_gap.metrics.recovery import mcc_paper as mcc_paper
    from sae_gap.saes.load import load_sae as load_sae
    from sae_gap.saes.loaded_sae import SAE as SAE
    from sae_gap.saes.loading_report import load_report as load_report
    from sae_gap.saes.save import save_sae as save_sae
    from sae_gap.solvers import match_l0 as match_l0
    from sae_gap.solvers import sparse_code as sparse_code
    from sae_gap.solvers import sparse_code_path as sparse_code_path
    from sae_gap.storage.results import Store as Store
    from sae_gap.study.fitting import fit as fit
    from sae_gap.study.models import Models as Models
    from sae_gap.study.runner import run as run
    from sae_gap.study.stream import fit_stream as fit_stream
    from sae_gap.study.study import Method as Method
    from sae_gap.study.study import Study as Study

__version__ = "0.2.0"

_HOMES = {
    "sae_gap.data.activations": ("open_activations", "save_activations"),
    "sae_gap.data.paper": ("draw",),
    "sae_gap.data.task_file": ("load",),
    "sae_gap.study.fitting": ("fit",),
    "sae_gap.study.stream": ("fit_stream",),
    "sae_gap.core.matching": ("match_atoms",),
    "sae_gap.measure.atom_statistics": ("agreement",),
    "sae_gap.measure.downstream": ("Downstream", "Network"),
    "sae_gap.measure.curve": ("fvu",),
    "sae_gap.measure.learned": ("LearnedDictionary", "learn"),
    "sae_gap.metrics.gap": ("amortisation_gap",),
    "sae_gap.metrics.recovery": ("mcc", "mcc_paper"),
    "sae_gap.storage.results": ("Store",),
    "sae_gap.solvers": ("match_l0", "sparse_code", "sparse_code_path"),
    "sae_gap.study.models": ("Models",),
    "sae_gap.data.recording": ("Recording",),
    "sae_gap.study.runner": ("run",),
    "sae_gap.saes.loaded_sae": ("SAE",),
    "sae_gap.saes.load": ("load_sae",),
    "sae_gap.saes.loading_report": ("load_report",),
    "sae_gap.saes.save": ("save_sae",),
    "sae_gap.study.study": ("Method", "Study"),
    "sae_gap.core.types": ("Model", "Setting", "Solution", "Split", "Task"),
    "sae_gap.data.worlds": ("World", "WorldStream", "published_world"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    *_HOME,
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sae_gap' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
