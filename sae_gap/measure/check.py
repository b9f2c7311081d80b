"""Is an SAE broken, or was it loaded wrongly? What `load_report` says, and what better codes on the
same dictionary would give.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core.checks import check_flag, check_integer, check_type, detached
from sae_gap.core.types import Model
from sae_gap.data.activations import Activations
from sae_gap.data.activations.outliers import find_outliers, norms
from sae_gap.measure.coding import (
    Coding,
    by_encoder,
    code,
    code_lasso,
    evenly_spaced,
    find_weight,
    screened,
)
from sae_gap.measure.curve import fvu
from sae_gap.measure.rows import opened
from sae_gap.saes.load import load_sae
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.loading_report import LoadReport, load_report

# Rows that better codes are looked for on.
JUDGED = 250
# An encoder that fires more than this share of the dimensions has no sparse codes to better.
SPARSE = 0.25


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
            f"{self.codes}: FVU {self.fvu:.4f} at L0 {self.l0:.4g} for its own "
            f"{self.own_fvu:.4f} at {self.own_l0:.4g}, on {self.rows:,} rows{proof}"
        )


class Check(NamedTuple):
    """What `check` found; as a text, one screen.

    Attributes:
      report: what the SAE is, what it makes of the activations, and what looks wrong.
      better: other codes on its dictionary; empty for an encoder without sparse codes.
    """

    report: LoadReport
    better: tuple[Better, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """What looks wrong, each a sentence with its mend; empty where all is fine."""
        return self.report.suspicions

    def __str__(self) -> str:
        better = [f"other codes: {each}" for each in self.better] or [
            "other codes: not looked for, since its own are signed, dense or hardly any"
        ]
        return "\n".join([str(self.report), *better, *([] if self.wrong else ["loading: fine"])])


def check(
    sae: SAE | Model | str | os.PathLike[str] | Sequence[ArrayLike],
    activations: Activations | Float[ArrayLike, "..."] | str | os.PathLike[str],
    *,
    rows: int = 5_000,
    certified: bool = False,
    **options: Any,
) -> Check:
    """Whether an SAE is broken or was loaded wrongly, and what better codes would give.

    Args:
      sae: the folder of one that `load_sae` reads, what that returns, a model of this suite, or the
        arrays `(W_enc, b_enc, W_dec, b_dec)` of NumPy, JAX or PyTorch with the `options` of
        `SAE.from_arrays`, such as `architecture="topk", k=32`; matrices may be transposed.
      activations: of the layer that it was trained on: a tensor or an array, (n, input_dim) or
        (documents, tokens, input_dim), or a file of these as `open_activations` reads, such as a
        .pt.
      rows: how many of the activations are looked at, at most, evenly spread.
      certified: whether to look for codes by the certified lasso too, which takes minutes.
      options: of `SAE.from_arrays`.

    Returns:
      The finding. `print` it; `wrong` is empty where all is fine.

    Raises:
      ValueError: the SAE or the activations cannot be read, or do not fit each other.
    """
    check_integer("rows", rows, least=2)
    check_flag("certified", certified)
    loaded = _sae(sae, options)
    if loaded.heads and not isinstance(activations, Activations | str | os.PathLike):
        given: Any = np.asanyarray(detached(activations))
        if given.ndim == 3:
            activations = given.reshape(len(given), -1)
    source = opened(activations)
    x = source.take(evenly_spaced(source.num_samples, rows))
    report = load_report(loaded, x)
    better: tuple[Better, ...] = ()
    if 1 <= report.l0 <= SPARSE * loaded.input_dim:
        x = np.delete(x, find_outliers(norms(x)).rows, axis=0)
        better = _better(loaded, x[evenly_spaced(len(x), JUDGED)], certified)
    return Check(report, better)


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


def _better(sae: SAE, x: Float[np.ndarray, "n input_dim"], certified: bool) -> tuple[Better, ...]:
    own = code(sae, x, by_encoder(sae))
    found: list[tuple[str, Coding, float | None]] = []
    # Few rows may use no latent at all.
    if not sae.signed and own.l0 >= 1:
        coding = code(sae, x, screened(sae, x, own.l0))
        found.append(("a screened pursuit", coding, None))
    if certified and own.l0 >= 1:
        lasso, refit = code_lasso(sae, x, find_weight(sae, x, own.l0))
        found.append(("the certified lasso, refitted", refit, lasso.certificate))
    return tuple(
        Better(how, len(x), coding.l0, fvu(x, coding.guess), own.l0, fvu(x, own.guess), gap)
        for how, coding, gap in found
    )
