"""What looks wrong with an SAE on activations: most mistakes in loading one pass silently, and show
here.

Three things hold of every SAE after training. Each column of the encoder is nearest to its own
atom. No gain and no vector that all reconstructions share would mend much of their error. And the
latents that never fire would mend little of it. Where one fails, the SAE is read in other ways,
such as with other thresholds or weights: the reading that mends the fault names the cause. It must
reconstruct rows better than it does the same numbers shuffled, which any SAE explains a part of.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sae_gap.core.matching import unit_columns
from sae_gap.core.rows import evenly_spaced
from sae_gap.encoders.relu import ReLU
from sae_gap.health.readings import (
    MISSING,
    Read,
    Reading,
    Seen,
    affines,
    configured,
    layer,
    off,
    rescaled,
    turned,
)
from sae_gap.metrics.definitions import fvu
from sae_gap.metrics.reconstruction import CHANCES
from sae_gap.saes.loaded_sae import SAE

# Rows that other readings and other codes are tried on, and the most latents whose columns are
# compared.
FEW, _COMPARED = 250, 512
# Share of the codes' energy on latents whose column of the encoder is nearest to their own atom; a
# ReLU SAE that was trained for a short time has less.
_NEAREST, _NEAREST_RELU = 0.98, 0.85
# The gain of reconstructions after training; the penalty of a ReLU SAE shrinks its codes by more.
_GAIN, _SHRUNK = (0.86, 1.12), 2.0
# One vector for all leaves at least this share of the error after training.
_VECTOR = 0.75
# Noise has a mean square correlation within this factor of that of independent dimensions.
_UNCORRELATED = 1.1
# Reconstructions of less than this share of the variance are all alike.
_CONSTANT = 1e-6
# What the best silent latent would mend over what the best other one would, if gain and vector are
# right, and if they are not.
_WANTED, _WANTED_UNSOUND = 2.5, 1.7
# A reading tells where it leaves this share of the error without more latents on; one with a
# gain and a vector as after training, this share. And it leaves this share of what it does of
# shuffled rows.
_BETTER, _BETTER_MENDED, _SHUFFLED = 0.8, 0.95, 0.9
# Of such readings the one of least FVU · L0^(1/4) tells.
_MORE = 0.25
# At an FVU below the first nothing is left to mend; above the second, an SAE knows next to nothing
# of the activations.
_GOOD, _POOR = 1e-3, 0.9
# More latents on than this share of the dimensions are no sparse code.
_DENSE = 0.5
# L0 is within this factor of k.
_FAR = 2.0


class _Fit(NamedTuple):
    """The a of the least squares `y - mean ≈ a (ŷ - mean)` of targets and what codes add up to; and
    whether ŷ varies, whether the mean of the errors is as training leaves it, and the gain too.
    """

    gain: float
    varies: bool
    centred: bool
    sound: bool


def _fit(sae: SAE, read: Read) -> _Fit:
    signals, sums = (part - part.mean(axis=0) for part in (read.target, read.sums))
    power, errors = float(np.vdot(sums, sums)), read.target - read.sums
    varies = power > _CONSTANT * float(np.vdot(signals, signals))
    gain = float(np.vdot(signals, sums)) / power if varies else 1.0
    mean = errors.mean(axis=0)
    centred = bool(len(errors) * np.vdot(mean, mean) <= (1 - _VECTOR) * np.vdot(errors, errors))
    most = _SHRUNK if isinstance(sae.model.encode, ReLU) else _GAIN[1]
    return _Fit(gain, varies, centred, varies and centred and _GAIN[0] < gain < most)


class Suspect(NamedTuple):
    """An SAE, rows, and what it makes of them.

    Attributes:
      sae: the SAE.
      x: the rows, without outlier tokens, (n, input_dim).
      atoms: of unit length, (num_latents, input_dim).
      read: the codes.
      fvu: that they leave.
    """

    sae: SAE
    x: Float[np.ndarray, "n input_dim"]
    atoms: Float[np.ndarray, "num_latents input_dim"]
    read: Read
    fvu: float

    @property
    def few(self) -> Int[np.ndarray, " some"]:
        """The rows that readings are tried on."""
        return evenly_spaced(len(self.x), FEW)


def find_faults(suspect: Suspect) -> Iterator[str]:
    """What looks wrong, each a sentence with its figure and its mend, that of the weights first."""
    sae = suspect.sae
    yield from _of_weights(sae, suspect.atoms)
    if "caution" in sae.notes:
        yield (
            f"{sae.notes['caution']}; see that the file is whole and the activations as it wants "
            "them."
        )
    cause = _cause(suspect) if suspect.fvu >= _GOOD else None
    if said := cause or _of_dead(suspect):
        yield said


def _cause(suspect: Suspect) -> str | None:
    """Why the SAE reconstructs no better."""
    sae, whole = suspect.sae, suspect.read
    x = suspect.x[suspect.few]
    seen, fit = Seen.of(sae, x, suspect.atoms), _fit(sae, whole)
    sound = fit.sound and suspect.fvu < _POOR
    own = seen.read(Reading("", "", seen.sae))
    left = fvu(x, own.guess)

    @functools.cache
    def shuffled() -> Seen:
        return Seen.of(sae, np.random.default_rng(0).permuted(x, axis=0), suspect.atoms)

    def explains(of: Callable[[Seen], Reading], left: float) -> bool:
        """Whether a reading, which leaves so much of rows, explains more of them than of shuffled
        ones.
        """
        reading, mixed = of(shuffled()), shuffled()
        return left < _SHUFFLED * fvu(mixed.x, mixed.read(reading).guess / reading.scale)

    def best(readings: Callable[[Seen], Iterator[Reading]], mending: bool = False) -> str | None:
        """The reading that reconstructs best, as a sentence, if it leaves much less of the error
        with as few latents; with `mending`, a little less suffices if its gain and mean error are
        as after training.
        """
        found = []
        for place, reading in enumerate(readings(seen)):
            read = seen.read(reading)
            rest, more = fvu(x, read.guess / reading.scale), read.l0 / max(own.l0, 1 / len(x))
            better = rest < _BETTER * left and more < 1.05
            if mending:
                better = rest < _BETTER_MENDED * left and _fit(sae, read).sound
            if better and rest < _POOR:
                # More latents reconstruct better in any reading.
                found.append((rest * more**_MORE, place, rest, reading))
        if not found:
            return None
        _, place, rest, reading = min(found)
        if not explains(lambda seen: next(itertools.islice(readings(seen), place, None)), rest):
            return None
        return (
            f"{reading.how} the FVU is {rest:.4g} in the place of {left:.4g}, on the same "
            f"{len(x)} rows: {reading.mend}."
        )

    @functools.cache
    def sizes() -> str | None:
        return best(lambda seen: rescaled(seen, own, _fit(sae, own).gain), mending=True)

    @functools.cache
    def strange() -> bool:
        return not sound and not explains(lambda seen: Reading("", "", seen.sae), left)

    def causes() -> Iterator[str | None]:
        if not sound and sae.input_dim == sae.num_latents and affines(sae.model):
            yield best(lambda seen: turned(seen, sae), mending=True)
        yield best(configured)
        yield _of_columns(suspect, fit.centred and not strange())
        if not fit.varies:
            yield sizes() or _of_constant(whole)
        if strange() and not sizes():
            yield _of_noise(suspect.fvu, x)
        if fit.centred:
            yield _of_silent(suspect, seen, _WANTED if sound else _WANTED_UNSOUND)
            if not fit.sound:
                yield _of_density(sae, whole.l0)
        if not sound:
            yield sizes()
        yield _of_activity(sae, whole.l0)
        if not sound:
            yield _of_rest(suspect, fit, strange())

    return next(filter(None, causes()), None)


def _of_rest(suspect: Suspect, fit: _Fit, strange: bool) -> str:
    """What is left to say of an SAE that no reading mends."""
    if not fit.centred:
        return (
            f"all reconstructions are off by one vector (FVU {suspect.fvu:.4g}): "
            f"{off(suspect.sae)}."
        )
    if strange:
        return (
            f"FVU is {suspect.fvu:.4g}, no better than of the same numbers with each dimension "
            "shuffled, and no other reading of the SAE mends it: the activations may be of "
            f"{layer(suspect.sae)} or of another model; check both."
        )
    if suspect.fvu >= _POOR:
        return (
            f"FVU is {suspect.fvu:.4g}, and no other reading of the SAE mends it: the activations "
            f"may be of {layer(suspect.sae)}, or the encoder's weights damaged; check both."
        )
    return (
        f"reconstructions fit the activations best when multiplied by {fit.gain:.4g}, far from "
        "1: the encoder's weights carry noise or another bias, or the decoder lacks a scale; "
        "load them again."
    )


def _of_noise(fvu: float, x) -> str | None:
    """Whether the dimensions of rows are uncorrelated, as those of noise are: inner products of
    standardised rows have a mean square of `Σ corr²` over all pairs of dimensions.
    """
    scaled = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), np.finfo(x.dtype).tiny)
    products = np.square(scaled @ scaled.T)[np.triu_indices(len(x), 1)]
    if products.mean() > _UNCORRELATED * x.shape[1]:
        return None
    return (
        f"FVU is {fvu:.4g}, no better than of the same numbers with each dimension shuffled, and "
        "the dimensions are uncorrelated: these activations are like noise, not like what the SAE "
        "was trained on; check how they were recorded."
    )


def _of_constant(read: Read) -> str:
    """What is wrong with an encoder that gives all rows one reconstruction."""
    if read.l0 == 0:
        return (
            "no latent is on in any row: the encoder's weights or bias were lost, its thresholds "
            "are far too high, or the activations far smaller than in training; load it again, or "
            "scale them."
        )
    return (
        "all rows have the same codes: the encoder's weights were lost, or are far too small "
        "beside its bias; load it again."
    )


def _of_dead(suspect: Suspect) -> str | None:
    """Whether most latents never fire on rows that gave each of them many chances."""
    used, width = suspect.read.used, suspect.sae.num_latents
    if used.sum() < CHANCES * width or 2 * np.count_nonzero(used) >= width:
        return None
    return (
        f"{width - np.count_nonzero(used):,} of {width:,} latents never fire, although each had "
        f"{used.sum() / width:.0f} chances on average: they died in training, or a part of the "
        "encoder was lost; compare its bias and thresholds with those of the source."
    )


def _of_weights(sae: SAE, atoms) -> Iterator[str]:
    """What the weights alone show."""
    zero = np.asarray(sae.lengths) == 0
    for affine in affines(sae.model)[:1]:
        zero = zero | ~np.asarray(affine.weight).any(axis=0)
        # What is left of a bias that the file lacks, where the decoder's was added to it.
        left = affine.bias if sae.centred else affine.bias - sae.bias @ affine.weight
        if np.linalg.norm(left) <= (0 if sae.centred else 1e-5 * np.linalg.norm(affine.bias)):
            yield (
                "the encoder's bias is zero throughout, although training moves it: check that it "
                "was saved."
            )
    if zero.any():
        yield (
            f"{zero.sum()} of {len(zero)} latents have an atom or encoder weights of zeros; unless "
            "pruned, save it again."
        )
    # Copies have the same products with any directions; a negative zero is a zero.
    marks = atoms[~zero] @ np.random.default_rng(0).normal(size=(sae.input_dim, 16)).astype("f")
    if copies := len(marks) - len(np.unique(marks.round(4) + 0, axis=0)):
        yield (
            f"{copies} of {len(zero)} atoms are copies of another, which training never makes; "
            "read the decoder from the file again."
        )


def _of_columns(suspect: Suspect, trusted: bool) -> str | None:
    """Whether the columns of the encoder are in the order of their atoms, and of the same SAE.

    Activations that are off by a vector, or of another place, are not `trusted`: they weigh columns
    that training left, as silent latents do.
    """
    sae, energy = suspect.sae, suspect.read.energy
    if not affines(sae.model):
        return None
    least = _NEAREST_RELU if isinstance(sae.model.encode, ReLU) else _NEAREST
    least = least if trusted and energy.any() else 0.5
    strong = np.argsort(-energy, kind="stable")[:_COMPARED]
    columns = unit_columns(np.asarray(affines(sae.model)[0].weight)[:, strong])
    cosines = columns.T @ suspect.atoms.T
    own, best, which = cosines[range(len(strong)), strong], cosines.max(1), cosines.argmax(1)
    # A copied atom counts as its original.
    nearest = own >= best - 1e-5
    share = energy[strong] if energy.any() else np.ones(len(strong))
    share = share / share.sum()
    if share @ nearest >= least:
        return None
    if share @ (cosines.argmin(axis=1) == strong) > 0.5:
        return (
            "the encoder's columns point away from their atoms: the signs of the encoder or of the "
            "decoder are negated; negate one of them."
        )
    # Columns out of their place are as near to other atoms as the rest to their own, one to each.
    usual = np.median(own[nearest]) if nearest.any() else 0.5
    astray = (own < best / 2) & (best > usual / 2)
    apart = len(np.unique(which[astray])) > 0.9 * astray.sum()
    if apart and share @ astray > (1 - share @ nearest) / 2:
        return (
            f"{astray.sum()} of {len(strong)} encoder columns are nearest to the atom of "
            "another latent: the rows of the encoder or of the decoder are permuted; put both in "
            "one order."
        )
    return (
        f"only {share @ nearest:.0%} of the codes' energy is on latents whose encoder column is "
        "nearest to its own atom, where training leaves nearly all: encoder and decoder are of "
        "different SAEs, or one was damaged; load both from one file."
    )


def _of_silent(suspect: Suspect, seen: Seen, factor: float) -> str | None:
    """Whether latents that never fire would mend more of the errors than the others."""
    silent = suspect.read.used == 0
    if not 0.2 < silent.mean() < 0.9:
        return None
    target, sums = (part[suspect.few] for part in (suspect.read.target, suspect.read.sums))
    off = np.asarray(seen.codes(seen.sae.model, target)) == 0
    gains = np.where(off, np.maximum((target - sums) @ suspect.atoms.T, 0), 0) ** 2
    wanted = float(
        gains[:, silent].max(axis=1).sum() / max(gains[:, ~silent].max(axis=1).sum(), 1e-30)
    )
    if wanted < factor:
        return None
    return (
        f"{silent.sum():,} of {len(silent):,} latents never fire, although their atoms would mend "
        f"{wanted:.3g} times as much of the errors as the others: these latents are dead by a "
        "bias, a threshold or weights that were lost; load the encoder again."
    )


def _of_density(sae: SAE, l0: float) -> str | None:
    """Whether codes are too dense to be those of a trained SAE, whatever else mends them."""
    if l0 < _DENSE * sae.input_dim:
        return None
    return (
        f"on average {l0:.4g} latents are on in {sae.input_dim} dimensions, which is no sparse "
        f"code: {MISSING}."
    )


def _of_activity(sae: SAE, l0: float) -> str | None:
    """Whether as many latents are on as k says."""
    k = getattr(sae.model.encode, "k", None) or sae.notes.get("k")
    if k is None or 1 / _FAR < l0 / float(k) < _FAR:
        return None
    return (
        f"on average {l0:.4g} latents are on, but k is {k}: a bias, a threshold or the scale of "
        "the activations may be wrong; check them."
    )
