"""The screened pursuit on tensors of an accelerator: each operation runs at once on all rows.

`sae_gap.encoders.screened_pursuit` describes the method; `sae_gap.loops.host` has it for a CPU.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_gap.core.pursuit import DEPENDENT, EXCHANGES, MOST, SLACK


def pursue(
    target: Float[Tensor, "n input_dim"],
    atoms: Float[Tensor, "num_latents input_dim"],
    num_candidates: int,
    sizes: tuple[int, ...],
    least: Float[Tensor, ""] | None = None,
) -> tuple[Int[Tensor, "n size"], Float[Tensor, "n size"], Float[Tensor, "n size"]]:
    """`sae_gap.loops.host.pursue` on tensors, without proposals."""
    toward = score = target @ atoms.mT
    own = target[:, None]
    chosen, on = _rows(own[:, 0, :0]), _rows(own[:, 0, :0]) > 0
    for steps in sizes:
        if chosen.shape[1]:
            codes, _ = least_squares(target, own, on, exchanges=0)
            score = (target - (codes[:, None] @ own)[:, 0]) @ atoms.mT
            # Atoms chosen earlier are proposed first, and taken first.
            score[_rows(chosen)[on], chosen[on]] = math.inf
        near = score.topk(num_candidates, sorted=False).indices
        rows, own = _rows(near), atoms[near]
        first = score[rows, near] == math.inf
        places, on = _match(own @ own.mT, toward[rows, near], first, _slack(target), steps)
        chosen = near[rows[:, :steps], places]
        own = atoms[chosen]
    codes, gains = least_squares(target, own, on)
    if least is not None:
        codes, _ = least_squares(target, own, (gains > 0) & (gains >= least))
    return chosen, codes, gains


def least_squares(
    target: Float[Tensor, "n input_dim"],
    own: Float[Tensor, "n size input_dim"],
    on: Bool[Tensor, "n size"],
    exchanges: int = MOST,
) -> tuple[Float[Tensor, "n size"], Float[Tensor, "n size"]]:
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
    allowed, on = on, on.clone()
    gram, wanted = own @ own.mT, (own @ target[:, :, None])[:, :, 0]
    codes, spread, slack = 0 * wanted, 0 * wanted, _slack(target)
    rows, order = _rows(on)[:, 0], torch.arange(1, on.shape[1] + 1, device=on.device)
    for exchange in range(exchanges + 1):
        support = on[rows]
        inverse = inverse_gram(gram[rows], support)
        values = inverse @ (wanted[rows] * support)[:, :, None]
        codes[rows], spread[rows] = values[:, :, 0], inverse.diagonal(dim1=1, dim2=2)
        excess = wanted[rows] - (gram[rows] @ values)[:, :, 0]
        above = allowed[rows] & (excess > slack[rows])
        wrong = torch.where(support, codes[rows] < -slack[rows], above)
        rows, wrong = rows[wrong.any(1)], wrong[wrong.any(1)]
        if exchange == exchanges or not len(rows):
            break
        if exchange >= EXCHANGES:
            wrong = wrong & (order == order[(wrong * order).argmax(1)][:, None])
        on[rows] ^= wrong
    codes = torch.where(on, codes.clamp(min=0) if exchanges else codes, 0)
    return codes, codes**2 / spread


def inverse_gram(
    gram: Float[Tensor, "n size size"], on: Bool[Tensor, "n size"], *, least_norm: bool = False
) -> Float[Tensor, "n size size"]:
    """Returns the inverse of the Gram matrix of the atoms that are on, within a matrix of all. If
    atoms may depend on each other it is the pseudoinverse, which gives the solution of least norm.
    """
    size = gram.shape[1]
    one = torch.eye(size, dtype=gram.dtype, device=gram.device)
    gram = torch.where(on[:, :, None] & on[:, None], gram, one)
    if not least_norm:
        return torch.linalg.inv(gram)
    eps = torch.finfo(gram.dtype).eps
    factor, failed = torch.linalg.cholesky_ex(gram)
    inverse = torch.cholesky_inverse(factor)
    # Half of the digits are left at least.
    lost = (failed > 0) | ~(factor.diagonal(dim1=1, dim2=2).amin(1) ** 2 > eps**0.5)
    if lost.any():
        inverse[lost] = torch.linalg.pinv(gram[lost], rtol=size * eps, hermitian=True)
    return inverse


def _match(gram, pull, first, slack, size):
    """Runs orthogonal matching pursuit on the Gram matrix of the candidates. Returns the places of
    the chosen atoms, and whether each adds anything.

    Row i of `basis` has the inner products of the candidates with vector i of an orthonormal basis
    of the chosen atoms.
    """
    rows, left = _rows(pull)[:, 0], 0 * pull + 1
    basis, places, on = 0 * gram[:, :size], [], []
    for i in range(size):
        free = left > DEPENDENT
        best = torch.where(free, torch.where(first, math.inf, pull), -math.inf).argmax(1)
        gain = pull[rows, best]
        fine = free[rows, best] & (first[rows, best] | (gain > slack[:, 0]))
        before, length = basis[:, :i], torch.where(fine, left[rows, best], math.inf) ** 0.5
        new = gram[rows, best] - (before[rows, :, best][:, None] @ before)[:, 0]
        new = new / length[:, None]
        basis[:, i], pull, left = new, pull - new * (gain / length)[:, None], left - new**2
        places.append(best)
        on.append(fine)
    return torch.stack(places, 1), torch.stack(on, 1)


def _rows(like):
    """Returns the number of its row for each entry of an array."""
    return torch.arange(len(like), device=like.device)[:, None] + torch.zeros_like(
        like, dtype=torch.int64
    )


def _slack(target):
    return SLACK * (target**2).sum(1)[:, None] ** 0.5
