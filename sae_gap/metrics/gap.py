"""The amortisation gap: how far an encoder's codes are from the best codes on the same dictionary,
in the lasso objective.

FISTA does not minimise the squared error, so a refinement may raise it; the gap is therefore a
difference of objectives, with the squared error and the number of latents above 0.01 beside it.
The decoder's bias is subtracted from the signals throughout. A weight λ means the same on two
dictionaries only if both have unit atoms, so `encoders.encoder.unit_atoms` comes first.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sae_gap.core import (
    AnyCodes,
    Column,
    Model,
    Solution,
    Transcoder,
    active_columns,
    check_callable,
    check_flag,
    lasso_problem,
    matching,
    shown,
)
from sae_gap.encoders import as_floats, check_model, unit_atoms
from sae_gap.metrics import Inferred, Metric
from sae_gap.solvers import sparse_code

# The published count of latents counts codes above this magnitude.
_ABOVE = 1e-2


class AmortisationGap(NamedTuple):
    """The gap of n signals with its certificate.

    Attributes:
      gap: `F(z_e) - F(z*)`, (n,), not negative.
      relative: the gap over F(z*), (n,). A row of norm below 4e-16 counts as a row of zeros, since
        float32 cannot hold its squares.
      codes: the encoder's codes z_e on unit atoms, (n, num_latents).
      optimum: z* with its objective and its duality gap; `gap` is too small by at most that.
    """

    gap: Float[np.ndarray, " n"]
    relative: Float[np.ndarray, " n"]
    codes: Float[Array, "n num_latents"]
    optimum: Solution


def amortisation_gap(
    model: Model,
    signals: Float[ArrayLike, "n input_dim"],
    lam: Float[ArrayLike, "..."],
    *,
    encode: Callable[..., Float[Array, "n num_latents"]] | None = None,
    signed: bool | None = None,
    inputs: Float[ArrayLike, "n num_inputs"] | None = None,
    **options: Any,
) -> AmortisationGap:
    """The cost of amortised inference on each signal, `F(z_e) - F(z*)`, above a certified optimum.

    `F(z) = ½ ‖y - b - D z‖² + λ ‖z‖₁` on unit atoms, the codes rescaled to them. The optimum is
    over non-negative codes, or over signed ones if the encoder's are signed.

    Args:
      model: the dictionary, its bias and the encoder's parameters.
      signals: (n, input_dim).
      lam: weight of the l1 norm, a scalar or one for each sample, (n,). For codes as sparse as the
        encoder's, take the weight of `match_l0`.
      encode: the encoder, a function `(model, signals) -> codes` in units of the model's atoms;
        None takes `model.encode`.
      signed: whether the optimum is over signed codes; None asks the encoder, and assumes that a
        plain function is non-negative.
      inputs: what a transcoder reads of each signal, which is `model.signals(y, inputs)`. The gap
        holds what the inputs do not tell, too.
      **options: options of `sparse_code`, such as `tol`, for the optimum; its certificate shows
        their effect.

    Returns:
      The gaps, with both codes and the certificate.

    Raises:
      TypeError: the model is no `Model`, or `encode` no function.
      ValueError: the model has no dictionary or no encoder, or an argument does not fit.

    References:
      Cremer, Li & Duvenaud (2018), "Inference suboptimality in variational autoencoders", ICML.
    """
    check_model(model, encode)
    encode = model.encode if encode is None else encode
    if encode is None:
        raise ValueError(
            "the model names no encoder; give encode, a function (model, signals) -> codes."
        )
    check_callable("encode", encode, "(model, signals) -> codes")
    signed = bool(getattr(encode, "signed", False)) if signed is None else signed
    check_flag("signed", signed)
    signals = as_floats("signals", matching.as_matrix("signals", signals))
    if signals.shape[1] != model.decoder.shape[0]:
        raise ValueError(
            f"signals have {signals.shape[1]} columns, but the dictionary has input_dim "
            f"{model.decoder.shape[0]}."
        )
    reads = isinstance(model, Transcoder) and getattr(encode, "reads_inputs", True)
    given: Any = inputs
    if reads == (given is None) or np.shape(given)[:1] not in ((), signals.shape[:1]):
        raise ValueError(
            "the own encoder of a transcoder reads inputs, one row for each signal, and that of "
            f"any other model none, but they are {shown(given)}; give or leave out inputs."
        )
    read = as_floats("inputs", matching.as_matrix("inputs", given)) if reads else signals
    dictionary, norms = unit_atoms(as_floats("the dictionary", model.decoder))
    own = encode(model, read)
    if np.shape(own) != (len(signals), len(norms)):
        shape = (len(signals), len(norms))
        raise ValueError(
            f"encode must give codes of shape {shape}, one row a signal and one column an atom, "
            f"but gave {np.shape(own)}."
        )
    codes = as_floats("the encoder's codes", own) * norms
    codes = jnp.where(jnp.any(dictionary != 0, axis=0), codes, 0)
    target = signals - as_floats("bias", model.bias)
    # Rounding may leave a code slightly below zero, relative to its sample's codes and signal;
    # beyond that the encoder is signed.
    rounding = 1e-3 * jnp.max(jnp.abs(codes), axis=1) + 1e-6 * jnp.linalg.norm(target, axis=1)
    if not signed and jnp.any(codes < -rounding[:, None]):
        raise ValueError(
            "the encoder's codes have clearly negative values; pass signed=True to hold them "
            "against signed codes."
        )
    weight = as_floats("lam", lam)
    achieved = lasso_problem.objective(target, dictionary, codes, weight)
    if not jnp.all(jnp.isfinite(achieved)):
        raise ValueError(
            f"the encoder's codes reach a magnitude of {float(jnp.max(jnp.abs(codes))):.1e} on "
            "unit atoms, whose objective "
            f"{codes.dtype} cannot hold; check the encoder's weights and the scale of the signals."
        )
    optimum = sparse_code(target, dictionary, weight, nonneg=not signed, **options)
    gap, objective = _excess(achieved, optimum), _held(optimum.objective)
    relative = np.divide(gap, objective, out=np.where(gap > 0, np.inf, 0.0), where=objective > 0)
    return AmortisationGap(gap, relative, codes, optimum)


def objective_gap(
    signals: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim latent"],
    codes: AnyCodes,
    reference: Solution,
    lam: Float[ArrayLike, "..."],
) -> dict[str, float]:
    """Mean amortisation gap `F(z_e) - F(z*)`, with `F(z) = ½ ‖y - D z‖² + λ ‖z‖₁`.

    Args:
      signals: less the bias, (n, input_dim).
      dictionary: unit or zero atoms, (input_dim, num_latents).
      codes: the encoder's in that frame, (n, num_latents). Codes of zero atoms count as zero.
      reference: solution of the lasso for the same signals, dictionary and weight.
      lam: the weight, a scalar or one for each sample, (n,).

    Returns:
      `objective`, the mean of F(z_e); `gap`, the mean over samples; `relative_gap`, the gap over
      the mean of F(z*); and `certificate`, the largest relative duality gap of the reference over
      samples, which bounds how much of the gap is the solver's own. The gap is at least minus the
      duality gap if the codes are feasible for the reference: signed codes can beat a non-negative
      optimum, and need a signed reference.
    """
    atoms, columns = _active_columns(dictionary, codes)
    live = jnp.asarray(columns * np.any(atoms != 0, axis=0), float)
    achieved = lasso_problem.objective(
        jnp.asarray(signals), jnp.asarray(atoms), live, jnp.asarray(lam, float)
    )
    optimum = np.asarray(reference.objective, np.float64)
    gap, scale = float(_excess(achieved, reference).mean()), float(optimum.mean())
    return {
        "objective": float(np.asarray(achieved, np.float64).mean()),
        "gap": gap,
        # The optimum is zero only if the signals are; any other code is then infinitely worse.
        "relative_gap": gap / scale if scale > 0 else float(np.inf if gap > 0 else 0),
        "certificate": float(lasso_problem.relative_gap(reference).max()),
    }


def _excess(achieved: Float[Array, " n"], optimum: Solution) -> Float[np.ndarray, " n"]:
    """`F(z_e) - F(z*)` of each sample, with 0 for negative values within the certificate and
    rounding.
    """
    value, best, gap = map(_held, (achieved, optimum.objective, optimum.gap))
    slack = gap + 16 * np.finfo(achieved.dtype).eps * value
    return np.where((value < best) & (value - best >= -slack), 0, value - best)


def _held(values: Float[Array, " n"]) -> Float[np.ndarray, " n"]:
    """Sums of squares in double precision, zero where their type underflows."""
    limits = np.finfo(values.dtype)
    return np.where(values < limits.tiny / limits.eps, 0, np.asarray(values, np.float64))


def mse(
    signals: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim latent"],
    codes: AnyCodes,
) -> float:
    """Mean squared error of the reconstruction, `mean_{i, d} (y - D z)²`.

    Args:
      signals: less the bias, (n, input_dim).
      dictionary: (input_dim, num_latents), atoms of any norm.
      codes: on that dictionary, (n, num_latents).

    Returns:
      The mean over samples and dimensions.
    """
    atoms, columns = _active_columns(dictionary, codes)
    # The error of a diverged fit may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.square(np.asarray(signals) - columns @ atoms.T, dtype=np.float64).mean())


def l0_above(codes: AnyCodes) -> float:
    """The mean over samples of the number of latents above 0.01 in magnitude, for codes (n,
    num_latents).
    """
    return int((abs(codes) > _ABOVE).sum()) / np.shape(codes)[0]


def _active_columns(
    dictionary: Float[ArrayLike, "input_dim latent"],
    codes: AnyCodes,
) -> tuple[Float[np.ndarray, "input_dim active"], Float[np.ndarray, "n active"]]:
    """The dictionary and the codes; of sparse codes only the active columns, since the others
    contribute nothing.
    """
    columns, latents = active_columns(codes)
    return np.asarray(dictionary)[:, latents], columns


def measure(inferred: Inferred) -> dict[str, float]:
    """`mse`, `l0_above`, the objective, the gap and the reference's certificate of every scored
    split, for models with a decoder.

    `unconverged` is the share of samples whose reference missed its tolerance; the certificate
    still bounds their gaps.
    """

    def score(name):
        codes = inferred.codes[name]
        scores = {"l0_above": l0_above(codes)}
        if inferred.model.dictionary is not None:
            signals = inferred.split(name).signals - inferred.model.bias
            dictionary, norms = inferred.unit_dictionary
            dims = slice(inferred.task.input_dim - inferred.task.padding)
            scores["mse"] = mse(signals[:, dims], inferred.model.decoder[dims], codes)
            scaled, optimum = codes * np.asarray(norms), inferred.optimum[name]
            scores |= objective_gap(signals, dictionary, scaled, optimum, inferred.lam)
            scores["unconverged"] = 1 - float(np.mean(optimum.converged))
        return scores

    return inferred.by_split(score)


METRIC = Metric(
    "gap",
    measure,
    {
        "l0_above": Column("latents above 0.01", heading="L0 > .01"),
        "mse": Column("mean squared error", heading="MSE"),
        "objective": Column("lasso objective"),
        "gap": Column("amortisation gap"),
        "relative_gap": Column("relative amortisation gap", heading="relative gap"),
        "certificate": Column("certificate of the optimum"),
        "unconverged": Column("share of optima beyond their tolerance", 0.0, ""),
    },
    version=2,
    needs=lambda inferred: (
        None if inferred.optimum or inferred.model.dictionary is None else "no optimum is asked for"
    ),
)
