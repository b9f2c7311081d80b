"""Names of a folder that are loaded when first used, so that rows can be read without JAX."""

import ast
import importlib
import sys
import threading
from pathlib import Path

# Threads that load parts of a circle of folders at once would see each other's half.
LOADING = threading.RLock()


def attach(package, file):
    """Returns `__getattr__` and `__dir__` of a package, which load the names that its stub,
    `__init__.pyi`, imports, and lists these as `__all__`. A new name takes one line there.

    Args:
      package: its `__name__`.
      file: its `__file__`.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    home = {
        name.name: str(node.module)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }

    def load(name):
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with LOADING:
            return getattr(importlib.import_module(home[name]), name)

    vars(sys.modules[package])["__all__"] = [*home]
    return load, lambda: [*home]
