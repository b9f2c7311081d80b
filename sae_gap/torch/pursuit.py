"""The codes of a screened pursuit and least squares on a support, batched, in PyTorch."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_gap.core.checks import check_size
from sae_gap.core.pursuit import DEPENDENT, EXCHANGES, MOST, SLACK, WHOLE

# Rows that are coded at once, which a cache holds, and by accelerators, which many keep busy.
CHUNK, CHUNK_ACCELERATED = 128, 2048
# Refinements of least squares from a support alone.
REFINEMENTS = 20


def pursuit_codes(
    target: Float[Tensor, "... input_dim"],
    W_dec: Float[Tensor, "num_latents input_dim"],  # noqa: N803
    *,
    k: int,
    breadth: int = 2,
    screens: int = 2,
    threshold: Float[Tensor, ""] | float | None = None,
    chunk: int | None = None,
) -> Float[Tensor, "... num_latents"]:
    """The codes of `sae_gap.encoders.screened_pursuit`: of `ScreenedPursuit` and, with a threshold,
    of `BatchPursuit`, which pursues 2 k atoms and leaves out those whose absence adds less than
    `τ²` to the squared error.

    They are those of JAX to 1e-5 of the largest in float32, but for ties up to rounding: between
    two copies of an atom, where a signal correlates with two atoms alike, between a gain and the
    threshold, and once so little of a signal is left that rounding chooses, as from input_dim
    atoms on.

    Gradients reach the target and the dictionary, at a support that is held fixed.

    Args:
      target: activations less b_dec, (..., input_dim).
      W_dec: atoms of any length, (num_latents, input_dim).
      k: atoms in a code, with a threshold on average.
      breadth: candidates of a screen for each atom that is pursued.
      screens: products with the dictionary that propose candidates.
      threshold: τ, in units of the root mean square of the atoms' lengths; None leaves none out.
      chunk: rows at once; None takes 128 on a CPU and 2,048 elsewhere.

    Returns:
      Codes in units of W_dec and the type of the target, (..., num_latents).

    Raises:
      TypeError: the target holds no floating-point numbers.
      ValueError: a size is no positive integer, the threshold is negative, or target and atoms
        differ in their dimension.
    """
    for name, size in (("k", k), ("breadth", breadth), ("screens", screens)):
        check_size(name, size)
    if not target.is_floating_point():
        raise TypeError(f"the target is of {target.dtype}; give floating-point numbers.")
    if threshold is not None and not threshold >= 0:
        raise ValueError("threshold must be a number of at least 0, or None; give another.")
    if target.shape[-1] != W_dec.shape[-1]:
        raise ValueError(
            f"the target has {target.shape[-1]} columns, but atoms {W_dec.shape[-1]} dimensions; "
            "give W_dec as (num_latents, input_dim)."
        )
    with torch.autocast(target.device.type, enabled=False):
        (rows,) = as_rows(target)
        weights = W_dec.to(rows.dtype)
        # A row that is no number would be an error of LAPACK; it must show.
        finite = rows.square().sum(1, keepdim=True).isfinite()
        rows = torch.where(finite, rows, 0)
        pursued, limit = k, 0.0
        if threshold is not None:
            pursued, limit = 2 * k, threshold * mean_length(weights)
        options = {"k": pursued, "breadth": breadth, "screens": screens, "chunk": chunk}
        codes, _ = pursue(rows, weights, threshold=limit, **options)
        if torch.is_grad_enabled() and (rows.requires_grad or weights.requires_grad):
            parts = in_chunks(chunk, rows, codes)
            codes = [least_squares(part, weights, begun, 0).clamp(min=0) for part, begun in parts]
            codes = torch.cat(codes)
        codes = torch.where(finite, codes, math.nan)
        return codes.reshape(*target.shape[:-1], codes.shape[1]).to(target.dtype)


@torch.no_grad()
def pursue(target, weights, *, k, breadth, screens, threshold, chunk):
    """Codes of finite rows, and what the squared error would grow by without each atom chosen.

    Among many rows it pays to find the Gram matrix of all atoms, and to read those of the
    candidates off it.
    """
    atoms, lengths = unit_atoms(weights)
    m, size = min(breadth * k, len(atoms)), min(k, *atoms.shape)
    sizes = [-(-size * screen // screens) for screen in range(1, screens + 1)]
    paid = len(atoms) ** 2 <= min(WHOLE, len(target) * screens * m**2)
    whole = atoms @ atoms.mT if paid else None
    rest = atoms, atoms.square().sum(1), whole, m, sizes, threshold
    parts = [_pursue_rows(part, *rest) for (part,) in in_chunks(chunk, target)]
    codes, gains = (torch.cat(part) for part in zip(*parts, strict=True))
    return codes / lengths, gains


def _pursue_rows(target, atoms, energies, whole, m, sizes, threshold):
    toward = pull = target @ atoms.mT
    chosen: Any = None
    on: Any = None
    codes: Any = None
    slack = SLACK * target.square().sum(1, keepdim=True).sqrt()
    for size in sizes:
        if chosen is not None:
            rest = target - nn.functional.embedding_bag(
                chosen, atoms, mode="sum", per_sample_weights=codes
            )
            # Those chosen before are proposed first.
            first = torch.where(on, math.inf, -math.inf)
            pull = (rest @ atoms.mT).scatter_reduce(1, chosen, first.to(pull), "amax")
        candidates = pull.topk(m, dim=1).indices
        products, correlation = _products(atoms, whole, candidates), toward.gather(1, candidates)
        begun = None if chosen is None else on.sum(1, keepdim=True)
        places, on, codes = _match(products, energies[candidates], correlation, begun, size, slack)
        chosen = candidates.gather(1, places)
    gram, correlation = _columns(products(places), places), correlation.gather(1, places)
    codes, on = _nonnegative(gram, correlation, on, slack)
    half = torch.linalg.solve_triangular(
        torch.linalg.cholesky_ex(_restricted(gram, on)).L,
        _identity(gram),
        upper=False,
    )
    gains = torch.where(on, codes**2 / half.square().sum(1), 0)
    codes, _ = _nonnegative(gram, correlation, on & (gains >= threshold**2), slack)
    return torch.zeros_like(toward).scatter_add_(1, chosen, codes), gains


def _products(atoms, whole, candidates):
    """A function from places among the candidates to the inner products of these atoms with all
    candidates: what a pursuit reads off a large Gram matrix is a small part of it.
    """
    if whole is not None:

        def products(places):
            chosen = candidates.gather(1, places)
            entries = chosen[:, :, None] * len(atoms) + candidates[:, None, :]
            # Other ways of indexing take three times as long.
            return whole.view(-1).index_select(0, entries.view(-1)).view(entries.shape)

        return products
    own = atoms[candidates]
    gram = own @ own.mT
    return lambda places: gram.gather(1, places[:, :, None].expand(-1, -1, gram.shape[2]))


def _match(products, left, correlation, begun, size, slack):
    """Orthogonal matching pursuit among the candidates, the first `begun` of which are taken first:
    the places of the atoms chosen, whether each adds anything, and their least squares.
    """
    n, m = correlation.shape
    basis, pull = correlation.new_zeros(n, size, m), correlation
    steps: list[Any] = []
    for i in range(size):
        best = torch.where(left > DEPENDENT, pull, -math.inf).argmax(1, keepdim=True)
        first = torch.zeros_like(best, dtype=torch.bool) if begun is None else i < begun
        best = torch.where(first, i, best)
        energy, toward = left.gather(1, best), pull.gather(1, best)
        fine = (energy > DEPENDENT) & ((toward > slack) | first)
        root, row = energy.sqrt(), products(best)
        before = basis[:, :i]
        row = row - _columns(before, best).mT @ before
        new = torch.where(fine, row[:, 0] / root, 0)
        value = torch.where(fine, toward / root, 0)
        basis[:, i], pull, left = new, pull - value * new, left - new**2
        steps.append((best, value, fine))
    places, values, on = (torch.cat(parts, 1) for parts in zip(*steps, strict=True))
    upper = _restricted(_columns(basis, places).triu(), on)
    return places, on, torch.linalg.solve_triangular(upper, values[:, :, None], upper=True)[..., 0]


def _columns(matrices, places):
    """Of each matrix its own columns."""
    return matrices.gather(2, places[:, None, :].expand(-1, matrices.shape[1], -1))


def _nonnegative(gram, correlation, allowed, slack):
    """Least squares over `z ≥ 0` on the atoms allowed, by block principal pivoting: the codes, and
    which differ from zero. Each exchange works on the rows alone that need it.
    """
    on, codes = allowed.clone(), torch.zeros_like(correlation)
    rows = torch.arange(len(on), device=on.device)
    for exchange in range(MOST + 1):
        inner, target, support = gram[rows], correlation[rows], on[rows]
        factor = torch.linalg.cholesky_ex(_restricted(inner, support)).L
        values = torch.cholesky_solve(torch.where(support, target, 0)[..., None], factor)
        codes[rows] = values[..., 0]
        excess = target - (inner @ values)[..., 0]
        wrong = torch.where(
            support, codes[rows] < -slack[rows], allowed[rows] & (excess > slack[rows])
        )
        some = wrong.any(1)
        rows, wrong = rows[some], wrong[some]
        if exchange == MOST or not len(rows):
            break
        if exchange >= EXCHANGES:
            wrong &= wrong.flip(1).cumsum(1).flip(1) == 1
        on[rows] ^= wrong
    return torch.where(on, codes, 0).clamp(min=0), on & (codes > 0)


def _restricted(gram, on):
    """The matrix of some atoms, in the place of one of all."""
    both = on[:, :, None] & on[:, None, :]
    return torch.where(both, gram, _identity(gram))


def _identity(gram):
    return torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def least_squares(target, weights, codes, refinements):
    """Least squares on the support of codes, refined from zero or, with no refinements, from the
    codes.

    The factor L Lᵀ = G + μI is held fixed, and each step `z ← z + (L Lᵀ)⁻¹ Dᵀ (y - D z)` goes
    nearer to the solution. At that Dᵀ (y - D z) vanishes, so that the last step has the gradient of
    the solution, less a share μ / (μ + s²) along an eigenvector of G of the value s².
    """
    with torch.no_grad():
        atoms, lengths = unit_atoms(weights)
        support = (codes.abs() > 0) & (weights != 0).any(1)
        places = support.to(codes).topk(max([1, *support.sum(1).tolist()]), dim=1).indices
        on = support.gather(1, places)
        own = atoms[places] * on[:, :, None]
        gram = own @ own.mT
        shift = 8 * torch.finfo(gram.dtype).eps * on.sum(1).clamp(min=1)
        factor = torch.linalg.cholesky(gram + shift[:, None, None] * _identity(gram))
        values = codes.gather(1, places) * lengths[places] * (refinements == 0)
        for _ in range(refinements):
            rest = target - (values[:, None] @ own)[:, 0]
            values = values + torch.cholesky_solve(own @ rest[:, :, None], factor)[..., 0]
        long = lengths[places]
        codes = torch.zeros_like(codes).scatter(1, places, torch.where(on, values / long, 0))
    pull = ((target - codes @ weights) @ weights.mT).gather(1, places) / long
    step = torch.cholesky_solve(torch.where(on, pull, 0)[..., None], factor)[..., 0]
    return codes.scatter_add(1, places, torch.where(on, step / long, 0))


def unit_atoms(weights):
    """Atoms at unit length and their lengths; an atom of zeros stays, with length 1."""
    largest = weights.abs().amax(1, keepdim=True)
    largest = torch.where(largest != 0, largest, 1)
    scaled = weights / largest
    lengths = scaled.square().sum(1, keepdim=True).sqrt()
    lengths = torch.where(lengths != 0, lengths, 1)
    return scaled / lengths, (largest * lengths)[:, 0]


def mean_length(weights):
    """The root mean square of the lengths of the atoms that are not zero."""
    squares = weights.detach().square().sum(1)
    return (squares.sum() / (squares > 0).sum().clamp(min=1)).sqrt()


def in_chunks(chunk, *arrays):
    """The arrays by so many rows at once."""
    on_cpu = arrays[0].device.type == "cpu"
    size = chunk or (CHUNK if on_cpu else CHUNK_ACCELERATED)
    return zip(*(array.split(size) for array in arrays), strict=True)


def floats(*arrays):
    """Arrays in the type of the first, or in float32 where that is narrower."""
    kind = torch.promote_types(arrays[0].dtype, torch.float32)
    return [array.to(kind) for array in arrays]


def as_rows(*arrays):
    """The same with their leading axes in one."""
    return [array.reshape(-1, array.shape[-1]) for array in floats(*arrays)]
