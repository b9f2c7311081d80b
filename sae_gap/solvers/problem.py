"""The caller's lasso problem: checked, and scaled so that every product is of order one."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sae_gap.core import lasso_problem
from sae_gap.core.checks import as_real, check_vanishing, is_traced
from sae_gap.core.types import Solution

# Correlations of atoms and signals of order one are far smaller.
_LARGEST_ROW = 2.0**50


def _known(function: Callable[..., Any], array: Any) -> np.ndarray:
    """Applies a function to known values at once: by NumPy on the host, elsewhere even while JAX
    traces something else.
    """
    if on_host(array):
        return np.asarray(function(np.asarray(array), np))
    with jax.ensure_compile_time_eval():
        return np.asarray(function(array, jnp))


def _cast(array, dtype):
    if isinstance(array, jax.Array):
        return jnp.asarray(array, dtype)
    # An overflow is refused as an infinity.
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype)


def on_host(array: Any) -> bool:
    """True if the values of an array are known and lie in the memory of this process."""
    if not isinstance(array, jax.Array):
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
    forms = {
        "signals": "(n, input_dim)",
        "dictionary": "(input_dim, num_latents)",
        "init": "(n, num_latents)",
    }
    arrays: dict[str, Any] = {"signals": signals, "dictionary": dictionary}
    if init is not None:
        arrays["init"] = init
    for name, value in arrays.items():
        arrays[name] = array = _as_array(name, value, f"floating-point numbers {forms[name]}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{name} has type {array.dtype}, but it must be floating point; convert it with "
                ".astype('float32')."
            )
        if array.ndim != 2:
            raise ValueError(
                f"{name} has shape {array.shape}, but it must be {forms[name]}; reshape it."
            )
    # Double precision if JAX has it enabled, as everywhere in JAX.
    dtype = jax.dtypes.canonicalize_dtype(
        functools.reduce(jnp.promote_types, (a.dtype for a in arrays.values()), jnp.float32)
    )
    tops = {name: _known(_largest, array) for name, array in arrays.items() if not is_traced(array)}
    converted: dict[str, Any] = {name: _cast(array, dtype) for name, array in arrays.items()}
    targets, atoms, first = converted["signals"], converted["dictionary"], converted.get("init")
    shape = targets.shape[0], atoms.shape[1]
    if targets.shape[1] != atoms.shape[0]:
        raise ValueError(
            f"signals of shape {targets.shape} and a dictionary of shape {atoms.shape} disagree on "
            "input_dim; "
            "atoms are the columns of the dictionary, so transpose the one that is the wrong way "
            "round."
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
    weights = _cast(_as_array("lam", lam, "a non-negative number or an array of them"), dtype)
    weights = weights.reshape(lasso_problem.lam_shape(weights.shape, *shape))
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
        _check_range(float(tops["signals"].max()), targets)
    if "dictionary" in tops:
        check_vanishing("dictionary", tops["dictionary"], dtype)
    if nonneg and "init" in tops and _known(lambda a, xp: xp.any(a < 0), first):
        raise ValueError(
            "init has a negative code although nonneg is true; clip it at zero or pass "
            "nonneg=False."
        )
    return targets, atoms, weights, first


def _as_array(name: str, value: ArrayLike, form: str) -> Any:
    return value if isinstance(value, jax.Array) else as_real(name, value, form)


def _largest(array, xp):
    """The largest magnitude of each column; NaN if the column has one."""
    return xp.maximum(array.max(0, initial=0), -array.min(0, initial=0))


def _check_range(largest, signals):
    """Refuses signals whose squares, and so objectives and gaps, would underflow or overflow though
    their codes do not.
    """
    limits = jnp.finfo(signals.dtype)
    low, high = (
        float(limits.tiny / limits.eps) ** 0.5,
        (float(limits.max) / signals.shape[1]) ** 0.5,
    )
    if 0 < largest < low or largest > high:
        raise ValueError(
            f"signals reach a magnitude of {largest:.1e}, whose square {signals.dtype} cannot "
            "hold; multiply them, and any lam, by one factor, which multiplies the codes too, or "
            "give float64 with jax_enable_x64."
        )


class Scaled(NamedTuple):
    """The same problem in units where signals and atoms are of order one.

    With `y' = y / s`, `d' = d / a`, the weight is `λ'_ij = row_i column_ij` and codes are
    `z = z' s / a`. Scales are powers of two, hence exact: what is certified for the scaled problem
    holds for the given one.
    """

    signals: Float[Array, "n input_dim"]
    dictionary: Float[Array, "input_dim num_latents"]
    row: Float[Array, "n 1"]
    column: Float[Array, "rows num_latents"]
    signal_scale: Float[Array, "n 1"]
    atom_scale: Float[Array, "1 num_latents"]


def power_of_two(values: Any) -> Any:
    """The power of two at or just below each magnitude; one for zero and non-finite values. The
    result is of the same array library.
    """
    xp = values.__array_namespace__()
    exponent = xp.frexp(values)[1]
    return xp.where(
        (values > 0) & xp.isfinite(values), xp.ldexp(xp.ones_like(values), exponent - 1), 1
    )


def scale_problem(signals, dictionary, lam, *, equalise: bool) -> Scaled:
    """Scales signals to order one, and each atom if `equalise`, else the dictionary as a whole."""
    peak = jnp.max(jnp.abs(signals), axis=1, keepdims=True)
    # A signal of zeros could have any scale; the largest signal's keeps its weight comparable with
    # the others'.
    signal_scale = power_of_two(jnp.where(peak > 0, peak, jnp.max(peak)))
    if equalise:
        # First by the largest entry, since the squares of a small atom would vanish beside a large
        # one.
        atom_scale = power_of_two(jnp.max(jnp.abs(dictionary), axis=0, keepdims=True))
        # The factor keeps atoms of unit norm, up to rounding, at their scale.
        norm = power_of_two(1.25 * jnp.linalg.norm(dictionary / atom_scale, axis=0, keepdims=True))
        dictionary, atom_scale = dictionary / atom_scale / norm, atom_scale * norm
    else:
        overall = power_of_two(jnp.max(jnp.abs(dictionary)))
        dictionary, atom_scale = dictionary / overall, jnp.full((1, dictionary.shape[1]), overall)
    # Each factor is of order one if the weights are; one that overflows says nothing of the
    # product. A barrier keeps the divisions apart: the compiler would divide by a product, which
    # may overflow or underflow.
    if lam.shape[1] == 1:
        overall = jnp.max(atom_scale)
        row, column = lax.optimization_barrier(lam / signal_scale) / overall, overall / atom_scale
    elif lam.shape[0] == 1:
        overall = jnp.max(signal_scale)
        row, column = overall / signal_scale, lax.optimization_barrier(lam / atom_scale) / overall
    else:
        row, column = (
            jnp.ones((1, 1), lam.dtype),
            lax.optimization_barrier(lam / atom_scale) / signal_scale,
        )
    # A row or a weight above any correlation forces zero codes, and must not become an infinity.
    # The largest row becomes one, so that such a column forces zeros on every sample's row.
    row = jnp.minimum(row, _LARGEST_ROW)
    top = power_of_two(jnp.max(row))
    row, column = row / top, jnp.minimum(column * top, jnp.finfo(signals.dtype).max ** 0.8)
    return Scaled(signals / signal_scale, dictionary, row, column, signal_scale, atom_scale)


@jax.jit
def scale_codes(codes, problem: Scaled):
    """Codes in the units of the scaled problem, zero for zero atoms."""
    return (
        jnp.where(jnp.any(problem.dictionary != 0, axis=0), codes, 0)
        / problem.signal_scale
        * problem.atom_scale
    )


@jax.jit
def unscale(found: Solution, problem: Scaled) -> Solution:
    """The solution of a scaled problem in the units of the caller."""
    # One scale after the other: their quotient may overflow where a zero code stays zero.
    codes = lax.optimization_barrier(found.codes * problem.signal_scale) / problem.atom_scale
    # A code that overflows or underflows is not the certified one.
    size, scale = jnp.abs(codes), problem.signal_scale[:, 0]
    exact = jnp.all(
        (found.codes == 0) | ((size >= jnp.finfo(codes.dtype).tiny) & (size < math.inf)), axis=1
    )
    return Solution(
        codes,
        found.objective * scale**2,
        found.gap * scale**2,
        found.iterations,
        found.converged & exact,
    )
