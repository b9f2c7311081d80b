"""What decides a number: a learner, an encoder or a metric as plain data, and a digest of the code that they run."""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import pathlib
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp

# What is drawn and the loop that fits count for every learner.
_EVERYWHERE = ("sae_gap.data.paper", "sae_gap.study.fitting")
# How a fit is kept on disk, what its device is called, and what is refused, change nothing about it.
_APART = ("sae_gap.storage.checkpoints", "sae_gap.core.checks", "sae_gap.runtime.devices", "sae_gap.storage.results")
# Python 3.11 counts the depth of a tree for all threads at once.
_PARSING = threading.Lock()


def precision() -> str:
    """The default float type."""
    return str(jnp.zeros(()).dtype)


def qualified(thing: Any) -> str:
    """The full name of a class or a function, the same whether its module was imported or run."""
    return f"{_module_of(thing)}.{thing.__qualname__}"


def describe(thing: Any) -> Any:
    """A learner or an encoder as plain data: its class and its hyper-parameters, those of its parts included."""
    if isinstance(thing, eqx.Module):
        fields = {field.name: describe(getattr(thing, field.name)) for field in dataclasses.fields(thing)}
        return {"class": qualified(type(thing))} | fields
    return [describe(part) for part in thing] if isinstance(thing, tuple) else thing


def code(thing: eqx.Module) -> str:
    """A digest of the code that a learner runs: its modules and those of the suite that they import.

    Comments and docstrings do not count. A class without a file, as in a notebook, counts by the compiled code of its methods
    and of the functions beside it that they call, with the numbers that they read.
    """
    digest = hashlib.sha256()
    modules, classes = set(_EVERYWHERE), dict.fromkeys(_classes(thing))
    for cls in classes:
        name = _module_of(cls)
        if _path(name) is not None:
            modules.add(name)
        else:
            digest.update("".join(_compiled(cls)).encode())
    for name in sorted(_closure(frozenset(modules))):
        digest.update(f"{name}={_text(name)};".encode())
    return digest.hexdigest()[:16]


def _classes(thing: Any) -> Iterator[type]:
    """Every class of a tree of modules, with those that it derives from, down to the ones of the suite's dependencies."""
    if isinstance(thing, eqx.Module):
        for cls in type(thing).__mro__:
            if cls.__module__.split(".")[0] not in ("equinox", "builtins", "typing", "abc"):
                yield cls
        for field in dataclasses.fields(thing):
            yield from _classes(getattr(thing, field.name))
    elif isinstance(thing, tuple):
        for part in thing:
            yield from _classes(part)


def _module_of(thing: Any) -> str:
    if thing.__module__ == "__main__":
        # What `python -m` runs has the name that an import would give it.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        return thing.__module__ if spec is None else spec.name
    return thing.__module__


@functools.cache
def _closure(names: frozenset[str]) -> frozenset[str]:
    seen, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in seen and name not in _APART and _path(name) is not None:
            seen.add(name)
            queue += _imports(name)
    return frozenset(seen)


@functools.cache
def _path(name: str) -> pathlib.Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    found = spec is not None and spec.origin is not None and spec.origin.endswith(".py")
    return pathlib.Path(spec.origin) if found else None  # type: ignore[union-attr, arg-type]


@functools.cache
def _parsed(name: str) -> ast.Module:
    path = _path(name)
    with _PARSING:
        tree = ast.parse("" if path is None else path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    return tree


@functools.cache
def _text(name: str) -> str:
    return hashlib.sha256(ast.dump(_parsed(name)).encode()).hexdigest()


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    """The modules of the suite that a module imports by their full names, as all of its modules do."""
    found = []
    for node in ast.walk(_parsed(name)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(module for module in found if module.split(".")[0] in ("sae_gap", "benchmarks") and "." in module)


def _compiled(cls: type) -> Iterator[str]:
    seen: set[types.CodeType] = set()
    for name, member in sorted(vars(cls).items()):
        function = getattr(member, "fget", None) or getattr(member, "__wrapped__", None) or member
        if isinstance(function, types.FunctionType):
            yield f"{name}:{''.join(_bytes_of(function.__code__, function.__globals__, seen))};"
        elif not name.startswith("__") and _is_plain(member):
            yield f"{name}={member!r};"


def _bytes_of(compiled: types.CodeType, scope: dict[str, Any], seen: set[types.CodeType]) -> Iterator[str]:
    """Instructions and constants, with those of the functions beside it that have no file either."""
    if compiled in seen:
        return
    seen.add(compiled)
    yield compiled.co_code.hex() + repr(compiled.co_names)
    for constant in compiled.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _bytes_of(constant, scope, seen)
        else:
            # The order of a set differs from process to process.
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
    for name in compiled.co_names:
        used = scope.get(name)
        if isinstance(used, types.FunctionType) and _path(_module_of(used)) is None:
            yield from _bytes_of(used.__code__, scope, seen)
        elif _is_plain(used):
            yield repr(used)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) or (isinstance(value, tuple) and all(map(_is_plain, value)))


__all__ = ["code", "describe", "precision", "qualified"]
