"""What decides a number, as plain data: a learner, an encoder or a metric with its hyper-parameters
and its version.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, dataclass_transform

import equinox as eqx
import jax
import jax.numpy as jnp

from sae_gap.core.checks import check_static
from sae_gap.core.options import check_options, option
from sae_gap.core.registry import ClassName, Look

# Part of the name of every row and every model: raise it when what is drawn, or the loop that fits,
# changes its numbers.
NUMERICS = 1


# Type checkers take an `option` for a field.
@dataclass_transform(field_specifiers=(option, eqx.field))
class MethodPart(eqx.Module):
    """A learner or an encoder: frozen hyper-parameters, checked once, and how they are named and
    shown. In a file of its folder a class is found by its name.
    """

    # What rows call it.
    name: ClassVar[str] = ClassName()  # type: ignore[assignment]
    # What figures call it and draw it in. Without them it has its name and a spare colour.
    label: ClassVar[str]
    colour: ClassVar[str]
    # Where it stands among its like in legends and tables.
    rank: ClassVar[int] = 99
    # Whether it can be made from its name; what is made of other parts cannot.
    listed: ClassVar[bool] = True
    # The same of other names that its instances may have.
    looks: ClassVar[Mapping[str, Look]] = {}
    # Raise it by hand when a change to the code changes what is learned, or the codes: rows and
    # stored fits are told apart by it.
    version: ClassVar[int] = 1

    def __check_init__(self):
        check_options(self)
        check_static(self)


def precision() -> str:
    """The default float type, and the default precision of products, unless on a CPU where none
    is set.
    """
    kind = str(jnp.zeros(()).dtype)
    products = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if jax.default_backend() == "cpu" and products is None:
        return kind
    return f"{kind}, products {products or 'default'}"


def describe(thing: Any) -> Any:
    """A learner or an encoder as plain data: its class, its version and its hyper-parameters, those
    of its parts included.

    The class counts by its name and its top package, so that a file may move without a refit.
    `version` is an attribute of the class, raised by hand when its numbers change. A rare field
    counts where it differs from its default. A thing with a method `described` tells itself.
    """
    if hasattr(thing, "described"):
        return thing.described()
    if isinstance(thing, eqx.Module):
        fields = {
            field.name: describe(getattr(thing, field.name))
            for field in dataclasses.fields(thing)
            if not field.metadata.get("rare") or getattr(thing, field.name) != field.default
        }
        return {
            "class": class_name(type(thing)),
            "version": getattr(type(thing), "version", 1),
        } | fields
    return [describe(part) for part in thing] if isinstance(thing, tuple) else thing


def class_name(cls: type) -> str:
    """The name of a class with its top package, such as `sae_gap.TopK`."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"
