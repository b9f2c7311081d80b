"""Other ways to read an SAE, such as with another scale, bias, threshold or k: where one mends what
is wrong, it names the cause.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from sae_gap.core.normalise import ConstantNorm, LayerNorm, Normalisation, Scale, Whitening
from sae_gap.core.types import Model
from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.own import Own
from sae_gap.encoders.topk import TopK, keep_largest
from sae_gap.runtime.cores import one_blas_thread
from sae_gap.saes.foreign_encoders import AbsTopK, BatchLargest
from sae_gap.saes.loaded_sae import SAE, own_codes

# Rows and codes at a time, at most: blocks of memory above 32 MiB are not used again.
_CHUNK, _CODES = 1_024, 2**22
# Codes of fewer than this share are decoded as sparse ones.
_SPARSE = 0.05
# What is wrong where too many latents are on.
MISSING = (
    "a threshold is missing or too low, or k is missing or too high, as of a TopK SAE that is read "
    "as a ReLU; correct it in the file or the configuration"
)
# What weights, thresholds and k are multiplied by, and activations.
_FACTORS = (0.1, 0.5, 1 / 1.2, 1.2, 2.0, 10.0)
_SCALES = tuple(4.0**power for power in range(-4, 5) if power)


class Read(NamedTuple):
    """What an SAE makes of rows.

    Attributes:
      on: latents in use by each row, (n,).
      used: rows that use each latent, (num_latents,).
      energy: sum of its squared codes on unit atoms, (num_latents,).
      target: what the codes should add up to, (n, input_dim).
      sums: what they do add up to, (n, input_dim).
      guess: the reconstructions in units of the activations, (n, input_dim).
    """

    on: Int[np.ndarray, " n"]
    used: Int[np.ndarray, " num_latents"]
    energy: Float[np.ndarray, " num_latents"]
    target: Float[np.ndarray, "n input_dim"]
    sums: Float[np.ndarray, "n input_dim"]
    guess: Float[np.ndarray, "n input_dim"]

    @property
    def l0(self) -> float:
        """The mean number of latents in use."""
        return float(self.on.mean())


class Reading(NamedTuple):
    """The same SAE read in another way: a sentence on it says `how`, and ends with `mend`.

    Activations are multiplied by `scale` first, and codes by `gain`; the encoder takes `shift` from
    its input; with `keep`, only so many of a row's largest codes stay.
    """

    how: str
    mend: str
    sae: SAE
    scale: float = 1
    keep: int | None = None
    shift: Any = 0
    gain: float = 1


class Seen(NamedTuple):
    """Rows, and an SAE whose encoder has coordinates of them in the place of all dimensions. So no
    reading takes a product with all its weights.

    Attributes:
      sae: with `V W` in the place of its encoder's weights W.
      x: the rows, (n, input_dim).
      atoms: of unit length, (num_latents, input_dim).
      basis: V, orthonormal rows that span the targets of all readings, (rank, input_dim); None
        where this is no fewer numbers, or where the encoder is no function of `y W` alone.
    """

    sae: SAE
    x: Float[np.ndarray, "n input_dim"]
    atoms: Float[np.ndarray, "num_latents input_dim"]
    basis: Float[np.ndarray, "rank input_dim"] | None

    @classmethod
    def of(cls, sae: SAE, x: Float[np.ndarray, "n input_dim"], atoms) -> "Seen":
        """An SAE as rows see it."""
        # Other readings are arrays of NumPy, which compile nothing.
        plain = jax.tree.map(
            lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, sae.model
        )
        sae = dataclasses.replace(sae, model=plain)
        if (
            Own(sae.model.encode).affine(sae.model) is None
            or isinstance(sae.normalisation, Whitening)
            or len(x) + 2 >= sae.input_dim
        ):
            return cls(sae, x, atoms, None)
        # Layer norm takes the mean over dimensions away.
        span = np.vstack([x, np.asarray(sae.bias), np.ones(sae.input_dim)])
        with one_blas_thread():
            basis = np.linalg.qr(span.T)[0].T.astype(x.dtype)
        return cls(narrowed(sae, basis), x, atoms, basis)

    def read(self, reading: Reading) -> Read:
        """What the rows are in a reading, in its units."""
        sae = reading.sae
        same = sae.model.dictionary is self.sae.model.dictionary
        atoms, lengths = (self.atoms if same else by_rows(sae)), (self.sae if same else sae).lengths

        def encode(target):
            codes = self.codes(sae.model, target - reading.shift) * (lengths * reading.gain)
            return codes if reading.keep is None else _largest(codes, reading.keep)

        return read(sae, self.x * reading.scale, atoms, encode)

    def codes(self, model: Model, target: Any) -> Any:
        """Codes of targets, (n, input_dim), by a model as the rows see it, in its own units."""
        bias: Any = model.bias
        if self.basis is None:
            target = jnp.asarray(target)
        else:
            # Coordinates are not as many as the atoms have.
            target, bias = target @ self.basis.T, self.basis @ bias
            model = dataclasses.replace(model, dictionary=None, bias=bias)
        # Which does nothing to the target, and would be compiled for.
        return own_codes(dataclasses.replace(model, normalisation=None), target + bias)


def narrowed(sae: SAE, basis: Float[np.ndarray, "rank input_dim"] | None) -> SAE:
    """The SAE whose encoder takes the coordinates of targets in a basis."""
    if basis is None:
        return sae
    return _replaced(sae, lambda part: Affine(basis @ part.weight, part.bias))


def by_rows(sae: SAE) -> Float[np.ndarray, "num_latents input_dim"]:
    """The atoms as sparse codes take them."""
    return np.ascontiguousarray(np.asarray(sae.unit_dictionary).T)


def read(sae: SAE, x, atoms, encode: Callable[[Any], Any]) -> Read:
    """Codes rows and decodes them, some at a time."""
    # By NumPy, which compiles nothing.
    bias = np.asarray(sae.bias)
    target = np.asarray(sae.normalisation.apply(x) - bias)
    used, energy, on, sums = np.zeros(len(atoms), int), np.zeros(len(atoms)), [], []
    # Of one size, so that one program codes them.
    most = min(_CHUNK, max(1, _CODES // len(atoms)))
    size = -(-len(x) // -(-len(x) // most))
    for start in range(0, len(x), size):
        codes: Any = np.asarray(encode(target[start : start + size]))
        places = np.flatnonzero(codes != 0)
        row, latent = np.divmod(places, len(atoms))
        values = codes.ravel()[places]
        on.append(np.bincount(row, minlength=len(codes)))
        used += np.bincount(latent, minlength=len(atoms))
        energy += np.bincount(latent, np.square(values, dtype=float), len(atoms))
        if len(places) < _SPARSE * codes.size:
            ends = np.concatenate([[0], np.cumsum(on[-1])])
            codes = scipy.sparse.csr_array((values, latent, ends), codes.shape)
        sums.append(codes @ atoms)
    decoded = np.concatenate(sums)
    guess = sae.normalisation.undo(decoded + bias, x)
    return Read(np.concatenate(on), used, energy, target, decoded, np.asarray(guess))


@functools.partial(jax.jit, static_argnums=1)
def _largest(codes, keep: int):
    return jnp.where(keep_largest(jnp.abs(codes), keep) > 0, codes, 0)


def turned(seen: Seen, whole: SAE) -> Iterator[Reading]:
    """Readings of square matrices the other way round, by the SAE with all its weights."""
    atoms = whole.model.decoder
    encoder = _replaced(whole, lambda part: Affine(part.weight.T, part.bias))
    for how, mend, sae in (
        ("the square encoder", "transpose it in the file", encoder),
        ("the square decoder", "transpose it in the file", _with(whole, dictionary=atoms.T)),
        (
            "both square matrices",
            "they are weights of torch.nn.Linear; give linear=True",
            _with(encoder, dictionary=atoms.T),
        ),
    ):
        yield Reading(f"with {how} transposed", mend, narrowed(sae, seen.basis))


def configured(seen: Seen) -> Iterator[Reading]:
    """Readings with another configuration of the same arrays."""
    sae = seen.sae
    mend = "correct that in the configuration"
    again = "it is subtracted twice, or should not be; " if sae.centred else ""
    # The target lacks the decoder's bias already.
    shift = -sae.bias if sae.centred else sae.bias
    how = (
        f"with the decoder's bias {'not ' if sae.centred else ''}subtracted from the encoder's "
        "input"
    )
    yield Reading(how, again + mend, sae, shift=shift)
    yield Reading(
        "with the decoder's bias added to activations first",
        "it is subtracted twice; give the activations as the model has them",
        _with(sae, bias=0 * sae.bias),
    )
    half = sae.bias / 2
    yield Reading(
        "with half the decoder's bias added to reconstructions",
        "it is added twice; add it once",
        _with(sae, bias=half),
        shift=half,
    )
    if isinstance(sae.model.encode, TopK | AbsTopK | BatchLargest):
        lengths = sae.lengths
        times = _replaced(sae, lambda part: Affine(part.weight * lengths, part.bias * lengths))
        yield Reading(
            "with codes ranked times the lengths of their atoms",
            "the decoder is not of unit norm, and the k largest codes were chosen as if it were; "
            "set rescale_acts_by_decoder_norm",
            _with(times, dictionary=seen.atoms.T),
        )
    factor = sae.input_dim**0.5 / float(np.linalg.norm(seen.x, axis=1).mean())
    for other in (Normalisation(), LayerNorm(), ConstantNorm(), Scale(factor)):
        if other.name != sae.normalisation.name:
            changed = _with(sae, normalisation=other)
            yield Reading(f"with the normalisation {other.name}", mend, changed)


def rescaled(seen: Seen, own: Read, gain: float) -> Iterator[Reading]:
    """Readings with other sizes of the arrays or of the activations; by `gain` reconstructions fit
    best.
    """
    sae = seen.sae
    encoder: Any = sae.model.encode
    norm = float(np.linalg.norm(seen.x, axis=1).mean())
    mean = own.target.mean(axis=0) + sae.bias
    # By this much the mean is as long as the decoder's bias, which training brings near it.
    along = float(mean @ sae.bias / np.maximum(mean @ mean, 1e-30))
    # An SAE that normalises each sample by itself sees no scale.
    for scale in () if sae.normalisation.per_sample else (*_SCALES, *([along] * (along > 0))):
        mend = (
            "a normalisation is missing; scale them as in training, to a mean norm of about "
            f"{norm * scale:.4g} for {norm:.4g}"
        )
        yield Reading(f"with activations times {scale:.4g}", mend, sae, scale)
    if sae.centred:
        share = float(mean @ sae.bias / np.maximum(sae.bias @ sae.bias, 1e-30))
        # A bias of the right direction and the wrong length, or another one.
        along = np.linalg.norm(mean - share * sae.bias) < 0.5 * np.linalg.norm(mean)
        yield Reading(
            "with a decoder's bias near their mean",
            off(sae),
            _with(sae, bias=share * sae.bias if along else mean),
        )
    wrong = "the scale of the encoder's or the decoder's weights is wrong; mend it in the file"
    bias = sae.bias if seen.basis is None else seen.basis @ sae.bias
    for factor in _FACTORS:

        def scaled(part, factor=factor):
            # What the decoder's bias adds to that of an encoder that does not subtract it.
            offset = 0 if sae.centred else bias @ part.weight
            return Affine(factor * part.weight, part.bias + (factor - 1) * offset)

        how = f"with the encoder's weights times {factor:.3g}"
        yield Reading(how, wrong, _replaced(sae, scaled))
        if factor < 1 and isinstance(encoder, JumpReLU | BatchTopK):
            raised = encoder.raised(sae.model, math.log(factor))
            yield Reading(
                f"with the thresholds times {factor:.3g}",
                "the thresholds are too high; mend their scale in the file",
                dataclasses.replace(sae, model=raised),
            )
        if factor > 1 and isinstance(encoder, TopK | AbsTopK | BatchLargest):
            k = min(sae.num_latents, round(factor * encoder.k))
            yield Reading(
                f"with a k of {k}",
                "the k of the configuration is too low; correct it",
                _with(sae, encode=dataclasses.replace(encoder, k=k)),
            )
    yield Reading(f"with the decoder's weights times {gain:.3g}", wrong, sae, gain=gain)
    for keep in {math.ceil(own.l0 * share) for share in (0.5, 0.25, 0.12, 0.06, 0.03, 0.015)}:
        yield Reading(
            f"with the {keep} largest codes of each row alone",
            MISSING,
            sae,
            keep=keep,
        )


def layer(sae: SAE) -> str:
    """Another layer than that of the SAE, in words."""
    places = (sae.notes[name] for name in ("hook_name", "hookpoint", "layer") if name in sae.notes)
    return f"another layer than {next(places, 'its own')}"


def off(sae: SAE) -> str:
    """What may shift all reconstructions by one vector, in words."""
    return (
        "the decoder's bias in the file is wrong, or the activations are of "
        f"{layer(sae)} or centred in another way; check both"
    )


def _with(sae: SAE, **parts: Any) -> SAE:
    """The SAE with other parts of its model."""
    return dataclasses.replace(sae, model=dataclasses.replace(sae.model, **parts))


def _replaced(sae: SAE, change) -> SAE:
    parts = [change(part) for part in affines(sae.model)]
    return dataclasses.replace(sae, model=eqx.tree_at(affines, sae.model, parts))


def affines(model: Model) -> list[Affine]:
    """The affine maps of the encoder; that of the target comes first."""
    parts = jax.tree.leaves(model.encoder, is_leaf=lambda part: isinstance(part, Affine))
    return [part for part in parts if isinstance(part, Affine)]
