"""What was loaded, and whether it fits the activations: most mistakes in loading an SAE pass
silently, and show here.

Three things hold of every SAE after training. Each column of the encoder is nearest to its own
atom. No gain and no vector that all reconstructions share would mend much of their error. And the
latents that never fire would mend little of it. Where one fails, the SAE is read in other ways,
such as with other thresholds or weights: the reading that mends the fault names the cause.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import matching
from sae_gap.core.checks import check_type, detached
from sae_gap.data.activations.outliers import find_outliers, norms
from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.encoder import Affine, Encoder
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK, keep_largest
from sae_gap.saes.definitions import LIBRARIES, explained
from sae_gap.saes.foreign_encoders import AbsTopK, BatchLargest, Rescaled
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.normalise import ConstantNorm, LayerNorm, Normalisation, Scale

# Samples that are coded at a time.
_CHUNK = 1_024
# Samples that other readings are tried on, at least and at most, by the weights of the encoder that
# they pass together; and the most latents whose columns are compared.
_TRIED, _PASSED, _COMPARED = (64, 256), 2**31, 1_024
# Codes of fewer than this share are decoded as sparse ones.
_SPARSE = 0.05
# Fewer samples say nothing of the rest.
_FEWEST = 10
# Share of the codes' energy on latents whose column of the encoder is nearest to their own atom; a
# ReLU SAE that was trained for a short time has less.
_NEAREST, _NEAREST_RELU = 0.98, 0.85
# The gain of reconstructions after training; the penalty of a ReLU SAE shrinks its codes by more.
_GAIN, _SHRUNK = (0.86, 1.12), 2.0
# One vector for all leaves at least this share of the error after training.
_VECTOR = 0.75
# What the best silent latent would mend over what the best other one would, if gain and vector are
# right, and if they are not.
_WANTED, _WANTED_UNSOUND = 2.5, 1.7
# A reading tells where it leaves this share of the error without more latents on; one with a
# gain and a vector as after training, this share.
_BETTER, _BETTER_MENDED = 0.8, 0.95
# Of such readings the one of least FVU · L0^(1/4) tells.
_MORE = 0.25
# At an FVU below the first nothing is left to mend; above the second, an SAE knows next to nothing
# of the activations.
_GOOD, _POOR = 1e-3, 0.9
# What is wrong where too many latents are on.
_MISSING = (
    "a threshold is missing or too low, or k is missing or too high, as of a TopK SAE that is read "
    "as a ReLU; correct it in the file or the configuration"
)
# More latents on than this share of the dimensions are no sparse code.
_DENSE = 0.5
# L0 is within this factor of k.
_FAR = 2.0
# What weights, thresholds and k are multiplied by, and activations.
_FACTORS = (0.1, 0.5, 1 / 1.2, 1.2, 2.0, 10.0)
_SCALES = tuple(4.0**power for power in range(-4, 5) if power)


class LoadReport(NamedTuple):
    """What an SAE is and what it makes of activations.

    Attributes:
      sae: as it was loaded.
      rows: activations that were looked at.
      activation_norm: their mean norm, as they were given.
      explained: how much of them the reconstructions explain, by the definition of each library;
        see `sae_gap.saes.definitions.explained`.
      l0: mean number of latents in use.
      dead: latents that no sample uses.
      suspicions: what looks wrong, each a sentence with its figure and its mend.
      outliers: activations that were left out, being of more than ten times the median norm.
      with_outliers: `explained` of all, these too; empty where there are none.
    """

    sae: SAE
    rows: int
    activation_norm: float
    explained: Mapping[str, float]
    l0: float
    dead: int
    suspicions: tuple[str, ...] = ()
    outliers: int = 0
    with_outliers: Mapping[str, float] = {}

    @property
    def fvu(self) -> float:
        """Fraction of the variance about the mean of the activations that the reconstruction
        leaves, `1 - R²`.
        """
        return self.explained["fvu"]

    @property
    def columns(self) -> dict[str, Any]:
        """What a row tells of it."""
        columns: dict[str, Any] = {
            "library": self.sae.library,
            "architecture": self.sae.architecture,
        }
        columns |= {"normalisation": self.sae.normalisation.name, "notes": self.sae.notes}
        names = ("activation_norm", "fvu", "l0", "dead", "suspicions", "outliers")
        return columns | {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        sae = self.sae
        least, median, greatest = np.quantile(sae.lengths, (0, 0.5, 1))
        alike = greatest < 1.1 * least
        units = "" if alike else ": codes of two latents compare times these"
        biases = [sae.bias, *(affine.bias for affine in _affines(sae)[:1])]
        norms = ", ".join(f"{float(jnp.linalg.norm(bias)):.4g}" for bias in biases)
        lines = [
            f"{sae.library} {sae.architecture}: {sae.num_latents} latents, input_dim "
            f"{sae.input_dim}",
            f"normalisation: {sae.normalisation.name}",
            *(f"{name}: {value}" for name, value in sae.notes.items()),
            f"lengths of atoms: {least:.4g} to {greatest:.4g}, median {median:.4g}{units}",
            f"norms of the biases of decoder and encoder: {norms}; of activations: "
            f"{self.activation_norm:.4g}",
        ]
        if self.outliers:
            lines.append(
                f"left out: {self.outliers} outlier tokens, of more than ten times the median norm"
            )
        lines += [
            f"on {self.rows:,} rows: L0 {self.l0:.4g}, {self.dead:,} of {sae.num_latents:,} "
            "latents dead",
            "FVU (1 - explained variance) by the definition of each library"
            + (", and with outlier tokens:" if self.outliers else ":"),
        ]
        for name, calls in LIBRARIES.items():
            shares = [
                of[name] if name == "fvu" else 1 - of[name]
                for of in (self.explained, self.with_outliers)
                if of
            ]
            lines.append("".join(f"{share:10.4f}" for share in shares) + f"  {calls}")
        return "\n".join([*lines, *(f"suspicion: {said}" for said in self.suspicions)])


def load_report(sae: SAE, activations: Float[ArrayLike, "..."]) -> LoadReport:
    """What an SAE is, what it makes of activations, and what about that looks wrong.

    Args:
      sae: as `load_sae` gave it.
      activations: of the layer that it was trained on, as its library takes them, (n, input_dim);
        some hundred suffice. Outlier tokens are left out.

    Returns:
      The report.

    Raises:
      ValueError: there are not two different samples, they have another width than the SAE, or are
        not finite.
    """
    check_type("sae", sae, SAE, "give what sae_gap.load_sae returns")
    # Masked entries must show.
    given = np.asanyarray(detached(activations))
    if given.ndim == 3:
        given = given.reshape(len(given), -1) if sae.heads else given.reshape(-1, given.shape[2])
    every = matching.as_matrix("activations", given).astype(np.float64)
    outliers = find_outliers(norms(every)).rows
    samples = np.delete(every, outliers, axis=0)
    if not np.any(samples != samples[:1]):
        raise ValueError(
            "activations must have at least two different samples, for a share of their variance "
            "to be explained."
        )
    whole = _read(sae, samples)
    report = LoadReport(
        sae,
        len(samples),
        float(np.linalg.norm(samples, axis=1).mean()),
        explained(samples, whole.reconstruction),
        whole.used.sum() / len(samples),
        int((whole.used == 0).sum()),
        outliers=len(outliers),
    )
    if report.outliers:
        rest = every[outliers]
        pairs = (samples, rest), (whole.reconstruction, _read(sae, rest).reconstruction)
        report = report._replace(with_outliers=explained(*map(np.concatenate, pairs)))
    return report._replace(suspicions=tuple(_suspicions(report, samples, whole)))


class _Read(NamedTuple):
    """How many samples use each latent, the sum of its squared codes on unit atoms, what the
    samples are reconstructed as, what the codes should add up to, and what they do.
    """

    used: np.ndarray
    energy: np.ndarray
    reconstruction: np.ndarray
    target: np.ndarray
    sums: np.ndarray


class _Reading(NamedTuple):
    """The same SAE read in another way: a sentence on it says `how`, and ends with `mend`.

    Activations are multiplied by `scale` first; with `keep`, only so many of a sample's largest
    codes stay.
    """

    how: str
    mend: str
    sae: SAE
    scale: float = 1
    keep: int | None = None


def _suspicions(report: LoadReport, samples, whole: _Read) -> Iterator[str]:
    """Each suspicion as a sentence, the one that tells most first."""
    sae = report.sae
    yield from _of_weights(sae)
    if "caution" in sae.notes:
        yield (
            f"{sae.notes['caution']}; see that the file is whole and the activations as it wants "
            "them."
        )
    if len(samples) < _FEWEST:
        yield f"{len(samples)} activations are too few to judge by; give some hundreds."
    if report.fvu < _GOOD or len(samples) < _FEWEST:
        return
    most = int(np.clip(_PASSED // (sae.input_dim * sae.num_latents), *_TRIED))
    few, fit = samples[:: -(-len(samples) // most)], _fit(sae, whole)
    sound = fit.sound and report.fvu < _POOR and report.l0 > 0
    causes = (
        lambda: _best_reading(sae, few, _configured(sae, few)),
        lambda: _of_columns(sae, whole.energy, fit.centred),
        lambda: (
            _of_silent(report, few, whole.used, _WANTED if sound else _WANTED_UNSOUND)
            if fit.centred
            else None
        ),
        lambda: _of_density(report) if fit.centred and not fit.sound else None,
        lambda: None if sound else _best_reading(sae, few, _rescaled(sae, few), mending=True),
    )
    cause = next((said for said in (find() for find in causes) if said), None)
    if cause is not None:
        yield cause
        return
    if (said := _of_activity(report)) is not None:
        yield said
    elif not fit.centred:
        yield (f"all reconstructions are off by one vector (FVU {report.fvu:.4g}): {_off(sae)}.")
    elif report.fvu >= _POOR:
        yield (
            f"FVU is {report.fvu:.4g}, and no other reading of the SAE mends it: the activations "
            f"may be of {_layer(sae)}, or the encoder's weights damaged; check both."
        )
    elif not sound:
        yield (
            f"reconstructions fit the activations best when multiplied by {fit.gain:.4g}, far from "
            "1: the encoder's weights carry noise or another bias, or the decoder lacks a scale; "
            "load them again."
        )


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
    atoms = np.asarray(sae.model.decoder.T)[~zero]
    # A negative zero is a zero.
    if copies := len(atoms) - len({atom.tobytes() for atom in atoms.round(4) + 0}):
        yield (
            f"{copies} of {len(zero)} atoms are copies of another, which training never makes; "
            "read the decoder from the file again."
        )


def _of_columns(sae: SAE, energy, centred: bool) -> str | None:
    """Whether the columns of the encoder are in the order of their atoms, and of the same SAE."""
    if not (affines := _affines(sae)):
        return None
    # Activations that are off by a vector, or silent latents, weigh columns that training left.
    least = _NEAREST_RELU if isinstance(_encoder(sae), ReLU) else _NEAREST
    least = least if centred and energy.any() else 0.5
    strong = np.argsort(-energy, kind="stable")[:_COMPARED]
    weight, atoms = np.asarray(affines[0].weight), np.asarray(sae.model.decoder)
    own, best, which = _cosines(weight, atoms, strong)
    # A copied atom counts as its original.
    nearest = own >= best - 1e-5
    share = energy[strong] if energy.any() else np.ones(len(strong))
    share = share / share.sum()
    if share @ nearest >= least:
        return None
    said = f"{share @ nearest:.0%} of the codes' energy is on latents whose encoder column is"
    if share @ (_cosines(-weight, atoms, strong)[2] == strong) > 0.5:
        return (
            "the encoder's columns point away from their atoms: the signs of the encoder or of the "
            "decoder are negated; negate one of them."
        )
    square = sae.input_dim == sae.num_latents
    if square and share @ (_cosines(weight.T, atoms, strong)[2] == strong) > 0.5:
        return (
            f"only {said} nearest to its own atom, but nearly all with the square encoder "
            "transposed; transpose it in the file."
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
        f"only {said} nearest to its own atom, where training leaves nearly all: encoder and "
        "decoder are of different SAEs, or one was damaged; load both from one file."
    )


def _cosines(weight, atoms, chosen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cosine of each chosen column with its own atom, the largest with any, and which has
    it.
    """
    columns = weight[:, chosen]
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(columns.dtype).tiny)
    parts = [
        columns[:, start : start + _CHUNK].T @ atoms for start in range(0, len(chosen), _CHUNK)
    ]
    best, which = (
        np.concatenate([find(part, axis=1) for part in parts]) for find in (np.max, np.argmax)
    )
    return np.sum(columns * atoms[:, chosen], axis=0), best, which


def _of_silent(report: LoadReport, samples, used, factor: float) -> str | None:
    """Whether latents that never fire would mend more of the errors than the others."""
    silent, sae = used == 0, report.sae
    if not 0.2 < silent.mean() < 0.9:
        return None
    target = sae.target(samples)
    codes = sae.encode_target(target)
    products = (target - codes @ sae.model.decoder.T) @ sae.model.decoder
    gains = np.where(np.asarray(codes) == 0, np.maximum(products, 0), 0) ** 2
    wanted = float(
        gains[:, silent].max(axis=1).sum() / max(gains[:, ~silent].max(axis=1).sum(), 1e-30)
    )
    if wanted < factor:
        return None
    return (
        f"{report.dead} of {sae.num_latents} latents never fire, although their atoms would mend "
        f"{wanted:.3g} times as much of the errors as the others: these latents are dead by a "
        "bias, a threshold or weights that were lost; load the encoder again."
    )


def _of_density(report: LoadReport) -> str | None:
    """Whether codes are too dense to be those of a trained SAE, whatever else mends them."""
    if report.l0 < _DENSE * report.sae.input_dim:
        return None
    return (
        f"on average {report.l0:.4g} latents are on in {report.sae.input_dim} dimensions, which is "
        f"no sparse code: {_MISSING}."
    )


def _of_activity(report: LoadReport) -> str | None:
    """What the number of active latents shows."""
    k = getattr(_encoder(report.sae), "k", None) or report.sae.notes.get("k")
    if report.l0 == 0:
        return (
            "no latent is on in any sample: a threshold may be far too high, or activations far "
            "smaller than in training; scale them, or check the layer."
        )
    if k is not None and not 1 / _FAR < report.l0 / float(k) < _FAR:
        return (
            f"on average {report.l0:.4g} latents are on, but k is {k}: a bias, a threshold or the "
            "scale of the activations may be wrong; check them."
        )
    return None


def _best_reading(sae: SAE, samples, readings, mending: bool = False) -> str | None:
    """The other reading that reconstructs best, as a sentence, if it tells against this one: it
    leaves much less of the error with as few latents, or with `mending` less of it and is sound.
    """
    own, best = _read(sae, samples), []
    fvu, on = _fvu(samples, own.reconstruction), max(1, own.used.sum())
    for reading in readings:
        read = _read(reading.sae, samples * reading.scale, reading.keep)
        scaled, more = read.reconstruction / reading.scale, read.used.sum() / on
        left = _fvu(samples, scaled)
        better = left < _BETTER * fvu and more < 1.05
        if mending:
            better = left < _BETTER_MENDED * fvu and _fit(sae, read).sound
        if better and left < _POOR:
            figures = f"(FVU {left:.4g} for {fvu:.4g}): {reading.mend}."
            # More latents reconstruct better in any reading.
            best.append(
                (
                    left * more**_MORE,
                    f"activations {reading.how} are reconstructed better {figures}",
                )
            )
    return min(best)[1] if best else None


def _configured(sae: SAE, samples) -> Iterator[_Reading]:
    """Readings with another configuration of the same arrays."""
    mend = "correct that in the configuration"
    again = "it is subtracted twice, or should not be; " if sae.centred else ""
    # The encoder takes its own bias, else of zeros, from the target, which lacks the decoder's
    # already.
    shift = -sae.bias if sae.centred else sae.bias
    how = (
        f"with the decoder's bias {'not ' if sae.centred else ''}subtracted from the encoder's "
        "input"
    )
    yield _Reading(how, again + mend, _shifted(sae, shift))
    yield _Reading(
        "from which the decoder's bias had been taken already",
        "it is subtracted twice; give the activations as the model has them",
        dataclasses.replace(sae, bias=0 * sae.bias),
    )
    half = sae.bias / 2
    yield _Reading(
        "with half the decoder's bias added to reconstructions",
        "it is added twice; add it once",
        _shifted(dataclasses.replace(sae, bias=half), half),
    )
    if isinstance(_encoder(sae), TopK | AbsTopK | BatchLargest):
        times = _affines_replaced(
            sae, lambda part: Affine(part.weight * sae.scale, part.bias * sae.scale)
        )
        yield _Reading(
            "with codes ranked times the lengths of their atoms",
            "the decoder is not of unit norm, and the k largest codes were chosen as if it were; "
            "set rescale_acts_by_decoder_norm",
            _on_atoms(times, sae.model.decoder),
        )
    factor = sae.input_dim**0.5 / float(np.linalg.norm(samples, axis=1).mean())
    for other in (Normalisation(), LayerNorm(), ConstantNorm(), Scale(factor)):
        if other.name != sae.normalisation.name:
            changed = dataclasses.replace(sae, normalisation=other)
            yield _Reading(f"with the normalisation {other.name}", mend, changed)


def _rescaled(sae: SAE, samples) -> Iterator[_Reading]:
    """Readings with other sizes of the arrays or of the activations."""
    encoder, inner = _encoder(sae), sae.model.encoder.model
    if sae.input_dim == sae.num_latents:
        turned = _affines_replaced(sae, lambda part: Affine(part.weight.T, part.bias))
        yield _Reading(
            "with both square matrices transposed",
            "they are weights of torch.nn.Linear; give linear=True",
            _on_atoms(turned, (sae.model.decoder * sae.scale).T),
        )
    norm = float(np.linalg.norm(samples, axis=1).mean())
    mean = (sae.target(samples) + sae.bias).mean(axis=0)
    # By this much the mean is as long as the decoder's bias, which training brings near it.
    along = float(mean @ sae.bias / jnp.maximum(mean @ mean, 1e-30))
    # An SAE that normalises each sample by itself sees no scale.
    for scale in () if sae.normalisation.per_sample else (*_SCALES, *([along] * (along > 0))):
        mend = (
            "a normalisation is missing; scale them as in training, to a mean norm of about "
            f"{norm * scale:.4g} for {norm:.4g}"
        )
        yield _Reading(f"times {scale:.4g}", mend, sae, scale)
    if sae.centred:
        share = float(mean @ sae.bias / jnp.maximum(sae.bias @ sae.bias, 1e-30))
        # A bias of the right direction and the wrong length, or another one.
        along = jnp.linalg.norm(mean - share * sae.bias) < 0.5 * jnp.linalg.norm(mean)
        yield _Reading(
            "with a decoder's bias near their mean",
            _off(sae),
            dataclasses.replace(sae, bias=share * sae.bias if along else mean),
        )
    # What the decoder's bias adds to that of an encoder that does not subtract it.
    loose = not (sae.centred or bool(jnp.any(inner.bias)))
    wrong = "the scale of the encoder's or the decoder's weights is wrong; mend it in the file"
    for factor in _FACTORS:

        def scaled(part, weight: float, bias: float):
            offset = sae.bias @ part.weight if loose else 0
            return Affine(weight * part.weight, bias * (part.bias - offset) + weight * offset)

        weights = _affines_replaced(sae, functools.partial(scaled, weight=factor, bias=1.0))
        yield _Reading(f"with the encoder's weights times {factor:.3g}", wrong, weights)
        if factor < 1:
            yield _Reading(
                f"with the encoder's bias times {factor:.3g}",
                "the scale of the encoder's bias is wrong; mend it in the file",
                _affines_replaced(sae, functools.partial(scaled, weight=1.0, bias=factor)),
            )
        if factor < 1 and isinstance(encoder, JumpReLU | BatchTopK):
            lower = eqx.tree_at(
                lambda sae: sae.model.encoder.model, sae, encoder.raised(inner, math.log(factor))
            )
            yield _Reading(
                f"with the thresholds times {factor:.3g}",
                "the thresholds are too high; mend their scale in the file",
                lower,
            )
        if factor > 1 and isinstance(encoder, TopK | AbsTopK | BatchLargest):
            k = min(sae.num_latents, round(factor * encoder.k))
            yield _Reading(
                f"with a k of {k}",
                "the k of the configuration is too low; correct it",
                _with_encoder(sae, dataclasses.replace(encoder, k=k)),
            )
    own = _read(sae, samples)
    gain, l0 = _fit(sae, own).gain, own.used.sum() / len(samples)
    longer = eqx.tree_at(lambda sae: sae.model.dictionary, sae, gain * sae.model.decoder)
    yield _Reading(f"with the decoder's weights times {gain:.3g}", wrong, longer)
    for keep in {math.ceil(l0 * share) for share in (0.5, 0.25, 0.12, 0.06, 0.03, 0.015)}:
        yield _Reading(
            f"with the {keep} largest codes of each sample alone",
            _MISSING,
            sae,
            keep=keep,
        )


def _layer(sae: SAE) -> str:
    places = (sae.notes[name] for name in ("hook_name", "hookpoint", "layer") if name in sae.notes)
    return f"another layer than {next(places, 'its own')}"


def _off(sae: SAE) -> str:
    return (
        "the decoder's bias in the file is wrong, or the activations are of "
        f"{_layer(sae)} or centred in another way; check both"
    )


def _shifted(sae: SAE, shift) -> SAE:
    """The SAE whose encoder takes a vector from the target."""
    return eqx.tree_at(lambda sae: sae.model.encoder.model.bias, sae, shift)


def _on_atoms(sae: SAE, atoms) -> SAE:
    """The SAE whose encoder's codes are those of these atoms."""
    parts = atoms, jnp.ones_like(sae.scale)
    return eqx.tree_at(lambda sae: (sae.model.dictionary, sae.model.encoder.scale), sae, parts)


def _affines_replaced(sae: SAE, change) -> SAE:
    return eqx.tree_at(_affines, sae, [change(part) for part in _affines(sae)])


def _with_encoder(sae: SAE, encoder: Encoder) -> SAE:
    units = sae.model.encoder
    inner = dataclasses.replace(units.model, encode=encoder)
    outer = Rescaled(encoder) if isinstance(sae.model.encode, Rescaled) else sae.model.encode
    model = dataclasses.replace(
        sae.model, encoder=dataclasses.replace(units, model=inner), encode=outer
    )
    return dataclasses.replace(sae, model=model)


def _encoder(sae: SAE) -> Any:
    """The encoder in the units of the library."""
    return sae.model.encoder.model.encode


def _affines(sae: SAE) -> list[Affine]:
    """The affine maps of the encoder; that of the target comes first."""
    parts = jax.tree.leaves(sae.model.encoder, is_leaf=lambda part: isinstance(part, Affine))
    return [part for part in parts if isinstance(part, Affine)]


def _read(sae: SAE, samples, keep: int | None = None) -> _Read:
    target, atoms = sae.target(samples), np.asarray(sae.model.decoder).T
    if many := len(samples) > _TRIED[1]:
        # By rows, as sparse codes take them.
        atoms = np.ascontiguousarray(atoms)
    used, energy, sums = np.zeros(len(atoms), int), np.zeros(len(atoms)), []
    # Of one size, so that one program codes them.
    size = -(-len(samples) // -(-len(samples) // _CHUNK))
    for start in range(0, len(samples), size):
        given = sae.encode_target(target[start : start + size])
        if keep is not None:
            given = jnp.where(keep_largest(jnp.abs(given), keep) > 0, given, 0)
        codes = np.asarray(given)
        sparse = scipy.sparse.csr_array(codes)
        on = np.bincount(sparse.indices, minlength=len(atoms))
        used = used + on
        energy += np.bincount(sparse.indices, np.square(sparse.data, dtype=float), len(atoms))
        if many and sparse.nnz < _SPARSE * codes.size:
            sums.append(sparse @ atoms)
        else:
            sums.append(codes[:, on > 0] @ atoms[on > 0])
    decoded = jnp.asarray(np.concatenate(sums))
    guess = sae.normalisation.undo(decoded + sae.bias, jnp.asarray(samples, decoded.dtype))
    arrays = guess, target, decoded
    return _Read(used, energy, *(np.asarray(array, np.float64) for array in arrays))


class _Fit(NamedTuple):
    """The a of the least squares `y - mean ≈ a (ŷ - mean)` of targets and their reconstructions,
    and whether it and the mean of the errors are as training leaves them.
    """

    gain: float
    centred: bool
    sound: bool


def _fit(sae: SAE, read: _Read) -> _Fit:
    signals, sums = read.target - read.target.mean(axis=0), read.sums - read.sums.mean(axis=0)
    power = float(np.square(sums).sum())
    gain = float((signals * sums).sum()) / power if power > 0 else 1.0
    centred = _fvu(signals, sums) >= _VECTOR * _fvu(read.target, read.sums)
    most = _SHRUNK if isinstance(_encoder(sae), ReLU) else _GAIN[1]
    return _Fit(gain, centred, centred and _GAIN[0] < gain < most)


def _fvu(samples, reconstruction) -> float:
    variance = np.square(samples - samples.mean(axis=0)).sum()
    return float(np.square(samples - reconstruction).sum() / max(variance, np.finfo(float).tiny))
