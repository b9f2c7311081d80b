"""How much of the activations at most k atoms of a dictionary explain, with non-negative codes: for
several ways to choose the atoms, and at most for any choice.

With targets t, activations less a bias, the captured variance of codes is

    1 - Σ‖t - D z‖² / Σ‖t‖²,

summed over samples. With a bias of zeros the mean of the activations counts as variance; with
their mean as the bias it does not. Greedy pursuits, a screened one and the supports of the
certified lasso are compared with the best codes that exchanges find. These are a local optimum, so
the true losses of the others are at least those shown.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float

from sae_gap.core.codes import as_codes
from sae_gap.core.options import option
from sae_gap.core.pursuit import DEPENDENT
from sae_gap.core.rows import squares
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Encoder, unit_atoms
from sae_gap.encoders.exchange import RATIO, STEPS, BestOf, Exchange, LassoPath, Restarted, largest
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.pursuit import OMP, GradientPursuit
from sae_gap.encoders.screened_pursuit import ScreenedPursuit
from sae_gap.learners.given import Given
from sae_gap.learners.learner import HostLearner
from sae_gap.measure.comparison import compare
from sae_gap.measure.methods import methods_of, refit
from sae_gap.metrics.metric import Inferred, Metric
from sae_gap.solvers import sparse_code
from sae_gap.storage import results
from sae_gap.storage.results import Row
from sae_gap.study.study import Method

# Weight of the ceiling's lasso, as a share of λ_max: no certificate exists at a weight of zero.
CEILING = 1e-3
# Frank-Wolfe steps in the search for a plane with all atoms on one side.
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
    orthogonal pursuit and of the lasso; and the better of the two, sample by sample, restarted.
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
        "best": Restarted(k, BestOf(one, other)),
    }


CODES = (*ways(1),)


class Lookalike(HostLearner):
    """Draws as many atoms as its base has, by `control_atoms`, with the bias of the base.

    Args:
      kind: as `control_atoms` takes it.
      number: seed of the draw.
      base: the dictionary to compare them with.
    """

    kind: str = option(default="covariance", choices=KINDS)
    number: int = option(default=0, least=0)

    def learn(self, data, *, num_latents, key, base=None):
        unit = np.asarray(unit_atoms(base.decoder)[0])
        return Model(jnp.asarray(control_atoms(self.kind, unit, self.number)), base.bias)


def coded(given: Given, names: Collection[str], sizes: Sequence[int]) -> Iterator[Method]:
    """Methods with at most k atoms for each k, by the names of `ways` or `measure.methods`."""
    for k in sizes:
        encoders = ways(k)
        own = [Method(name, "", given, encoders[name]) for name in names if name in encoders]
        others = methods_of(given, [name for name in names if name not in encoders], k)
        for method in (*own, *others):
            yield dataclasses.replace(method, row={"codes": method.name, "k": k})


def bounding(given: Given, steps: int, seed: int, controls: int) -> Iterator[Method]:
    """The ceiling, and orthogonal pursuit with `steps` steps on a dictionary and its controls."""
    width = given.ready.decoder.shape[1]
    yield Method("ceiling", "", given, LassoPath(width, CEILING, 1), {"codes": "ceiling"})
    pursuit = OMP(steps, nonneg=True)
    yield Method("span", "", given, pursuit, {"codes": "span", "control": "given"})
    drawn = [("isotropic", seed), ("shuffled", seed)]
    drawn += [("covariance", number) for number in range(seed, seed + controls)]
    for kind, number in drawn:
        row: Row = {"codes": "span", "control": kind, "number": number}
        yield Method("span", "control", Lookalike(kind, number, base=given), pursuit, row)


def metrics(most: int) -> tuple[Metric, ...]:
    """The metrics of codes with at most `most` atoms."""
    named: dict[str, Any] = {"captured": _captured, "gains": _gains}
    # One pass up to `most` atoms yields the bounds for fewer as well.
    named[f"bound by {most}"] = functools.partial(_bound, most=most)
    return tuple(Metric(name, measure, everywhere=False) for name, measure in named.items())


def _problem(inferred: Inferred):
    """The targets, their squared lengths, their residuals, and the unit atoms."""
    x = inferred.activations
    target = x - np.asarray(inferred.model.bias)
    rest, atoms = x - inferred.reconstruction, np.asarray(inferred.unit_dictionary[0])
    return target, squares(target), rest, atoms


def _captured(inferred: Inferred) -> dict[str, Any]:
    """Scores of codes of k atoms. `energy` is Σ‖t‖² by document, `median` the median captured share
    of a sample, `atoms` how many atoms any sample uses, and `common` the share of samples that use
    the most common one. `shared` is the share of the best code's support that they contain, and
    `top` the share of samples whose largest code is on the best code's atom.
    """
    _, energy, rest, _ = _problem(inferred)
    found, k = {"energy": inferred.by_document(energy)}, inferred.method.row.get("k")
    if k is None:
        return found
    best = inferred.once(f"best {k}", lambda: inferred.infer(ways(k)["best"]).codes)
    codes, best = as_codes(inferred.codes["id"]), as_codes(best)
    on = codes.values > 0
    # A sample without codes has no largest latent.
    one, other = (
        np.where(each.values.any(axis=1), each.latents[each.values.argmax(axis=1)], -1)
        for each in (codes, best)
    )
    return found | {
        "median": float(np.median(1 - squares(rest) / _positive(energy))),
        "atoms": int(on.any(axis=0).sum()),
        "common": float(on.mean(axis=0).max()),
        "shared": float(
            (on & (best.at(codes.latents) > 0)).sum() / max(1, (best.values > 0).sum())
        ),
        "top": float((one == other).mean()),
    }


def _bound(inferred: Inferred, most: int) -> dict[str, float]:
    """For the best codes, `boxed_bound` with values up to each sample's largest best code; for the
    ceiling, `cone_bound`.
    """
    row = inferred.method.row
    if row["codes"] not in ("best", "ceiling"):
        return {}
    target, energy, rest, atoms = _problem(inferred)
    if row["codes"] == "ceiling":
        bound = cone_bound(target, atoms, rest)
    else:
        duals = inferred.once("residuals", lambda: [*_residuals(target, atoms, most)])
        values: Any = as_codes(inferred.codes["id"]).values.max(axis=1)
        bounds = [boxed_bound(target, atoms, dual, row["k"], values) for dual in duals]
        bound = np.min(bounds, axis=0)
    return {"bound": float(bound @ energy / energy.sum())}


def _residuals(target, atoms, most):
    """Residuals of the lasso along its path, until each sample has more than `most` atoms."""
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
    """`gains`, (n, steps): how much each step of orthogonal matching pursuit adds to the share of
    `‖t‖²` within the span of the chosen atoms, for values of any sign.
    """
    if "control" not in inferred.method.row:
        return {}
    target, energy, _, atoms = _problem(inferred)
    found: Any = inferred.infer(inferred.method.encoder)
    basis, upper = np.linalg.qr(atoms.T[np.asarray(found.order)].transpose(0, 2, 1).astype(float))
    # An atom within the span of those before it adds nothing.
    new = np.diagonal(upper, axis1=1, axis2=2) ** 2 > DEPENDENT
    along = np.einsum("nms,nm->ns", basis, target) * new
    return {"gains": (along**2 / _positive(energy)[:, None]).tolist()}


def lines(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[Row]:
    """Lines for codes of at most k atoms, for the ceiling, and for spans.

    `captured` has its 95 % interval over documents, `low` to `high`. `lost` is how much less that
    is than the best codes capture, with its interval: they lose at least as much. For each k, a
    span's line has the share within the span for each kind of dictionary, with the spread of its
    draws; `occupancy` is the mean step at which the given dictionary is furthest ahead of the
    controls, after which further atoms add no more than a control's.
    """
    coded, spans = ([row for row in rows if ("control" in row) == held] for held in (False, True))
    best = {row["k"]: row["errors"] for row in coded if row["codes"] == "best"}
    for row in sorted(coded, key=lambda row: row.get("k", np.inf)):
        whole = compare(row["errors"], row["energy"], row["energy"])
        line = {name: row.get(name) for name in COLUMNS.split()} | {"captured": whole.one}
        if row["codes"] != "ceiling":
            lost = compare(best[row["k"]], row["errors"], row["energy"])
            line |= {"low": whole.low, "high": whole.high, "lost": lost.more}
            line |= {"lost_low": lost.low, "lost_high": lost.high}
        yield line | row | line
    kinds = {
        kind: np.array([row["gains"] for row in drawn])
        for (kind,), drawn in results.grouped(spans, ("control",)).items()
    }
    for kind, gains in kinds.items():
        ahead = np.cumsum(kinds["given"][0] - gains.mean(axis=0), axis=1).argmax(axis=1) + 1
        for k in sizes:
            captured = gains[:, :, :k].sum(axis=2).mean(axis=1)
            line = {"codes": "span", "control": kind, "k": k, "captured": captured.mean()}
            line |= {"low": captured.min(), "high": captured.max()}
            yield line | {"occupancy": None if kind == "given" else ahead.mean()}


def cone_bound(
    target: Float[np.ndarray, "n input_dim"],
    atoms: Float[np.ndarray, "input_dim num_latents"],
    rest: Float[np.ndarray, "n input_dim"],
) -> Float[np.ndarray, " n"]:
    """A share of `‖t‖²` that no non-negative code exceeds, however many or large its values.

    If all atoms lie on one side of a plane, some vector v has `d_jᵀ v ≥ 1` for each j. For a
    residual r, `r - v max_j d_jᵀ r` then correlates with no atom above zero, so that `boxed_bound`
    holds for values of any size. Otherwise the bound is 1.

    Args:
      target: t.
      atoms: D, of unit length.
      rest: r, for example the residual of the lasso at a small weight.
    """
    side = _side(atoms)
    if side is None:
        return np.ones(len(target))
    dual = rest - (rest @ atoms).max(axis=1, keepdims=True).clip(0) * side
    return boxed_bound(target, atoms, dual, 1, np.zeros(len(target)))


def _side(atoms):
    """A vector whose product with each atom is at least 1, from Frank and Wolfe's steps to the
    point of their hull nearest to zero; None if these find none.
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
    """A share of `‖t‖²` that no code with at most k atoms and values in [0, u] exceeds.

    For any θ, `½‖t - D z‖² ≥ θᵀ t - ½‖θ‖² - Σ_j z_j d_jᵀ θ`, and the last sum is at most u times K,
    the sum of the k largest positive `d_jᵀ θ`. The best multiple of θ gives

        captured ≤ 1 - max(θᵀ t - u K, 0)² / (‖θ‖² ‖t‖²),

    which is the dual of relaxing the k atoms to `Σ_j z_j ≤ k u`, `0 ≤ z_j ≤ u`.

    Args:
      target: t.
      atoms: D, of unit length.
      duals: θ, for example residuals of the lasso; the nearer to the optimal one, the tighter.
      k: atoms at most.
      most: u of each sample.

    References:
      Liu, Lodi & Shafiee (2026), "GPU-friendly and Linearly Convergent First-order Methods for
      Certifying Optimal k-sparse GLMs", arXiv:2603.01306, for relaxations in a box.
    """
    pull = duals @ atoms
    largest = np.partition(pull, -k, axis=1)[:, -k:].clip(0).sum(axis=1, dtype=np.float64)
    along = np.einsum("nm,nm->n", duals, target, dtype=np.float64) - most * largest
    scale = squares(duals) * squares(target)
    return 1 - along.clip(0) ** 2 / _positive(scale)


def control_atoms(
    kind: str, atoms: Float[np.ndarray, "input_dim num_latents"], seed: int
) -> Float[np.ndarray, "input_dim num_latents"]:
    """Draws as many atoms, without knowledge of the vocabulary.

    Args:
      kind: "isotropic" draws all directions alike; "covariance" keeps the mean and covariance of
        the unit atoms; "shuffled" permutes their coordinates along each principal axis among the
        atoms, which keeps these distributions too.
      atoms: of unit length.
      seed: seed of the draw.
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
    """The array with ones for zeros, to divide by."""
    return np.where(energy > 0, energy, 1)
