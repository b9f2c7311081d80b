"""The folder is the register: what the modules of a package define is found there, by its name.

This module lies below those packages, so it names them and imports them only when asked. That loads JAX.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple


class Look(NamedTuple):
    """What figures and tables call a thing, and its colour; one without a colour is given a spare one."""

    label: str
    colour: str = ""


class Column(NamedTuple):
    """How a column of numbers is shown.

    Attributes:
      label: of an axis, or in a sentence.
      better: 1 if more of it is better, -1 if less, 0 if neither.
      perfect: its best value, where that is the same whatever the data.
      heading: above a table; None takes the column's name, and an empty one keeps it out of tables.
    """

    label: str
    better: int = 0
    perfect: float | None = None
    heading: str | None = None


class ClassName:
    """The name of a class in lower case, for a class that gives itself no other."""

    def __get__(self, instance: Any, owner: type) -> str:
        return owner.__name__.lower()


def name_of(kind: type) -> str:
    """The name of a class, whatever the names of its instances."""
    name = kind.name  # type: ignore[attr-defined]
    return name if isinstance(name, str) else kind.__name__.lower()


def looks_of(kind: type) -> dict[str, Look]:
    """The look of a class by its name, and those of the other names that its instances may have.

    A class without a label whose instances are called after something else, such as what they go on from, has none of its own.
    """
    own, name = vars(kind), name_of(kind)
    if "label" not in own and not isinstance(kind.name, str):  # type: ignore[attr-defined]
        return own.get("looks", {})
    return own.get("looks", {}) | {name: Look(own.get("label", name.replace("_", " ")), own.get("colour", ""))}


class BrokenFileError(ValueError):
    """A file of a folder that is a register cannot be imported; the message is a sentence that names it."""


def modules(package: str) -> Iterator[ModuleType]:
    """The modules of a package and of the packages in it, imported.

    Raises:
      BrokenFileError: one cannot be imported.
    """
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        try:
            yield importlib.import_module(found.name)
        except BrokenFileError:
            raise
        except Exception as error:
            file = found.name.replace(".", "/") + ".py"
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise BrokenFileError(f"{file} cannot be imported ({reason}); mend it or move it away.") from error


def _unique(found: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    register: dict[str, Any] = {}
    for name, thing in found:
        if register.setdefault(name, thing) is not thing:
            raise ValueError(f"{thing} has the name of {register[name]}, {name}; give one of them another.")
    return register


def classes(package: str, base: str) -> dict[str, type]:
    """The classes by their names, in the order of their ranks, that derive from `base` and are not abstract."""
    module, _, name = f"{package}.{base}".rpartition(".")
    kind = getattr(importlib.import_module(module), name)

    def found(thing: Any, home: str) -> bool:
        derived = inspect.isclass(thing) and issubclass(thing, kind) and thing is not kind
        return derived and thing.__module__ == home and not inspect.isabstract(thing)

    every = [thing for home in modules(package) for thing in vars(home).values() if found(thing, home.__name__)]
    return _unique((name_of(thing), thing) for thing in sorted(every, key=lambda thing: (thing.rank, name_of(thing))))


@functools.cache
def encoders() -> dict[str, Any]:
    """Every encoder of `sae_gap.encoders`, a class, by its name."""
    return classes("sae_gap.encoders", "encoder.Encoder")


def saes() -> dict[str, Any]:
    """Every encoder that a sparse autoencoder trains, by its name."""
    return {name: kind for name, kind in encoders().items() if getattr(kind, "recipe", None) is not None}


@functools.cache
def learners() -> dict[str, Any]:
    """Every learner of `sae_gap.learners`, a class, by its name."""
    return classes("sae_gap.learners", "learner.Learner")


@functools.cache
def metrics() -> dict[str, Any]:
    """Every metric of `sae_gap.metrics`, an object, by its name."""
    kind = importlib.import_module("sae_gap.metrics.metric").Metric
    every = [thing for home in modules("sae_gap.metrics") for thing in vars(home).values() if isinstance(thing, kind)]
    return _unique((metric.name, metric) for metric in every)


def make(kind: Callable[..., Any], **offered: Any) -> Any:
    """An instance of a class, given those of the offered values that it has a field for; None leaves a default."""
    fields = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in offered.items() if value is not None and name in fields})
