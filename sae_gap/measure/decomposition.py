"""How much of activations at most k atoms of a dictionary explain, over non-negative codes, by who
chooses the atoms, and how much any choice could.

With targets t, activations less a bias, the captured variance of codes is

    1 - Σ‖t - D z‖² / Σ‖t‖²,

sums over samples: a bias of zeros takes activations as they are, and their mean counts as variance;
a bias of their mean leaves it out. Greedy pursuits, a screened one and the supports of the
certified lasso are held against `exchange_pursuit`.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from sae_gap.core.lasso_problem import relative_gap
from sae_gap.core.pursuit import DEPENDENT
from sae_gap.core.rows import squares
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.pursuit import GradientPursuit
from sae_gap.encoders.screened_pursuit import ScreenedPursuit
from sae_gap.measure.coding import chunks, code, pursued
from sae_gap.measure.comparison import interval
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import exchange_pursuit, sparse_code
from sae_gap.storage.results import Row

# The weights of the lasso's path, from λ_max down, as powers of this.
RATIO, STEPS = 0.85, 30
# The weight of the ceiling, as a share of λ_max: a weight of zero has no certificate.
CEILING = 1e-3
# Steps to a plane with all atoms on one side.
SIDES = 300
CODES = (
    "matching",
    "gradient",
    "orthogonal",
    "screened",
    "lasso",
    "exchange",
    "exchange_lasso",
    "best",
)


def decompose(
    sae: SAE,
    x: Float[np.ndarray, "n input_dim"],
    documents: Int[np.ndarray, " n"],
    sizes: Sequence[int],
) -> list[Row]:
    """The captured variance of at most k atoms by each way to choose them, and what bounds it.

    Args:
      sae: a dictionary, whose bias is taken off first.
      x: activations, (n, input_dim).
      documents: the document of each, which the intervals are over.
      sizes: the numbers of atoms, k.

    Returns:
      A row for each k and each of `CODES`: matching pursuit; gradient pursuit; orthogonal pursuit,
      which refits by non-negative least squares after each step; screened pursuit; least squares on
      the lasso's support, the largest of at most k atoms on a path of weights; exchanges from the
      supports of orthogonal pursuit and of the lasso; and the better of the two, sample by sample.
      `captured` has its 95 % interval over documents, `low` to `high`, and `median` is of samples.
      `lost` is what it has less than the best, with its interval. `atoms` are in use in some
      sample, `common` is the share of samples that use the most common one; `shared` is the share
      of the best code's support that it has, `top` of samples whose largest code is on the same
      atom. `bound`, of the best, is what no non-negative codes on k atoms exceed whose values are
      at most the largest of that sample's best code, by `boxed_bound`.
    """
    target = np.asarray(sae.target(x))
    atoms = np.asarray(sae.unit_dictionary)
    supports, duals, certificate = _lasso_path(target, atoms, sizes)
    rows = []
    for k in sizes:
        found = {
            "matching": _by(sae, x, MatchingPursuit(k, nonneg=True)),
            "gradient": _by(sae, x, GradientPursuit(k, nonneg=True)),
            "orthogonal": exchange_pursuit(target, atoms, k, exchanges=False),
            "screened": _by(sae, x, ScreenedPursuit(k)),
            "lasso": sparse_code(target, atoms, 0.0, support=supports[k], sparse=True).codes,
        }
        found["exchange"] = exchange_pursuit(target, atoms, k, start=found["orthogonal"])
        found["exchange_lasso"] = exchange_pursuit(target, atoms, k, start=found["lasso"])
        errors = {name: squares(target - codes @ atoms.T) for name, codes in found.items()}
        first = errors["exchange"] <= errors["exchange_lasso"]
        found["best"] = _choose(first, found["exchange"], found["exchange_lasso"])
        errors["best"] = np.minimum(errors["exchange"], errors["exchange_lasso"])
        most = found["best"].max(axis=1).toarray().ravel()
        bound = np.min([boxed_bound(target, atoms, dual, k, most) for dual in duals], axis=0)
        energy = squares(target)
        for name in CODES:
            told: Row = {"codes": name, "k": k} | _captured(errors[name], energy, documents)
            told |= _compared(found[name], found["best"])
            lost = _shares(errors[name] - errors["best"], energy, documents)
            told |= dict(zip(("lost", "lost_low", "lost_high"), lost, strict=True))
            told["bound"] = float(bound @ energy / energy.sum()) if name == "best" else None
            told["certificate"] = certificate if name == "lasso" else None
            rows.append(told)
    return rows


def ceiling(sae: SAE, x: Float[np.ndarray, "n input_dim"]) -> Row:
    """What any number of atoms captures: at least `captured`, by the lasso's codes at a thousandth
    of λ_max, and at most `bound`.

    Where all atoms lie on one side of a plane, a vector v has `d_jᵀ v ≥ 1` for each. Of the
    lasso's residual r, `r - v max_j d_jᵀ r` then correlates with no atom above zero, so that
    `boxed_bound` holds for codes of any number and size. Else the bound is 1.
    """
    target, atoms = np.asarray(sae.target(x)), np.asarray(sae.unit_dictionary)
    weight = CEILING * _largest(target, atoms)
    codes = scipy.sparse.csr_array(sparse_code(target, atoms, weight, sparse=True).codes)
    left, energy, side = target - codes @ atoms.T, squares(target), _side(atoms)
    bound = np.ones(len(x))
    if side is not None:
        dual = left - (left @ atoms).max(axis=1, keepdims=True).clip(0) * side
        bound = boxed_bound(target, atoms, dual, 1, np.zeros(len(x)))
    return {
        "codes": "ceiling",
        "captured": float(1 - squares(left).sum() / energy.sum()),
        "bound": float(bound @ energy / energy.sum()),
        "l0": codes.nnz / len(x),
    }


def _side(atoms):
    """A vector whose product with each atom is at least 1, by Frank and Wolfe's steps to the point
    of their hull that is nearest to zero; None where none was found.
    """
    point = atoms.mean(axis=1)
    for _ in range(SIDES):
        pull = point @ atoms
        step = atoms[:, pull.argmin()] - point
        point = point + step * np.clip(-(point @ step) / _positive(step @ step), 0, 1)
    least = (point @ atoms).min()
    return point / least if least > 1e-4 else None


def boxed_bound(
    target: Float[np.ndarray, "n input_dim"],
    atoms: Float[np.ndarray, "input_dim num_latents"],
    duals: Float[np.ndarray, "n input_dim"],
    k: int,
    most: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """A share of `‖t‖²` that no code captures which has at most k atoms and values in [0, u].

    For any θ, `½‖t - D z‖² ≥ θᵀ t - ½‖θ‖² - Σ_j z_j d_jᵀ θ`, and the last sum is at most u times K,
    the sum of the k largest positive `d_jᵀ θ`. Of all multiples of θ the best one gives

        captured ≤ 1 - max(θᵀ t - u K, 0)² / (‖θ‖² ‖t‖²),

    which is the dual of relaxing the k atoms to `Σ_j z_j ≤ k u`, `0 ≤ z_j ≤ u`.

    Args:
      target: t.
      atoms: D, of unit length.
      duals: θ, such as residuals of the lasso; the nearer to the optimal residual, the tighter.
      k: atoms at most.
      most: u, for each sample.

    References:
      Liu, Lodi & Shafiee (2026), "GPU-friendly and Linearly Convergent First-order Methods for
      Certifying Optimal k-sparse GLMs", arXiv:2603.01306, for relaxations in a box.
    """
    pull = duals @ atoms
    largest = np.partition(pull, -k, axis=1)[:, -k:].clip(0).sum(axis=1, dtype=np.float64)
    along = np.einsum("nm,nm->n", duals, target, dtype=np.float64) - most * largest
    scale = squares(duals) * squares(target)
    return 1 - along.clip(0) ** 2 / _positive(scale)


def gains(
    sae: SAE, x: Float[np.ndarray, "n input_dim"], steps: int
) -> Float[np.ndarray, "n steps"]:
    """What each step of orthogonal matching pursuit adds to the share of `‖t‖²` within the span of
    the atoms chosen, over values of any sign.
    """
    target, atoms = np.asarray(sae.target(x), float), np.asarray(sae.unit_dictionary, float)
    found = []
    for place in chunks(len(x), sae.num_latents):
        order = pursued(sae, x[place], steps)
        basis, upper = np.linalg.qr(atoms.T[order].transpose(0, 2, 1))
        # One in the span of those before it adds nothing.
        new = np.diagonal(upper, axis1=1, axis2=2) ** 2 > DEPENDENT
        along = np.einsum("nms,nm->ns", basis, target[place]) * new
        found.append(along**2 / _positive(squares(target[place]))[:, None])
    return np.concatenate(found)


def occupancy(
    real: Float[np.ndarray, "n steps"], control: Float[np.ndarray, "n steps"]
) -> Int[np.ndarray, " n"]:
    """The step at which a dictionary is furthest ahead of its controls in captured variance, from
    the `gains` of both: after it, further atoms add no more than those of a control.
    """
    return np.argmax(np.cumsum(real - control, axis=1), axis=1) + 1


def control_atoms(
    kind: str, atoms: Float[np.ndarray, "input_dim num_latents"], seed: int
) -> Float[np.ndarray, "input_dim num_latents"]:
    """As many atoms that know nothing of the vocabulary.

    Args:
      kind: "isotropic" draws directions alike, "covariance" has the mean and covariance of the unit
        atoms, and "shuffled" moreover their coordinates along each principal axis, dealt out anew
        among the atoms.
      atoms: of unit length.
      seed: of what is drawn.
    """
    draw = np.random.default_rng(seed)
    if kind == "isotropic":
        return draw.standard_normal(atoms.shape, np.float32)
    mean = atoms.mean(axis=1, keepdims=True)
    axes = np.linalg.eigh((atoms - mean) @ (atoms - mean).T)[1]
    along = axes.T @ (atoms - mean)
    if kind == "shuffled":
        return mean + axes @ draw.permuted(along, axis=1)
    scale = np.std(along, axis=1, keepdims=True)
    return mean + axes @ (scale * draw.standard_normal(atoms.shape, np.float32))


def _positive(energy):
    """With ones for zeros, to divide by."""
    return np.where(energy > 0, energy, 1)


def _by(sae, x, encoder):
    return code(sae, x, lambda target, _: encoder.infer(sae.unit_model, target).codes).codes


def _lasso_path(target, atoms, sizes):
    """The largest supports of at most so many atoms on a path of weights, the residuals along it,
    and the largest relative duality gap.
    """
    top = _largest(target, atoms)
    supports = {k: scipy.sparse.csr_array((len(target), atoms.shape[1])) for k in sizes}
    codes, duals, worst = None, [target], 0.0
    for step in range(1, STEPS + 1):
        solved = sparse_code(
            target,
            atoms,
            top * RATIO**step,
            init=None if codes is None else codes.toarray(),
            sparse=True,
        )
        codes = scipy.sparse.csr_array(solved.codes)
        worst = max(worst, float(relative_gap(solved).max()))
        counts = np.diff(codes.indptr)
        for k in sizes:
            supports[k] = _choose(counts <= k, codes, supports[k])
        duals.append(target - codes @ atoms.T)
        if counts.min() > max(sizes):
            break
    return supports, duals, worst


def _largest(target, atoms):
    """λ_max of each sample; of one that correlates with no atom, some number above zero."""
    return np.maximum((target @ atoms).max(axis=1, keepdims=True), 1e-9)


def _choose(first, one, other):
    """Rows of one or of the other."""
    return scipy.sparse.csr_array(
        scipy.sparse.diags_array(first.astype(one.dtype)) @ one
        + scipy.sparse.diags_array((~first).astype(one.dtype)) @ other
    )


def _captured(errors, energy, documents) -> Row:
    lost, low, high = _shares(errors, energy, documents)
    return {
        "captured": 1 - lost,
        "low": 1 - high,
        "high": 1 - low,
        "median": float(np.median(1 - errors / _positive(energy))),
    }


def _shares(errors, energy, documents) -> tuple[float, float, float]:
    """Their share of the energy, and its interval."""
    members = np.unique(documents, return_inverse=True)[1]
    sums = [np.bincount(members, values) for values in (errors, energy)]
    low, high = interval(*sums)
    return float(sums[0].sum() / sums[1].sum()), float(low), float(high)


def _compared(codes, best) -> Row:
    uses = np.bincount(codes.indices[codes.data > 0], minlength=codes.shape[1]) / codes.shape[0]
    both = (codes > 0).multiply(best > 0).sum()
    return {
        "l0": float(uses.sum()),
        "atoms": int(np.count_nonzero(uses)),
        "common": float(uses.max()),
        "shared": float(both / max(1, (best > 0).sum())),
        "top": float(np.mean(codes.argmax(axis=1) == best.argmax(axis=1))),
    }
