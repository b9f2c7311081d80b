"""What decides a number, as plain data: a learner, an encoder or a metric with its hyper-parameters
and its version.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

# Part of the name of every row and every model: raise it when what is drawn, or the loop that fits,
# changes its numbers.
NUMERICS = 1


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
    `version` is an attribute of the class, raised by hand when its numbers change.
    """
    if isinstance(thing, eqx.Module):
        fields = {
            field.name: describe(getattr(thing, field.name)) for field in dataclasses.fields(thing)
        }
        return {
            "class": class_name(type(thing)),
            "version": getattr(type(thing), "version", 1),
        } | fields
    return [describe(part) for part in thing] if isinstance(thing, tuple) else thing


def class_name(cls: type) -> str:
    """The name of a class with its top package, such as `sae_gap.TopK`."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"
