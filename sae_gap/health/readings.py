"""What an SAE makes of rows, as it was loaded and in other readings of the same arrays."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int
from numpy import asarray, bincount, vdot, zeros
from scipy.sparse import csr_array

from sae_gap.core import ConstantNorm, LayerNorm, Model, Normalisation, Scale, squares
from sae_gap.encoders import Affine, ReLU, TopK
from sae_gap.metrics.definitions import explained
from sae_gap.saes import SAE, AbsTopK, BatchLargest, own_codes

# Below this share of the variance an error is nothing to mend.
_LEAST = 1e-3
# Rows that are coded at once; other readings are tried on as many, so that one program codes all.
BLOCK = 200
# The gain of reconstructions after training; the penalty of a ReLU SAE shrinks its codes by more.
LEAST_GAIN = 0.75
_MOST_GAIN = 1.12
_SHRUNK = 2.0
# After training one vector for all would mend no more than this share of the error.
OFFSET = 0.25


class Read(NamedTuple):
    """What an SAE makes of rows.

    Attributes:
      l0: mean number of latents in use.
      used: rows that use each latent, (num_latents,).
      energy: sum of its squared codes on unit atoms, (num_latents,).
      guess: the reconstructions in units of the activations, (n, input_dim).
      explained: how much of the activations they explain; see
        `sae_gap.metrics.definitions.explained`.
      gain: by which the least squares `y - ȳ ≈ a (ŷ - mean)` multiply what codes add up to; 0 where
        all rows have the same codes.
      offset: the share of the squared error, or of a thousandth of the variance where that is more,
        that one vector for all rows would mend.
    """

    l0: float
    used: Int[np.ndarray, " num_latents"]
    energy: Float[np.ndarray, " num_latents"]
    guess: Float[np.ndarray, "n input_dim"]
    explained: dict[str, float]
    gain: float
    offset: float

    @property
    def fvu(self) -> float:
        """Fraction of the variance that the reconstructions leave."""
        return self.explained["fvu"]

    @property
    def dead(self) -> int:
        """The number of latents that no row uses."""
        return int((self.used == 0).sum())


class Reading(NamedTuple):
    """A way to read the arrays of an SAE or a transcoder.

    Attributes:
      sae: as it was loaded.
      normalisation: of what the encoder reads.
      encode: codes of what it reads, normalised, (n, num_inputs).
      units: what makes these codes on unit atoms, (num_latents,).
      atoms: of unit length, (num_latents, input_dim).
      bias: what the decoder adds, (input_dim,).
      skip: of a transcoder, (num_inputs, input_dim); None where it has none.
    """

    sae: SAE
    normalisation: Normalisation
    encode: Callable[[Any], Any]
    units: Float[np.ndarray, " num_latents"]
    atoms: Float[np.ndarray, "num_latents input_dim"]
    bias: Float[np.ndarray, " input_dim"]
    skip: Float[np.ndarray, "num_inputs input_dim"] | None

    @classmethod
    def of(cls, sae: SAE) -> "Reading":
        """An SAE as it was loaded."""
        skip = getattr(sae.model, "skip", None)
        encode = partial(own_codes, sae.model)
        return cls(
            sae=sae,
            normalisation=sae.normalisation,
            encode=encode,
            units=asarray(sae.lengths),
            atoms=asarray(sae.unit_dictionary.T),
            bias=asarray(sae.bias),
            skip=None if skip is None else asarray(skip),
        )

    def shifted(self, shift: Float[np.ndarray, " num_inputs"]) -> "Reading":
        """The reading with a shift added to what the encoder reads."""
        return self._replace(encode=lambda signals: self.encode(signals + shift))

    @property
    def affine(self) -> Affine | None:
        """The map of the encoder as it was loaded; None where it has none. The columns of a
        transcoder are of another space than atoms.
        """
        if self.sae.transcodes:
            return None
        return next(iter(affines(self.sae.model)), None)

    @property
    def most_gain(self) -> float:
        """The largest gain that training leaves; a penalty shrinks the codes."""
        return _SHRUNK if isinstance(self.sae.model.encode, ReLU) else _MOST_GAIN

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
        signals = asarray(self.normalisation.apply(x), x.dtype)
        used, energy, decoded = self._codes(signals)
        guess = decoded + self.bias
        if y is None:
            y = x
            target = signals - self.bias
            guess = asarray(self.normalisation.undo(guess, x))
        else:
            skipped = 0 if self.skip is None else signals @ self.skip
            target = y - skipped - self.bias
            guess = guess + skipped
        error = target - decoded
        mean = error.mean(axis=0)
        left = max(squares(error).sum(), _LEAST * len(x) * target.var(axis=0).sum())
        # In place, since arrays of this size take longer to make than to fill.
        error -= mean
        decoded -= decoded.mean(axis=0)
        power = float(vdot(decoded, decoded))
        return Read(
            l0=float(used.sum() / len(x)),
            used=used,
            energy=energy,
            guess=guess,
            explained=explained(y, guess),
            gain=1 + float(vdot(error, decoded)) / power if power else 0.0,
            offset=float(len(x) * vdot(mean, mean) / left),
        )

    def _codes(
        self, signals: Float[np.ndarray, "n num_inputs"]
    ) -> tuple[
        Int[np.ndarray, " num_latents"],
        Float[np.ndarray, " num_latents"],
        Float[np.ndarray, "n input_dim"],
    ]:
        """Codes normalised rows, some at a time: `used` and `energy` of a `Read`, and the sums of
        atoms.
        """
        width = len(self.atoms)
        used = zeros(width, int)
        energy = zeros(width)
        sums = []
        for start in range(0, len(signals), BLOCK):
            # The last block is as large as the others, so that nothing is compiled for it.
            first = max(0, min(start, len(signals) - BLOCK))
            codes = asarray(self.encode(signals[first : start + BLOCK]))
            block = codes[start - first :] * self.units
            # SciPy looks for them six times as long.
            rows, latents = np.divmod(np.flatnonzero(block != 0), width)
            values = block[rows, latents]
            used += bincount(latents, minlength=width)
            energy += bincount(latents, values.astype(float) ** 2, width)
            sparse = csr_array((values, (rows, latents)), block.shape)
            sums.append(sparse @ self.atoms)
        return used, energy, np.concatenate(sums)


def others(
    own: Reading, x: Float[np.ndarray, "n num_inputs"]
) -> Iterator[tuple[str, Reading]]:
    """Other readings, each with its cause and mend in words."""
    if own.bias.any():
        yield from _other_biases(own)
    yield from _other_units(own)
    yield from _transposed(own)
    for other in (Normalisation(), LayerNorm(), ConstantNorm()):
        if other.name != own.normalisation.name:
            yield (
                f"the normalisation is not {own.normalisation.name} but {other.name}; correct that "
                "in the configuration, or give the activations as the model has them",
                own._replace(normalisation=other),
            )
    yield from _other_scales(own, x)


def _other_biases(own: Reading) -> Iterator[tuple[str, Reading]]:
    """Readings of the decoder's bias, which is not zero."""
    sae = own.sae
    bias = own.bias
    if sae.transcodes:
        yield (
            "the decoder's bias is subtracted from the targets; give them as the model has them",
            own._replace(bias=0 * bias),
        )
    else:
        if sae.centred:
            shift = -bias
            fault = "is subtracted from the encoder's input and should not be"
        else:
            shift = bias
            fault = "should be subtracted from the encoder's input and is not"
        yield (
            f"the decoder's bias {fault}; correct that in the configuration",
            own.shifted(-shift),
        )
        yield (
            "the decoder's bias is subtracted twice; give the activations as the model has them",
            own.shifted(bias)._replace(bias=0 * bias),
        )
        yield (
            "the decoder's bias is added twice; add it once",
            own._replace(bias=bias / 2),
        )
    # An encoder that subtracts the bias added what it should subtract.
    negated = own.shifted(2 * bias) if sae.centred else own
    yield (
        "the decoder's bias has the wrong sign; negate it",
        negated._replace(bias=-bias),
    )


def _other_units(own: Reading) -> Iterator[tuple[str, Reading]]:
    """Readings of the lengths of atoms."""
    sae = own.sae
    if isinstance(sae.model.encode, TopK | AbsTopK | BatchLargest):
        lengths = own.units
        times = _replaced(
            sae, lambda part: Affine(part.weight * lengths, part.bias * lengths)
        )
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


def _transposed(own: Reading) -> Iterator[tuple[str, Reading]]:
    """Readings of square matrices."""
    sae = own.sae
    changes: dict[str, Any] = {}
    if own.skip is not None and sae.num_inputs == sae.input_dim:
        changes["skip"] = {"skip": own.skip.T}
    if len(own.atoms) == sae.num_inputs:
        encode = _replaced(sae, lambda part: Affine(part.weight.T, part.bias))
        changes["encoder"] = {"encode": encode}
    if len(own.atoms) == sae.input_dim:
        changes["decoder"] = {"atoms": np.ascontiguousarray(own.atoms.T)}
    for name, change in changes.items():
        yield (
            f"the square {name} is transposed; transpose it in the file",
            own._replace(**change),
        )
    if {"encoder", "decoder"} <= changes.keys():
        yield (
            "both square matrices are weights of torch.nn.Linear; give linear=True",
            own._replace(**changes["encoder"], **changes["decoder"]),
        )


def _other_scales(
    own: Reading, x: Float[np.ndarray, "n num_inputs"]
) -> Iterator[tuple[str, Reading]]:
    """Readings of activations of another scale."""
    factor = getattr(own.normalisation, "factor", 1.0)
    norm = float(np.linalg.norm(x, axis=1).mean())
    mean = x.mean(axis=0) * factor
    scales = [x.shape[1] ** 0.5 / norm / factor]
    if not own.sae.transcodes:
        # By this one the mean is as long as the bias, which training brings near it.
        scales.append(float(mean @ own.bias / (mean @ mean)))
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
    parts = jax.tree.leaves(
        model.encoder, is_leaf=lambda part: isinstance(part, Affine)
    )
    return [part for part in parts if isinstance(part, Affine)]


def _replaced(sae: SAE, change: Callable[[Affine], Affine]) -> Callable[[Any], Any]:
    """The encoder with other affine maps."""
    parts = [change(part) for part in affines(sae.model)]
    return partial(own_codes, eqx.tree_at(affines, sae.model, parts))
