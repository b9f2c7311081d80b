"""What was loaded, and whether it fits the activations: most mistakes in loading an SAE pass silently, and show here."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import matching
from sae_gap.core.checks import check_unmasked
from sae_gap.saes.loaded_sae import SAE

# Samples that are coded at a time.
_CHUNK = 1_024
# Samples that other scales and the transposed dictionary are tried on.
_TRIED = 512
_SCALES = tuple(2.0**power for power in range(-8, 9) if power)
# A reading that is wrong leaves a fraction of the error once it is put right; one that is right loses by any change.
_BETTER = 0.5
_POOR = 0.9
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
    check_unmasked("activations", activations)
    samples = np.asarray(activations)
    flat = samples.reshape(len(samples), -1) if sae.heads and samples.ndim == 3 else samples
    flat = matching.as_matrix("activations", flat).astype(np.float64)
    if not np.any(flat != flat[:1]):
        raise ValueError("activations must have at least two different samples, for a share of their variance to be explained.")
    parts = [_read(sae, samples[start : start + _CHUNK]) for start in range(0, len(samples), _CHUNK)]
    used, reconstruction = np.sum([part[0] for part in parts], axis=0), np.concatenate([part[1] for part in parts])
    lengths = np.asarray(sae.lengths, np.float64)
    affine = sae.model.encoder.affine
    report = LoadReport(
        library=sae.library,
        architecture=sae.architecture,
        normalisation=sae.normalisation.name,
        notes=sae.notes,
        input_dim=sae.input_dim,
        num_latents=sae.num_latents,
        atom_lengths=(float(lengths.min()), float(np.median(lengths)), float(lengths.max())),
        decoder_bias=float(jnp.linalg.norm(sae.bias)),
        encoder_bias=None if affine is None else float(jnp.linalg.norm(affine.bias)),
        activation_norm=float(np.linalg.norm(flat, axis=1).mean()),
        fvu=_fvu(flat, reconstruction),
        l0=used.sum() / len(samples),
        dead=int((used == 0).sum()),
        suspicions=(),
    )
    found = _suspicions(sae, samples[:_TRIED], flat[:_TRIED], reconstruction[:_TRIED], report)
    return report._replace(suspicions=tuple(found))


def _suspicions(sae, samples, flat, reconstruction, report):
    """Each suspicion as a sentence; `samples` are as given, `flat` as matrices, both of the same few."""
    own = _fvu(flat, reconstruction)
    if report.l0 == 0:
        yield "no latent is on in any sample: activations may be far smaller than in training; scale them, or check the layer."
    elif report.l0 > 0.5 * report.num_latents:
        yield (
            f"on average {report.l0:.4g} of {report.num_latents} latents are on, more than half: activations may be far larger "
            "than in training, or a threshold is missing; scale them, or check the file."
        )
    if "caution" in report.notes:
        yield f"{report.notes['caution']}; see that the file is whole and the activations as it wants them."
    if sae.input_dim == sae.num_latents:
        turned = _fvu(flat, _transposed(sae, samples, flat))
        if turned < _BETTER * own:
            yield (
                f"the square decoder reconstructs better when it is transposed (FVU {turned:.4g} for {own:.4g}): "
                "it was saved as (input_dim, num_latents); transpose it in the file."
            )
    tried = {}
    # An SAE that normalises each sample by itself sees no scale.
    for scale in () if sae.normalisation.per_sample else _SCALES:
        used, scaled = _read(sae, samples * scale)
        # A larger input turns on more latents, which reconstruct better whatever the scale: that tells only against an SAE
        # that reconstructs badly.
        if own > _BETTER or used.sum() <= report.l0 * len(samples):
            tried[scale] = _fvu(flat, scaled / scale)
    best = min(tried, key=tried.__getitem__, default=None)
    if best is not None and tried[best] < _BETTER * own:
        yield (
            f"activations times {best:.4g} are reconstructed much better (FVU {tried[best]:.4g} for {own:.4g}, at a mean "
            f"norm of {report.activation_norm * best:.4g} for {report.activation_norm:.4g}): scale them as in training."
        )
    # The a of the least squares of `x - mean ≈ a (x̂ - mean)`.
    centred = reconstruction - reconstruction.mean(axis=0)
    power = float(np.square(centred).sum())
    shrinkage = float(((flat - flat.mean(axis=0)) * centred).sum()) / power if power > 0 else 1.0
    if not 1 / _FAR < shrinkage < _FAR:
        yield (
            f"reconstructions fit the activations best when multiplied by {shrinkage:.4g}, far from 1: "
            "the decoder, or the activations, may lack a scale; check both."
        )
    if report.fvu >= _POOR:
        place = report.notes.get("hook_name", report.notes.get("hookpoint", report.notes.get("layer")))
        aim = f"the SAE was trained at {place}" if place else "the file does not name its own"
        yield (
            f"FVU is {report.fvu:.4g}, near or above 1, as if it knew nothing of these activations: they may be of another "
            f"layer ({aim}) or lack a scale; check both."
        )


def _read(sae: SAE, samples) -> tuple[np.ndarray, np.ndarray]:
    """How many samples use each latent, and what the samples are reconstructed as."""
    codes = sae.encode(samples)
    return np.count_nonzero(codes, axis=0), np.asarray(sae.decode(codes, samples), np.float64)


def _fvu(flat, reconstruction) -> float:
    return float(np.square(flat - reconstruction).sum() / max(np.square(flat - flat.mean(axis=0)).sum(), np.finfo(float).tiny))


def _transposed(sae: SAE, samples, flat):
    """The reconstruction from the SAE's own codes on its square dictionary, transposed."""
    codes = sae.encode(samples) * sae.scale / jnp.where(sae.lengths > 0, sae.lengths, 1)
    decoded = codes @ (sae.model.decoder * sae.lengths) + sae.bias
    return np.asarray(sae.normalisation.undo(decoded, jnp.asarray(flat, decoded.dtype)), np.float64)
