"""The screened pursuit and least squares on supports, for NumPy and PyTorch; imports no JAX.

`sae_gap.encoders.screened_pursuit` describes the method, and compiles it. Here each operation runs
at once on all rows, and exchanges go on for the rows that still need them.
"""

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float, Int

from sae_gap.core.namespace import namespace

# The method's name in configurations.
PURSUIT = "sae_gap_pursuit"
# The largest Gram matrix of all atoms that is stored, in floats.
WHOLE = 2**27
# An atom is dependent if less than this share of its energy lies outside the span of those chosen.
DEPENDENT = 1e-5
# First all values of the wrong sign are exchanged at once, then one at a time; hardly any sample
# takes ten exchanges.
EXCHANGES, MOST = 20, 200
# A value may be this far below zero, and a correlation this far above, for a signal and atoms of
# unit norm.
SLACK = 1e-6
# As many rows as a CPU's cache holds.
CHUNK = 128


def pursue(
    target: Float[Any, "n input_dim"],
    atoms: Float[Any, "num_latents input_dim"],
    k: int,
    breadth: int = 2,
    screens: int = 2,
) -> tuple[Int[Any, "n size"], Float[Any, "n size"], Float[Any, "n size"]]:
    """Runs a screened pursuit of k atoms, then solves least squares over `z ≥ 0`.

    Args:
      target: finite rows, (n, input_dim).
      atoms: of unit length or zero, (num_latents, input_dim).
      k: number of atoms to pursue.
      breadth: candidates that a screen proposes for each of them.
      screens: number of products with the dictionary that propose candidates.

    Returns:
      The numbers of the chosen atoms, their codes (zero for an unused atom), and the increase of
      the squared error without each.
    """
    m, size = min(breadth * k, len(atoms)), min(k, *atoms.shape)
    toward = score = target @ atoms.mT
    chosen = own = on = None
    for screen in range(1, screens + 1):
        if chosen is not None:
            codes, _ = least_squares(target, own, on, exchanges=0)
            score = (target - (codes[:, None] @ own)[:, 0]) @ atoms.mT
            # Atoms chosen earlier are proposed first, and taken first.
            score[_rows(chosen)[on], chosen[on]] = math.inf
        near = _largest(score, m)
        rows, own = _rows(near), atoms[near]
        first = score[rows, near] == math.inf
        steps = -(-size * screen // screens)
        places, on = _match(own @ own.mT, toward[rows, near], first, _slack(target), steps)
        chosen = near[rows[:, :steps], places]
        own = atoms[chosen]
    return chosen, *least_squares(target, own, on)


def least_gain(gains: Float[Any, "n size"], l0: float) -> Any:
    """The gain that l0 atoms a row exceed on average: halfway between the last and the next."""
    flat = gains.reshape(-1)
    ordered, first = flat[flat.argsort()], max(0, len(flat) - max(1, round(l0 * len(gains))))
    return (ordered[first] + ordered[max(0, first - 1)]) / 2


def least_squares(
    target: Float[Any, "n input_dim"],
    own: Float[Any, "n size input_dim"],
    on: Bool[Any, "n size"],
    exchanges: int = MOST,
) -> tuple[Float[Any, "n size"], Float[Any, "n size"]]:
    """Solves least squares over `z ≥ 0` by block principal pivoting.

    Args:
      target: (n, input_dim).
      own: the atoms of each row, (n, size, input_dim).
      on: a mask of the atoms that may be used; these must be independent.
      exchanges: the most exchanges of atoms between zero and positive codes; 0 allows any sign.

    Returns:
      The codes z, and the increase of the squared error without each, `z_j² / [(D_SᵀD_S)⁻¹]_jj` on
      the support S.
    """
    xp, allowed, on = namespace(target), on, on & True
    gram, wanted = own @ own.mT, (own @ target[:, :, None])[:, :, 0]
    codes, spread, slack = 0 * wanted, 0 * wanted, _slack(target)
    rows, order = _rows(on)[:, 0], xp.arange(1, on.shape[1] + 1, device=on.device)
    for exchange in range(exchanges + 1):
        support = on[rows]
        inverse = inverse_gram(gram[rows], support)
        values = inverse @ (wanted[rows] * support)[:, :, None]
        codes[rows], spread[rows] = values[:, :, 0], xp.linalg.diagonal(inverse)
        excess = wanted[rows] - (gram[rows] @ values)[:, :, 0]
        above = allowed[rows] & (excess > slack[rows])
        wrong = xp.where(support, codes[rows] < -slack[rows], above)
        rows, wrong = rows[wrong.any(1)], wrong[wrong.any(1)]
        if exchange == exchanges or not len(rows):
            break
        if exchange >= EXCHANGES:
            wrong = wrong & (order == order[(wrong * order).argmax(1)][:, None])
        on[rows] ^= wrong
    codes = xp.where(on, xp.clip(codes, 0, None) if exchanges else codes, 0)
    return codes, codes**2 / spread


def inverse_gram(
    gram: Float[Any, "n size size"], on: Bool[Any, "n size"], *, least_norm: bool = False
) -> Float[Any, "n size size"]:
    """Returns the inverse of the Gram matrix of the atoms that are on, within a matrix of all. If
    atoms may depend on each other it is the pseudoinverse, which gives the solution of least norm.
    """
    xp, size = namespace(gram), gram.shape[1]
    one = xp.eye(size, dtype=gram.dtype, device=gram.device)
    gram = xp.where(on[:, :, None] & on[:, None], gram, one)
    if not least_norm:
        return xp.linalg.inv(gram)
    return xp.linalg.pinv(gram, rtol=size * xp.finfo(gram.dtype).eps, hermitian=True)


def scatter(
    chosen: Int[Any, "n size"], codes: Float[Any, "n size"], num_latents: int
) -> Float[Any, "n num_latents"]:
    """Puts the codes of some atoms in their places among all atoms."""
    xp, on = namespace(codes), codes != 0
    dense = xp.zeros((len(codes), num_latents), dtype=codes.dtype, device=codes.device)
    dense[_rows(chosen)[on], chosen[on]] = codes[on]
    return dense


def by_chunk(function: Callable[..., Any], chunk: int, *arrays: Any) -> list[Any]:
    """Applies a function to `chunk` rows of the arrays at a time, and joins its results."""
    starts = range(0, len(arrays[0]) or 1, chunk)
    parts = [function(*(array[start : start + chunk] for array in arrays)) for start in starts]
    return [namespace(part[0]).concat(part) for part in zip(*parts, strict=True)]


def _match(gram, pull, first, slack, size):
    """Runs orthogonal matching pursuit on the Gram matrix of the candidates. Returns the places of
    the chosen atoms, and whether each adds anything.

    Row i of `basis` has the inner products of the candidates with vector i of an orthonormal basis
    of the chosen atoms.
    """
    xp, rows, left = namespace(pull), _rows(pull)[:, 0], 0 * pull + 1
    basis, places, on = 0 * gram[:, :size], [], []
    for i in range(size):
        free = left > DEPENDENT
        best = xp.where(free, xp.where(first, math.inf, pull), -math.inf).argmax(1)
        gain = pull[rows, best]
        fine = free[rows, best] & (first[rows, best] | (gain > slack[:, 0]))
        before, length = basis[:, :i], xp.where(fine, left[rows, best], math.inf) ** 0.5
        new = gram[rows, best] - (before[rows, :, best][:, None] @ before)[:, 0]
        new = new / length[:, None]
        basis[:, i], pull, left = new, pull - new * (gain / length)[:, None], left - new**2
        places.append(best)
        on.append(fine)
    return xp.stack(places, 1), xp.stack(on, 1)


def _largest(values, count):
    """Returns the places of each row's largest entries, in any order."""
    if hasattr(values, "topk"):
        return values.topk(count, sorted=False).indices
    return values.argpartition(-count, axis=1)[:, -count:]


def _rows(like):
    """Returns the number of its row for each entry of an array."""
    xp = namespace(like)
    return xp.arange(len(like), device=like.device)[:, None] + xp.zeros_like(like, dtype=xp.int64)


def _slack(target):
    return SLACK * (target**2).sum(1)[:, None] ** 0.5
