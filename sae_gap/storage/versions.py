"""Which versions made a row: of packages, of this code, and of the machine."""

import importlib.metadata
import importlib.util
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output
from typing import Any


def provenance() -> dict[str, str | None]:
    """Versions, the machine, and the revision of this code, as a row's provenance.

    Returns:
      Versions of `python`, `jax`, `jaxlib`, `equinox`, `optax`, `numpy`, `scipy` and `sae_gap`
      (None if not installed); `revision`, the git commit, ending in `-dirty` after uncommitted
      edits (None if the code is not a checkout); and `machine`.
    """
    packages = "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "sae_gap"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "revision": _revision(Path(__file__).parent),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


@cache
def version(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except PackageNotFoundError:
        return None


@cache
def _revision(folder: Path) -> str | None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return check_output(
            command, stderr=DEVNULL, text=True, timeout=10, env=environment
        ).strip()

    try:
        # An installed copy may lie inside another project's checkout, whose revision says nothing
        # about this code.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, SubprocessError):
        return None


def package_folders(package: str) -> list[Path]:
    """The folders of a package, none if it is not installed, without importing it: some print, or
    need missing libraries.
    """
    spec = find_spec(package)
    return [*map(Path, (spec and spec.submodule_search_locations) or ())]


def library(name: str) -> Any:
    """Imports a library of the extra `real`; raises a ValueError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"language models are read by the library {name}; pip install 'sae_gap[real]'."
        ) from None
