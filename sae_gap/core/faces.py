"""Names of a folder that are loaded when first used, so that rows can be read without JAX."""

import ast
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# JAX may be half loaded when a second thread loads another part of it, so one loads at a time.
LOADING = threading.RLock()
# Seconds to wait for that. A thread that imports a module by its path holds the lock of the module
# while it waits for this one, and whoever has this one may wait for that module.
PATIENCE = 20


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package, which load the names that its stub,
    `__init__.pyi`, imports, and lists these as `__all__`. A new name takes one line there.

    Args:
      package: its `__name__`.
    """
    module: Any = sys.modules[package]
    file = Path(module.__file__).with_suffix(".pyi")
    stub = ast.parse(file.read_text(encoding="utf-8"))
    home = {
        name.name: str(node.module)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        taken = LOADING.acquire(timeout=PATIENCE)
        try:
            return getattr(import_module(home[name]), name)
        finally:
            if taken:
                LOADING.release()

    module.__all__ = [*home]
    return load, lambda: [*home]
