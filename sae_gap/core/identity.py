"""The identity of a number as plain data: a learner, an encoder or a metric with its
hyper-parameters and its version.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from equinox import Module, field

from sae_gap.core import (
    ClassName,
    Look,
    check_options,
    check_static,
    option,
    set_fields,
)

# Part of the name of every row and every model. Raise it when a change to the draws or to the loop
# of a fit changes numbers.
NUMERICS = 1


# Makes type checkers treat an `option` as a field.
@dataclass_transform(field_specifiers=(option, field))
class MethodPart(Module):
    """A learner or an encoder: frozen hyper-parameters, checked once, with a name and a look. A
    class in a file of its folder is found by its name.
    """

    # The name in rows.
    name: ClassVar[str] = ClassName()  # type: ignore[assignment]
    # The name and the colour in figures. By default: the name above, and a spare colour.
    label: ClassVar[str]
    colour: ClassVar[str]
    # The order in legends and tables.
    rank: ClassVar[int] = 99
    # True if it can be made from its name alone; one that needs other parts cannot.
    listed: ClassVar[bool] = True
    # The looks of other names that its instances may have.
    looks: ClassVar[Mapping[str, Look]] = {}
    # Raise it by hand when a change to the code changes what is learned, or the codes: rows and
    # stored fits carry it.
    version: ClassVar[int] = 1
    # The constants that were options once: keys still have them, and stay as they were.
    constants: ClassVar[Mapping[str, Any]] = {}

    def __check_init__(self):
        check_options(self)
        check_static(self)


def float_type() -> np.dtype:
    """Returns the default float type, float64 where JAX is asked for it."""
    return jnp.result_type(float)


def precision() -> str:
    """Returns the default float type and the default precision of products; a CPU without a set
    precision leaves the latter out.
    """
    kind = str(float_type())
    products = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if jax.default_backend() == "cpu" and products is None:
        return kind
    return f"{kind}, products {products or 'default'}"


def describe(thing: Any) -> Any:
    """Describes a learner or an encoder as plain data: class, version and hyper-parameters, also
    those of its parts.

    The class counts by name and top package, so that its file may move without a refit. `version`
    is an attribute of the class, raised by hand when its numbers change. A rare field counts where
    it differs from its default. A thing with a method `described` describes itself.
    """
    if hasattr(thing, "described"):
        return thing.described()
    if isinstance(thing, Module):
        kind = type(thing)
        about = {"class": class_name(kind), "version": getattr(kind, "version", 1)}
        about |= getattr(kind, "constants", {})
        return about | {
            name: describe(value) for name, value in set_fields(thing).items()
        }
    return [describe(part) for part in thing] if isinstance(thing, tuple) else thing


def class_name(cls: type) -> str:
    """Returns the name of a class with its top package, such as `sae_gap.TopK`."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"
