"""How much of the activations few latents explain: the curve of FVU against L0 on a dictionary, and
an SAE's place beside it.

At an equal mean L0 the lasso reconstructs worse than an encoder that keeps k values as they are,
since the l1 norm shrinks all that it keeps. So each point of a curve has two errors: of the
certified lasso codes, and of least squares on their support, over non-negative values where codes
are non-negative. Those that are fair to an SAE are the second, and the SAE's own codes refitted on
their support are held beside them too.

The fraction of variance unexplained is `FVU = Σ‖x - x̂‖² / Σ‖x - mean(x)‖²`, sums over samples and
dimensions in the units of the activations, about the mean of the very samples: 0 is perfect, and 1
is what the mean alone achieves.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core.matching import as_matrix
from sae_gap.core.rows import squares
from sae_gap.measure.coding import Coding, by_encoder, code, lasso, least_squares
from sae_gap.saes.loaded_sae import SAE


class Point(NamedTuple):
    """One place on a curve: mean L0 and FVU, as coded and after least squares on the support.

    Attributes:
      lam: the weight of the lasso, or that of the lasso at whose L0 a pursuit is; None for an
        encoder's own codes.
      l0: mean number of non-zero codes.
      fvu: of the codes.
      refit_l0: mean number of non-zero codes after least squares, which may set some to zero.
      refit_fvu: after least squares on the support.
      certificate: largest duality gap of a sample relative to its objective; None for codes that
        have none.
      fired: latents that are not zero for every sample.
      errors: squared error of the codes, summed over the samples of each document.
      refit_errors: the same after least squares on the support.
    """

    lam: float | None
    l0: float
    fvu: float
    refit_l0: float
    refit_fvu: float
    certificate: float | None
    fired: int
    errors: tuple[float, ...]
    refit_errors: tuple[float, ...]


class Curve(NamedTuple):
    """A dictionary's curve, and the SAE's own codes beside it.

    Attributes:
      points: of the certified lasso, by ascending L0.
      own: of the encoder's codes; None where there is no encoder.
    """

    points: tuple[Point, ...]
    own: Point | None


def check_varies(activations: Float[np.ndarray, "n input_dim"]) -> None:
    """Raises a ValueError where all activations are alike, bit for bit: rounding of their mean
    would hide it.
    """
    if np.all(activations == activations[:1]):
        raise ValueError(
            "all activations are alike, so that there is no variance to explain; give some "
            "hundreds that differ."
        )


def fvu(
    activations: Float[ArrayLike, "n input_dim"], reconstruction: Float[ArrayLike, "n input_dim"]
) -> float:
    """The fraction of variance unexplained, `Σ‖x - x̂‖² / Σ‖x - mean(x)‖²`.

    Args:
      activations: x, (n, input_dim).
      reconstruction: x̂, (n, input_dim), in the same units.

    Returns:
      0 for a perfect reconstruction, 1 for that of the mean; it has no upper end.

    Raises:
      ValueError: the shapes differ, or the activations do not vary.
    """
    x = as_matrix("activations", activations).astype(np.float64)
    approximation = as_matrix("reconstruction", reconstruction).astype(np.float64)
    if x.shape != approximation.shape:
        raise ValueError(
            f"activations and reconstruction must have one shape, but have {x.shape} and "
            f"{approximation.shape}."
        )
    check_varies(x)
    return float(squares(x - approximation).sum() / squares(x - x.mean(axis=0)).sum())


def measure_curve(
    sae: SAE,
    activations: Float[np.ndarray, "n input_dim"],
    lams: Sequence[float],
    documents: Int[np.ndarray, " n"] | None = None,
) -> Curve:
    """The curve of a dictionary, and the encoder's place beside it.

    Args:
      sae: what to measure.
      activations: (n, input_dim), all coded at each of the weights, a chunk at a time.
      lams: weights, in any order; about the one that `match_l0` gives for the encoder's own L0.
      documents: of each activation, counted from 0, for `errors`; None takes all for one document.

    Returns:
      The curve.

    Raises:
      ValueError: the activations do not vary, or an argument does not fit.
    """
    check_varies(activations)
    points, start = [], None
    for lam in sorted(lams, reverse=True):
        coding = code(sae, activations, lasso(sae, lam, start))
        points.append(measure_point(sae, activations, coding, lam, documents))
        start = coding.codes
    own = None
    if sae.model.encode is not None:
        coding = code(sae, activations, by_encoder(sae))
        own = measure_point(sae, activations, coding, None, documents)
    return Curve(tuple(sorted(points, key=lambda point: point.l0)), own)


def measure_point(
    sae: SAE,
    activations: Float[np.ndarray, "n input_dim"],
    coding: Coding,
    lam: float | None,
    documents: Int[np.ndarray, " n"] | None,
) -> Point:
    """The place of codes of activations; all else is that of `measure_curve`."""
    member = np.zeros(len(activations), int) if documents is None else documents
    variance = squares(activations - activations.mean(axis=0, dtype=np.float64)).sum()
    again = code(sae, activations, least_squares(sae, coding.codes))
    errors, refitted = (
        np.bincount(member, squares(activations - each.guess)) for each in (coding, again)
    )
    return Point(
        lam,
        coding.l0,
        float(errors.sum() / variance),
        again.l0,
        float(refitted.sum() / variance),
        coding.certificate,
        coding.fired,
        tuple(errors.tolist()),
        tuple(refitted.tolist()),
    )


def l0_ratio(curve: Sequence[tuple[float, float]], l0: float, fvu: float) -> float | None:
    """The L0 of a point over that of a curve at an equal FVU. The curve is interpolated linearly in
    log L0 and log FVU.

    Args:
      curve: pairs of L0 and FVU, in any order; those with a zero are left out.
      l0: of the point.
      fvu: of the point.

    Returns:
      The ratio, 1 on the curve; None where the curve does not reach so far. Of several places, the
      sparsest counts.
    """
    if l0 <= 0 or fvu <= 0:
        return None
    logs, y = sorted((math.log(x), math.log(y)) for x, y in curve if x > 0 and y > 0), math.log(fvu)
    for (a, b), (c, d) in itertools.pairwise(logs):
        if min(b, d) <= y <= max(b, d):
            return l0 / math.exp(a if b == d else a + (c - a) * (y - b) / (d - b))
    return None
