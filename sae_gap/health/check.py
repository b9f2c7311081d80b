"""Is an SAE broken, or was it loaded wrongly, and what would better codes on the same dictionary
give?
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core.checks import check_flag, check_integer, check_type, detached
from sae_gap.core.lasso_problem import relative_gap
from sae_gap.core.pursuit import least_gain, screen_sizes
from sae_gap.core.rows import evenly_spaced
from sae_gap.core.types import Model, Solution, Split, Task
from sae_gap.data.activations import Activations, open_activations
from sae_gap.data.activations.outliers import find_outliers, norms
from sae_gap.encoders.lasso import DENSEST, Lasso
from sae_gap.health.faults import Evidence, find_faults
from sae_gap.health.readings import BLOCK, Read, Reading, affines, others
from sae_gap.loops import host
from sae_gap.measure.methods import refit
from sae_gap.metrics.definitions import LIBRARIES, check_varies, explained, fvu
from sae_gap.metrics.reconstruction import CHANCES
from sae_gap.saes.load import load_sae
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers.least_squares import by_gram
from sae_gap.study.inference import Inference

# Fewer rows say nothing of the rest; better codes are sought on so many.
FEWEST, FEW = 10, 250
# Of the Gram matrices of pruned codes, so that rounding leaves these definite.
RIDGE = 1e-6


class Better(NamedTuple):
    """Other codes on the dictionary of an SAE, beside its own on the same rows.

    Attributes:
      codes: how they are found.
      rows: that both are of.
      l0: mean number of latents in use.
      fvu: fraction of the variance that they leave.
      own_l0: the same of the encoder's codes.
      own_fvu: the same of the encoder's codes.
      certificate: the largest duality gap relative to the objective of the lasso on whose supports
        they are; None for a pursuit.
    """

    codes: str
    rows: int
    l0: float
    fvu: float
    own_l0: float
    own_fvu: float
    certificate: float | None

    def __str__(self) -> str:
        proof = "" if self.certificate is None else f", duality gap {self.certificate:.0e}"
        return (
            f"better codes, on {self.rows:,} rows: FVU {self.fvu:.4f} at L0 {self.l0:.4g} by "
            f"{self.codes}{proof}; the encoder's {self.own_fvu:.4f} at {self.own_l0:.4g}"
        )


class Check(NamedTuple):
    """What `check` found; as a text, one screen.

    Attributes:
      sae: as it was loaded.
      rows: activations that were looked at, without outlier tokens.
      activation_norm: their mean norm, as they were given; that of a transcoder's targets.
      explained: how much of them the reconstructions explain, by the definition of each library;
        see `sae_gap.metrics.definitions.explained`.
      l0: mean number of latents in use.
      dead: latents that no row uses.
      gain: by which all reconstructions, less their mean, would fit best; about 1 after training.
      offset: the share of the squared error that one vector for all rows would mend.
      evidence: what the weights and the codes show beside.
      wrong: what looks wrong, each a sentence with its figure, and with its cause and mend where
        these are sure; empty where nothing was found.
      better: other codes on its dictionary; empty for an encoder without sparse codes, and None
        where nobody asked.
      outliers: activations that were left out, being of more than ten times the median norm.
      with_outliers: `explained` of all, these too; empty where there are none.
    """

    sae: SAE
    rows: int
    activation_norm: float
    explained: Mapping[str, float]
    l0: float
    dead: int
    gain: float
    offset: float
    evidence: Evidence
    wrong: tuple[str, ...]
    better: tuple[Better, ...] | None
    outliers: int
    with_outliers: Mapping[str, float]

    @property
    def fvu(self) -> float:
        """Fraction of the variance about the mean of the activations that the reconstruction
        leaves, `1 - R²`.
        """
        return self.explained["fvu"]

    @property
    def columns(self) -> dict[str, Any]:
        """What a row tells of it."""
        names = ("activation_norm", "fvu", "l0", "dead", "gain", "offset", "outliers")
        return {
            "library": self.sae.library,
            "architecture": self.sae.architecture,
            "normalisation": self.sae.normalisation.name,
            "notes": self.sae.notes,
            **{name: getattr(self, name) for name in names},
            "suspicions": self.wrong,
        }

    def __str__(self) -> str:
        sae = self.sae
        least, median, greatest = np.quantile(sae.lengths, (0, 0.5, 1))
        units = "" if self.evidence.alike else ": codes of two latents compare times these"
        biases = [sae.bias, *(affine.bias for affine in affines(sae.model)[:1])]
        lengths = ", ".join(f"{float(np.linalg.norm(bias)):.4g}" for bias in biases)
        few = self.l0 * self.rows < CHANCES * sae.num_latents and self.dead
        lines = [
            f"{sae.library} {sae.architecture}: {sae.num_latents} latents, input_dim "
            f"{sae.input_dim}" + f", of a transcoder of {sae.num_inputs} inputs" * sae.transcodes,
            f"normalisation: {sae.normalisation.name}",
            *(f"{name}: {value}" for name, value in sae.notes.items()),
            f"lengths of atoms: {least:.4g} to {greatest:.4g}, median {median:.4g}{units}",
            f"norms of the biases of decoder and encoder: {lengths}; of activations: "
            f"{self.activation_norm:.4g}",
        ]
        if self.outliers:
            lines.append(
                f"left out: {self.outliers} outlier tokens, of more than ten times the median norm"
            )
        told = self.evidence
        k = f" (k is {told.k:.4g})" if told.k else ""
        lines += [
            f"on {self.rows:,} rows: L0 {self.l0:.4g}{k}, {self.dead:,} of {sae.num_latents:,} "
            f"latents never fire{' (rare ones may on more rows)' if few else ''}",
            f"reconstructions fit best times {self.gain:.4g}; one vector for all would mend "
            f"{self.offset:.1%} of the error",
            "codes' energy on latents whose encoder column is nearest to their own atom: "
            + ("unknown" if told.aligned is None else f"{told.aligned:.1%}")
            + f"; copied latents: {told.copies}",
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
        none = ["better codes: not looked for, since its own are signed, dense or hardly any"]
        better = map(str, self.better) if self.better else none * (self.better is not None)
        wrong = [f"wrong: {said}" for said in self.wrong] or ["nothing found"]
        return "\n".join([*lines, *better, *wrong])


def check(
    sae: SAE | Model | str | os.PathLike[str] | Sequence[ArrayLike],
    activations: Activations | Float[ArrayLike, "..."] | str | os.PathLike[str],
    *,
    targets: Activations | Float[ArrayLike, "..."] | str | os.PathLike[str] | None = None,
    rows: int = 5_000,
    better: bool = True,
    certified: bool = False,
    **options: Any,
) -> Check:
    """Evidence that an SAE is broken or was loaded wrongly, and what better codes would give.

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
      better: whether to look for better codes, by a screened pursuit.
      certified: whether to look for them by the certified lasso too, which takes minutes.
      options: of `SAE.from_arrays`.

    Returns:
      The finding. `print` it; `wrong` is empty where nothing was found.

    Raises:
      ValueError: the SAE or the activations cannot be read, do not fit each other, or are too few,
        or targets are missing or left over.
    """
    check_integer("rows", rows, least=FEWEST)
    check_flag("better", better)
    check_flag("certified", certified)
    loaded = _sae(sae, options)
    activations = loaded.flat(detached(activations))
    if loaded.transcodes == (targets is None):
        told = "a transcoder explains other activations than it reads; give those as targets."
        raise ValueError(
            told if targets is None else "an SAE explains what it reads; leave targets out."
        )
    source = open_activations(activations)
    places = evenly_spaced(source.num_samples, rows)
    every = [np.asarray(loaded.as_rows(source.take(places)))]
    if targets is not None:
        aims = open_activations(targets)
        aims = aims.with_inputs(source)
        every.append(np.asarray(loaded.as_rows(aims.take(places), explained=True)))
    # What is explained comes last.
    outliers = find_outliers(*map(norms, every)).rows
    kept = [np.delete(part, outliers, axis=0) for part in every]
    x = kept[-1]
    if len(x) < FEWEST:
        raise ValueError(f"{len(x)} activations are too few to judge by; give some hundreds.")
    check_varies(x)
    own = Reading.of(loaded)
    whole = own.read(*kept)
    with_outliers: Mapping[str, float] = {}
    if len(outliers):
        rest = [part[outliers] for part in every]
        guess = np.concatenate([whole.guess, own.read(*rest).guess])
        with_outliers = explained(np.concatenate([x, rest[-1]]), guess)
    k = float(getattr(loaded.model.encode, "k", loaded.notes.get("k", 0)))
    evidence = Evidence.of(own, whole, k)
    few = [part[evenly_spaced(len(x), BLOCK)] for part in kept]
    wrong = [*find_faults(own, others(loaded, own, few[0]), few, whole, evidence)]
    if caution := loaded.notes.get("caution"):
        mend = "see that the file is whole and the activations as it wants them."
        wrong.insert(0, f"{caution}; {mend}")
    return Check(
        loaded,
        len(x),
        float(norms(x).mean()),
        whole.explained,
        whole.l0,
        int((whole.used == 0).sum()),
        whole.gain,
        whole.offset,
        evidence,
        tuple(wrong),
        _better(loaded, own, kept, whole, certified) if better else None,
        len(outliers),
        with_outliers,
    )


def _sae(sae, options: Mapping[str, Any]) -> SAE:
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
        raise TypeError(f"{', '.join(options)} goes with an SAE of four arrays; leave it out.")
    if isinstance(sae, Model):
        return SAE.of_model(sae, name="sae")
    if isinstance(sae, str | os.PathLike):
        return load_sae(sae)
    check_type("sae", sae, SAE, "give a folder, what sae_gap.load_sae returns, or four arrays")
    return sae


def _better(sae: SAE, reading: Reading, kept, read: Read, certified: bool) -> tuple[Better, ...]:
    few = evenly_spaced(len(kept[-1]), FEW)
    kept = [part[few] for part in kept]
    x, l0 = kept[-1], float(read.on[few].mean())
    found = list[tuple[str, float, ArrayLike, float | None]]()
    if not 1 <= l0 <= DENSEST * sae.input_dim:
        return ()
    if not sae.signed:
        sums, used = _pursued(reading.atoms, read.target[few], l0)
        guess: Any = reading.guess(sums, *kept)
        found.append(("a screened pursuit", used, guess, None))
    if certified:
        read_by = jnp.asarray(kept[0]) if sae.transcodes else None
        rows = Split(jnp.asarray(x), inputs=read_by)
        inference = Inference(Task(rows, rows, rows, width=sae.num_latents), sae.model, timed=False)
        lasso = Lasso(l0=l0, nonneg=not sae.signed)
        solved, refitted = (inference.infer(each, "id") for each in (lasso, refit(lasso)))
        gap = float(relative_gap(cast(Solution, solved)).max())
        guess = sae.model.reconstruct(refitted.codes, x, read_by)
        used = np.count_nonzero(refitted.codes) / len(x)
        found.append(("the certified lasso, refitted", used, guess, gap))
    own = fvu(x, read.guess[few])
    return tuple(
        Better(how, len(x), used, fvu(x, guess), l0, own, gap) for how, used, guess, gap in found
    )


def _pursued(atoms, target, l0: float):
    """What the codes of a `BatchPursuit` calibrated on these rows add up to, and their mean L0; JAX
    would compile it for longer.
    """
    sizes = screen_sizes(2 * math.ceil(l0), 2, 2, *atoms.shape[::-1])
    chosen, _, gains = host.pursue(target, atoms, *sizes)
    on = (gains > 0) & (gains >= least_gain(gains, l0))
    guess, used = np.zeros_like(target), 0
    for row, signal, support in zip(guess, target, map(np.compress, on, chosen), strict=True):
        own = atoms[support]
        values = by_gram(own @ own.T, own @ signal, RIDGE) if len(support) else np.zeros(0)
        row[:], used = values @ own, used + int(np.count_nonzero(values))
    return guess, used / len(target)
