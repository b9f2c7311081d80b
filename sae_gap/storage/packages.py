"""Finds files of installed packages without importing these: some print, or need missing
libraries.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any


def package_folders(package: str) -> list[Path]:
    """The folders of a package, none if it is not installed."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def library(name: str) -> Any:
    """Imports a library of the extra `real`; raises a ValueError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"language models are read by the library {name}; pip install 'sae_gap[real]'."
        ) from None
