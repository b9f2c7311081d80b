"""What was loaded, and whether it fits the activations: most mistakes in loading an SAE pass silently, and show here.

A mistake is found by other readings of the same SAE, such as one with another normalisation: one that reconstructs much better
tells what went wrong. What no reading mends shows in what training leaves at none: a mean of the errors, and a gain for all
reconstructions.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import matching
from sae_gap.core.checks import check_type, check_unmasked
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.relu import ReLU
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.normalise import ConstantNorm, LayerNorm, Normalisation

# Samples that are coded at a time.
_CHUNK = 1_024
# Samples that other readings are tried on.
_TRIED = 256
# A wrong reading leaves at most this share of its error once it is put right; a right one loses by any change, but for a scale
# that fits the very samples, and for more latents that are on.
_BETTER, _BETTER_FITTED, _BETTER_MORE = 0.85, 0.75, 0.5
# Where one gain and one vector for all reconstructions leave a fraction of a reading's error, they tell more than the reading.
_WORSE = 2.0
_SCALES = (0.01, 0.1, 10.0, 100.0, *(2.0**power for power in range(-8, 9) if power))
# At an FVU below the first nothing is left to mend; above the second more latents mend nothing else; above the third, an SAE
# knows next to nothing of the activations.
_GOOD, _BAD, _POOR = 1e-3, 0.5, 0.9
# The gain of reconstructions is 1 after training, within this factor; the penalty of a ReLU SAE shrinks its codes by more.
_GAIN, _SHRUNK = 1.3, 2.0
# L0 is within this factor of k.
_FAR = 2.0


class LoadReport(NamedTuple):
    """What an SAE is and what it makes of activations.

    Attributes:
      library: which wrote it.
      architecture: what that library calls it.
      normalisation: what is done to activations first.
      notes: of the file.
      input_dim: of the activations.
      num_latents: atoms of the dictionary.
      atom_lengths: of the atoms on disk, (least, median, greatest).
      decoder_bias: norm of what the decoder adds.
      encoder_bias: norm of the encoder's bias as it acts on the target; None where it has none.
      activation_norm: mean norm of the activations, as they were given.
      fvu: fraction of the variance about the mean of the activations that the reconstruction leaves, `1 - R²`.
      l0: mean number of latents in use.
      dead: latents that no sample uses.
      suspicions: what looks wrong, each a sentence with its figure and its mend.
    """

    library: str
    architecture: str
    normalisation: str
    notes: dict[str, str]
    input_dim: int
    num_latents: int
    atom_lengths: tuple[float, float, float]
    decoder_bias: float
    encoder_bias: float | None
    activation_norm: float
    fvu: float
    l0: float
    dead: int
    suspicions: tuple[str, ...]

    def __str__(self) -> str:
        least, median, greatest = self.atom_lengths
        bias = "none" if self.encoder_bias is None else f"{self.encoder_bias:.4g}"
        lines = [
            f"{self.library} {self.architecture}: {self.num_latents} latents, input_dim {self.input_dim}",
            f"normalisation: {self.normalisation}",
            *(f"{name}: {value}" for name, value in self.notes.items()),
            f"lengths of atoms: {least:.4g} to {greatest:.4g}, median {median:.4g}",
            f"norms: decoder's bias {self.decoder_bias:.4g}, encoder's bias {bias}, activations {self.activation_norm:.4g}",
            f"on these activations: FVU {self.fvu:.4g}, L0 {self.l0:.4g}, {self.dead} latents dead",
            *(f"suspicion: {suspicion}" for suspicion in self.suspicions),
        ]
        return "\n".join(lines)


def load_report(sae: SAE, activations: Float[ArrayLike, "..."]) -> LoadReport:
    """What an SAE is, what it makes of activations, and what about that looks wrong.

    Args:
      sae: as `load_sae` gave it.
      activations: of the layer that it was trained on, as its library takes them, (n, input_dim); some hundred suffice.

    Returns:
      The report.

    Raises:
      ValueError: there are not two different samples, they have another width than the SAE, or are not finite.
    """
    check_type("sae", sae, SAE, "give what sae_gap.load_sae returns")
    check_unmasked("activations", activations)
    samples = np.asarray(activations)
    if samples.ndim == 3 and not sae.heads:
        samples = samples.reshape(-1, samples.shape[2])
    flat = samples.reshape(len(samples), -1) if sae.heads and samples.ndim == 3 else samples
    flat = matching.as_matrix("activations", flat).astype(np.float64)
    if not np.any(flat != flat[:1]):
        raise ValueError("activations must have at least two different samples, for a share of their variance to be explained.")
    parts = [_read(sae, samples[start : start + _CHUNK]) for start in range(0, len(samples), _CHUNK)]
    used, reconstruction = np.sum([part[0] for part in parts], axis=0), np.concatenate([part[1] for part in parts])
    lengths = np.asarray(sae.lengths, np.float64)
    affines = _affines(sae)
    report = LoadReport(
        library=sae.library,
        architecture=sae.architecture,
        normalisation=sae.normalisation.name,
        notes=sae.notes,
        input_dim=sae.input_dim,
        num_latents=sae.num_latents,
        atom_lengths=(float(lengths.min()), float(np.median(lengths)), float(lengths.max())),
        decoder_bias=float(jnp.linalg.norm(sae.bias)),
        encoder_bias=float(jnp.linalg.norm(affines[0].bias)) if affines else None,
        activation_norm=float(np.linalg.norm(flat, axis=1).mean()),
        fvu=_fvu(flat, reconstruction),
        l0=used.sum() / len(samples),
        dead=int((used == 0).sum()),
        suspicions=(),
    )
    return report._replace(suspicions=tuple(_suspicions(sae, samples, flat, reconstruction, report)))


def _suspicions(sae: SAE, samples, flat, reconstruction, report: LoadReport) -> Iterator[str]:
    """Each suspicion as a sentence, the one that tells most first; `samples` are as given, `flat` as matrices."""
    good = report.fvu < _GOOD
    better = None if good else _best_reading(sae, samples[:_TRIED], flat[:_TRIED])
    if better is not None:
        yield better
    yield from _of_weights(sae)
    yield from _of_activity(sae, report)
    if "caution" in report.notes:
        yield f"{report.notes['caution']}; see that the file is whole and the activations as it wants them."
    if better is None and not good:
        yield from _of_errors(sae, flat, reconstruction, report)


def _of_weights(sae: SAE) -> Iterator[str]:
    """What the weights alone show."""
    affines = _affines(sae)
    zero = np.asarray(sae.lengths) == 0
    for affine in affines[:1]:
        zero = zero | ~np.any(affine.weight, axis=0)
        # What is left of a bias that the file lacks, where the decoder's was added to it.
        left = affine.bias if sae.centred else affine.bias - sae.bias @ affine.weight
        if float(jnp.linalg.norm(left)) <= (0 if sae.centred else 1e-5 * float(jnp.linalg.norm(affine.bias))):
            yield "the encoder's bias is zero throughout, although training moves it: check that it was saved."
    if zero.any():
        yield (
            f"{zero.sum()} of {sae.num_latents} latents have an atom or encoder weights of zeros: pruned ones may; otherwise "
            "save or download the file again."
        )


def _of_activity(sae: SAE, report: LoadReport) -> Iterator[str]:
    """What the number of active latents shows."""
    k = getattr(sae.model.encode.encoder, "k", None) or report.notes.get("k")  # type: ignore[union-attr]
    if report.l0 == 0:
        yield "no latent is on in any sample: activations may be far smaller than in training; scale them, or check the layer."
    elif report.l0 > min(0.5 * report.num_latents, report.input_dim):
        yield (
            f"on average {report.l0:.4g} of {report.num_latents} latents are on, more than a sparse code has in "
            f"{report.input_dim} dimensions: activations may be far larger than in training, or a threshold is missing; scale "
            "them, or check the file."
        )
    elif k is not None and not 1 / _FAR < report.l0 / float(k) < _FAR:
        yield (
            f"on average {report.l0:.4g} latents are on, but k is {k}: the encoder's bias or threshold, or the scale of the "
            "activations, may not be that of training; check them."
        )


def _of_errors(sae: SAE, flat, reconstruction, report: LoadReport) -> Iterator[str]:
    """What training would have mended."""
    gain, fitted = _gain(flat, reconstruction)
    is_relu = isinstance(sae.model.encode.encoder, ReLU)  # type: ignore[union-attr]
    healthy = 1 / _GAIN < gain < (_SHRUNK if is_relu else _GAIN)
    without = _fvu(flat, reconstruction + (flat - reconstruction).mean(axis=0))
    if without < _BETTER_FITTED * report.fvu:
        yield (
            f"all reconstructions are off by one vector (FVU {without:.4g} without it for {report.fvu:.4g}): a bias in the "
            "file is wrong, or the activations are of another layer or centred in another way; check both."
        )
    if not healthy and (report.fvu < _BAD or fitted < min(_BAD, _BETTER * report.fvu)):
        yield (
            f"reconstructions fit the activations best when multiplied by {gain:.4g}, far from 1: "
            "the decoder, the encoder or the activations may lack a scale; check them."
        )
    elif not healthy or report.fvu >= _POOR:
        place = report.notes.get("hook_name", report.notes.get("hookpoint", report.notes.get("layer")))
        aim = f"the SAE was trained at {place}" if place else "the file does not name its own"
        yield (
            f"FVU is {report.fvu:.4g}, as if it knew little of these activations, and no scale mends it: they may be of "
            f"another layer ({aim}), or encoder and decoder of different SAEs; check both."
        )


def _gain(flat, reconstruction) -> tuple[float, float]:
    """The a of the least squares of `x - mean ≈ a (x̂ - mean)`, and the FVU that they leave."""
    signals, centred = flat - flat.mean(axis=0), reconstruction - reconstruction.mean(axis=0)
    power = float(np.square(centred).sum())
    gain = float((signals * centred).sum()) / power if power > 0 else 1.0
    return gain, _fvu(signals, gain * centred)


class _Reading(NamedTuple):
    """The same SAE read in another way, of activations that are multiplied by `scale`.

    One that reconstructs better than by the factor `better` tells a mistake: the sentence on it ends with `mend`.
    """

    how: str
    mend: str
    sae: SAE
    scale: float = 1
    better: float = _BETTER


def _best_reading(sae: SAE, samples, flat) -> str | None:
    """The other reading that reconstructs best, as a sentence, if it does much better than this one."""
    used, reconstruction = _read(sae, samples)
    fvu, (gain, fitted), best = _fvu(flat, reconstruction), _gain(flat, reconstruction), []
    most = min(_POOR, _WORSE * fitted) if gain > 0 else _POOR
    for reading in _readings(sae, samples):
        on, scaled = _read(reading.sae, samples * reading.scale)
        left = _fvu(flat, scaled / reading.scale)
        # More latents reconstruct better in any reading: that tells only against an SAE that reconstructs badly.
        more = on.sum() > used.sum()
        better = min(reading.better, _BETTER_MORE) if more else reading.better
        if left < min(most, better * fvu) and (not more or fvu > _BAD):
            best.append((left / reading.better, left, reading.how, reading.mend))
    if not best:
        return None
    _, left, how, mend = min(best)
    return f"activations {how} are reconstructed much better (FVU {left:.4g} for {fvu:.4g}): {mend}."


def _readings(sae: SAE, samples) -> Iterator[_Reading]:
    layout, configured = "transpose it in the file", "correct that in the configuration"
    # The encoder takes its own bias, else of zeros, from the target, which lacks the decoder's already.
    shift = -sae.bias if sae.centred else sae.bias
    how = f"with the decoder's bias {'not ' if sae.centred else ''}subtracted from the encoder's input"
    yield _Reading(how, configured, eqx.tree_at(lambda sae: sae.model.encoder.model.bias, sae, shift))
    if sae.input_dim == sae.num_latents:
        turned = (sae.model.decoder * sae.lengths).T / jnp.where(sae.lengths > 0, sae.lengths, 1)
        decoder = eqx.tree_at(lambda sae: sae.model.dictionary, sae, turned)
        yield _Reading("with the square decoder transposed", layout, decoder)
        encoder = jax.tree.map(
            lambda part: Affine(part.weight.T, part.bias) if _is_affine(part) else part, sae, is_leaf=_is_affine
        )
        yield _Reading("with the square encoder transposed", layout, encoder)
    for other in (Normalisation(), LayerNorm(), ConstantNorm()):
        if type(other) is not type(sae.normalisation):
            changed = dataclasses.replace(sae, normalisation=other)
            yield _Reading(f"with the normalisation {other.name}", configured, changed, better=_BETTER_MORE)
    # An SAE that normalises each sample by itself sees no scale.
    norm = float(np.linalg.norm(samples.reshape(len(samples), -1), axis=1).mean())
    for scale in () if sae.normalisation.per_sample else _SCALES:
        mend = f"scale them as in training, to a mean norm of about {norm * scale:.4g} for {norm:.4g}"
        yield _Reading(f"times {scale:.4g}", mend, sae, scale, _BETTER_FITTED)


def _is_affine(part) -> bool:
    return isinstance(part, Affine)


def _affines(sae: SAE) -> list[Affine]:
    """The affine maps of the encoder; that of the target comes first."""
    return [part for part in jax.tree.leaves(sae.model.encoder, is_leaf=_is_affine) if _is_affine(part)]


def _read(sae: SAE, samples) -> tuple[np.ndarray, np.ndarray]:
    """How many samples use each latent, and what the samples are reconstructed as."""
    codes = sae.encode(samples)
    return np.count_nonzero(codes, axis=0), np.asarray(sae.decode(codes, samples), np.float64)


def _fvu(flat, reconstruction) -> float:
    return float(np.square(flat - reconstruction).sum() / max(np.square(flat - flat.mean(axis=0)).sum(), np.finfo(float).tiny))
