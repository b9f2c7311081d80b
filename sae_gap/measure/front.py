"""How much of the activations few latents explain: the front of FVU against L0 on a dictionary, and an SAE's place beside it.

At an equal mean L0 the lasso reconstructs worse than an encoder that keeps k values as they are, since the l1 norm shrinks
all that it keeps. So each point of a front has two errors: of the certified lasso codes, and of least squares on their
support, over non-negative values where codes are non-negative. Those that are fair to an SAE are the second, and the SAE's
own codes refitted on their support are held beside them too.

The fraction of variance unexplained is `FVU = Σ‖x - x̂‖² / Σ‖x - mean(x)‖²`, sums over samples and dimensions in the units of
the activations, about the mean of the very samples: 0 is perfect, and 1 is what the mean alone achieves.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core.checks import check_unmasked
from sae_gap.measure.refit import refit
from sae_gap.measure.subject import Subject
from sae_gap.runtime import devices
from sae_gap.solvers import sparse_code

# Weights of a front, in units of the one at which codes are as sparse as wanted.
SPREAD = (2.0, 1.4, 1.0, 0.7, 0.5)
# Samples coded at once.
CHUNK = 2_000


class Point(NamedTuple):
    """One place on a front: mean L0 and FVU, as coded and after least squares on the support.

    Attributes:
      lam: the weight of the lasso; None for an encoder's own codes.
      l0: mean number of non-zero codes.
      fvu: of the codes.
      refit_l0: mean number of non-zero codes after least squares, which may set some to zero.
      refit_fvu: after least squares on the support.
      certificate: largest duality gap of a sample relative to its objective; None for an encoder's own codes.
    """

    lam: float | None
    l0: float
    fvu: float
    refit_l0: float
    refit_fvu: float
    certificate: float | None = None


class Front(NamedTuple):
    """A dictionary's front, and the SAE's own codes beside it.

    Attributes:
      points: of the certified lasso, by ascending L0.
      own: of the encoder's codes; None where there is no encoder.
    """

    points: tuple[Point, ...]
    own: Point | None


def check_varies(activations: Float[np.ndarray, "n input_dim"]) -> None:
    """Raises a ValueError where all activations are alike, bit for bit: rounding of their mean would hide it."""
    if np.all(activations == activations[:1]):
        raise ValueError("all activations are alike, so that there is no variance to explain; give activations that differ.")


def fvu(activations: Float[ArrayLike, "n input_dim"], reconstruction: Float[ArrayLike, "n input_dim"]) -> float:
    """The fraction of variance unexplained, `Σ‖x - x̂‖² / Σ‖x - mean(x)‖²`.

    Args:
      activations: x, (n, input_dim).
      reconstruction: x̂, (n, input_dim), in the same units.

    Returns:
      0 for a perfect reconstruction, 1 for that of the mean; it has no upper end.

    Raises:
      ValueError: the shapes differ, or the activations do not vary.
    """
    check_unmasked("activations", activations)
    check_unmasked("reconstruction", reconstruction)
    x, approximation = np.asarray(activations, np.float64), np.asarray(reconstruction, np.float64)
    if x.shape != approximation.shape:
        raise ValueError(f"activations and reconstruction must have one shape, but have {x.shape} and {approximation.shape}.")
    check_varies(x)
    total = float(np.sum((x - x.mean(axis=0)) ** 2))
    return float(np.sum((x - approximation) ** 2)) / total


def measure_front(
    subject: Subject,
    activations: Float[np.ndarray, "n input_dim"],
    lams: Sequence[float],
) -> Front:
    """The front of a dictionary, and the encoder's place beside it.

    Args:
      subject: what to measure.
      activations: (n, input_dim), all coded at each of the weights, `CHUNK` at a time.
      lams: weights, in any order; about the one that `match_l0` gives for the encoder's own L0.

    Returns:
      The front.

    Raises:
      ValueError: the activations do not vary, or an argument does not fit.
    """
    check_varies(activations)
    weights = sorted(lams, reverse=True)
    sums, certificates, own = np.zeros((len(weights), 4)), np.zeros(len(weights)), np.zeros(4)
    for start in range(0, len(activations), CHUNK):
        x = activations[start : start + CHUNK]
        target = devices.place(subject.target(x), devices.own_mesh())
        codes = None
        for place, weight in enumerate(weights):
            found = sparse_code(target, subject.dictionary, weight, nonneg=not subject.signed, init=codes)
            codes = found.codes
            relative = float(jnp.max(jnp.where(found.objective > 0, found.gap / found.objective, 0)))
            sums[place] += _sums(subject, x, target, codes)
            certificates[place] = max(certificates[place], relative)
        if subject.encode is not None:
            own += _sums(subject, x, target, subject.encode(target))
    total = float(np.sum((activations - activations.mean(axis=0, dtype=np.float64)) ** 2, dtype=np.float64))
    units = np.array([len(activations), total, len(activations), total])
    points = [
        Point._make([weight, *(part / units).tolist(), certificate])
        for weight, part, certificate in zip(weights, sums, certificates.tolist(), strict=True)
    ]
    mine = None if subject.encode is None else Point(None, *(own / units).tolist())
    return Front(tuple(sorted(points, key=lambda point: point.l0)), mine)


def _sums(subject: Subject, x, target, codes) -> Float[np.ndarray, " 4"]:
    """Non-zero codes and squared error, summed over samples; and both after least squares on the supports."""
    again = jnp.asarray(refit(target, subject.dictionary, codes != 0, nonneg=not subject.signed))
    found = []
    for values in (codes, again):
        rest = x - np.asarray(subject.decode(values, x))
        found += [float(np.count_nonzero(values)), float(np.sum(rest.astype(np.float64) ** 2))]
    return np.array(found)


class Distances(NamedTuple):
    """How far a point is from a front, as ratios that are 1 on it; None where the front does not reach so far.

    Attributes:
      fvu_ratio: the point's FVU over that of the front at an equal L0.
      l0_ratio: the point's L0 over that of the front at an equal FVU.
    """

    fvu_ratio: float | None
    l0_ratio: float | None


def distances(front: Sequence[tuple[float, float]], l0: float, fvu: float) -> Distances:
    """The vertical and the horizontal distance of a point from a front, which is interpolated linearly in log L0 and log FVU.

    Args:
      front: pairs of L0 and FVU, in any order; those with a zero are left out.
      l0: of the point.
      fvu: of the point.

    Returns:
      Two ratios.
    """
    logs = sorted((math.log(x), math.log(y)) for x, y in front if x > 0 and y > 0)
    if not (l0 > 0 and fvu > 0):
        return Distances(None, None)
    x, y = math.log(l0), math.log(fvu)
    level = next(_crossings(logs, x), None)
    # Of several places with one FVU, the sparsest counts.
    place = next(_crossings([(b, a) for a, b in logs], y), None)
    return Distances(None if level is None else math.exp(y - level), None if place is None else math.exp(x - place))


def _crossings(points: Sequence[tuple[float, float]], at: float):
    """The second coordinates where the line through the points has the first one, in the order of the points."""
    if len(points) == 1 and points[0][0] == at:
        yield points[0][1]
    for (a, b), (c, d) in itertools.pairwise(points):
        if min(a, c) <= at <= max(a, c):
            yield b if a == c else b + (d - b) * (at - a) / (c - a)
