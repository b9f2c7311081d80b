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
from jaxtyping import Array, Bool, Float
from numpy import asarray, inf, where
from scipy.sparse import csr_array

from sae_gap.core import (
    Column,
    Model,
    Solution,
    Transcoder,
    check_flag,
    lasso_problem,
    ratio,
    shown,
    squares,
)
from sae_gap.core.matching import as_matrix
from sae_gap.encoders import FISTA, Lasso, OnSupport, as_floats, check_model, unit_atoms
from sae_gap.metrics import Inferred, Metric, Overlap, fires
from sae_gap.solvers import sparse_code

# The published count of latents counts codes above this magnitude.
_ABOVE = 1e-2
# How many of the largest gaps a row lists.
WORST = 10


class AmortisationGap(NamedTuple):
    """The gap of n signals with its certificate.

    Attributes:
      gap: `F(z_e) - F(z*)`, (n,), not negative.
      relative: the gap over F(z*), (n,).
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
      TypeError: the model is no `Model`.
      ValueError: the model has no dictionary or no encoder, or an argument does not fit.

    References:
      Cremer, Li & Duvenaud (2018), "Inference suboptimality in variational autoencoders", ICML.
    """
    check_model(model, encode)
    encode = encode or model.encode
    if not encode:
        raise ValueError(
            "the model names no encoder; give encode, a function (model, signals) -> codes."
        )
    signed = bool(getattr(encode, "signed", False)) if signed is None else signed
    check_flag("signed", signed)
    signals = as_floats("signals", as_matrix("signals", signals))
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
    read = as_floats("inputs", as_matrix("inputs", given)) if reads else signals
    dictionary, norms = unit_atoms(as_floats("the dictionary", model.decoder))
    own = encode(model, read)
    shape = len(signals), len(norms)
    if np.shape(own) != shape:
        raise ValueError(
            f"encode must give codes of shape {shape}, one row a signal and one column an atom, "
            f"but gave {np.shape(own)}."
        )
    codes = as_floats("the encoder's codes", own) * norms
    codes = jnp.where(jnp.any(dictionary != 0, axis=0), codes, 0)
    target = signals - as_floats("bias", model.bias)
    # Rounding may leave a code slightly below zero, relative to its sample's codes; beyond that the
    # encoder is signed.
    if not signed and jnp.any(
        codes < -1e-3 * jnp.max(jnp.abs(codes), axis=1, keepdims=True)
    ):
        raise ValueError(
            "the encoder's codes have clearly negative values; pass signed=True to hold them "
            "against signed codes."
        )
    weight = as_floats("lam", lam)
    optimum = sparse_code(target, dictionary, weight, nonneg=not signed, **options)
    achieved = lasso_problem.objective(target, dictionary, codes, weight)
    gap = _excess(achieved, optimum)
    relative = _relative(gap, asarray(optimum.objective))
    return AmortisationGap(gap, relative, codes, optimum)


def _excess(achieved: ArrayLike, optimum: Solution) -> Float[np.ndarray, " n"]:
    """`F(z_e) - F(z*)` of each sample, with 0 for negative values within the certificate and
    rounding.
    """
    value = asarray(achieved, float)
    best = asarray(optimum.objective, float)
    gap = asarray(optimum.gap, float)
    slack = gap + 16 * np.finfo(optimum.objective.dtype).eps * value
    return where((value < best) & (value - best >= -slack), 0, value - best)


def _relative(gap: np.ndarray | float, optimum: np.ndarray | float) -> np.ndarray:
    """A gap over the optimum, which is zero only if the signals are; any other code is then
    infinitely worse.
    """
    return np.divide(gap, optimum, out=where(gap > 0, inf, 0.0), where=optimum > 0)


def measure(inferred: Inferred) -> dict[str, float]:
    """The number of latents above 0.01 in a sample, `l0_above`, and for models with a decoder the
    mean squared error, the objective, the gap and the reference's certificate; of every scored
    split.

    `relative_gap` is the gap over the mean of F(z*); `certificate`, the largest relative duality
    gap of a sample's reference, bounds how much of the gap is the solver's own. `unconverged` is
    the share of samples whose reference missed its tolerance; the certificate still bounds theirs.
    The gap is at least minus the duality gap if the codes are feasible for the reference: signed
    codes can beat a non-negative optimum, and need a signed reference.
    """

    def score(name: str) -> dict[str, float]:
        codes = inferred.codes[name]
        scores = {"l0_above": int((abs(codes) > _ABOVE).sum()) / codes.shape[0]}
        if inferred.model.dictionary is not None:
            terms = inferred.terms(codes, name)
            optimum = inferred.optimum[name]
            task = inferred.task
            achieved = terms.objective(inferred.lam)
            gap = float(_excess(achieved, optimum).mean())
            scale = float(asarray(optimum.objective, float).mean())
            scores |= {
                "mse": float(squares(terms.target - terms.fit).mean())
                / (task.input_dim - task.padding),
                "objective": float(achieved.mean()),
                "gap": gap,
                "relative_gap": float(_relative(gap, scale)),
                "certificate": float(lasso_problem.relative_gap(optimum).max()),
                "unconverged": 1 - float(np.mean(optimum.converged)),
            }
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
        None
        if inferred.optimum or inferred.model.dictionary is None
        else "no optimum is asked for"
    ),
)


def _parts(inferred: Inferred) -> dict[str, Any]:
    """The gap of a model's own encoder and its parts, at the weight of the scored lasso codes, over
    the scored samples.

    An encoder that shrinks all of its codes alike, or that was never trained to shrink them as the
    l1 norm does, has a large gap for a trivial reason. So we split the gap `F(z_e) - F(z*)` along
    three codes, each better than the one before,

      F(z_e) - F(z*) = [F(z_e) - F(a z_e)] + [F(a z_e) - F(z_s)] + [F(z_s) - F(z*)],

    with `a ≥ 0` the best common scale of all codes, and `z_s` the best values on each sample's own
    support.

    The objective of scaled codes is
    `Σ F(a z_e) = Σ ½‖y‖² - a Σ⟨y, D z_e⟩ + ½ a² Σ‖D z_e‖² + a λ Σ‖z_e‖₁`, least at
    `a = max(0, (Σ⟨y, D z_e⟩ - λ Σ‖z_e‖₁) / Σ‖D z_e‖²)`.

    A duality gap certifies both optima: the true `relative_gap` is larger by at most
    `optimum_slack`, the true `values_share` by at most `support_slack`, and the true
    `support_share` is smaller by at most `support_slack` or larger by at most `optimum_slack`.

    Returns:
      Nothing for codes that are not a lasso's. For a lasso, `unconverged`, its samples beyond the
      tolerance, and `unused`, the number of latents that no code uses. For a model with an encoder
      also `gap`, the mean of F(z_e) - F(z*), and the `scale` a; as shares of F(z*) `relative_gap`,
      `scale_share`, `values_share`, `support_share`, and the duality gaps of z_s and z*,
      `support_slack` and `optimum_slack`; how far the supports agree (see `_supports`); the latents
      `fired_only` by the encoder and `used_only` by the optimum; and the samples with the largest
      gaps, `worst`, with their `worst_gap` and `worst_relative_gap`.
    """
    lasso = inferred.encoder
    counts = inferred.counts
    if not isinstance(lasso, Lasso | FISTA):
        return {}
    own = inferred.learner.encode
    best: Any = inferred.infer(lasso)
    codes = inferred.infer(own).codes if own else best.codes
    fired = fires(codes)[counts]
    used = fires(best.codes)[counts]
    fires_ever = fired.sum(axis=0) > 0
    used_ever = used.sum(axis=0) > 0
    row: dict[str, Any] = {
        "unconverged": int((asarray(best.converged)[counts] == 0).sum()),
        "unused": int((~used_ever & ~fires_ever).sum()),
    }
    if not own:
        return row
    held: Any = inferred.infer(OnSupport(own, lasso.lam, lasso.nonneg, 0.0))
    optimum = asarray(best.objective, float)[counts]
    support = asarray(held.objective, float)[counts].sum()
    target, fit, size = (part[counts] for part in inferred.terms(codes))
    energy = 0.5 * squares(target)
    power = squares(fit)
    pull = np.einsum("ij,ij->i", target, fit, dtype=float) - lasso.lam * size
    gaps = energy - pull + 0.5 * power - optimum
    scale = max(0.0, pull.sum() / power.sum()) if power.sum() > 0 else 1.0
    scaled = energy.sum() - scale * pull.sum() + 0.5 * scale**2 * power.sum()
    unit = optimum.sum() or len(gaps)
    return {
        **row,
        "gap": gaps.mean(),
        "scale": scale,
        "relative_gap": gaps.sum() / unit,
        "scale_share": (gaps.sum() + optimum.sum() - scaled) / unit,
        "values_share": (scaled - support) / unit,
        "support_share": (support - optimum.sum()) / unit,
        "support_slack": asarray(held.gap, float)[counts].sum() / unit,
        "optimum_slack": asarray(best.gap, float)[counts].sum() / unit,
        **_supports(fired, used),
        "fired_only": int((fires_ever & ~used_ever).sum()),
        "used_only": int((used_ever & ~fires_ever).sum()),
        **_worst(gaps, optimum, counts),
    }


def _worst(
    gaps: Float[np.ndarray, " counted"],
    optimum: Float[np.ndarray, " counted"],
    counts: Bool[np.ndarray, " n"],
) -> dict[str, list[float]]:
    """The samples with the largest gaps."""
    worst = np.argsort(-gaps, kind="stable")[:WORST]
    relative = gaps / where(optimum > 0, optimum, 1)
    return {
        "worst": np.flatnonzero(counts)[worst].tolist(),
        "worst_gap": gaps[worst].tolist(),
        "worst_relative_gap": relative[worst].tolist(),
    }


def _supports(fired: csr_array, used: csr_array) -> dict[str, float]:
    """How far the encoder's support E and the optimum's support O agree, on the mean of samples.

    Two empty supports agree fully; an empty and a non-empty one do not agree at all.

    Args:
      fired: E, sparse, (n, num_latents).
      used: O, likewise.

    Returns:
      `|E ∩ O|` over `|E ∪ O|`, over `|E|` and over `|O|`.
    """
    overlap = Overlap.of(fired, used, axis=1)
    is_empty = overlap.either == 0
    shares = {
        "jaccard": ratio(overlap.both, overlap.either),
        "overlap_precision": overlap.precision,
        "overlap_recall": overlap.recall,
    }
    return {name: float((share + is_empty).mean()) for name, share in shares.items()}


PARTS = Metric("gap_parts", _parts, everywhere=False)
