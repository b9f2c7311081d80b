"""The studies, one file each: a file that is dropped in is found by its `BENCH`, and runs by `sae-gap NAME`."""

import importlib
import pkgutil
from typing import Any


def found() -> dict[str, Any]:
    """Every study by its name."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {module.BENCH.name: module.BENCH for module in modules if hasattr(module, "BENCH")}
