"""Is it the encoder or the dictionary? Certified benchmarks of the amortisation gap of sparse autoencoders.

The public names are loaded when first used, so that rows can be read and tabulated without loading JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_gap.activations import open_activations as open_activations
    from sae_gap.activations import save_activations as save_activations
    from sae_gap.data import draw as draw
    from sae_gap.data import load as load
    from sae_gap.fitting import fit as fit
    from sae_gap.learners.stream import fit_stream as fit_stream
    from sae_gap.matching import match_atoms as match_atoms
    from sae_gap.metrics.gap import amortisation_gap as amortisation_gap
    from sae_gap.metrics.recovery import mcc as mcc
    from sae_gap.metrics.recovery import mcc_paper as mcc_paper
    from sae_gap.models import Models as Models
    from sae_gap.recording import Recording as Recording
    from sae_gap.results import Store as Store
    from sae_gap.runner import run as run
    from sae_gap.saes.base import SAE as SAE
    from sae_gap.saes.load import load_sae as load_sae
    from sae_gap.saes.own import save_sae as save_sae
    from sae_gap.solvers import match_l0 as match_l0
    from sae_gap.solvers import sparse_code as sparse_code
    from sae_gap.solvers import sparse_code_path as sparse_code_path
    from sae_gap.study import Method as Method
    from sae_gap.study import Study as Study
    from sae_gap.types import Model as Model
    from sae_gap.types import Setting as Setting
    from sae_gap.types import Solution as Solution
    from sae_gap.types import Split as Split
    from sae_gap.types import Task as Task
    from sae_gap.worlds import World as World
    from sae_gap.worlds import WorldStream as WorldStream
    from sae_gap.worlds import published_world as published_world

__version__ = "0.2.0"

_HOMES = {
    "sae_gap.activations": ("open_activations", "save_activations"),
    "sae_gap.data": ("draw", "load"),
    "sae_gap.fitting": ("fit",),
    "sae_gap.learners.stream": ("fit_stream",),
    "sae_gap.matching": ("match_atoms",),
    "sae_gap.metrics.gap": ("amortisation_gap",),
    "sae_gap.metrics.recovery": ("mcc", "mcc_paper"),
    "sae_gap.results": ("Store",),
    "sae_gap.solvers": ("match_l0", "sparse_code", "sparse_code_path"),
    "sae_gap.models": ("Models",),
    "sae_gap.recording": ("Recording",),
    "sae_gap.runner": ("run",),
    "sae_gap.saes.base": ("SAE",),
    "sae_gap.saes.load": ("load_sae",),
    "sae_gap.saes.own": ("save_sae",),
    "sae_gap.study": ("Method", "Study"),
    "sae_gap.types": ("Model", "Setting", "Solution", "Split", "Task"),
    "sae_gap.worlds": ("World", "WorldStream", "published_world"),
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
