"""The folder is the register: what a package's modules define is found by its name.

`sae_gap.catalogue` lists the packages.
"""

from collections.abc import Iterable, Iterator
from importlib import import_module
from inspect import isabstract, isclass
from pkgutil import walk_packages
from types import ModuleType
from typing import Any, NamedTuple

from sae_gap.core import brief


class Look(NamedTuple):
    """The name and the colour of a thing in figures and tables; without a colour it gets a spare
    one.
    """

    label: str
    colour: str = ""


class Column(NamedTuple):
    """The look of a column of numbers.

    Attributes:
      label: the text on an axis, or in a sentence.
      perfect: its best value, if that does not depend on the data.
      heading: the text above a table; None takes the column's name, "" keeps it out of tables.
    """

    label: str
    perfect: float | None = None
    heading: str | None = None


class ClassName:
    """The default name of a class: its own in lower case."""

    def __get__(self, instance: Any, owner: type) -> str:
        return owner.__name__.lower()


def name_of(kind: type) -> str:
    """Returns the name of a class, whatever the names of its instances."""
    name = kind.name  # type: ignore[attr-defined]
    return name if isinstance(name, str) else kind.__name__.lower()


def looks_of(kind: type) -> dict[str, Look]:
    """Returns the looks of a class and of its instances with other names, by name.

    A class without a label has no look of its own if its instances are named after another thing,
    such as the base that they go on from.
    """
    given = vars(kind)
    name = name_of(kind)
    looks = given.get("looks", {})
    if "label" not in given and not isinstance(kind.name, str):  # type: ignore[attr-defined]
        return looks
    return looks | {
        name: Look(given.get("label", name.replace("_", " ")), given.get("colour", ""))
    }


class BrokenFileError(ValueError):
    """A file in a register folder cannot be imported; the message is a sentence that names it."""


def modules(package: str) -> Iterator[ModuleType]:
    """Imports and returns the modules of a package, including those of its subpackages.

    Raises:
      BrokenFileError: a module cannot be imported.
    """
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        try:
            yield import_module(module.name)
        except BrokenFileError:
            raise
        except Exception as error:
            file = module.name.replace(".", "/") + ".py"
            raise BrokenFileError(
                f"{file} cannot be imported ({brief(error)}); mend it or move it away."
            ) from error


def classes(package: str, base: type) -> dict[str, type]:
    """Returns the classes in a package that derive from `base` and are neither abstract nor
    unlisted, by name, ordered by rank.
    """
    listed: list[Any] = [
        thing
        for module in modules(package)
        for thing in vars(module).values()
        if isclass(thing)
        and issubclass(thing, base)
        and thing.__module__ == module.__name__
        and getattr(thing, "listed", True)
        and not (thing is base or thing.__name__.startswith("_") or isabstract(thing))
    ]
    listed.sort(key=lambda kind: (kind.rank, name_of(kind)))
    return _unique((name_of(kind), kind) for kind in listed)


def instances(package: str, kind: type[Any]) -> dict[str, Any]:
    """Returns the objects of a kind in a package, by name."""
    things = (thing for module in modules(package) for thing in vars(module).values())
    return _unique((thing.name, thing) for thing in things if isinstance(thing, kind))


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    register: Any = {}
    for name, thing in pairs:
        if register.setdefault(name, thing) is not thing:
            raise ValueError(
                f"{thing} has the name of {register[name]}, {name}; give one of them another."
            )
    return register
