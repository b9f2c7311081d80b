"""Latents as detectors of features, as SynthSAEBench scores them, and recovery by the level and the frequency of a feature.

Codes are looked at a few samples at a time, so that no more of sparse ones is ever dense than those.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core import matching
from sae_gap.core.checks import as_real, check_number, check_unmasked, shown
from sae_gap.core.codes import Codes, SparseCodes
from sae_gap.metrics.metric import SCORED, Inferred

# Below this share of what its codes are where they count, a latent is off by the cut.
CUT = 1 / 3
# Numbers of dense codes that are held at once, and of cosines.
_AT_ONCE = 2**22
# Inputs shorter than this have no shrinkage.
_SHORTEST = 1e-6
# A parent is judged by its recall where it has fired at least so often, with a child on and with none.
_FEWEST = 10
_LEVELS = ("roots", "children", "grandchildren", "great_grandchildren")
_QUARTILES = ("frequent", "common", "uncommon", "rare")

_Dense = Float[ArrayLike, "n latent"]


class Firing(NamedTuple):
    """How often each latent fired, its feature did, and both; and over how many samples."""

    fired: Int[np.ndarray, " latent"]
    true: Int[np.ndarray, " latent"]
    both: Int[np.ndarray, " latent"]
    samples: int


def nearest_features(
    learned: Float[ArrayLike, "input_dim learned"], truth: Float[ArrayLike, "input_dim true"]
) -> Int[np.ndarray, " learned"]:
    """The feature that each latent is taken to detect, `argmax_i |cos(d_j, a_i)|`; several latents may share one.

    Args:
      learned: learned dictionary, (input_dim, num_learned).
      truth: true dictionary, (input_dim, num_true).

    Returns:
      An index of a true atom for each learned one.

    Raises:
      ValueError: an argument is not a finite, non-empty matrix.
    """
    atoms = matching.unit_columns(matching.as_matrix("learned", learned)).T
    features = matching.unit_columns(matching.as_matrix("truth", truth))
    rows = max(1, _AT_ONCE // features.shape[1])
    starts = range(0, len(atoms), rows)
    return np.concatenate([np.abs(atoms[start : start + rows] @ features).argmax(axis=1) for start in starts])


def cuts(codes: _Dense | SparseCodes, share: float = CUT) -> Float[np.ndarray, " latent"]:
    """For each latent the magnitude below which it counts as off, from its own codes alone.

    The least c with `c = share · Σ z² / Σ |z|`, both sums over its codes with `|z| > c`: so a share of the mean magnitude of
    those, each weighted by itself. It is found from 0 upwards. A lasso explains what a dictionary lacks by small codes. At a
    third, those that are a tenth as large as where the latent's feature is on fall below it up to 35 times as many. Codes
    without two sizes, of a density that falls as `z^-3.5` or more slowly, are cut to the largest few.

    Args:
      codes: (n, num_latents), of samples that need no truth.
      share: of that magnitude, above 0 and at most .99.

    Returns:
      (num_latents,), 0 for a latent that never fires.

    Raises:
      ValueError: codes are no matrix of finite numbers, or the share is out of range.
    """
    check_number("share", share, above=0, most=0.99)
    width = _size(codes)[1]
    # In units of the latent's largest code, so that no square leaves the range of numbers.
    largest = np.zeros(width)
    for _, part in _parts(codes):
        largest = np.maximum(largest, np.abs(part).max(axis=0))
    unit = np.where(largest > 0, largest, 1)
    first, second = np.zeros(width), np.zeros(width)
    for _, part in _parts(codes):
        size = np.abs(part) / unit
        first += size.sum(axis=0)
        second += np.einsum("ij,ij->j", size, size)
    cut = share * _ratio(second, first)
    latent, size = _above(codes, unit, cut)
    # What is left out is below the mean of the rest, which rises: so does the cut, until it leaves out no more.
    while len(size):
        sums = [np.bincount(latent, power, width) for power in (size, size**2)]
        cut = np.where(sums[0] > 0, share * _ratio(sums[1], sums[0]), cut)
        stays = size > cut[latent]
        moves = np.bincount(latent[~stays], minlength=width) > 0
        latent, size = latent[stays & moves[latent]], size[stays & moves[latent]]
    return cut * unit


def count(
    nearest: Int[np.ndarray, " latent"],
    true_codes: _Dense | SparseCodes,
    codes: _Dense | SparseCodes,
    least: Sequence[Float[ArrayLike, " latent"] | float] = (0.0,),
) -> list[Firing]:
    """Counts firings: of latent j where `|z_j| > least_j`, of its feature where that has a code above zero.

    Args:
      nearest: the feature of each latent.
      true_codes: (n, num_true).
      codes: (n, num_latents), of the same samples.
      least: magnitudes not to count, one rule after the other.

    Returns:
      The counts by each rule.

    Raises:
      ValueError: the numbers of samples, or of latents, differ, or a feature is none.
    """
    samples, width = _size(codes)
    nearest = _indices("nearest", nearest, _size(true_codes)[1])
    if _size(true_codes)[0] != samples or len(nearest) != width:
        raise ValueError(
            f"codes must be of the true ones' {np.shape(true_codes)[0]} samples and the {len(nearest)} latents, but are "
            f"{np.shape(codes)}."
        )
    if not isinstance(least, tuple | list):
        raise ValueError(f"least must be a tuple of rules, but it is {shown(least)}; give one as (rule,).")
    least = [_magnitudes(rule, width) for rule in least]
    fired, both = np.zeros((len(least), width), np.int64), np.zeros((len(least), width), np.int64)
    true = np.zeros(width, np.int64)
    for start, part in _parts(codes, np.shape(true_codes)[1]):
        present = (_dense(true_codes, start, start + len(part)) > 0)[:, nearest]
        size = np.abs(part)
        true += present.sum(axis=0)
        for rule, magnitude in enumerate(least):
            on = size > magnitude
            fired[rule] += on.sum(axis=0)
            both[rule] += (on & present).sum(axis=0)
    return [Firing(fired[rule], true, both[rule], samples) for rule in range(len(least))]


def detection(firing: Firing) -> dict[str, float]:
    """Means over all latents of precision, recall, F1 and accuracy as detectors, each 0 where undefined; L0 and dead latents.

    `precision = both / fired`, `recall = both / true`, `F1 = 2 precision recall / (precision + recall)`.

    Args:
      firing: from `count`.

    Returns:
      `precision`, `recall`, `f1` and `detector_accuracy` in [0, 1], `fired`, the mean number of latents that fire in a sample,
      and `dead`, how many never do.

    References:
      Chanin & Garriga-Alonso (2026), "SynthSAEBench", arXiv:2602.14687; SAELens, `eval_sae_on_synthetic_data`.
    """
    if not (firing.samples and len(firing.fired)):
        raise ValueError(f"there is nothing to score in {firing.samples} samples of {len(firing.fired)} latents; count some.")
    precision, recall = _ratio(firing.both, firing.fired), _ratio(firing.both, firing.true)
    wrong = firing.fired + firing.true - 2 * firing.both
    return {
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(_ratio(2 * precision * recall, precision + recall).mean()),
        "detector_accuracy": float(1 - wrong.mean() / firing.samples),
        "fired": float(firing.fired.sum() / firing.samples),
        "dead": int(np.sum(firing.fired == 0)),
    }


def atom_scores(
    match: matching.Match, num_learned: int, nearest: Int[np.ndarray, " learned"], groups: dict[str, Int[np.ndarray, " some"]]
) -> dict[str, float]:
    """How well the atoms are recovered: `atom_mcc`, mean |cos| over the pairs of the best matching, and `uniqueness`.

    There are as many pairs as the narrower dictionary has atoms, so that one too narrow for all features can still score 1.

    Args:
      match: of the learned with the true dictionary.
      num_learned: width of the learned one.
      nearest: the feature of each latent; uniqueness is the number of different ones over the number of latents.
      groups: indices of features by name; each has its own mean, over those of its features that are in a pair.

    Returns:
      `atom_mcc`, `uniqueness` and `atom_mcc_<group>`, but for groups of which no feature is in a pair.
    """
    cosine, paired = np.abs(match.cosine), match.learned >= 0
    found = {
        "atom_mcc": float(cosine.sum() / min(num_learned, len(cosine))),
        "uniqueness": len(np.unique(nearest)) / len(nearest),
    }
    for name, features in groups.items():
        chosen = features[paired[features]]
        if len(chosen):
            found[f"atom_mcc_{name}"] = float(cosine[chosen].mean())
    return found


def groups_of(
    true_codes: _Dense | SparseCodes, level: Int[np.ndarray, " true"] | None = None
) -> dict[str, Int[np.ndarray, " some"]]:
    """Features by level of their tree and by quartile of the frequency at which they fire.

    Args:
      true_codes: (n, num_true), which tell the frequencies.
      level: of each feature, -1 for one in no tree; None where there are no trees.

    Returns:
      Indices by name: "roots", "children" and so on, "free", and "frequent", "common", "uncommon", "rare".
    """
    found = {}
    if level is not None:
        if np.shape(level) != np.shape(true_codes)[1:]:
            raise ValueError(f"level must be of the {np.shape(true_codes)[1]} features, but is {shown(level)}.")
        level = np.asarray(level)
        for depth in range(int(level.max()) + 1):
            found[_LEVELS[depth] if depth < len(_LEVELS) else f"level_{depth}"] = np.flatnonzero(level == depth)
        found["free"] = np.flatnonzero(level < 0)
    fired = sum(((part > 0).sum(axis=0) for _, part in _parts(true_codes)), np.zeros(_size(true_codes)[1], int))
    order = np.argsort(-fired, kind="stable")
    return found | dict(zip(_QUARTILES, np.array_split(order, len(_QUARTILES)), strict=True))


def absorption(
    parent: Int[np.ndarray, " true"],
    partner: Int[np.ndarray, " true"],
    true_codes: _Dense | SparseCodes,
    codes: _Dense | SparseCodes,
    least: Float[ArrayLike, " latent"] | float = 0.0,
) -> float | None:
    """What a parent's latent loses of its recall where a child is on: recall with no child on, less recall with one.

    The recall of a parent is the share of samples with the parent on in which its partner among the latents fires. A latent of
    a child that has taken in its parent's direction makes the parent's own latent needless wherever the child is on.

    Args:
      parent: of each feature, -1 for none.
      partner: the latent matched with each feature, -1 for none.
      true_codes: (n, num_true).
      codes: (n, num_latents).
      least: magnitudes not to count.

    Returns:
      The mean over parents that have a partner and at least 10 samples of either kind; None if there is none. 0 is best, and
      1 says that parents are never seen beside their children and always without.

    Raises:
      ValueError: the numbers of samples, or of features, differ, or an index is of nothing.
    """
    number = _size(true_codes)[1]
    parent, partner = _indices("parent", parent, number, least=-1), _indices("partner", partner, _size(codes)[1], least=-1)
    if _size(true_codes)[0] != _size(codes)[0]:
        raise ValueError(f"codes must be of the true ones' {np.shape(true_codes)[0]} samples, but are of {np.shape(codes)[0]}.")
    if not len(parent) == len(partner) == number:
        raise ValueError(f"parent and partner must be of the {number} features, but are of {len(parent)} and {len(partner)}.")
    parents = np.unique(parent[parent >= 0])
    parents = parents[partner[parents] >= 0]
    # Which features are children of which parent.
    child = np.flatnonzero(parent >= 0)
    family = scipy.sparse.csr_array((np.ones(len(child), np.float32), (child, parent[child])), (number, number))[:, parents]
    counts = np.zeros((4, len(parents)), np.int64)
    magnitude = _magnitudes(least, _size(codes)[1])[partner[parents]]
    for start, part in _parts(codes, number):
        present = _dense(true_codes, start, start + len(part)) > 0
        on, with_child = present[:, parents], (present.astype(np.float32) @ family) > 0
        seen = np.abs(part[:, partner[parents]]) > magnitude
        for kind, where in enumerate((on & with_child, on & ~with_child)):
            counts[2 * kind] += where.sum(axis=0)
            counts[2 * kind + 1] += (where & seen).sum(axis=0)
    judged = (counts[0] >= _FEWEST) & (counts[2] >= _FEWEST)
    if not judged.any():
        return None
    beside, alone = (counts[kind + 1][judged] / counts[kind][judged] for kind in (0, 2))
    return float((alone - beside).mean())


def explained(
    signals: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim latent"],
    bias: Float[ArrayLike, " input_dim"],
    codes: _Dense | SparseCodes,
) -> dict[str, float]:
    """`r2 = 1 - E‖y - ŷ‖² / (E‖y‖² - ‖E y‖²)` with `ŷ = D z + b`, and `shrinkage = mean ‖ŷ‖ / ‖y‖`.

    The mean is over signals longer than 1e-6.

    Args:
      signals: (n, input_dim).
      dictionary: (input_dim, num_latents), atoms of any norm.
      bias: (input_dim,).
      codes: (n, num_latents).

    Returns:
      `r2`, at most 1, and 0 for signals that do not vary; and `shrinkage`, at least 0, and 0 where no signal is longer.

    Raises:
      ValueError: shapes do not fit, there is no sample, or something is not finite.
    """
    parts = (("signals", signals), ("dictionary", dictionary), ("bias", bias))
    every, atoms, offset = (as_real(name, values, "an array of real numbers") for name, values in parts)
    samples, width = _size(codes)
    if not samples or atoms.shape[1:] != (width,) or offset.shape != atoms.shape[:1] or every.shape != (samples, len(atoms)):
        raise ValueError(
            "signals (n, input_dim), dictionary (input_dim, num_latents), bias (input_dim,) and codes (n, num_latents) must "
            "fit together, and n be at least 1, but they are of shapes "
            f"{every.shape}, {atoms.shape}, {offset.shape} and {(samples, width)}."
        )
    mean = every.mean(axis=0, dtype=np.float64)
    lost = square = varied = 0.0
    ratios = []
    for start, part in _parts(codes):
        target, linear = every[start : start + len(part)], part @ atoms.T
        # The offset is taken off first, and variances are about the mean, so that neither is lost in a large common part.
        lost += float(_squares(target - offset - linear).sum())
        square += float(_squares(target).sum())
        varied += float(_squares(target - mean).sum())
        long, length = np.sqrt(_squares(target)), np.sqrt(_squares(linear + offset))
        ratios.append(length[long > _SHORTEST] / long[long > _SHORTEST])
    if not np.isfinite(lost):
        raise ValueError("signals, dictionary, bias or codes are not finite; nothing can be said of what they explain.")
    shares = np.concatenate(ratios)
    return {
        # What is left of a constant by rounding is no variance.
        "r2": 1 - lost / varied if varied > float(np.finfo(np.float32).eps) ** 2 * square else 0.0,
        "shrinkage": float(shares.mean()) if len(shares) else 0.0,
    }


def measure(inferred: Inferred) -> dict[str, float | list[float]]:
    """All of these, of every scored split, where the truth is known and a dictionary was learned.

    Detection is told by two rules: as SAELens counts, wherever a code is not 0, and, as `cut_f1` and the like, above the cuts
    that the codes of the ID split tell, which know nothing of the truth.
    """
    learned, truth, match = inferred.model.dictionary, inferred.task.dictionary, inferred.match
    found: dict[str, Any] = {}
    if learned is None or truth is None or match is None:
        return found
    for name in SCORED:
        found |= _of_split(explained(inferred.split(name).signals, learned, inferred.model.bias, inferred.codes[name]), name)
    true_codes = inferred.split("id").codes
    if true_codes is None:
        return found
    nearest, tree = nearest_features(learned, truth), inferred.task.tree
    groups = groups_of(true_codes, None if tree is None else tree.level)
    found |= atom_scores(match, learned.shape[1], nearest, groups)
    least = cuts(inferred.codes["id"])
    for name in SCORED:
        present, codes = inferred.split(name).codes, inferred.codes[name]
        if present is None:
            continue
        raw, cut = (detection(firing) for firing in count(nearest, present, codes, (0.0, least)))
        found |= _of_split(raw, name) | _of_split({f"cut_{metric}": value for metric, value in cut.items()}, name)
        if tree is not None:
            lost = absorption(tree.parent, match.learned, present, codes, least)
            found |= {} if lost is None else {f"absorption_{name}": lost}
    return found


def _of_split(scores: dict[str, float], name: str) -> dict[str, float]:
    return {f"{metric}_{name}": value for metric, value in scores.items()}


def _indices(name: str, indices: Any, number: int, least: int = 0) -> Int[np.ndarray, " some"]:
    """The indices as an array, each from `least` to `number - 1`."""
    whole = as_real(name, indices, "integers, one for each")
    if whole.dtype.kind not in "iu" or whole.ndim != 1 or np.any((whole < least) | (whole >= number)):
        raise ValueError(f"{name} must be a row of integers from {least} to below {number}, but it is {shown(indices)}.")
    return whole


def _magnitudes(least: Any, width: int) -> Float[np.ndarray, " latent"]:
    """A least magnitude for each latent, of one for all or one for each."""
    magnitudes = as_real("least", least, "one magnitude, or one for each latent")
    if magnitudes.shape not in ((), (width,)) or not np.all(magnitudes >= 0):
        raise ValueError(f"least must be magnitudes of at least 0, one or {width} of them, but it is {shown(least)}.")
    return np.broadcast_to(magnitudes, width)


def _above(codes: _Dense | SparseCodes, unit: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latent and magnitude of each code above a least one, in units of their latent."""
    latents, sizes = [np.zeros(0, int)], [np.zeros(0)]
    for _, part in _parts(codes):
        size = np.abs(part) / unit
        latents.append(np.nonzero(size > least)[1])
        sizes.append(size[size > least])
    return np.concatenate(latents), np.concatenate(sizes)


def _squares(rows: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    return np.square(rows, dtype=np.float64).sum(axis=1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _size(codes: Any) -> tuple[int, int]:
    shape = np.shape(codes)
    if len(shape) != 2:
        raise ValueError(f"codes must be a matrix (samples, latents), but are {shown(codes)}.")
    return shape


def _parts(codes: _Dense | SparseCodes, beside: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Dense codes of some samples each, with the number of the first; few enough for codes of another width beside them."""
    samples, width = _size(codes)
    rows = max(1, _AT_ONCE // max(width, beside, 1))
    for start in range(0, samples, rows):
        yield start, _dense(codes, start, start + rows)


def _dense(codes: Any, start: int, stop: int) -> np.ndarray:
    if scipy.sparse.issparse(codes) and codes.format not in ("csr", "csc", "lil", "dok"):
        codes = codes.tocsr()
    part = codes[start:stop]
    check_unmasked("codes", part)
    if scipy.sparse.issparse(part):
        part = part.toarray()
    part = part.dense() if isinstance(part, Codes) else np.asarray(part)
    if part.dtype.kind in "cOSUMm" or part.dtype.names:
        raise ValueError(f"codes must be real numbers, but are {shown(part)}.")
    # Integers have one that is without a size of its own type.
    real = part if part.dtype.kind == "f" else part.astype(np.float32)
    if not np.isfinite(real).all():
        raise ValueError("codes have a NaN or an infinity; drop or mend those samples.")
    return real


__all__ = [
    "CUT",
    "Firing",
    "absorption",
    "atom_scores",
    "count",
    "cuts",
    "detection",
    "explained",
    "groups_of",
    "measure",
    "nearest_features",
]
