"""Is it the encoder or the dictionary? Certified benchmarks of the amortisation gap of sparse
autoencoders.

The public names are loaded when first used, so that rows can be read and tabulated without loading
JAX. The stub `__init__.pyi` lists them.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_HOME = {
    name.name: node.module
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom)
    for name in node.names
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sae_gap' has no attribute {name!r}")
    return getattr(importlib.import_module(str(_HOME[name])), name)


def __dir__() -> list[str]:
    return sorted(__all__)
