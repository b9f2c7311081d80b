"""What every public door asks of its arguments: one sentence that names the fault and the mend, before anything is computed.

A value of the right kind but out of range is a ValueError, and so is a number or an array that is none; an object of the wrong
class is a TypeError. A number that JAX is tracing has no value yet, and passes.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Longer descriptions of a value make no sentence.
_LONGEST = 60


def shown(value: Any) -> str:
    """A value in a few words of one line, whatever it is: arrays by their shape, integers too long to print by their length."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return f"an integer of {value.bit_length()} bits"
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"an array of {value.dtype} of shape {tuple(value.shape)}"
    try:
        text = " ".join(repr(value).split())
    except Exception:
        # Of a value that anyone may have made, which need not be able to say what it is.
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, of Python, of NumPy or of JAX; True and False are none."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is not None:
        return kind in "iu" and np.shape(value) == ()
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a real scalar, of Python, of NumPy or of JAX; True and False are none."""
    if isinstance(value, bool | str | bytes) or value is None:
        return False
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is not None:
        return kind in "iuf" and np.shape(value) == ()
    return isinstance(value, int | float)


def is_traced(value: Any) -> bool:
    """Whether JAX is tracing a value, which it can only do where it has been loaded."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def check_size(name: str, value: object) -> None:
    """Raises a ValueError unless the value is a positive integer."""
    if not is_integer(value) or int(value) < 1:  # type: ignore[call-overload]
        raise ValueError(f"{name} must be a positive integer, but it is {shown(value)}; give 1 or more.")
    if int(value) >= 2**31:  # type: ignore[call-overload]
        raise ValueError(f"{name} must be below 2**31, but it is {shown(value)}; no array is that long.")


def check_seed(value: object) -> None:
    """Raises a ValueError unless the value is an unsigned 32-bit integer, as every generator of random numbers takes it."""
    if not is_integer(value) or not 0 <= int(value) < 2**32:  # type: ignore[call-overload]
        raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, but it is {shown(value)}.")


def check_integer(name: str, value: Any, *, least: int, most: int = 2**31 - 1) -> None:
    """Raises a ValueError unless the value is an integer from `least` to `most`."""
    if not is_traced(value) and not (is_integer(value) and least <= int(value) <= most):
        limit = "below 2**31" if most == 2**31 - 1 else f"of at most {most}"
        raise ValueError(f"{name} must be an integer of at least {least} and {limit}, but it is {shown(value)}.")


def check_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Raises a ValueError unless the value is a finite number within the bounds, such as `above < value` or `least ≤ value`."""
    if is_traced(value):
        return
    known = is_number(value) and (not isinstance(value, int) or abs(value) < 2**1000) and math.isfinite(float(value))
    if not (known and above < value < below and least <= value <= most):
        words = {"above": above, "of at least": least, "below": below, "of at most": most}
        bounds = " and ".join(f"{word} {bound:g}" for word, bound in words.items() if math.isfinite(bound))
        raise ValueError(f"{name} must be a finite number{f' {bounds}' if bounds else ''}, but it is {shown(value)}.")


def check_numbers(name: str, values: Any, count: int | None, **bounds: float) -> None:
    """Raises a ValueError unless the values are a tuple of `count` numbers, or of at least one, each within the bounds."""
    if not isinstance(values, tuple) or (len(values) != count if count is not None else not values):
        wanted = "at least one number" if count is None else f"{count} numbers"
        raise ValueError(f"{name} must be a tuple of {wanted}, but it is {shown(values)}.")
    for place, value in enumerate(values):
        check_number(f"{name}[{place}]", value, **bounds)


def check_flag(name: str, value: Any) -> None:
    """Raises a ValueError unless the value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, but it is {shown(value)}.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ValueError unless the value is one of some names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but it is {shown(value)}.")


def check_type(name: str, value: Any, kinds: type | tuple[type, ...], mend: str) -> None:
    """Raises a TypeError unless the value is of a class, or of one of several; `mend` says what to give."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise TypeError(f"{name} must be of class {wanted}, but it is {shown(value)}; {mend}.")


def check_callable(name: str, value: Any, form: str) -> None:
    """Raises a TypeError unless the value can be called; `form` shows how it will be."""
    if not callable(value):
        raise TypeError(f"{name} must be a function {form}, but it is {shown(value)}.")


def check_sequence(name: str, value: Any, kinds: type | tuple[type, ...], mend: str) -> None:
    """Raises a TypeError unless the value is a sequence of instances of some classes, and a ValueError if it is empty."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a list, but it is {shown(value)}; {mend}.")
    if not value:
        raise ValueError(f"{name} must have at least one entry, but it is empty; {mend}.")
    for place, entry in enumerate(value):
        check_type(f"{name}[{place}]", entry, kinds, mend)


def check_name(name: str, value: Any) -> None:
    """Raises a TypeError unless the value is a string, and a ValueError if it is empty."""
    check_type(name, value, str, "give a name")
    if not value:
        raise ValueError(f"{name} is empty; give a name.")


def check_path(name: str, value: Any) -> None:
    """Raises a TypeError unless the value names a file or a folder, and a ValueError where no system takes such a name."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, but it is {shown(value)}; give a string or a pathlib.Path.")
    if not str(value) or "\0" in str(value):
        raise ValueError(f"{name} must be the name of a file or a folder, but it is {shown(str(value))}.")


def check_static(module: Any) -> None:
    """Raises a ValueError where a static field of an Equinox module cannot be hashed, as arrays of any shape cannot.

    Programs are compiled once for each value of such a field, and told apart by its hash.
    """
    for field in dataclasses.fields(module):
        if field.metadata.get("static"):
            value = getattr(module, field.name)
            try:
                hash(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{field.name} must be a plain Python value, but it is {shown(value)}, which cannot be hashed; "
                    "give a number, a string or a tuple of these."
                ) from None


def check_shard(value: Any) -> tuple[int, int]:
    """A shard `(index, count)`, or a ValueError unless `0 <= index < count`."""
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(is_integer, value))
    if not (pair and 0 <= value[0] < value[1]):
        raise ValueError(f"shard must be (index, count) with 0 <= index < count, but it is {shown(value)}.")
    return int(value[0]), int(value[1])


def check_vanishing(name: str, largest: np.ndarray, dtype: Any) -> None:
    """Raises a ValueError where the largest entry of an atom is not zero, but so small that JAX takes it for zero.

    Args:
      name: what the dictionary is called in the message.
      largest: the largest magnitude in each atom.
      dtype: the type that is computed in.
    """
    tiny = np.finfo(dtype).tiny
    vanishing = largest[(largest > 0) & (largest < tiny)]
    if vanishing.size:
        raise ValueError(
            f"{name} has an atom whose largest entry is {vanishing[0]:.1e}, which counts as zero below {tiny:.1e}; "
            "scale the atoms up, or set those to zero that are dead."
        )


def check_unmasked(name: str, values: Any) -> None:
    """Raises a ValueError where entries of an array of `numpy.ma` are masked: its conversion would uncover them in silence.

    Args:
      name: what the values are called in the message.
      values: anything; of a list or a tuple each part is looked at.
    """
    arrays = [
        part for part in (values if isinstance(values, list | tuple) else (values,)) if isinstance(part, np.ma.MaskedArray)
    ]
    count = sum(int(np.ma.count_masked(array)) for array in arrays if array.dtype.names is None)
    if count:
        raise ValueError(
            f"{name} has masked entries ({count:,}), and a mask is not read; give the rows without them, or values in place "
            "of them by .filled(value)."
        )


def as_real(name: str, values: Any, form: str) -> np.ndarray:
    """Real numbers as an array on the host, of whatever shape and type.

    Args:
      name: what the values are called in the message.
      values: numbers, nested lists of them, or an array of NumPy or of JAX.
      form: what they should be, in the message.

    Raises:
      ValueError: the values are complex, texts, dates, objects, or rows of different lengths, or some are masked.
    """
    check_unmasked(name, values)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        raise ValueError(f"{name} must be {form}, but it is {shown(values)}, whose parts do not make one array.") from None
    # bfloat16 is no type of NumPy's own.
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        kind = shown(values) if array.dtype.kind == "O" and array.shape == () else f"of type {array.dtype}"
        raise ValueError(f"{name} must be {form}, but it is {kind}; give real numbers, such as float32.")
    # JAX takes neither the byte order of another machine nor a long double.
    return array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="), copy=False)


__all__ = [
    "as_real",
    "check_callable",
    "check_choice",
    "check_flag",
    "check_integer",
    "check_name",
    "check_number",
    "check_numbers",
    "check_path",
    "check_seed",
    "check_sequence",
    "check_shard",
    "check_size",
    "check_type",
    "check_unmasked",
    "check_vanishing",
    "is_integer",
    "is_number",
    "is_traced",
    "shown",
]
