"""What an SAE makes of rows, as it was loaded and in other readings of the same arrays."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from sae_gap.core import ConstantNorm, LayerNorm, Model, Normalisation, Scale
from sae_gap.encoders import Affine, ReLU, TopK
from sae_gap.metrics.definitions import explained
from sae_gap.saes import SAE, AbsTopK, BatchLargest, own_codes

# Below this share of the variance an error is nothing to mend.
_LEAST = 1e-3
# Rows that are coded at once; other readings are tried on as many, so that one program codes all.
BLOCK = 200
# Codes of fewer than this share are decoded as sparse ones.
_SPARSE = 0.05
# The gain of reconstructions after training; the penalty of a ReLU SAE shrinks its codes by more.
LEAST_GAIN, _MOST_GAIN, _SHRUNK = 0.75, 1.12, 2.0
# After training one vector for all would mend no more than this share of the error.
OFFSET = 0.25


class Read(NamedTuple):
    """What an SAE makes of rows.

    Attributes:
      on: latents in use by each row, (n,).
      used: rows that use each latent, (num_latents,).
      energy: sum of its squared codes on unit atoms, (num_latents,).
      target: what the codes should add up to, (n, input_dim).
      guess: the reconstructions in units of the activations, (n, input_dim).
      explained: how much of the activations they explain; see
        `sae_gap.metrics.definitions.explained`.
      gain: by which the least squares `y - ȳ ≈ a (ŷ - mean)` multiply what codes add up to; 0 where
        all rows have the same codes.
      offset: the share of the squared error, or of a thousandth of the variance where that is more,
        that one vector for all rows would mend.
    """

    on: Int[np.ndarray, " n"]
    used: Int[np.ndarray, " num_latents"]
    energy: Float[np.ndarray, " num_latents"]
    target: Float[np.ndarray, "n input_dim"]
    guess: Float[np.ndarray, "n input_dim"]
    explained: dict[str, float]
    gain: float
    offset: float

    @property
    def l0(self) -> float:
        """The mean number of latents in use."""
        return float(self.on.mean())

    @property
    def fvu(self) -> float:
        """Fraction of the variance that the reconstructions leave."""
        return self.explained["fvu"]


class Reading(NamedTuple):
    """A way to read the arrays of an SAE or a transcoder.

    Attributes:
      normalisation: of what the encoder reads.
      encode: codes of what it reads, normalised, (n, num_inputs).
      units: what makes these codes on unit atoms, (num_latents,).
      atoms: of unit length, (num_latents, input_dim).
      bias: what the decoder adds, (input_dim,).
      columns: of the encoder, (num_latents, input_dim); None where it has none.
      most_gain: the largest gain that training leaves; a penalty shrinks the codes.
      skip: of a transcoder, (num_inputs, input_dim); None where it has none.
      offset: the encoder's bias in its file, (num_latents,); None where it has none.
    """

    normalisation: Normalisation
    encode: Callable[[Any], Any]
    units: Float[np.ndarray, " num_latents"]
    atoms: Float[np.ndarray, "num_latents input_dim"]
    bias: Float[np.ndarray, " input_dim"]
    columns: Float[np.ndarray, "num_latents input_dim"] | None
    most_gain: float
    skip: Float[np.ndarray, "num_inputs input_dim"] | None = None
    offset: Float[np.ndarray, " num_latents"] | None = None

    @classmethod
    def of(cls, sae: SAE) -> "Reading":
        """An SAE as it was loaded. The columns of a transcoder are of another space than atoms."""
        bias, skip = np.asarray(sae.bias), getattr(sae.model, "skip", None)
        maps = () if sae.transcodes else affines(sae.model)
        return cls(
            sae.normalisation,
            functools.partial(own_codes, sae.model),
            np.asarray(sae.lengths),
            np.asarray(sae.unit_dictionary.T),
            bias,
            np.asarray(maps[0].weight).T if maps else None,
            _SHRUNK if isinstance(sae.model.encode, ReLU) else _MOST_GAIN,
            None if skip is None else np.asarray(skip),
            _offset(sae, maps[0]) if maps else None,
        )

    def read(
        self,
        x: Float[np.ndarray, "n num_inputs"],
        y: Float[np.ndarray, "n input_dim"] | None = None,
    ) -> Read:
        """Codes rows and decodes them, some at a time.

        Args:
          x: what the encoder reads.
          y: what the codes of a transcoder explain; None takes x.
        """
        # By NumPy, which compiles nothing.
        signals = np.asarray(self.normalisation.apply(x), x.dtype)
        used, energy, on, sums = np.zeros(len(self.atoms), int), np.zeros(len(self.atoms)), [], []
        for start in range(0, len(x), BLOCK):
            # The last block is as large as the others, so that nothing is compiled for it.
            first = max(0, min(start, len(x) - BLOCK))
            block = np.asarray(self.encode(signals[first : start + BLOCK]))[start - first :]
            # SciPy looks for them six times as long.
            rows, latents = np.divmod(np.flatnonzero(block != 0), len(self.atoms))
            values = block[rows, latents] * self.units[latents]
            codes = scipy.sparse.csr_array((values, (rows, latents)), block.shape)
            codes.eliminate_zeros()
            on.append(np.diff(codes.indptr))
            used += np.bincount(codes.indices, minlength=len(self.atoms))
            energy += np.bincount(codes.indices, codes.data.astype(float) ** 2, len(self.atoms))
            dense = codes.nnz > _SPARSE * block.size
            sums.append((codes.toarray() if dense else codes) @ self.atoms)
        decoded = np.concatenate(sums)
        guess, skipped = decoded + self.bias, 0 if self.skip is None else signals @ self.skip
        if y is None:
            target, guess = signals - self.bias, np.asarray(self.normalisation.undo(guess, x))
        else:
            target, guess = y - skipped - self.bias, guess + skipped
        error = target - decoded
        mean = error.mean(axis=0)
        left = max(float(np.vdot(error, error)), _LEAST * len(x) * target.var(axis=0).sum())
        # In place, since arrays of this size take longer to make than to fill.
        error -= mean
        decoded -= decoded.mean(axis=0)
        power = float(np.vdot(decoded, decoded))
        return Read(
            np.concatenate(on),
            used,
            energy,
            target,
            guess,
            explained(x if y is None else y, guess),
            1 + float(np.vdot(error, decoded)) / power if power else 0.0,
            float(len(x) * np.vdot(mean, mean) / left),
        )

    def is_sound(self, read: Read) -> bool:
        """Whether neither a gain nor a vector would mend more than training leaves."""
        return LEAST_GAIN < read.gain < self.most_gain and read.offset <= OFFSET


def others(
    sae: SAE, own: Reading, x: Float[np.ndarray, "n num_inputs"]
) -> Iterator[tuple[str, Reading]]:
    """Other readings, each with its cause and mend in words."""
    bias, ways = own.bias, own.normalisation
    if sae.transcodes and bias.any():
        yield (
            "the decoder's bias is subtracted from the targets; give them as the model has them",
            own._replace(bias=0 * bias),
        )
    elif bias.any():
        shift = -bias if sae.centred else bias
        fault = "is subtracted from the encoder's input and should not be"
        if not sae.centred:
            fault = "should be subtracted from the encoder's input and is not"
        yield (
            f"the decoder's bias {fault}; correct that in the configuration",
            own._replace(encode=lambda signals: own.encode(signals - shift)),
        )
        yield (
            "the decoder's bias is subtracted twice; give the activations as the model has them",
            own._replace(encode=lambda signals: own.encode(signals + bias), bias=0 * bias),
        )
        yield "the decoder's bias is added twice; add it once", own._replace(bias=bias / 2)
    if isinstance(sae.model.encode, TopK | AbsTopK | BatchLargest):
        lengths = own.units
        times = _replaced(sae, lambda part: Affine(part.weight * lengths, part.bias * lengths))
        yield (
            "the k largest codes are chosen as if atoms had unit norm; set "
            "rescale_acts_by_decoder_norm",
            own._replace(encode=times, units=np.ones_like(lengths)),
        )
    # By one number, which mends no shrinkage; atoms of one length stay as they are.
    yield (
        "atoms have lengths of which the codes do not know: rows of W_dec were scaled without the "
        "encoder; bring them to one length",
        own._replace(units=np.full_like(own.units, np.median(own.units))),
    )
    square = [len(own.atoms) == dim for dim in (sae.num_inputs, sae.input_dim)]
    if own.skip is not None and sae.num_inputs == sae.input_dim:
        yield (
            "the square skip is transposed; transpose it in the file",
            own._replace(skip=own.skip.T),
        )
    turned = own
    if square[0]:
        encoder = _replaced(sae, lambda part: Affine(part.weight.T, part.bias))
        turned = own._replace(encode=encoder)
        yield "the square encoder is transposed; transpose it in the file", turned
    if square[1]:
        atoms = np.ascontiguousarray(own.atoms.T)
        yield (
            "the square decoder is transposed; transpose it in the file",
            own._replace(atoms=atoms),
        )
        if square[0]:
            yield (
                "both square matrices are weights of torch.nn.Linear; give linear=True",
                turned._replace(atoms=atoms),
            )
    for other in (Normalisation(), LayerNorm(), ConstantNorm()):
        if other.name != ways.name:
            yield (
                f"the normalisation is not {ways.name} but {other.name}; correct that in the "
                "configuration, or give the activations as the model has them",
                own._replace(normalisation=other),
            )
    factor, norm = getattr(ways, "factor", 1.0), float(np.linalg.norm(x, axis=1).mean())
    mean = x.mean(axis=0) * factor
    scales = [x.shape[1] ** 0.5 / norm / factor]
    if not sae.transcodes:
        # By this one the mean is as long as the bias, which training brings near it.
        scales.append(float(mean @ bias / (mean @ mean)))
    for scale in scales:
        if scale > 0:
            yield (
                f"activations are {1 / scale:.2g} times as long as the decoder's bias or the codes "
                "want: a normalisation is missing, or that bias is wrong; for the first scale them "
                f"to a mean norm of about {norm * scale:.4g}",
                own._replace(normalisation=Scale(factor * scale)),
            )


def affines(model: Model) -> list[Affine]:
    """The affine maps of the encoder; that of the target comes first."""
    parts = jax.tree.leaves(model.encoder, is_leaf=lambda part: isinstance(part, Affine))
    return [part for part in parts if isinstance(part, Affine)]


def _offset(sae: SAE, part: Affine) -> Float[np.ndarray, " num_latents"]:
    """The bias of an encoder before the decoder's was brought into it; rounding counts as zero."""
    bias = np.asarray(part.bias, float)
    if sae.centred:
        return bias
    shift = np.asarray(sae.bias, float) @ np.asarray(part.weight, float)
    return np.where(np.abs(bias - shift) > 1e-5 * np.abs(shift).max(), bias - shift, 0)


def _replaced(sae: SAE, change) -> Callable[[Any], Any]:
    parts = [change(part) for part in affines(sae.model)]
    return functools.partial(own_codes, eqx.tree_at(affines, sae.model, parts))
