"""Is an SAE broken, or was it loaded wrongly?

What speaks against an SAE on activations. A cause is named only where it is sure; most mistakes
in loading pass silently otherwise, and a wrong cause is worse than none.

Three things hold of every SAE after training. Each column of the encoder is nearest to its own
atom. No gain and no vector that all reconstructions share would mend much of their error. And as
many latents are on as k says. Where one fails, the same arrays are read in other ways: the reading
that leaves as little as healthy SAEs do names the cause.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import Model, check_type, detached, evenly_spaced
from sae_gap.data import Activations, find_outliers, norms, open_activations
from sae_gap.health import BLOCK, LEAST_GAIN, OFFSET, Read, Reading, affines, others
from sae_gap.metrics import CHANCES, LIBRARIES, check_varies
from sae_gap.metrics.definitions import explained
from sae_gap.saes import SAE, load_sae

# Fewer rows say nothing of the rest.
FEWEST = 10
# The most latents whose columns are compared.
_COMPARED = 256
# At least this share of the codes' energy is on latents whose column of the encoder is nearest to
# their own atom.
_ALIGNED = 0.85
# A column in its place has at least this cosine with its atom.
_NEAR = 0.25
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
        sae = own.sae
        parts = [own.atoms]
        zeros = ["decoder"] * (not own.bias.any())
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
        k = getattr(sae.model.encode, "k", sae.notes.get("k", 0))
        return cls(float(k), alike, *shares, int(zero.sum()), copies, tuple(zeros))  # type: ignore[call-arg]


class Check(NamedTuple):
    """What `check` found; as a text, one screen.

    Attributes:
      sae: as it was loaded.
      read: what it makes of the activations that were looked at, without outlier tokens.
      activation_norm: their mean norm, as they were given; that of a transcoder's targets.
      evidence: what the weights and the codes show beside.
      wrong: what looks wrong, each a sentence with its figure, and with its cause and mend where
        these are sure; empty where nothing was found.
      outliers: activations that were left out, being of more than ten times the median norm.
      with_outliers: `explained` of all, these too; empty where there are none.
    """

    sae: SAE
    read: Read
    activation_norm: float
    evidence: Evidence
    wrong: tuple[str, ...]
    outliers: int
    with_outliers: Mapping[str, float]

    @property
    def fvu(self) -> float:
        """Fraction of the variance about the mean of the activations that the reconstruction
        leaves, `1 - R²`.
        """
        return self.read.fvu

    @property
    def columns(self) -> dict[str, Any]:
        """What a row tells of it."""
        return {
            "library": self.sae.library,
            "architecture": self.sae.architecture,
            "normalisation": self.sae.normalisation.name,
            "notes": self.sae.notes,
            "activation_norm": self.activation_norm,
            **{
                name: getattr(self.read, name)
                for name in ("fvu", "l0", "dead", "gain", "offset")
            },
            "outliers": self.outliers,
            "suspicions": self.wrong,
        }

    def __str__(self) -> str:
        sae = self.sae
        read = self.read
        told = self.evidence
        least, median, greatest = np.quantile(sae.lengths, (0, 0.5, 1))
        units = "" if told.alike else ": codes of two latents compare times these"
        biases = [sae.bias, *(affine.bias for affine in affines(sae.model)[:1])]
        lengths = ", ".join(f"{float(np.linalg.norm(bias)):.4g}" for bias in biases)
        few = read.used.sum() < CHANCES * sae.num_latents and read.dead
        k = f" (k is {told.k:.4g})" if told.k else ""
        kinds = [read.explained, self.with_outliers][: 1 + bool(self.outliers)]
        lines = [
            f"{sae.library} {sae.architecture}: {sae.num_latents} latents, input_dim "
            f"{sae.input_dim}"
            + f", of a transcoder of {sae.num_inputs} inputs"
            * sae.transcodes,
            f"normalisation: {sae.normalisation.name}",
            *(f"{name}: {value}" for name, value in sae.notes.items()),
            f"lengths of atoms: {least:.4g} to {greatest:.4g}, median {median:.4g}{units}",
            f"norms of the biases of decoder and encoder: {lengths}; of activations: "
            f"{self.activation_norm:.4g}",
            f"left out: {self.outliers} outlier tokens, of more than ten times the median norm",
            f"on {len(read.guess):,} rows: L0 {read.l0:.4g}{k}, {read.dead:,} of "
            f"{sae.num_latents:,} "
            f"latents never fire{' (rare ones may on more rows)' if few else ''}",
            f"reconstructions fit best times {read.gain:.4g}; one vector for all would mend "
            f"{read.offset:.1%} of the error",
            "codes' energy on latents whose encoder column is nearest to their own atom: "
            + ("unknown" if told.aligned is None else f"{told.aligned:.1%}")
            + f"; copied latents: {told.copies}",
            "FVU (1 - explained variance) by the definition of each library"
            + (", and with outlier tokens:" if self.outliers else ":"),
        ]
        for name, calls in LIBRARIES.items():
            shares = [of[name] if name == "fvu" else 1 - of[name] for of in kinds]
            lines.append("".join(f"{share:10.4f}" for share in shares) + f"  {calls}")
        lines += [f"wrong: {said}" for said in self.wrong] or ["nothing found"]
        return "\n".join(line for line in lines if not line.startswith("left out: 0"))


def check(
    sae: SAE | Model | str | os.PathLike[str] | Sequence[ArrayLike],
    activations: Activations | Float[ArrayLike, "..."] | str | os.PathLike[str],
    *,
    targets: Activations
    | Float[ArrayLike, "..."]
    | str
    | os.PathLike[str]
    | None = None,
    rows: int = 5_000,
    **options: Any,
) -> Check:
    """Evidence that an SAE is broken or was loaded wrongly.

    A cause is named only where reading the same arrays in that way reconstructs as healthy SAEs do.

    Args:
      sae: the folder of one that `load_sae` reads, what that returns, a model of this suite, or the
        arrays `(W_enc, b_enc, W_dec, b_dec)` of NumPy, JAX or PyTorch with the `options` of
        `SAE.from_arrays`, such as `architecture="topk", k=32`; matrices may be transposed.
      activations: of the layer that it was trained on: a tensor or an array, (n, input_dim) or
        (documents, tokens, input_dim), or a file of these as `open_activations` reads, such as a
        .pt; for a transcoder those that it reads.
      targets: what a transcoder explains, row by row; all figures are of these.
      rows: how many of the activations are looked at, at most, evenly spread.
      options: of `SAE.from_arrays`.

    Returns:
      The finding. `print` it; `wrong` is empty where nothing was found.

    Raises:
      ValueError: the SAE or the activations cannot be read, do not fit each other, or are too few,
        or targets are missing or left over.
    """
    loaded = _sae(sae, options)
    activations = loaded.flat(detached(activations))
    if loaded.transcodes and targets is None:
        raise ValueError(
            "a transcoder explains other activations than it reads; give those as targets."
        )
    if targets is not None and not loaded.transcodes:
        raise ValueError("an SAE explains what it reads; leave targets out.")
    source = open_activations(activations)
    places = evenly_spaced(source.num_samples, rows)
    every = [np.asarray(loaded.as_rows(source.take(places)))]
    if targets is not None:
        aims = open_activations(targets).with_inputs(source)
        every.append(np.asarray(loaded.as_rows(aims.take(places), explained=True)))
    # What is explained comes last.
    outliers = find_outliers(*map(norms, every)).rows
    kept = [np.delete(part, outliers, axis=0) for part in every]
    x = kept[-1]
    if len(x) < FEWEST:
        raise ValueError(
            f"{len(x)} activations are too few to judge by; give some hundreds."
        )
    check_varies(x)
    own = Reading.of(loaded)
    whole = own.read(*kept)
    with_outliers: Mapping[str, float] = {}
    if len(outliers):
        rest = [part[outliers] for part in every]
        # Codes of the longest overflow.
        with np.errstate(all="ignore"):
            with_outliers = explained(
                np.concatenate([x, rest[-1]]),
                np.concatenate([whole.guess, own.read(*rest).guess]),
            )
    evidence = Evidence.of(own, whole)
    few = evenly_spaced(len(x), BLOCK)
    wrong = [*_faults(own, [part[few] for part in kept], whole, evidence)]
    if caution := loaded.notes.get("caution"):
        wrong.insert(
            0,
            f"{caution}; see that the file is whole and the activations as it wants them.",
        )
    return Check(
        loaded,
        whole,
        float(norms(x).mean()),
        evidence,
        tuple(wrong),
        len(outliers),
        with_outliers,
    )


def _sae(sae, options):
    if isinstance(sae, list | tuple):
        if len(sae) != 4:
            raise ValueError(
                f"an SAE of arrays is (W_enc, b_enc, W_dec, b_dec), but {len(sae)} are given; give "
                "these four."
            )
        if "architecture" not in options:
            raise TypeError(
                "four arrays do not tell what the encoder is; give architecture, such as "
                'architecture="topk", k=32.'
            )
        return SAE.from_arrays(*sae, **options)
    if options:
        raise TypeError(
            f"{', '.join(options)} goes with an SAE of four arrays; leave it out."
        )
    if isinstance(sae, Model):
        return SAE.of_model(sae, name="sae")
    if isinstance(sae, str | os.PathLike):
        return load_sae(sae)
    check_type(
        "sae", sae, SAE, "give a folder, what sae_gap.load_sae returns, or four arrays"
    )
    return sae


def _faults(own, x, read, evidence):
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
    doubts += [
        f"the {part}'s bias is zero: was it lost?" for part in evidence.zeros if doubts
    ]
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
        healthy = LEAST_GAIN < read.gain < reading.most_gain and read.offset <= OFFSET
        if healthy and read.fvu <= _USUAL:
            found.append((_score(read), cause, read.fvu))
    # Codes that overflow have no finite score.
    if not found or (best := min(found)[0]) > _BETTER * _score(before):
        return None
    _, cause, left = next(each for each in found if each[0] <= _ALIKE * best)
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
    marks = vectors @ np.random.default_rng(0).normal(
        size=(vectors.shape[1], 16)
    ).astype("f")
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
    columns = columns / np.maximum(
        np.linalg.norm(columns, axis=1, keepdims=True), 1e-30
    )
    cosines = columns @ atoms.T
    mine = cosines[range(len(strong)), strong]
    best = cosines.max(1)
    which = cosines.argmax(1)
    # A copied atom counts as its original.
    aligned = share @ (mine >= best - 1e-5)
    negated = share @ (cosines.argmin(axis=1) == strong)
    # Columns out of their place are near to other atoms, one to each.
    astray = (mine < best / 2) & (best > _NEAR)
    apart = len(np.unique(which[astray])) > 0.9 * astray.sum()
    sure = apart and share @ astray > 0.8 * (1 - aligned)
    return float(aligned), float(negated), float(share @ astray) if sure else 0.0
