"""What was loaded, and whether it fits the activations: most mistakes in loading an SAE pass
silently, and show here.

A mistake is found by other readings of the same SAE, such as one with another normalisation: one
that reconstructs much better tells what went wrong. What no reading mends shows in what training
leaves at none: a mean of the errors, and a gain for all reconstructions.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import matching
from sae_gap.core.checks import check_type
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.relu import ReLU
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.normalise import ConstantNorm, LayerNorm, Normalisation

# Samples that are coded at a time.
_CHUNK = 1_024
# Samples that other readings are tried on.
_TRIED = 256
# A wrong reading leaves at most this share of its error once it is put right; a right one loses by
# any change, but for a scale that fits the very samples, and for more latents that are on.
_BETTER, _BETTER_FITTED, _BETTER_MORE = 0.85, 0.75, 0.5
# Where one gain and one vector for all reconstructions leave a fraction of a reading's error, they
# tell more than the reading.
_WORSE = 2.0
_SCALES = (0.01, 0.1, 10.0, 100.0, *(2.0**power for power in range(-8, 9) if power))
# At an FVU below the first nothing is left to mend; above the second more latents mend nothing
# else; above the third, an SAE knows next to nothing of the activations.
_GOOD, _BAD, _POOR = 1e-3, 0.5, 0.9
# The gain of reconstructions is 1 after training, within this factor; the penalty of a ReLU SAE
# shrinks its codes by more.
_GAIN, _SHRUNK = 1.3, 2.0
# L0 is within this factor of k.
_FAR = 2.0


class LoadReport(NamedTuple):
    """What an SAE is and what it makes of activations.

    Attributes:
      sae: as it was loaded.
      activation_norm: mean norm of the activations, as they were given.
      fvu: fraction of the variance about the mean of the activations that the reconstruction
        leaves, `1 - R²`.
      l0: mean number of latents in use.
      dead: latents that no sample uses.
      suspicions: what looks wrong, each a sentence with its figure and its mend.
    """

    sae: SAE
    activation_norm: float
    fvu: float
    l0: float
    dead: int
    suspicions: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, Any]:
        """What a row tells of it."""
        columns: dict[str, Any] = {
            "library": self.sae.library,
            "architecture": self.sae.architecture,
        }
        columns |= {"normalisation": self.sae.normalisation.name, "notes": self.sae.notes}
        return columns | {name: value for name, value in self._asdict().items() if name != "sae"}

    def __str__(self) -> str:
        sae = self.sae
        least, median, greatest = np.quantile(sae.lengths, (0, 0.5, 1))
        biases = [sae.bias, *(affine.bias for affine in _affines(sae)[:1])]
        norms = ", ".join(f"{float(jnp.linalg.norm(bias)):.4g}" for bias in biases)
        lines = [
            f"{sae.library} {sae.architecture}: {sae.num_latents} latents, input_dim "
            f"{sae.input_dim}",
            f"normalisation: {sae.normalisation.name}",
            *(f"{name}: {value}" for name, value in sae.notes.items()),
            f"lengths of atoms: {least:.4g} to {greatest:.4g}, median {median:.4g}",
            f"norms of the biases of decoder and encoder: {norms}; of activations: "
            f"{self.activation_norm:.4g}",
            f"on these activations: FVU {self.fvu:.4g}, L0 {self.l0:.4g}, {self.dead} latents dead",
            *(f"suspicion: {suspicion}" for suspicion in self.suspicions),
        ]
        return "\n".join(lines)


def load_report(sae: SAE, activations: Float[ArrayLike, "..."]) -> LoadReport:
    """What an SAE is, what it makes of activations, and what about that looks wrong.

    Args:
      sae: as `load_sae` gave it.
      activations: of the layer that it was trained on, as its library takes them, (n, input_dim);
        some hundred suffice.

    Returns:
      The report.

    Raises:
      ValueError: there are not two different samples, they have another width than the SAE, or are
        not finite.
    """
    check_type("sae", sae, SAE, "give what sae_gap.load_sae returns")
    # Masked entries must show.
    given = np.asanyarray(activations)
    if given.ndim == 3:
        given = given.reshape(len(given), -1) if sae.heads else given.reshape(-1, given.shape[2])
    samples = matching.as_matrix("activations", given).astype(np.float64)
    if not np.any(samples != samples[:1]):
        raise ValueError(
            "activations must have at least two different samples, for a share of their variance "
            "to be explained."
        )
    parts = [
        _read(sae, samples[start : start + _CHUNK]) for start in range(0, len(samples), _CHUNK)
    ]
    used, reconstruction = (
        np.sum([part[0] for part in parts], axis=0),
        np.concatenate([part[1] for part in parts]),
    )
    norm = float(np.linalg.norm(samples, axis=1).mean())
    report = LoadReport(
        sae, norm, _fvu(samples, reconstruction), used.sum() / len(samples), int((used == 0).sum())
    )
    return report._replace(suspicions=tuple(_suspicions(report, samples, reconstruction)))


def _suspicions(report: LoadReport, samples, reconstruction) -> Iterator[str]:
    """Each suspicion as a sentence, the one that tells most first."""
    sae = report.sae
    better = None if report.fvu < _GOOD else _best_reading(sae, samples[:_TRIED])
    if better is not None:
        yield better
    yield from _of_weights(sae)
    yield from _of_activity(report)
    if "caution" in sae.notes:
        yield (
            f"{sae.notes['caution']}; see that the file is whole and the activations as it wants "
            "them."
        )
    if better is None and report.fvu >= _GOOD:
        yield from _of_errors(report, samples, reconstruction)


def _of_weights(sae: SAE) -> Iterator[str]:
    """What the weights alone show."""
    zero = np.asarray(sae.lengths) == 0
    for affine in _affines(sae)[:1]:
        zero = zero | ~np.any(affine.weight, axis=0)
        # What is left of a bias that the file lacks, where the decoder's was added to it.
        left = affine.bias if sae.centred else affine.bias - sae.bias @ affine.weight
        if float(jnp.linalg.norm(left)) <= (
            0 if sae.centred else 1e-5 * float(jnp.linalg.norm(affine.bias))
        ):
            yield (
                "the encoder's bias is zero throughout, although training moves it: check that it "
                "was saved."
            )
    if zero.any():
        yield (
            f"{zero.sum()} of {len(zero)} latents have an atom or encoder weights of zeros; unless "
            "pruned, save it again."
        )


def _of_activity(report: LoadReport) -> Iterator[str]:
    """What the number of active latents shows."""
    sae, on = report.sae, f"on average {report.l0:.4g} of {report.sae.num_latents} latents are on"
    k = getattr(_encoder(sae), "k", None) or sae.notes.get("k")
    if report.l0 == 0:
        yield (
            "no latent is on in any sample: activations may be far smaller than in training; scale "
            "them, or check the layer."
        )
    elif report.l0 > min(0.5 * sae.num_latents, sae.input_dim):
        yield (
            f"{on}, more than a sparse code has: activations may be far larger than in training, "
            "or a threshold is missing; "
            "scale them, or check the file."
        )
    elif k is not None and not 1 / _FAR < report.l0 / float(k) < _FAR:
        yield (
            f"{on}, but k is {k}: a bias, a threshold or the scale of the activations may be "
            "wrong; check them."
        )


def _of_errors(report: LoadReport, samples, reconstruction) -> Iterator[str]:
    """What training would have mended."""
    gain, fitted = _gain(samples, reconstruction)
    healthy = 1 / _GAIN < gain < (_SHRUNK if isinstance(_encoder(report.sae), ReLU) else _GAIN)
    without = _fvu(samples, reconstruction + (samples - reconstruction).mean(axis=0))
    if without < _BETTER_FITTED * report.fvu:
        yield (
            f"all reconstructions are off by one vector (FVU {without:.4g} without it for "
            f"{report.fvu:.4g}): a bias in the "
            "file is wrong, or the activations are of another layer or centred in another way; "
            "check both."
        )
    if not healthy and (report.fvu < _BAD or fitted < min(_BAD, _BETTER * report.fvu)):
        yield (
            f"reconstructions fit the activations best when multiplied by {gain:.4g}, far from 1: "
            "the decoder, the encoder or the activations may lack a scale; check them."
        )
    elif not healthy or report.fvu >= _POOR:
        places = [
            report.sae.notes[name]
            for name in ("hook_name", "hookpoint", "layer")
            if name in report.sae.notes
        ]
        yield (
            f"FVU is {report.fvu:.4g}, as if it knew little of these activations, and no scale "
            "mends it: they may be of "
            f"another layer than {(*places, 'its own')[0]}, or encoder and decoder of different "
            "SAEs; check both."
        )


def _encoder(sae: SAE) -> Any:
    """The encoder in the units of the library."""
    return getattr(sae.model.encode, "encoder", None)


def _gain(samples, reconstruction) -> tuple[float, float]:
    """The a of the least squares of `x - mean ≈ a (x̂ - mean)`, and the FVU that they leave."""
    signals, centred = samples - samples.mean(axis=0), reconstruction - reconstruction.mean(axis=0)
    power = float(np.square(centred).sum())
    gain = float((signals * centred).sum()) / power if power > 0 else 1.0
    return gain, _fvu(signals, gain * centred)


class _Reading(NamedTuple):
    """The same SAE read in another way, of activations that are multiplied by `scale`.

    One that reconstructs better than by the factor `better` tells a mistake: the sentence on it
    ends with `mend`.
    """

    how: str
    mend: str
    sae: SAE
    scale: float = 1
    better: float = _BETTER


def _best_reading(sae: SAE, samples) -> str | None:
    """The other reading that reconstructs best, as a sentence, if it does much better than this
    one.
    """
    used, reconstruction = _read(sae, samples)
    fvu, (gain, fitted), best = _fvu(samples, reconstruction), _gain(samples, reconstruction), []
    most = min(_POOR, _WORSE * fitted) if gain > 0 else _POOR
    for reading in _readings(sae, samples):
        on, scaled = _read(reading.sae, samples * reading.scale)
        left = _fvu(samples, scaled / reading.scale)
        # More latents reconstruct better in any reading: that tells only against an SAE that
        # reconstructs badly.
        more = on.sum() > used.sum()
        better = min(reading.better, _BETTER_MORE) if more else reading.better
        if left < min(most, better * fvu) and (not more or fvu > _BAD):
            figures = f"(FVU {left:.4g} for {fvu:.4g}): {reading.mend}."
            best.append(
                (
                    left / reading.better,
                    f"activations {reading.how} are reconstructed much better {figures}",
                )
            )
    return min(best)[1] if best else None


def _readings(sae: SAE, samples) -> Iterator[_Reading]:
    layout, configured = "transpose it in the file", "correct that in the configuration"
    # The encoder takes its own bias, else of zeros, from the target, which lacks the decoder's
    # already.
    shift = -sae.bias if sae.centred else sae.bias
    how = (
        f"with the decoder's bias {'not ' if sae.centred else ''}subtracted from the encoder's "
        "input"
    )
    yield _Reading(
        how, configured, eqx.tree_at(lambda sae: sae.model.encoder.model.bias, sae, shift)
    )
    if sae.input_dim == sae.num_latents:
        turned = (sae.model.decoder * sae.lengths).T / jnp.where(sae.lengths > 0, sae.lengths, 1)
        decoder = eqx.tree_at(lambda sae: sae.model.dictionary, sae, turned)
        yield _Reading("with the square decoder transposed", layout, decoder)
        weights = eqx.tree_at(
            lambda sae: [part.weight for part in _affines(sae)], sae, replace_fn=jnp.transpose
        )
        yield _Reading("with the square encoder transposed", layout, weights)
    for other in (Normalisation(), LayerNorm(), ConstantNorm()):
        if type(other) is not type(sae.normalisation):
            changed = dataclasses.replace(sae, normalisation=other)
            yield _Reading(
                f"with the normalisation {other.name}", configured, changed, better=_BETTER_MORE
            )
    # An SAE that normalises each sample by itself sees no scale.
    norm = float(np.linalg.norm(samples, axis=1).mean())
    for scale in () if sae.normalisation.per_sample else _SCALES:
        mend = (
            f"scale them as in training, to a mean norm of about {norm * scale:.4g} for {norm:.4g}"
        )
        yield _Reading(f"times {scale:.4g}", mend, sae, scale, _BETTER_FITTED)


def _affines(sae: SAE) -> list[Affine]:
    """The affine maps of the encoder; that of the target comes first."""
    parts = jax.tree.leaves(sae.model.encoder, is_leaf=lambda part: isinstance(part, Affine))
    return [part for part in parts if isinstance(part, Affine)]


def _read(sae: SAE, samples) -> tuple[np.ndarray, np.ndarray]:
    """How many samples use each latent, and what the samples are reconstructed as."""
    codes = sae.encode(samples)
    return np.count_nonzero(codes, axis=0), np.asarray(sae.decode(codes, samples), np.float64)


def _fvu(samples, reconstruction) -> float:
    variance = np.square(samples - samples.mean(axis=0)).sum()
    return float(np.square(samples - reconstruction).sum() / max(variance, np.finfo(float).tiny))
