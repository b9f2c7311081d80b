"""Finds files of installed packages without importing these: some print, or need missing
libraries.
"""

import importlib.util
from pathlib import Path


def package_folders(package: str) -> list[Path]:
    """The folders of a package, none if it is not installed."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
