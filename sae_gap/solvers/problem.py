"""The caller's lasso problem: checked, and scaled so that every product is of order one."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.dtypes import canonicalize_dtype
from jax.typing import ArrayLike

from sae_gap.core import as_real, check_vanishing, is_traced


def _known(function, array):
    """Applies a function to known values at once: by NumPy on the host, elsewhere even while JAX
    traces something else.
    """
    if on_host(array):
        return np.asarray(function(np.asarray(array), np))
    with jax.ensure_compile_time_eval():
        return np.asarray(function(array, jnp))


def _cast(array, dtype):
    if isinstance(array, Array):
        return jnp.asarray(array, dtype)
    # An overflow is refused as an infinity.
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype)


def on_host(array: Any) -> bool:
    """True if the values of an array are known and lie in the memory of this process."""
    if not isinstance(array, Array):
        return True
    return (
        not is_traced(array)
        and array.is_fully_addressable
        and next(iter(array.devices())).platform == "cpu"
    )


def check_problem(
    signals: ArrayLike,
    dictionary: ArrayLike,
    lam: ArrayLike,
    init: ArrayLike | None = None,
    nonneg: bool = True,
) -> tuple[Any, Any, Any, Any]:
    """The arrays in one floating type and the weight as a matrix, or a ValueError that names the
    fault and the mend.

    Arrays of JAX stay arrays of JAX; all others become arrays of NumPy. Arrays on the host are
    checked there, without compilation.
    """
    given = {
        "signals": (signals, "n, input_dim"),
        "dictionary": (dictionary, "input_dim, num_latents"),
    }
    if init is not None:
        given["init"] = init, "n, num_latents"
    arrays: dict[str, Any] = {}
    for name, (value, form) in given.items():
        arrays[name] = array = _as_array(
            name, value, f"floating-point numbers ({form})"
        )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{name} has type {array.dtype}, but it must be floating point; convert it with "
                ".astype('float32')."
            )
        if array.ndim != 2:
            raise ValueError(
                f"{name} has shape {array.shape}, but it must be ({form}); reshape it."
            )
    # Double precision if JAX has it enabled, as everywhere in JAX.
    types = [array.dtype for array in arrays.values()]
    dtype = canonicalize_dtype(reduce(jnp.promote_types, types, jnp.float32))
    tops = {
        name: _known(_largest, array)
        for name, array in arrays.items()
        if not is_traced(array)
    }
    converted: dict[str, Any] = {
        name: _cast(array, dtype) for name, array in arrays.items()
    }
    targets = converted["signals"]
    atoms = converted["dictionary"]
    first = converted.get("init")
    shape = targets.shape[0], atoms.shape[1]
    if targets.shape[1] != atoms.shape[0]:
        raise ValueError(
            f"signals of shape {targets.shape} and a dictionary of shape {atoms.shape} disagree on "
            "input_dim; atoms are the columns of the dictionary, so transpose the one that is the "
            "wrong way round."
        )
    if 0 in (*shape, *targets.shape):
        raise ValueError(
            f"signals {targets.shape} and dictionary {atoms.shape} must not be empty; give at "
            "least one of each."
        )
    if first is not None and first.shape != shape:
        raise ValueError(
            f"init has shape {first.shape}, but it must be (n, num_latents) = {shape}; reshape it."
        )
    weights = _cast(
        _as_array("lam", lam, "a non-negative number or an array of them"), dtype
    )
    if weights.shape not in ((), (1,), (1, 1), shape[:1], (shape[0], 1)):
        raise ValueError(
            f"lam has shape {weights.shape}, but it must be one number, or one for each sample, "
            f"(n,) = ({shape[0]},); reshape it."
        )
    weights = weights.reshape(-1, 1)
    if not is_traced(weights) and not _known(
        lambda a, xp: xp.all((a >= 0) & xp.isfinite(a)), weights
    ):
        raise ValueError(
            "lam has a negative or non-finite value; give finite weights of zero or more."
        )
    for name, top in tops.items():
        # An overflow of the type counts as an infinity.
        with np.errstate(over="ignore"):
            if not np.all(np.isfinite(top.astype(dtype))):
                raise ValueError(
                    f"{name} has a NaN or an infinity; remove or replace the non-finite values."
                )
    if "signals" in tops:
        # Their squares, and so objectives and gaps, must neither underflow nor overflow.
        largest = float(tops["signals"].max())
        limits = jnp.finfo(dtype)
        low = float(limits.tiny / limits.eps) ** 0.5
        if 0 < largest < low or largest > (float(limits.max) / targets.shape[1]) ** 0.5:
            raise ValueError(
                f"signals reach a magnitude of {largest:.1e}, whose square {dtype} cannot hold; "
                "multiply them, and any lam, by one factor, which multiplies the codes too, or "
                "give float64 with jax_enable_x64."
            )
    if "dictionary" in tops:
        check_vanishing("dictionary", tops["dictionary"], dtype)
    if nonneg and "init" in tops and _known(lambda a, xp: xp.any(a < 0), first):
        raise ValueError(
            "init has a negative code although nonneg is true; clip it at zero or pass "
            "nonneg=False."
        )
    return targets, atoms, weights, first


def _as_array(name, value, form):
    return value if isinstance(value, Array) else as_real(name, value, form)


def _largest(array, xp):
    """The largest magnitude of each column; NaN if the column has one."""
    return xp.maximum(array.max(0, initial=0), -array.min(0, initial=0))


def power_of_two(values: Any) -> Any:
    """The power of two at or just below each magnitude; one for zero and non-finite values. The
    result is of the same array library.
    """
    xp = values.__array_namespace__()
    exponent = xp.frexp(values)[1]
    return xp.where(
        (values > 0) & xp.isfinite(values),
        xp.ldexp(xp.ones_like(values), exponent - 1),
        1,
    )


def lengths(atoms: Any) -> Any:
    """The power of two near the length of each row, also where squares overflow or vanish. The
    factor keeps atoms of unit length, up to rounding, at one.
    """
    xp = atoms.__array_namespace__()
    top = power_of_two(xp.max(xp.abs(atoms), axis=1))
    return top * power_of_two(1.25 * xp.linalg.norm(atoms / top[:, None], axis=1))
