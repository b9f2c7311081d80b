"""Files that lie in installed packages, which are found and not imported: some print, or need
libraries that are not there.
"""

import importlib.util
from pathlib import Path


def package_folders(package: str) -> list[Path]:
    """The folders of a package, none where it is not installed."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
