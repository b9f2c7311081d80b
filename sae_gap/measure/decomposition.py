"""How much of activations at most k atoms of a dictionary explain, over non-negative codes, by who
chooses the atoms, and how much any choice could.

With targets t, activations less a bias, the captured variance of codes is

    1 - Σ‖t - D z‖² / Σ‖t‖²,

sums over samples: a bias of zeros takes activations as they are, and their mean counts as variance;
a bias of their mean leaves it out. Greedy pursuits, a screened one and the supports of the
certified lasso are held against the best codes that exchanges find, a local optimum: they lose at
least what they have less.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from sae_gap.core.codes import as_columns, dense_chunks
from sae_gap.core.options import option
from sae_gap.core.pursuit import DEPENDENT
from sae_gap.core.rows import squares
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders.encoder import Encoder, unit_atoms
from sae_gap.encoders.exchange import RATIO, STEPS, BestOf, Exchange, LassoPath, largest
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.pursuit import OMP, GradientPursuit
from sae_gap.encoders.screened_pursuit import ScreenedPursuit
from sae_gap.learners.learner import HostLearner, Learner
from sae_gap.measure.comparison import compare
from sae_gap.measure.methods import methods_of, refit
from sae_gap.metrics import reconstruction
from sae_gap.metrics.metric import Inferred, Metric
from sae_gap.solvers import sparse_code
from sae_gap.storage import results
from sae_gap.storage.results import Row
from sae_gap.study.study import Method

# The weight of the ceiling, as a share of λ_max: a weight of zero has no certificate.
CEILING = 1e-3
# Steps to a plane with all atoms on one side.
SIDES = 300
KINDS = ("isotropic", "shuffled", "covariance")
# The columns of a line.
COLUMNS = (
    "codes k captured low high median lost lost_low lost_high l0 shared top atoms common bound"
)


def ways(k: int) -> dict[str, Encoder]:
    """The encoders of at most k atoms, by name: matching pursuit; gradient pursuit; orthogonal
    pursuit, which refits by non-negative least squares after each step; screened pursuit; least
    squares on the lasso's largest support of at most k atoms; exchanges from the supports of
    orthogonal pursuit and of the lasso; and the better of the two, sample by sample.
    """
    pursuit, lasso = Exchange(k, exchanges=False), refit(LassoPath(k))
    one, other = Exchange(k, pursuit), Exchange(k, lasso)
    return {
        "matching": MatchingPursuit(k, nonneg=True),
        "gradient": GradientPursuit(k, nonneg=True),
        "orthogonal": pursuit,
        "screened": ScreenedPursuit(k),
        "lasso": lasso,
        "exchange": one,
        "exchange_lasso": other,
        "best": BestOf(one, other),
    }


CODES = (*ways(1),)


class Lookalike(HostLearner):
    """As many atoms as its base has, by `control_atoms`, with the bias of the base.

    Args:
      kind: see there.
      number: of the draw.
      base: the dictionary that they are held against.
    """

    kind: str = option(default="covariance", choices=KINDS)
    number: int = option(default=0, least=0)

    @property
    def name(self):  # type: ignore[override]
        return self.kind

    def select(self, task):
        return None

    def learn(self, data, *, num_latents, key, base=None):
        unit = np.asarray(unit_atoms(base.decoder)[0])
        return Model(jnp.asarray(control_atoms(self.kind, unit, self.number)), base.bias)


def coded(given: Learner, names: Sequence[str], sizes: Sequence[int]) -> Iterator[Method]:
    """Codes of at most k atoms by their names, those of `ways` or of `measure.methods`, for each
    k.
    """
    for k in sizes:
        known = ways(k)
        for name in names:
            row = {"codes": name, "k": k}
            if name in known:
                yield Method(name, given.family, given, known[name], row)
            else:
                for method in methods_of(given, [name], k):
                    yield dataclasses.replace(method, row=row)


def bounding(given: Learner, width: int, steps: int, seed: int, controls: int) -> Iterator[Method]:
    """The ceiling, and orthogonal pursuit of some steps on a dictionary and on its controls."""
    yield Method("ceiling", given.family, given, LassoPath(width, CEILING, 1), {"codes": "ceiling"})
    drawn = [("isotropic", seed), ("shuffled", seed)]
    drawn += [("covariance", seed + place) for place in range(controls)]
    learners = [Lookalike(kind, number, base=given) for kind, number in drawn]
    pursuit = OMP(steps, nonneg=True)
    for (kind, number), learner in zip([("given", 0), *drawn], [given, *learners], strict=True):
        row = {"codes": "span", "control": kind, "number": number}
        yield Method("span", "control", learner, pursuit, row)


def metrics(most: int) -> tuple[Metric, ...]:
    """What is measured of the codes of at most so many atoms."""
    bound = functools.partial(_bound, most=most)
    return (
        reconstruction.METRIC,
        Metric("captured", _captured, everywhere=False),
        Metric("overlap with the best", _overlap, everywhere=False),
        # The residuals that bound codes of fewer atoms go on to that many.
        Metric(f"bound by {most}", bound, everywhere=False),
        Metric("gains", _gains, everywhere=False),
    )


def _problem(inferred: Inferred):
    """The targets, their squared lengths and the unit atoms."""
    target = inferred.activations - np.asarray(inferred.model.bias)
    return target, squares(target), np.asarray(inferred.unit_dictionary[0])


def _captured(inferred: Inferred) -> dict[str, Any]:
    """`energy`, Σ‖t‖² by document, and the `median` of what is captured of a sample."""
    _, energy, _ = _problem(inferred)
    errors = squares(inferred.activations - inferred.reconstruction)
    captured = 1 - errors / _positive(energy)
    return {"energy": inferred.by_document(energy), "median": float(np.median(captured))}


def _overlap(inferred: Inferred) -> dict[str, float]:
    """`common` is the share of samples that use the most common atom, `shared` the share of the
    best code's support that codes have, and `top` that of samples whose largest code is on the same
    atom.
    """
    k = inferred.method.row.get("k")
    if k is None:
        return {}
    kept = f"best {k}"
    if kept not in inferred.shared:
        inferred.shared[kept] = inferred.infer(ways(k)["best"]).codes
    uses, both, wanted, same = 0, 0, 0, 0
    for _, codes, best in dense_chunks(inferred.codes["id"], inferred.shared[kept]):
        on, needed = codes > 0, best > 0
        uses, wanted, both = uses + on.sum(axis=0), wanted + needed.sum(), both + (on & needed).sum()
        same += (codes.argmax(axis=1) == best.argmax(axis=1)).sum()
    count = len(inferred.activations)
    found = {"common": np.max(uses) / count, "shared": both / max(1, wanted), "top": same / count}
    return {name: float(value) for name, value in found.items()}


def _bound(inferred: Inferred, most: int) -> dict[str, float]:
    """Of the best codes what no non-negative codes on k atoms exceed whose values are at most the
    largest of that sample's best code, by `boxed_bound`; of the ceiling `cone_bound`.
    """
    row = inferred.method.row
    if row["codes"] not in ("best", "ceiling"):
        return {}
    target, energy, atoms = _problem(inferred)
    if row["codes"] == "ceiling":
        bound = cone_bound(target, atoms, inferred.activations - inferred.reconstruction)
    else:
        if "residuals" not in inferred.shared:
            inferred.shared["residuals"] = [*_residuals(target, atoms, most)]
        values = as_columns(inferred.codes["id"]).max(axis=1)
        duals = inferred.shared["residuals"]
        bound = np.min([boxed_bound(target, atoms, dual, row["k"], values) for dual in duals], axis=0)
    return {"bound": float(bound @ energy / energy.sum())}


def _residuals(target, atoms, most):
    """Those of the lasso along its path, until each sample has more atoms than that."""
    yield target
    top, codes = np.asarray(largest(target, atoms)), None
    for step in range(1, STEPS + 1):
        begun = None if codes is None else codes.toarray()
        solved = sparse_code(target, atoms, top * RATIO**step, init=begun, sparse=True)
        codes = scipy.sparse.csr_array(solved.codes)
        yield target - codes @ atoms.T
        if np.diff(codes.indptr).min() > most:
            return


def _gains(inferred: Inferred) -> dict[str, list]:
    """What each step of orthogonal matching pursuit adds to the share of `‖t‖²` within the span of
    the atoms chosen, over values of any sign, `gains`, (n, steps).
    """
    if "control" not in inferred.method.row:
        return {}
    target, energy, atoms = _problem(inferred)
    order = np.asarray(inferred.infer(inferred.encoder).order)
    basis, upper = np.linalg.qr(atoms.T[order].transpose(0, 2, 1).astype(float))
    # One in the span of those before it adds nothing.
    new = np.diagonal(upper, axis1=1, axis2=2) ** 2 > DEPENDENT
    along = np.einsum("nms,nm->ns", basis, target) * new
    return {"gains": (along**2 / _positive(energy)[:, None]).tolist()}


def captured_lines(rows: Sequence[Row]) -> Iterator[Row]:
    """The row of each k and codes with what is told of it, and that of the ceiling.

    `captured` has its 95 % interval over documents, `low` to `high`, and `median` is of samples.
    `lost` is how much less that is than the best codes capture, with its interval: they lose at
    least as much. `atoms` are in use in some sample.
    """
    held = [row for row in rows if "control" not in row]
    for (k,), mine in results.grouped(held, ("k",)).items():
        best = next((row for row in mine if row["codes"] == "best"), None)
        for row in mine:
            whole = compare(row["errors"], row["energy"], row["energy"])
            line = dict.fromkeys(COLUMNS.split()) | {"captured": whole.one, "k": k}
            if best is not None:
                lost = compare(best["errors"], row["errors"], row["energy"])
                line |= {"low": whole.low, "high": whole.high, "atoms": row["fired"]}
                line |= {"lost": lost.more, "lost_low": lost.low, "lost_high": lost.high}
                line |= {name: row[name] for name in ("median", "shared", "top", "common")}
            line |= {name: row.get(name) for name in ("codes", "l0", "bound")}
            yield line | {name: value for name, value in row.items() if name not in line}


def span_lines(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[Row]:
    """For each k what lies in the span of k atoms of each kind of dictionary, with the spread of
    its draws, and the mean `occupancy` of the one that is given, held against each.
    """
    held = [row for row in rows if "control" in row]
    kinds = {
        kind: [np.array(row["gains"]) for row in drawn]
        for (kind,), drawn in results.grouped(held, ("control",)).items()
    }
    for kind, draws in kinds.items():
        ahead = occupancy(kinds["given"][0], np.mean(draws, axis=0)).mean()
        for k in sizes:
            captured = [gains[:, :k].sum(axis=1).mean() for gains in draws]
            line = {"codes": "span", "control": kind, "k": k, "captured": float(np.mean(captured))}
            line |= {"low": float(min(captured)), "high": float(max(captured))}
            yield line | {"occupancy": None if kind == "given" else float(ahead)}


def cone_bound(
    target: Float[np.ndarray, "n input_dim"],
    atoms: Float[np.ndarray, "input_dim num_latents"],
    rest: Float[np.ndarray, "n input_dim"],
) -> Float[np.ndarray, " n"]:
    """A share of `‖t‖²` that no non-negative code captures, of any number of atoms and any size.

    Where all atoms lie on one side of a plane, a vector v has `d_jᵀ v ≥ 1` for each. Of a residual
    r, `r - v max_j d_jᵀ r` then correlates with no atom above zero, so that `boxed_bound` holds for
    values of any size. Else the bound is 1.

    Args:
      target: t.
      atoms: D, of unit length.
      rest: r, such as that of the lasso at a small weight.
    """
    side = _side(atoms)
    if side is None:
        return np.ones(len(target))
    dual = rest - (rest @ atoms).max(axis=1, keepdims=True).clip(0) * side
    return boxed_bound(target, atoms, dual, 1, np.zeros(len(target)))


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
