"""The screened pursuit and least squares on tensors of an accelerator: each operation runs at once
on all rows, and the host reads no value, for which it would wait.

`sae_gap.core.pursuit` lists the forms of the method.
"""

from functools import partial
from math import inf

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, where

from sae_gap.core import DEPENDENT, SLACK, eliminate

# Exchanges between zero and positive codes, first of all atoms of the wrong sign at once, and then
# of one at a time, in the few rows that go round in circles: of 50,000 with as many atoms as
# dimensions, 141 did, and none needed more than 21.
EXCHANGES = 10
SINGLE = 30
# Steps of a solution of least norm, each of which leaves less than half of what depends on
# directions that have more than 0.001 of an atom's energy, in float32.
STEPS = 8


def screened_pursuit(
    target: Float[Tensor, "n input_dim"],
    atoms: Float[Tensor, "num_latents input_dim"],
    num_candidates: int,
    sizes: tuple[int, ...],
    threshold: Tensor | float | None,
) -> tuple[Int[Tensor, "n size"], Float[Tensor, "n size"], Float[Tensor, "n size"]]:
    """`sae_gap.loops.host.screened_pursuit` on tensors, without proposals."""
    toward = score = target @ atoms.mT
    own = target[:, None]
    chosen = _rows(own[:, 0, :0])
    on = _rows(own[:, 0, :0]) > 0
    for steps in sizes:
        if chosen.shape[1]:
            codes, _ = _on_support(own @ own.mT, own @ target[:, :, None], on)
            codes = codes[:, :, 0].where(on, 0)
            score = (target - (codes[:, None] @ own)[:, 0]) @ atoms.mT
            # Atoms chosen earlier are proposed first, and taken first.
            first = where(on, inf, -inf).to(score)
            score = score.scatter_reduce(1, chosen, first, "amax")
        near = score.topk(num_candidates, sorted=False).indices
        rows = _rows(near)
        own = atoms[near]
        first = score[rows, near] == inf
        places, on = omp(own @ own.mT, toward[rows, near], first, _slack(target), steps)
        chosen = near[rows[:, :steps], places]
        own = atoms[chosen]
    codes, inverse = nonnegative_least_squares(target, own, on)
    gains = 0 * codes
    if threshold is not None:
        gains = prune(inverse, codes)
        kept = (gains > 0) & (gains >= threshold**2)
        codes, _ = nonnegative_least_squares(target, own, kept)
    return chosen, codes, gains


def prune(
    inverse: Float[Tensor, "n size size"], codes: Float[Tensor, "n size"]
) -> Float[Tensor, "n size"]:
    """The largest rise of the squared error up to the drop of each atom, if all are dropped."""
    drop = torch.vmap(partial(eliminate, torch))
    table = torch.cat([inverse, codes[:, None]], 1)
    gains = 0 * codes
    for _ in codes.mT:
        table, gains = drop(table, gains)
    return gains


def nonnegative_least_squares(
    target: Float[Tensor, "n input_dim"],
    own: Float[Tensor, "n size input_dim"],
    on: Bool[Tensor, "n size"],
) -> tuple[Float[Tensor, "n size"], Float[Tensor, "n size size"]]:
    """Solves least squares over `z ≥ 0` by block principal pivoting.

    Args:
      target: (n, input_dim).
      own: the atoms of each row, (n, size, input_dim).
      on: a mask of the atoms that may be used; these must be independent.

    Returns:
      The codes z, and the inverse of the Gram matrix of their support, with the identity elsewhere.
    """
    posed = own @ own.mT, own @ target[:, :, None], _slack(target), on
    on, wrong = _exchange(*posed, on)
    # Those that the last exchange still changed, in a number that the host knows.
    rows = wrong.sum(1).topk(min(len(on), 16 + len(on) // 32)).indices
    few = [part[rows] for part in (*posed, on)]
    on[rows], _ = _exchange(*few, single=True)
    codes, half = _on_support(*posed[:2], on)
    return codes[:, :, 0].where(on, 0).clamp(min=0), half.mT @ half


def _exchange(
    gram: Tensor,
    wanted: Tensor,
    slack: Tensor,
    allowed: Tensor,
    on: Tensor,
    *,
    single: bool = False,
) -> tuple[Tensor, Tensor]:
    """The atoms that are on after some exchanges, and those that the last one changed."""
    for _ in range(SINGLE if single else EXCHANGES):
        codes, _ = _on_support(gram, wanted, on)
        above = allowed & ((wanted - gram @ codes)[:, :, 0] > slack)
        wrong = where(on, codes[:, :, 0] < -slack, above)
        if single:
            # The last of a row.
            wrong &= wrong.cumsum(1) == wrong.sum(1, keepdim=True)
        on = on ^ wrong
    return on, wrong


def _on_support(gram: Tensor, wanted: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    half = _half(where(on[:, :, None] & on[:, None], gram, _one(gram)))
    return half.mT @ (half @ (wanted * on[:, :, None])), half


def least_norm(
    gram: Float[Tensor, "n size size"], right: Float[Tensor, "n size 1"]
) -> Float[Tensor, "n size 1"]:
    """Solves `G z = b`, with the least norm where atoms depend on each other, by steps
    `z ← z + G (G + μ)⁻² (b - G z)`. The last product keeps rounding from what G does not reach.
    """
    half = _half(gram + torch.finfo(gram.dtype).eps ** 0.5 * _one(gram))
    inverse = half.mT @ half
    codes = 0 * right
    for _ in range(STEPS):
        codes = codes + gram @ (inverse @ (inverse @ (right - gram @ codes)))
    return codes


def _half(gram: Tensor) -> Tensor:
    """The inverse of the Cholesky factor L of `G = L Lᵀ`."""
    factor, _ = torch.linalg.cholesky_ex(gram)
    return torch.linalg.solve_triangular(
        factor, _one(gram).expand_as(gram), upper=False
    )


def _one(gram: Tensor) -> Tensor:
    return torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def omp(
    gram: Float[Tensor, "n m m"],
    pull: Float[Tensor, "n m"],
    first: Bool[Tensor, "n m"],
    slack: Float[Tensor, "n 1"],
    size: int,
) -> tuple[Int[Tensor, "n size"], Bool[Tensor, "n size"]]:
    """Runs orthogonal matching pursuit on the Gram matrix of the candidates. Returns the places of
    the chosen atoms, and whether each adds anything.

    Row i of `basis` has the inner products of the candidates with vector i of an orthonormal basis
    of the chosen atoms.
    """
    rows = _rows(pull)[:, 0]
    left = 0 * pull + 1
    basis = 0 * gram[:, :size]
    places = []
    on = []
    for i in range(size):
        free = left > DEPENDENT
        best = where(free, where(first, inf, pull), -inf).argmax(1)
        gain = pull[rows, best]
        fine = free[rows, best] & (first[rows, best] | (gain > slack[:, 0]))
        before = basis[:, :i]
        length = where(fine, left[rows, best], inf) ** 0.5
        new = gram[rows, best] - (before[rows, :, best][:, None] @ before)[:, 0]
        new = new / length[:, None]
        basis[:, i] = new
        pull = pull - new * (gain / length)[:, None]
        left = left - new**2
        places.append(best)
        on.append(fine)
    return torch.stack(places, 1), torch.stack(on, 1)


def _rows(like: Tensor) -> Tensor:
    """Returns the number of its row for each entry of an array."""
    return torch.arange(len(like), device=like.device)[:, None].expand_as(like)


def _slack(target: Tensor) -> Tensor:
    return SLACK * (target**2).sum(1)[:, None] ** 0.5
