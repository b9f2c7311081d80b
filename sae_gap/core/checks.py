"""Checks of arguments: each raises one sentence that names the fault and the mend, before any
computation.

A value out of range, or an array that does not hold numbers, is a ValueError; an object of the
wrong class is a TypeError. A number that JAX is tracing has no value yet and passes.
"""

import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy import asarray, float64

# A message shortens a longer description of a value.
_LONGEST = 60
# The limits of a seed, which every generator of random numbers takes.
SEED: dict[str, Any] = {"least": 0, "most": 2**32 - 1}
# The type of a path on disk; `check_path` refuses other types.
AnyPath = str | os.PathLike[str]


def shown(value: Any) -> str:
    """Describes a value in a few words on one line, and an array by its type and shape."""
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"an array of {value.dtype} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _is_scalar(value: Any, kinds: str, of_python: Any) -> bool:
    """True for a scalar of Python, NumPy or JAX; bools are not numbers here."""
    if isinstance(value, bool):
        return False
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is None:
        return isinstance(value, of_python)
    return kind in kinds and np.shape(value) == ()


def is_integer(value: Any) -> bool:
    """True for an integer of Python, NumPy or JAX, but not for a bool."""
    return _is_scalar(value, "iu", int)


def is_traced(value: Any) -> bool:
    """True if JAX is tracing the value; it does not load JAX to find out."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def check_seed(value: Any) -> None:
    """Raises a ValueError unless the value is an unsigned 32-bit integer, which every generator of
    random numbers takes.
    """
    check_integer("seed", value, **SEED)


def check_integer(
    name: str, value: Any, *, least: int = 1, most: int = 2**31 - 1
) -> None:
    """Raises a ValueError unless the value is an integer from `least` to `most`."""
    if not is_traced(value) and not (is_integer(value) and least <= int(value) <= most):
        limit = "below 2**31" if most == 2**31 - 1 else f"of at most {most}"
        raise ValueError(
            f"{name} must be an integer of at least {least} and {limit}, but it is {shown(value)}."
        )


# A positive integer.
check_size = check_integer


def check_number(
    name: str,
    value: Any,
    *,
    above: float = -inf,
    least: float = -inf,
    below: float = inf,
    most: float = inf,
) -> None:
    """Raises a ValueError unless the value is a finite number with `above < value < below` and
    `least <= value <= most`.
    """
    if is_traced(value):
        return
    # Integers are compared without conversion: a large one has no float.
    is_finite = _is_scalar(value, "iuf", (int, float)) and (
        abs(value if isinstance(value, int) else float(value)) <= sys.float_info.max
    )
    if not (is_finite and above < value < below and least <= value <= most):
        words = {
            "above": above,
            "of at least": least,
            "below": below,
            "of at most": most,
        }
        bounds = " and ".join(
            f"{word} {bound:g}" for word, bound in words.items() if math.isfinite(bound)
        )
        raise ValueError(
            f"{name} must be a finite number{f' {bounds}' if bounds else ''}, but it is "
            f"{shown(value)}."
        )


def check_flag(name: str, value: Any) -> None:
    """Raises a ValueError unless the value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, but it is {shown(value)}.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ValueError unless the value is one of the names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}, but it is {shown(value)}."
        )


def check_type(name: str, value: Any, kinds: Any, mend: str) -> None:
    """Raises a TypeError unless the value is an instance of a class, or of one of several; `mend`
    tells the user what to give.
    """
    if not isinstance(value, kinds):
        listed = kinds if isinstance(kinds, tuple) else (kinds,)
        wanted = " or ".join(kind.__name__ for kind in listed)
        raise TypeError(
            f"{name} must be of class {wanted}, but it is {shown(value)}; {mend}."
        )


def check_sequence(name: str, value: Any, kinds: Any, mend: str) -> None:
    """Raises a TypeError unless the value is a sequence of instances of some classes, and a
    ValueError if it is empty.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a list, but it is {shown(value)}; {mend}.")
    if not value:
        raise ValueError(
            f"{name} must have at least one entry, but it is empty; {mend}."
        )
    for place, entry in enumerate(value):
        check_type(f"{name}[{place}]", entry, kinds, mend)


def check_path(name: str, value: Any) -> Path:
    """Returns the path, with the home folder for ~; raises a TypeError unless the value names a
    file or a folder, and a ValueError if no system takes such a name.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{name} must be a path, but it is {shown(value)}; give a string or a pathlib.Path."
        )
    if not str(value) or "\0" in str(value):
        raise ValueError(
            f"{name} must be the name of a file or a folder, but it is {shown(str(value))}."
        )
    return Path(os.path.expanduser(value))


def check_static(module: Any) -> None:
    """Raises a ValueError if a static field of an Equinox module cannot be hashed; arrays cannot.

    JAX compiles a program for each value of such a field, and looks it up by the hash.
    """
    for field in fields(module):
        if field.metadata.get("static"):
            value = getattr(module, field.name)
            try:
                hash(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{field.name} must be a plain Python value, but it is {shown(value)}, which "
                    "cannot be hashed; give a number, a string or a tuple of these."
                ) from None


def check_shard(value: Any) -> tuple[int, int]:
    """Returns a shard `(index, count)`; raises a ValueError unless `0 <= index < count`."""
    pair = (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(map(is_integer, value))
    )
    if not (pair and 0 <= value[0] < value[1]):
        raise ValueError(
            f"shard must be (index, count) with 0 <= index < count, but it is {shown(value)}."
        )
    return int(value[0]), int(value[1])


def check_vanishing(name: str, largest: np.ndarray, dtype: Any) -> None:
    """Raises a ValueError if an atom is not zero but so small that JAX rounds it to zero.

    Args:
      name: what the message calls the dictionary.
      largest: the largest magnitude in each atom.
      dtype: the type of the computation.
    """
    tiny = np.finfo(dtype).tiny
    vanishing = largest[(largest > 0) & (largest < tiny)]
    if vanishing.size:
        raise ValueError(
            f"{name} has an atom whose largest entry is {vanishing[0]:.1e}, which counts as zero "
            f"below {tiny:.1e}; scale the atoms up, or set dead ones to zero."
        )


def detached(values: Any) -> Any:
    """Returns values that NumPy can read: a tensor of PyTorch without its gradient (bfloat16 as
    float32), anything else unchanged.
    """
    if not hasattr(values, "detach"):
        return values
    tensor = values.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def as_real(name: str, values: Any, form: str) -> np.ndarray:
    """Returns real numbers as an array on the host, of any shape and type.

    Args:
      name: what the message calls the values.
      values: numbers, nested lists of numbers, or an array of NumPy, of JAX or of PyTorch.
      form: describes the right values, in the message.

    Raises:
      ValueError: the values are complex, texts, dates, objects or rows of different lengths, or
        some are masked.
    """
    # Converting them would uncover them silently.
    if any(
        map(np.ma.is_masked, values if isinstance(values, list | tuple) else (values,))
    ):
        raise ValueError(
            f"{name} has masked entries; leave those rows out, or fill them by .filled(value)."
        )
    try:
        array = asarray(detached(values))
    except (ValueError, TypeError):
        raise ValueError(
            f"{name} must be {form}, but it is {shown(values)}, whose parts do not make one array."
        ) from None
    # NumPy itself has no bfloat16.
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        alone = array.dtype.kind == "O" and array.shape == ()
        kind = shown(values) if alone else f"of type {array.dtype}"
        raise ValueError(f"{name} must be {form}, but it is {kind}; give such numbers.")
    # JAX takes neither long doubles nor the byte order of another machine.
    return array.astype(
        float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="),
        copy=False,
    )
