"""What speaks against an SAE on activations. A cause is named only where it is sure; most mistakes
in loading pass silently otherwise, and a wrong cause is worse than none.

Three things hold of every SAE after training. Each column of the encoder is nearest to its own
atom. No gain and no vector that all reconstructions share would mend much of their error. And as
many latents are on as k says. Where one fails, the same arrays are read in other ways: the reading
that leaves as little as healthy SAEs do names the cause.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sae_gap.health import LEAST_GAIN, OFFSET, Read, Reading, others
from sae_gap.metrics import CHANCES

# The most latents whose columns are compared.
_COMPARED = 256
# At least this share of the codes' energy is on latents whose column of the encoder is nearest to
# their own atom.
_ALIGNED = 0.85
# A column in its place has at least this cosine with its atom.
_NEAR = 0.25
# An SAE of a greater FVU knows next to nothing of the activations; a healthy one has less than the
# second on the text that it was trained on.
_POOR, _USUAL = 0.9, 0.5
# The first reading tells whose score is within a factor of the best, if that is below this share of
# the SAE's as it was loaded.
_ALIKE, _BETTER = 1.05, 0.85
# L0 is within this factor of k, and below this share of the dimensions.
_FAR, _DENSE = 2.0, 0.5


class Evidence(NamedTuple):
    """What the weights and the codes show.

    Attributes:
      k: latents on in each row, as the configuration has it; 0 where it has none.
      alike: whether all atoms are about as long.
      aligned: the share of the codes' energy on latents whose encoder column is nearest to their
        own atom, of those of the most energy; None for an encoder without columns.
      negated: the same of latents whose column is farthest from it.
      misplaced: the same of latents whose column is as near to the atom of another, one to each, as
        others to their own.
      empty: latents whose atom or encoder column is zero.
      copies: atoms or encoder columns that are copies of others.
      zeros: whose bias is zero, of "decoder" and "encoder".
    """

    k: float
    alike: bool
    aligned: float | None
    negated: float
    misplaced: float
    empty: int
    copies: int
    zeros: tuple[str, ...]

    @classmethod
    def of(cls, own: Reading, read: Read) -> "Evidence":
        """The evidence of an SAE and of what it makes of rows."""
        sae, parts, zeros = own.sae, [own.atoms], ["decoder"] * (not own.bias.any())
        if affine := own.affine:
            columns = np.asarray(affine.weight).T
            parts.append(columns)
            # Loading folded the decoder's bias into that of an encoder that does not subtract it.
            shift = np.zeros(1) if sae.centred else columns @ own.bias
            if np.allclose(affine.bias, shift, 0, 1e-5 * np.abs(shift).max()):
                zeros.append("encoder")
        zero = np.any([~part.any(axis=1) for part in parts], axis=0)
        copies = max(_copies(part, ~zero) for part in parts)
        shares = _compare(read.energy, *parts)
        alike = bool(np.ptp(own.units) < 0.1 * np.min(own.units))
        k = float(getattr(sae.model.encode, "k", sae.notes.get("k", 0)))
        return cls(k, alike, *shares, int(zero.sum()), copies, tuple(zeros))  # type: ignore[call-arg]


def find_faults(
    own: Reading,
    x: Sequence[Float[np.ndarray, "few _"]],
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
    doubts = [*_doubts(own, read, evidence)]
    # A high FVU alone is another layer's as well, so that no other reading is sure.
    sure = bool(doubts)
    if _USUAL < read.fvu < _POOR:
        doubts.insert(0, f"FVU {read.fvu:.4g}, high for an SAE: another layer?")
    # A healthy SAE may lack a bias.
    doubts += [f"the {part}'s bias is zero: was it lost?" for part in evidence.zeros if doubts]
    # Else codes of atoms of several lengths may be ranked in either unit, and a skip be transposed.
    tried = (
        (cause, reading)
        for cause, reading in others(own, x[0])
        if sure
        or reading.skip is not own.skip
        or not (evidence.alike or reading.units is own.units)
    )
    if evidence.negated > 0.5:
        cause = (
            "the encoder's columns point away from their atoms: the signs of the encoder or of the "
            "decoder are negated; negate one of them."
        )
    elif evidence.misplaced > 0.02:
        cause = (
            f"{evidence.misplaced:.0%} of the codes' energy is on latents whose encoder column is "
            "nearest to the atom of another: the rows of the encoder or of the decoder are "
            "permuted; put both in one order."
        )
    else:
        cause = _cause(own, tried, x)
    yield from [cause] if cause else doubts


def _cause(own, tried, x):
    """The reading that reconstructs as healthy SAEs do and much better than as it was loaded."""
    before = own.read(*x)
    found = []
    for cause, reading in tried:
        read = reading.read(*x)
        sound = LEAST_GAIN < read.gain < reading.most_gain and read.offset <= OFFSET
        if read.fvu <= _USUAL and sound:
            found.append((_score(read), cause, read.fvu))
    # Codes that overflow have no finite score.
    if not found or (best := min(found)[0]) > _BETTER * _score(before):
        return None
    cause, left = next((cause, left) for score, cause, left in found if score <= _ALIKE * best)
    return f"{cause}: so the FVU is {left:.4g} in the place of {before.fvu:.4g}."


def _score(read):
    """FVU · L0^(1/4), since more latents reconstruct better in any reading."""
    return read.fvu * max(read.l0, 1 / len(read.guess)) ** 0.25


def _doubts(own, read, evidence):
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


def _copies(vectors, which):
    """How many of some vectors are copies of others, of any length."""
    # Copies have the same products with any directions; a negative zero is a zero.
    marks = vectors @ np.random.default_rng(0).normal(size=(vectors.shape[1], 16)).astype("f")
    marks = marks[which] / np.linalg.norm(marks[which], axis=1, keepdims=True)
    return len(marks) - len(np.unique(marks.round(4) + 0, axis=0))


def _compare(energy, atoms, columns=None):
    """`aligned`, `negated` and `misplaced` of the `Evidence`."""
    if columns is None:
        return None, 0.0, 0.0
    strong = np.argsort(-energy, kind="stable")[:_COMPARED]
    # All alike where no latent is on.
    share = energy[strong] + np.finfo(float).tiny
    share = share / share.sum()
    columns = columns[strong]
    columns = columns / np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-30)
    cosines = columns @ atoms.T
    mine, best, which = cosines[range(len(strong)), strong], cosines.max(1), cosines.argmax(1)
    # A copied atom counts as its original.
    nearest = mine >= best - 1e-5
    aligned, negated = share @ nearest, share @ (cosines.argmin(axis=1) == strong)
    # Columns out of their place are near to other atoms, one to each.
    astray = (mine < best / 2) & (best > _NEAR)
    apart = len(np.unique(which[astray])) > 0.9 * astray.sum()
    sure = apart and share @ astray > 0.8 * (1 - aligned)
    return float(aligned), float(negated), float(share @ astray) if sure else 0.0
