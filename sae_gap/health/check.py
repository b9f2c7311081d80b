"""Is an SAE broken, or was it loaded wrongly?

What speaks against an SAE on activations. A cause is named only where it is sure; most mistakes
in loading pass silently otherwise, and a wrong cause is worse than none.

Three things hold of every SAE after training. Each column of the encoder is nearest to its own
atom. No gain and no vector that all reconstructions share would mend much of their error. And as
many latents are on as k says. Where one fails, the same arrays are read in other ways: the reading
that leaves as little as healthy SAEs do names the cause.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from numpy import asarray, concatenate

from sae_gap.core import Model, check_type, check_varies, detached, evenly_spaced
from sae_gap.data import Activations, find_outliers, norms, open_activations
from sae_gap.health import BLOCK, Evidence, Read, Reading, affines, find_faults
from sae_gap.metrics import CHANCES, LIBRARIES
from sae_gap.metrics.definitions import explained
from sae_gap.saes import SAE, load_sae

# Fewer rows say nothing of the rest.
FEWEST = 10


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
            "fvu": self.fvu,
            "l0": self.read.l0,
            "dead": self.read.dead,
        }

    def __str__(self) -> str:
        lines = [*self._loaded(), *self._coded(), *self._explained()]
        lines += [f"wrong: {fault}" for fault in self.wrong] or ["nothing found"]
        return "\n".join(lines)

    def _loaded(self) -> list[str]:
        """What was loaded."""
        sae = self.sae
        kind = f", of a transcoder of {sae.num_inputs} inputs" if sae.transcodes else ""
        least, median, greatest = np.quantile(sae.lengths, (0, 0.5, 1))
        units = ": codes of two latents compare times these"
        biases = [sae.bias, *(affine.bias for affine in affines(sae.model)[:1])]
        lengths = ", ".join(f"{float(np.linalg.norm(bias)):.4g}" for bias in biases)
        return [
            f"{sae.library} {sae.architecture}: {sae.num_latents} latents, input_dim "
            f"{sae.input_dim}{kind}",
            f"normalisation: {sae.normalisation.name}",
            *(f"{name}: {value}" for name, value in sae.notes.items()),
            f"lengths of atoms: {least:.4g} to {greatest:.4g}, median {median:.4g}"
            f"{'' if self.evidence.alike else units}",
            f"norms of the biases of decoder and encoder: {lengths}; of activations: "
            f"{self.activation_norm:.4g}",
        ]

    def _coded(self) -> list[str]:
        """What it makes of the activations."""
        read = self.read
        width = self.sae.num_latents
        k = f" (k is {self.evidence.k:.4g})" if self.evidence.k else ""
        dead = f"{read.dead:,} of {width:,} latents never fire"
        if read.dead and read.used.sum() < CHANCES * width:
            dead += " (rare ones may on more rows)"
        aligned = "unknown"
        if self.evidence.aligned is not None:
            aligned = f"{self.evidence.aligned:.1%}"
        lines = [
            f"on {len(read.guess):,} rows: L0 {read.l0:.4g}{k}, {dead}",
            f"reconstructions fit best times {read.gain:.4g}; one vector for all would mend "
            f"{read.offset:.1%} of the error",
            "codes' energy on latents whose encoder column is nearest to their own atom: "
            f"{aligned}; copied latents: {self.evidence.copies}",
        ]
        if self.outliers:
            lines.insert(
                0,
                f"left out: {self.outliers} outlier tokens, of more than ten times the median norm",
            )
        return lines

    def _explained(self) -> list[str]:
        """The FVU by each library's definition."""
        columns: list[Mapping[str, float]] = [self.read.explained]
        heading = "FVU (1 - explained variance) by the definition of each library"
        if self.outliers:
            columns.append(self.with_outliers)
            heading += ", and with outlier tokens"
        lines = [f"{heading}:"]
        for name, calls in LIBRARIES.items():
            shares = [column[name] for column in columns]
            if name != "fvu":
                shares = [1 - share for share in shares]
            cells = "".join(f"{share:10.4f}" for share in shares)
            lines.append(f"{cells}  {calls}")
        return lines


def check(
    sae: SAE | Model | str | PathLike[str] | Sequence[ArrayLike],
    activations: Activations | Float[ArrayLike, "..."] | str | PathLike[str],
    *,
    targets: Activations | Float[ArrayLike, "..."] | str | PathLike[str] | None = None,
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
    every = _rows(loaded, activations, targets, rows)
    outliers = find_outliers(*map(norms, every)).rows
    kept = [np.delete(part, outliers, axis=0) for part in every]
    # What is explained comes last.
    x = kept[-1]
    if len(x) < FEWEST:
        raise ValueError(
            f"{len(x)} activations are too few to judge by; give some hundreds."
        )
    check_varies(x)
    own = Reading.of(loaded)
    whole = own.read(*kept)
    evidence = Evidence.of(own, whole)
    few = evenly_spaced(len(x), BLOCK)
    wrong = [*find_faults(own, [part[few] for part in kept], whole, evidence)]
    if caution := loaded.notes.get("caution"):
        mend = "see that the file is whole and the activations as it wants them"
        wrong.insert(0, f"{caution}; {mend}.")
    return Check(
        sae=loaded,
        read=whole,
        activation_norm=float(norms(x).mean()),
        evidence=evidence,
        wrong=tuple(wrong),
        outliers=len(outliers),
        with_outliers=_with_outliers(own, x, whole, [part[outliers] for part in every]),
    )


def _rows(
    sae: SAE, activations: Any, targets: Any, most: int
) -> list[Float[np.ndarray, "n dim"]]:
    """Some rows of the activations and, of a transcoder, of its targets."""
    source = open_activations(activations)
    places = evenly_spaced(source.num_samples, most)
    rows = [asarray(sae.as_rows(source.take(places)))]
    if targets is not None:
        aims = open_activations(targets).with_inputs(source)
        rows.append(asarray(sae.as_rows(aims.take(places), explained=True)))
    return rows


def _with_outliers(
    own: Reading,
    x: Float[np.ndarray, "n input_dim"],
    read: Read,
    outliers: Sequence[Float[np.ndarray, "outliers dim"]],
) -> dict[str, float]:
    """`explained` of the rows and of the outliers; empty without outliers."""
    if not len(outliers[-1]):
        return {}
    # Codes of the longest overflow.
    with np.errstate(all="ignore"):
        guess = concatenate([read.guess, own.read(*outliers).guess])
        return explained(concatenate([x, outliers[-1]]), guess)


def _sae(sae: Any, options: Mapping[str, Any]) -> SAE:
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
        return SAE.of_model(sae)
    if isinstance(sae, str | PathLike):
        return load_sae(sae)
    check_type(
        "sae", sae, SAE, "give a folder, what sae_gap.load_sae returns, or four arrays"
    )
    return sae
