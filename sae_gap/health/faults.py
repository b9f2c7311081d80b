"""What looks wrong with an SAE, in sentences: causes where one is sure, else doubts."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from sae_gap.health import LEAST_GAIN, OFFSET, Evidence, Read, Reading, others
from sae_gap.metrics import CHANCES

# At least this share of the codes' energy is on latents whose column of the encoder is nearest to
# their own atom.
_ALIGNED = 0.85
# An SAE of a greater FVU knows next to nothing of the activations; a healthy one has less than the
# second on the text that it was trained on.
_POOR = 0.9
_USUAL = 0.5
# The first reading tells whose score is within a factor of the best, if that is below this share of
# the SAE's as it was loaded.
_ALIKE = 1.05
_BETTER = 0.85
# L0 is within this factor of k, and below this share of the dimensions.
_FAR = 2.0
_DENSE = 0.5


def find_faults(
    own: Reading,
    x: Sequence[Float[np.ndarray, "n dim"]],
    read: Read,
    evidence: Evidence,
) -> Iterator[str]:
    """What looks wrong, each a sentence with its figure.

    Args:
      own: the SAE as it was loaded.
      x: rows to try other readings on, and what a transcoder explains of them.
      read: what the SAE makes of all rows.
      evidence: of these.
    """
    if evidence.empty:
        yield f"{evidence.empty} latents have an atom or encoder weights of zeros."
    if evidence.copies:
        yield (
            f"{evidence.copies} atoms or encoder columns are copies of another, which training "
            "never makes."
        )
    doubted = [*doubts(own, read, evidence)]
    # A high FVU alone is another layer's as well, so that no other reading is sure.
    is_sure = bool(doubted)
    if _USUAL < read.fvu < _POOR:
        doubted.insert(0, f"FVU {read.fvu:.4g}, high for an SAE: another layer?")
    if doubted:
        # A healthy SAE may lack a bias.
        for part in evidence.zeros:
            doubted.append(f"the {part}'s bias is zero: was it lost?")
    cause = _misplaced(evidence)
    if not cause:
        tried = others(own, x[0])
        if not is_sure:
            tried = _ambiguous(own, tried, evidence)
        cause = _cause(own, tried, x)
    yield from [cause] if cause else doubted


def _misplaced(evidence: Evidence) -> str | None:
    """The cause where the encoder's columns are not in their places."""
    if evidence.negated > 0.5:
        return (
            "the encoder's columns point away from their atoms: the signs of the encoder or of the "
            "decoder are negated; negate one of them."
        )
    if evidence.misplaced > 0.02:
        return (
            f"{evidence.misplaced:.0%} of the codes' energy is on latents whose encoder column is "
            "nearest to the atom of another: the rows of the encoder or of the decoder are "
            "permuted; put both in one order."
        )
    return None


def _ambiguous(
    own: Reading, readings: Iterable[tuple[str, Reading]], evidence: Evidence
) -> Iterator[tuple[str, Reading]]:
    """The readings that differ where nothing looks wrong: codes of atoms of several lengths may be
    ranked in either unit, and a skip be transposed.
    """
    for cause, reading in readings:
        has_other_units = not evidence.alike and reading.units is not own.units
        if reading.skip is not own.skip or has_other_units:
            yield cause, reading


def _cause(
    own: Reading,
    tried: Iterable[tuple[str, Reading]],
    x: Sequence[Float[np.ndarray, "n dim"]],
) -> str | None:
    """The reading that reconstructs as healthy SAEs do and much better than as it was loaded."""
    before = own.read(*x)
    healthy = []
    for cause, reading in tried:
        read = reading.read(*x)
        is_scaled = LEAST_GAIN < read.gain < reading.most_gain
        if is_scaled and read.offset <= OFFSET and read.fvu <= _USUAL:
            healthy.append((_score(read), cause, read.fvu))
    if not healthy:
        return None
    best = min(score for score, _, _ in healthy)
    # Codes that overflow have no finite score.
    if best > _BETTER * _score(before):
        return None
    _, cause, fvu = next(each for each in healthy if each[0] <= _ALIKE * best)
    return f"{cause}: so the FVU is {fvu:.4g} in the place of {before.fvu:.4g}."


def _score(read: Read) -> float:
    """FVU · L0^(1/4), since more latents reconstruct better in any reading."""
    return read.fvu * max(read.l0, 1 / len(read.guess)) ** 0.25


def doubts(own: Reading, read: Read, evidence: Evidence) -> Iterator[str]:
    """What is unlike an SAE after training, without a cause."""
    width = len(own.atoms)
    if read.fvu >= _POOR:
        yield (
            f"FVU {read.fvu:.4g}: not read as it was trained; a normalisation, another layer or "
            "another file."
        )
    if read.l0 < 1:
        yield f"L0 is {read.l0:.4g}: many rows have no latent on."
    if read.l0 > _DENSE * own.atoms.shape[1]:
        yield (
            f"L0 is {read.l0:.4g} in {own.atoms.shape[1]} dimensions, dense for an SAE: another "
            "bias, threshold or architecture?"
        )
    if read.offset > OFFSET:
        yield (
            f"one vector for all reconstructions would mend {read.offset:.0%} of the error, where "
            "training leaves hardly any."
        )
    if not LEAST_GAIN < read.gain < own.most_gain:
        yield (
            f"reconstructions fit best when multiplied by {read.gain:.4g}, far from 1: a scale, "
            "noise on weights, or another layer."
        )
    if evidence.aligned is not None and evidence.aligned < _ALIGNED:
        yield (
            f"only {evidence.aligned:.0%} of the codes' energy is on latents whose encoder column "
            "is nearest to its own atom, where training leaves nearly all: encoder and decoder do "
            "not belong together, or one was damaged."
        )
    if evidence.k and not 1 / _FAR < read.l0 / evidence.k < _FAR:
        yield f"L0 is {read.l0:.4g}, but k is {evidence.k:.4g}."
    chances = read.used.mean()
    if chances >= CHANCES and 2 * read.dead > width:
        yield (
            f"{read.dead:,} of {width:,} latents never fire, although each had {chances:.0f} "
            "chances on average."
        )
